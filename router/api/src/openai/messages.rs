//! A conversation as templates read it: every content a string, roles that templates know.

use serde_json::{Map, Value};

use crate::error::ApiError;
use crate::schema::{Schema, any_of, anything, list, object, string, words};

/// Parts of a message that belong to features this server does not have.
const NOT_SERVED: &[&str] = &["tool_calls", "function_call", "audio"];

/// Checks each message and flattens its content. What else a message holds (`name`, …) is the template's to read.
pub(crate) fn normalize(messages: Vec<Map<String, Value>>) -> Result<Vec<Value>, ApiError> {
    if messages.is_empty() {
        return Err(ApiError::validation("messages", "`messages` cannot be empty"));
    }
    messages.into_iter().enumerate().map(|(index, message)| normalize_one(index, message)).collect()
}

/// What [`normalize`] takes.
pub(crate) fn schema() -> Schema {
    let part = object().property("type", words(&["text"])).property("text", string());
    let role = words(&["system", "developer", "user", "assistant"]).about("`developer` is `system`.");
    let content = any_of([string(), list(part)]).or_null();
    let mut message = object()
        .property("role", role)
        .optional("content", content.about("Only the assistant's may be missing. Parts are joined."));
    for name in NOT_SERVED {
        let empty = list(anything()).at_most_items(0).or_null();
        message = message.optional(name, empty.about("Not supported: leave it out."));
    }
    list(message.with("additionalProperties", true)).at_least_items(1)
}

/// Whether the last message is the assistant's: then it is continued, as TGI does.
pub(crate) fn ends_with_assistant(messages: &[Value]) -> bool {
    messages.last().and_then(|message| message.get("role")).and_then(Value::as_str) == Some("assistant")
}

fn normalize_one(index: usize, mut message: Map<String, Value>) -> Result<Value, ApiError> {
    message.retain(|_, value| !value.is_null());
    for name in NOT_SERVED {
        if message.remove(*name).is_some_and(|value| value.as_array().is_none_or(|list| !list.is_empty())) {
            return Err(ApiError::not_served(&format!("messages[{index}].{name}")));
        }
    }
    let role = normalize_role(index, message.get("role"))?;
    let content = normalize_content(index, role, message.remove("content"))?;
    message.insert("role".to_owned(), role.into());
    message.insert("content".to_owned(), content.into());
    Ok(Value::Object(message))
}

/// `developer` is OpenAI's newer name of `system`; templates know only that.
fn normalize_role(index: usize, role: Option<&Value>) -> Result<&'static str, ApiError> {
    let field = format!("messages[{index}].role");
    match role.and_then(Value::as_str) {
        Some("system" | "developer") => Ok("system"),
        Some("user") => Ok("user"),
        Some("assistant") => Ok("assistant"),
        Some("tool" | "function") => Err(ApiError::not_served(&field)),
        _ => {
            let message = format!("`{field}` must be `system`, `developer`, `user` or `assistant`");
            Err(ApiError::validation(&field, message))
        }
    }
}

/// A string, or text parts that are joined. An assistant may have said nothing.
fn normalize_content(index: usize, role: &str, content: Option<Value>) -> Result<String, ApiError> {
    let field = format!("messages[{index}].content");
    match content {
        Some(Value::String(text)) => Ok(text),
        Some(Value::Array(parts)) => {
            parts.iter().enumerate().map(|(at, part)| part_text(&format!("{field}[{at}]"), part)).collect()
        }
        None if role == "assistant" => Ok(String::new()),
        _ => Err(ApiError::wrong_type(&field, format!("`{field}` must be a string or a list of text parts"))),
    }
}

fn part_text<'a>(field: &str, part: &'a Value) -> Result<&'a str, ApiError> {
    match (part.get("type").and_then(Value::as_str), part.get("text").and_then(Value::as_str)) {
        (Some("text"), Some(text)) => Ok(text),
        (Some("text") | None, _) => {
            Err(ApiError::wrong_type(field, format!("`{field}` must be `{{\"type\": \"text\", \"text\": …}}`")))
        }
        (Some(kind), _) => Err(ApiError::not_served(&format!("{field}.{kind}"))),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn run(messages: Value) -> Result<Value, String> {
        let messages = serde_json::from_value(messages).unwrap();
        normalize(messages).map(Value::from).map_err(|error| error.to_string())
    }

    #[test]
    fn text_parts_are_joined_nulls_dropped_and_developers_are_the_system() {
        let messages = json!([
            {"role": "developer", "content": "be brief", "name": null},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "n"},
            {"role": "assistant", "content": null, "tool_calls": [], "refusal": null},
        ]);
        let expected = json!([
            {"role": "system", "content": "be brief"},
            {"role": "user", "name": "n", "content": "ab"},
            {"role": "assistant", "content": ""},
        ]);
        assert_eq!(run(messages).unwrap(), expected);
    }

    #[test]
    fn what_is_wrong_is_named_by_its_place() {
        for (message, name) in [
            (json!({"role": "user", "content": null}), "messages[0].content"),
            (json!({"role": "user", "content": 5}), "messages[0].content"),
            (json!({"role": "king", "content": "a"}), "messages[0].role"),
            (json!({"role": "tool", "content": "a"}), "messages[0].role"),
            (json!({"role": "user", "content": [{"type": "image_url"}]}), "messages[0].content[0].image_url"),
            (json!({"role": "assistant", "tool_calls": [{}]}), "messages[0].tool_calls"),
        ] {
            let error = run(json!([message])).unwrap_err();
            assert!(error.starts_with(&format!("`{name}`")), "{error}");
        }
        assert_eq!(run(json!([])).unwrap_err(), "`messages` cannot be empty");
    }
}
