//! Going on in the last message: it is rendered with a mark at its end, and the prompt is cut there. The rules are
//! those of transformers (`render_jinja_template`).

use serde_json::Value;

use crate::error::TextError;

/// The space at its end shows whether the template trims contents.
const MARK: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// Puts the mark at the end of the last message's text; gives the text as it was.
pub(super) fn mark(messages: &mut [Value], source: &str) -> Result<String, TextError> {
    if !source.contains("content") {
        return Err(refused("the chat template does not read `content`"));
    }
    let content = messages.last_mut().and_then(|message| message.get_mut("content"));
    let text = match content {
        Some(Value::Array(parts)) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        content => content,
    };
    let Some(Value::String(text)) = text else { return Err(refused("the last message has no text to continue")) };
    let before = text.clone();
    text.push_str(MARK);
    Ok(before)
}

/// Cuts the prompt at the mark.
pub(super) fn cut(mut rendered: String, content: &str) -> Result<String, TextError> {
    let found = rendered.rfind(MARK.trim_end()).filter(|_| rendered.contains(content.trim()));
    let at = found.ok_or_else(|| refused("the chat template leaves out or changes the last message"))?;
    let trimmed = !rendered[at..].starts_with(MARK);
    rendered.truncate(at);
    if trimmed {
        rendered.truncate(rendered.trim_end().len());
    }
    Ok(rendered)
}

fn refused(reason: &str) -> TextError {
    TextError::Template(format!("the final message cannot be continued: {reason}"))
}
