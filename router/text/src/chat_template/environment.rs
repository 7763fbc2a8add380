//! The Jinja environment that transformers gives its templates, on minijinja: trimmed blocks, loop controls,
//! `raise_exception`, `strftime_now`, its `tojson`, Python's methods; fuel and a recursion limit instead of trust.
//!
//! The bounds hold against mistakes and plain abuse: endless loops, recursion, huge ranges, repeats and outputs. They do
//! not hold against an author who sets out to exhaust memory (a string doubled thirty times costs little fuel), as they
//! do not in any server that runs a model's templates; requests cannot bring templates.

use std::fmt;

use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Kwargs, Rest, ValueKind, ValueOrKwargs, from_args};
use minijinja::{Environment, Error, ErrorKind, Value};

use super::adapt::adapt;
use super::python::{self, JsonStyle};
use super::{Clock, strftime};

pub(super) const TEMPLATE_NAME: &str = "chat_template";
/// Instructions of one rendering; 4,000 messages through the longest templates of the tests take less.
const FUEL: u64 = 2_000_000;
const MAX_RECURSION: usize = 120;
const MAX_SOURCE_BYTES: usize = 1 << 20;

/// What `raise_exception` was called with.
#[derive(Debug)]
pub(super) struct RaisedByTemplate(pub(super) String);

impl fmt::Display for RaisedByTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for RaisedByTemplate {}

/// An environment that holds this one template.
pub(super) fn build(source: &str, clock: Clock) -> Result<Environment<'static>, Error> {
    if source.len() > MAX_SOURCE_BYTES {
        let reason = format!("a template of {} bytes exceeds the limit of {MAX_SOURCE_BYTES}", source.len());
        return Err(Error::new(ErrorKind::SyntaxError, reason));
    }
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(MAX_RECURSION);
    environment.set_formatter(|output, state, value| match python::float(value) {
        Some(float) => Ok(output.write_str(&python::float_repr(float))?),
        None => minijinja::escape_formatter(output, state, value),
    });
    environment.set_unknown_method_callback(python::call_method);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", move |format: &str| strftime::format(clock(), format));
    environment.add_filter("tojson", tojson);
    environment.add_filter("length", length);
    environment.add_filter("count", length);
    environment.add_test("sequence", |value: &Value| {
        // In Python strings and dicts are sized and subscriptable, which is all that Jinja asks.
        matches!(value.kind(), ValueKind::String | ValueKind::Seq | ValueKind::Map)
    });
    let adapted = adapt(source).map_err(|reason| Error::new(ErrorKind::SyntaxError, reason))?;
    environment.add_template_owned(TEMPLATE_NAME, adapted)?;
    Ok(environment)
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let raised = RaisedByTemplate(message.to_string());
    Err(Error::new(ErrorKind::InvalidOperation, raised.0.clone()).with_source(raised))
}

/// Jinja's `length`, for which an undefined value is empty.
fn length(value: &Value) -> Result<usize, Error> {
    if value.is_undefined() {
        return Ok(0);
    }
    let unsized_value = || Error::new(ErrorKind::InvalidOperation, format!("a {} has no length", value.kind()));
    value.len().ok_or_else(unsized_value)
}

/// transformers' `tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
fn tojson(value: &Value, args: Rest<ValueOrKwargs>) -> Result<String, Error> {
    let args = args.into_values();
    let (positional, kwargs): (&[Value], Kwargs) = from_args(&args)?;
    let parameter = |index: usize, name: &str| match positional.get(index) {
        Some(value) => Ok(Some(value.clone())),
        None => kwargs.get::<Option<Value>>(name),
    };
    let style = JsonStyle::new(
        parameter(0, "ensure_ascii")?.is_some_and(|flag| flag.is_true()),
        parameter(1, "indent")?.as_ref(),
        parameter(2, "separators")?.as_ref(),
        parameter(3, "sort_keys")?.is_some_and(|flag| flag.is_true()),
    )?;
    kwargs.assert_all_used()?;
    style.dumps(value)
}
