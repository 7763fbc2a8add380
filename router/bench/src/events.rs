//! Server-sent events, read at the cost of a scan: an event of text is recognized by its keys, and parsed as JSON only
//! when it brings token counts or an error, once a stream.

use serde_json::Value;

/// More is no event of these APIs.
const MAX_LINE_BYTES: usize = 16 << 20;

/// Cuts a body into lines; what follows the last line end is kept for the next piece.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pending: Vec<u8>,
}

impl Lines {
    /// Calls `each` with every whole line. False when a line is too long to be one.
    pub(crate) fn feed(&mut self, mut bytes: &[u8], mut each: impl FnMut(&[u8])) -> bool {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            if self.pending.is_empty() {
                each(&bytes[..end]);
            } else {
                self.pending.extend_from_slice(&bytes[..end]);
                each(&self.pending);
                self.pending.clear();
            }
            bytes = &bytes[end + 1..];
        }
        self.pending.extend_from_slice(bytes);
        self.pending.len() <= MAX_LINE_BYTES
    }
}

/// What a line of `data:` holds; none of other lines.
pub(crate) fn payload(line: &[u8]) -> Option<&[u8]> {
    line.strip_prefix(b"data:").map(<[u8]>::trim_ascii)
}

/// What one event tells.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Marks {
    /// It brings text, of an answer, of thinking or of a tool call.
    pub(crate) text: bool,
    /// The stream came to its end: a reason, or `[DONE]`.
    pub(crate) ends: bool,
    /// It brings token counts.
    pub(crate) counts: bool,
    /// It is an error.
    pub(crate) error: bool,
}

/// Reads an event's keys, wherever they stand in it, and the first byte or two of their values.
pub(crate) fn marks(payload: &[u8]) -> Marks {
    let mut marks = Marks { ends: payload == b"[DONE]", ..Marks::default() };
    let mut rest = payload;
    while let Some((string, after)) = next_string(rest) {
        rest = after;
        let Some(value) = after.trim_ascii_start().strip_prefix(b":").map(<[u8]>::trim_ascii_start) else { continue };
        rest = value;
        match string {
            b"content" | b"reasoning_content" | b"reasoning" | b"text" | b"arguments" => {
                marks.text |= value.starts_with(b"\"") && !value.starts_with(b"\"\"");
            }
            b"finish_reason" | b"generated_text" => marks.ends |= value.starts_with(b"\""),
            b"usage" | b"details" => marks.counts |= value.starts_with(b"{"),
            b"error" => marks.error |= !value.starts_with(b"null"),
            b"object" => marks.error |= value.starts_with(b"\"error\""),
            _ => {}
        }
    }
    marks
}

/// The next JSON string, as it is written, and what follows it.
fn next_string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let start = bytes.iter().position(|&byte| byte == b'"')? + 1;
    let mut end = start;
    loop {
        match bytes.get(end)? {
            b'"' => return Some((&bytes[start..end], &bytes[end + 1..])),
            b'\\' => end += 2,
            _ => end += 1,
        }
    }
}

/// Tokens as the server counts them.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) prompt: Option<u64>,
    pub(crate) output: Option<u64>,
}

/// OpenAI's `usage`, or the `details` of TGI's last event.
pub(crate) fn counts(payload: &[u8]) -> Counts {
    let Ok(event) = serde_json::from_slice::<Value>(payload) else { return Counts::default() };
    let either = |usage: &str, details: &str| event["usage"][usage].as_u64().or(event["details"][details].as_u64());
    Counts { prompt: either("prompt_tokens", "input_length"), output: either("completion_tokens", "generated_tokens") }
}

#[cfg(test)]
mod tests;
