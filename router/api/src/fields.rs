//! The fields of a request's body, each described once: those we act on, beside the parser that takes them apart; harmless
//! ones; ones that only their neutral value is taken for. The rest is refused by name. Nothing is accepted and silently
//! ignored, and the API's document is made from the same tables.

use axum::Json;
use axum::extract::rejection::JsonRejection;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::schema::{Schema, any_of, anything, boolean, list, null, number, object, words};
use crate::state::Limits;

/// A field that we act on: its name, what may stand there under the operator's limits, and what it does.
pub(crate) type Served = (&'static str, fn(&Limits) -> Schema, &'static str);

/// What may stand in a field that we do not act on. `null` may, in all of them.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Accept {
    /// Whatever it says, it has no effect on the text and its documentation promises none.
    Anything,
    /// Nothing but `null`.
    Null,
    /// This number.
    Number(f64),
    /// This truth value.
    Bool(bool),
    /// One of these words.
    Words(&'static [&'static str]),
    /// An empty list or object.
    Empty,
    /// `{"type": "text"}`.
    TextFormat,
    /// `["text"]`.
    TextOnly,
}

/// A field that we do not act on: its name and what may stand there.
pub(crate) type Unserved = (&'static str, Accept);

/// A JSON object of a request: all its fields.
#[derive(Debug)]
pub(crate) struct Body {
    /// Before a field's name in messages: "" or "parameters.".
    pub(crate) prefix: &'static str,
    /// Those that must be there.
    pub(crate) required: &'static [&'static str],
    pub(crate) served: &'static [&'static [Served]],
    pub(crate) unserved: &'static [&'static [Unserved]],
}

/// TGI's `parameters` whose features this server does not have.
pub(crate) const NATIVE_PARAMETERS: &[Unserved] = &[("adapter_id", Accept::Null), ("grammar", Accept::Null)];

/// TGI's body beside `inputs`, `parameters` and `stream`: the old hosted API's cache and wait switches.
pub(crate) const NATIVE_BODY: &[Unserved] = &[("options", Accept::Anything)];

/// What chat completions and completions share.
pub(crate) const OPENAI: &[Unserved] = &[
    ("adapter_id", Accept::Null),
    ("guided_choice", Accept::Null),
    ("guided_grammar", Accept::Null),
    ("guided_json", Accept::Null),
    ("guided_regex", Accept::Null),
    ("length_penalty", Accept::Number(1.0)),
    ("metadata", Accept::Anything),
    ("prompt_cache_key", Accept::Anything),
    ("prompt_cache_options", Accept::Anything),
    ("prompt_cache_retention", Accept::Anything),
    ("safety_identifier", Accept::Anything),
    ("service_tier", Accept::Words(&["auto", "default"])),
    ("store", Accept::Bool(false)),
    ("spaces_between_special_tokens", Accept::Bool(true)),
    ("truncate_prompt_tokens", Accept::Null),
    ("use_beam_search", Accept::Bool(false)),
    ("user", Accept::Anything),
];

/// Chat completions alone. `parallel_tool_calls` and `tool_prompt` matter only beside `tools`.
pub(crate) const CHAT: &[Unserved] = &[
    ("audio", Accept::Null),
    ("function_call", Accept::Words(&["auto", "none"])),
    ("functions", Accept::Empty),
    ("modalities", Accept::TextOnly),
    ("moderation", Accept::Null),
    ("parallel_tool_calls", Accept::Anything),
    ("prediction", Accept::Null),
    ("reasoning_effort", Accept::Null),
    ("response_format", Accept::TextFormat),
    ("tool_choice", Accept::Words(&["auto", "none"])),
    ("tool_prompt", Accept::Anything),
    ("tools", Accept::Empty),
    ("verbosity", Accept::Words(&["medium"])),
    ("web_search_options", Accept::Null),
];

/// Completions alone.
pub(crate) const COMPLETIONS: &[Unserved] =
    &[("grammar", Accept::Null), ("response_format", Accept::TextFormat), ("suffix", Accept::Words(&[""]))];

/// A JSON object whose fields are taken one by one: every error names its field, `null` means absent everywhere, and
/// what nobody took is checked at the end.
#[derive(Debug)]
pub(crate) struct Fields {
    values: Map<String, Value>,
    body: &'static Body,
}

impl Fields {
    /// Of a request's body.
    pub(crate) fn of_body(
        json: Result<Json<Map<String, Value>>, JsonRejection>,
        max_bytes: usize,
        body: &'static Body,
    ) -> Result<Self, ApiError> {
        match json {
            Ok(Json(values)) => Ok(Self { values, body }),
            Err(rejection) => Err(ApiError::of_rejection(&rejection, max_bytes)),
        }
    }

    /// Of an object inside of it.
    pub(crate) fn of_object(values: Map<String, Value>, body: &'static Body) -> Self {
        Self { values, body }
    }

    /// The field's value, if it is there and not `null`.
    pub(crate) fn take<T: DeserializeOwned>(&mut self, name: &str) -> Result<Option<T>, ApiError> {
        debug_assert!(self.body.serves(name), "`{name}` is taken but not described");
        match self.values.remove(name) {
            None | Some(Value::Null) => Ok(None),
            Some(value) => serde_json::from_value(value)
                .map(Some)
                .map_err(|error| ApiError::wrong_type(name, format!("`{}{name}`: {error}", self.body.prefix))),
        }
    }

    /// The same for a field that must be there.
    pub(crate) fn require<T: DeserializeOwned>(&mut self, name: &str) -> Result<T, ApiError> {
        let value = self.take(name)?;
        value.ok_or_else(|| ApiError::wrong_type(name, format!("missing field `{}{name}`", self.body.prefix)))
    }

    /// Refuses by name what is left and unknown, or known but not served.
    pub(crate) fn finish(self) -> Result<(), ApiError> {
        let Body { prefix, unserved, .. } = self.body;
        for (name, value) in &self.values {
            let field = unserved.iter().copied().flatten().find(|(known, _)| known == name);
            let Some((_, accept)) = field else {
                return Err(ApiError::validation(name, format!("unknown field `{prefix}{name}`")));
            };
            if !value.is_null() && !accept.takes(value) {
                return Err(ApiError::not_served(name));
            }
        }
        Ok(())
    }
}

impl Body {
    fn serves(&self, name: &str) -> bool {
        self.served.iter().copied().flatten().any(|(known, ..)| *known == name)
    }

    /// All that may stand in it, for the API's document.
    pub(crate) fn schema(&self, limits: &Limits) -> Schema {
        let mut schema = object();
        for (name, field, about) in self.served.iter().copied().flatten() {
            let field = field(limits).about(about);
            schema = if self.required.contains(name) {
                schema.property(name, field)
            } else {
                schema.optional(name, field.or_null())
            };
        }
        for (name, accept) in self.unserved.iter().copied().flatten() {
            schema = schema.optional(name, accept.schema().or_null());
        }
        schema.with("additionalProperties", false)
    }
}

impl Accept {
    /// What `takes` takes beside `null`.
    fn schema(self) -> Schema {
        let schema = match self {
            Self::Anything => return anything().about("Accepted, without effect."),
            Self::Null => return null().about("Not supported: leave it out."),
            Self::Number(neutral) => number().with("enum", vec![neutral]),
            Self::Bool(neutral) => boolean().with("enum", vec![neutral]),
            Self::Words(list) => words(list),
            Self::Empty => any_of([list(anything()).at_most_items(0), object().with("maxProperties", 0)]),
            Self::TextFormat => object().property("type", words(&["text"])),
            Self::TextOnly => list(words(&["text"])),
        };
        schema.about("Not supported: only what changes nothing is accepted.")
    }

    fn takes(self, value: &Value) -> bool {
        match self {
            Self::Anything => true,
            Self::Null => false,
            // Exact: neutral values are written as such, never computed.
            #[expect(clippy::float_cmp, reason = "a neutral value is written, never computed")]
            Self::Number(neutral) => value.as_f64().is_some_and(|number| number == neutral),
            Self::Bool(neutral) => value.as_bool() == Some(neutral),
            Self::Words(words) => value.as_str().is_some_and(|word| words.contains(&word)),
            Self::Empty => value.as_array().is_some_and(Vec::is_empty) || value.as_object().is_some_and(Map::is_empty),
            Self::TextFormat => value.get("type").and_then(Value::as_str) == Some("text"),
            Self::TextOnly => value.as_array().is_some_and(|list| list.iter().all(|kind| kind == "text")),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const BODY: Body = Body { prefix: "", required: &[], served: &[], unserved: &[OPENAI, CHAT] };

    const PARAMETERS: Body = Body {
        prefix: "parameters.",
        required: &[],
        served: &[&[("seed", |_| anything(), ""), ("top_k", |_| anything(), ""), ("inputs", |_| anything(), "")]],
        unserved: &[],
    };

    fn message(others: &Value) -> Option<String> {
        let fields = Fields::of_object(others.as_object().unwrap().clone(), &BODY);
        fields.finish().err().map(|error| error.to_string())
    }

    #[test]
    fn neutral_values_and_nulls_pass() {
        for (name, _) in BODY.unserved.iter().copied().flatten() {
            assert_eq!(message(&json!({ *name: null })), None, "{name}");
        }
        for body in [
            json!({"length_penalty": 1.0, "use_beam_search": false}),
            json!({"functions": {}, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}}),
            json!({"user": "u", "metadata": {"a": "b"}, "store": false, "modalities": ["text"]}),
        ] {
            assert_eq!(message(&body), None);
        }
    }

    #[test]
    fn a_wrong_type_is_named_and_null_is_absence() {
        let mut fields =
            Fields::of_object(json!({"seed": "x", "top_k": null}).as_object().unwrap().clone(), &PARAMETERS);
        let error = fields.take::<u64>("seed").unwrap_err().to_string();
        assert_eq!(error, "`parameters.seed`: invalid type: string \"x\", expected u64");
        assert_eq!(fields.take::<u64>("top_k").unwrap(), None);
        assert_eq!(fields.require::<u64>("inputs").unwrap_err().to_string(), "missing field `parameters.inputs`");
    }

    #[test]
    fn what_is_not_served_or_unknown_is_refused_by_name() {
        for (body, name) in [
            (json!({"use_beam_search": true}), "use_beam_search"),
            (json!({"tools": [{}]}), "tools"),
            (json!({"store": true}), "store"),
            (json!({"response_format": {"type": "json_object"}}), "response_format"),
            (json!({"modalities": ["text", "audio"]}), "modalities"),
        ] {
            let expected = format!("`{name}` is not supported by this server; leave it out or give its neutral value");
            assert_eq!(message(&body), Some(expected));
        }
        assert_eq!(message(&json!({"max_tokenz": 5})).as_deref(), Some("unknown field `max_tokenz`"));
    }
}
