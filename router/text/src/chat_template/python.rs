//! Python's ways that templates count on: its JSON, its floats, its string methods.

use minijinja::value::{Tuple, ValueKind, from_args};
use minijinja::{Error, ErrorKind, State, Value};
use minijinja_contrib::pycompat;
use serde_json::Value as Json;

use super::adapt::REVERSED;

/// Deeper than any request's JSON can be (`serde_json` stops at 128).
const MAX_JSON_DEPTH: usize = 200;
/// Values in one `tojson`; thousands of tools or messages have fewer.
const MAX_JSON_VALUES: usize = 100_000;

/// A value as a template sees it.
pub(super) fn from_json(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(integer), _) => Value::from(integer),
            (None, Some(integer)) => Value::from(integer),
            (None, None) => Value::from(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => items.iter().map(from_json).collect(),
        Json::Object(fields) => Value::from_pairs(fields.iter().map(|(key, value)| (key.as_str(), from_json(value)))),
    }
}

/// The number, if it is not an integer.
pub(super) fn float(value: &Value) -> Option<f64> {
    if value.is_number() && !value.is_integer() { f64::try_from(value.clone()).ok() } else { None }
}

/// `repr(float)`: the shortest digits, an exponent below 1e-4 and from 1e16 on.
pub(super) fn float_repr(value: f64) -> String {
    if !value.is_finite() {
        let sign = if value < 0.0 { "-" } else { "" };
        return if value.is_nan() { "nan".to_owned() } else { format!("{sign}inf") };
    }
    let scientific = format!("{value:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    match exponent.parse::<i32>() {
        Ok(exponent) if !(-4..16).contains(&exponent) => {
            let sign = if exponent < 0 { '-' } else { '+' };
            format!("{digits}e{sign}{:02}", exponent.unsigned_abs())
        }
        _ => {
            let plain = value.to_string();
            if plain.contains('.') { plain } else { plain + ".0" }
        }
    }
}

/// How `json.dumps` writes.
#[derive(Debug)]
pub(super) struct JsonStyle {
    ensure_ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

impl JsonStyle {
    pub(super) fn new(
        ensure_ascii: bool,
        indent: Option<&Value>,
        separators: Option<&Value>,
        sort_keys: bool,
    ) -> Result<Self, Error> {
        let indent = match indent.filter(|indent| !indent.is_none()) {
            None => None,
            Some(text) if text.as_str().is_some() => text.as_str().map(str::to_owned),
            Some(count) => Some(" ".repeat(count.as_usize().filter(|&count| count <= 64).ok_or_else(|| {
                Error::new(ErrorKind::InvalidOperation, format!("tojson: indent `{count}` is not a number up to 64"))
            })?)),
        };
        let mut style = Self {
            item_separator: if indent.is_some() { "," } else { ", " }.to_owned(),
            ensure_ascii,
            indent,
            key_separator: ": ".to_owned(),
            sort_keys,
        };
        if let Some(pair) = separators.filter(|pair| !pair.is_none()) {
            style.item_separator = pair.get_item_by_index(0)?.to_string();
            style.key_separator = pair.get_item_by_index(1)?.to_string();
        }
        Ok(style)
    }

    pub(super) fn dumps(&self, value: &Value) -> Result<String, Error> {
        let mut writer = JsonWriter { style: self, output: String::new(), values_left: MAX_JSON_VALUES };
        writer.write(value, 0)?;
        Ok(writer.output)
    }
}

/// One `json.dumps` under way. Values may share parts, so that a small one is a huge tree: it is bounded as it goes.
struct JsonWriter<'s> {
    style: &'s JsonStyle,
    output: String,
    values_left: usize,
}

impl JsonWriter<'_> {
    fn write(&mut self, value: &Value, depth: usize) -> Result<(), Error> {
        self.values_left = self.values_left.checked_sub(1).filter(|_| depth <= MAX_JSON_DEPTH).ok_or_else(|| {
            let reason = format!("tojson: more than {MAX_JSON_VALUES} values, or more than {MAX_JSON_DEPTH} deep");
            Error::new(ErrorKind::BadSerialization, reason)
        })?;
        match value.kind() {
            ValueKind::None => self.output.push_str("null"),
            ValueKind::Bool => self.output.push_str(if value.is_true() { "true" } else { "false" }),
            ValueKind::Number => self.output.push_str(&json_number(value)),
            ValueKind::String => self.write_string(value.as_str().unwrap_or_default()),
            ValueKind::Seq | ValueKind::Iterable => {
                let items = self.bounded_items(value)?;
                self.write_items("[]", &items, depth, |writer, item| writer.write(item, depth + 1))?;
            }
            ValueKind::Map => {
                let mut keys = self.bounded_items(value)?;
                if self.style.sort_keys {
                    keys.sort_unstable();
                }
                self.write_items("{}", &keys, depth, |writer, key| {
                    writer.write_string(&json_key(key)?);
                    writer.output.push_str(&writer.style.key_separator);
                    writer.write(&value.get_item(key)?, depth + 1)
                })?;
            }
            kind => {
                let reason = format!("a value of type {kind} is not JSON serializable");
                return Err(Error::new(ErrorKind::BadSerialization, reason));
            }
        }
        Ok(())
    }

    /// Items of a list or keys of a map; those beyond the bound are an error when it comes to them.
    fn bounded_items(&self, value: &Value) -> Result<Vec<Value>, Error> {
        value.try_iter()?.checked().take(self.values_left.saturating_add(1)).collect()
    }

    fn write_items(
        &mut self,
        brackets: &str,
        items: &[Value],
        depth: usize,
        write: impl Fn(&mut Self, &Value) -> Result<(), Error>,
    ) -> Result<(), Error> {
        if items.is_empty() {
            self.output.push_str(brackets);
            return Ok(());
        }
        self.output.push_str(&brackets[..1]);
        for (index, item) in items.iter().enumerate() {
            if index > 0 {
                self.output.push_str(&self.style.item_separator);
            }
            self.new_line(depth + 1);
            write(self, item)?;
        }
        self.new_line(depth);
        self.output.push_str(&brackets[1..]);
        Ok(())
    }

    fn new_line(&mut self, depth: usize) {
        if let Some(indent) = &self.style.indent {
            self.output.push('\n');
            self.output.extend(std::iter::repeat_n(indent.as_str(), depth));
        }
    }

    fn write_string(&mut self, text: &str) {
        self.output.push('"');
        for c in text.chars() {
            match c {
                '"' => self.output.push_str("\\\""),
                '\\' => self.output.push_str("\\\\"),
                '\n' => self.output.push_str("\\n"),
                '\r' => self.output.push_str("\\r"),
                '\t' => self.output.push_str("\\t"),
                '\u{8}' => self.output.push_str("\\b"),
                '\u{c}' => self.output.push_str("\\f"),
                c if c < ' ' || (self.style.ensure_ascii && !(' '..='~').contains(&c)) => {
                    for unit in c.encode_utf16(&mut [0; 2]) {
                        let escape = format!("\\u{unit:04x}");
                        self.output.push_str(&escape);
                    }
                }
                c => self.output.push(c),
            }
        }
        self.output.push('"');
    }
}

fn json_number(value: &Value) -> String {
    match float(value) {
        Some(number) if number.is_nan() => "NaN".to_owned(),
        Some(number) if number.is_infinite() => if number < 0.0 { "-Infinity" } else { "Infinity" }.to_owned(),
        Some(number) => float_repr(number),
        None => value.to_string(),
    }
}

/// `json.dumps` takes strings, numbers, bools and None as keys.
fn json_key(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number => Ok(json_number(key)),
        ValueKind::Bool => Ok(if key.is_true() { "true" } else { "false" }.to_owned()),
        ValueKind::None => Ok("null".to_owned()),
        kind => Err(Error::new(ErrorKind::BadSerialization, format!("a {kind} cannot be a key in JSON"))),
    }
}

/// Python's methods: minijinja's, and those of strings and lists that it lacks.
pub(super) fn call_method(state: &mut State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    match (value.as_str(), value.kind(), method) {
        (Some(text), _, REVERSED) => from_args::<()>(args).map(|()| text.chars().rev().collect::<String>().into()),
        (None, ValueKind::Seq | ValueKind::Iterable, REVERSED) => {
            from_args::<()>(args)?;
            let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
            Ok(items.into_iter().rev().collect())
        }
        (Some(text), _, "removeprefix") => one(args).map(|prefix| text.strip_prefix(prefix).unwrap_or(text).into()),
        (Some(text), _, "removesuffix") => one(args).map(|suffix| text.strip_suffix(suffix).unwrap_or(text).into()),
        (Some(text), _, "index") => index(text, one(args)?),
        (Some(text), _, "partition") => {
            one(args).map(|separator| partition(text, text.split_once(separator), separator, true))
        }
        (Some(text), _, "rpartition") => {
            one(args).map(|separator| partition(text, text.rsplit_once(separator), separator, false))
        }
        (Some(text), _, "rsplit") => rsplit(text, args),
        (Some(text), _, "casefold") => from_args::<()>(args).map(|()| text.to_lowercase().into()),
        (None, ValueKind::Seq, "index") => {
            let (wanted,): (&Value,) = from_args(args)?;
            let found = value.try_iter()?.position(|item| item == *wanted);
            found.map(Value::from).ok_or_else(|| not_found(&wanted.to_string(), "list"))
        }
        _ => pycompat::unknown_method_callback(state, value, method, args),
    }
}

fn one(args: &[Value]) -> Result<&str, Error> {
    let (arg,): (&str,) = from_args(args)?;
    Ok(arg)
}

fn index(text: &str, wanted: &str) -> Result<Value, Error> {
    let at = text.find(wanted).ok_or_else(|| not_found(wanted, "string"))?;
    Ok(Value::from(text[..at].chars().count()))
}

fn not_found(wanted: &str, place: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, format!("index: `{wanted}` is not in the {place}"))
}

fn partition(text: &str, found: Option<(&str, &str)>, separator: &str, rest_first: bool) -> Value {
    let parts = match found {
        Some((before, after)) => [before, separator, after],
        None if rest_first => [text, "", ""],
        None => ["", "", text],
    };
    Value::from(Tuple::from(parts.map(Value::from).to_vec()))
}

fn rsplit(text: &str, args: &[Value]) -> Result<Value, Error> {
    let (separator, max_splits): (Option<&str>, Option<i64>) = from_args(args)?;
    let max_parts = usize::try_from(max_splits.unwrap_or(-1)).map_or(usize::MAX, |splits| splits.saturating_add(1));
    let mut parts: Vec<&str> = match separator {
        Some(separator) => text.rsplitn(max_parts, separator).collect(),
        None if max_splits.is_none_or(|splits| splits < 0) => text.split_whitespace().rev().collect(),
        None => return Err(Error::new(ErrorKind::InvalidOperation, "rsplit by white space takes no limit here")),
    };
    parts.reverse();
    Ok(parts.into_iter().map(Value::from).collect())
}
