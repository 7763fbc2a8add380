//! A child's output, line by line, into our log. Reads always, so that a child never blocks on a full pipe; loses
//! nothing: a line without an end is written at the end of file, one that is too long in pieces.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::{Map, Value};
use tokio::io::{AsyncRead, AsyncReadExt};
use tracing::Level;

/// Longest piece of a line that is logged as one.
const MAX_LINE_BYTES: usize = 16 << 10;
/// How much is read at once.
const READ_BYTES: usize = 16 << 10;
/// Lines that are kept for an error message.
const MAX_KEPT_LINES: usize = 8;

/// The last lines of a child, to be told when it fails.
#[derive(Clone, Debug, Default)]
pub(crate) struct LastLines(Arc<Mutex<VecDeque<String>>>);

impl LastLines {
    fn push(&self, line: String) {
        let mut lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == MAX_KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
    }

    /// The newest line.
    pub(crate) fn last(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).back().cloned()
    }

    /// The lines, oldest first, one to a line.
    pub(crate) fn text(&self) -> String {
        let lines = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().map(String::as_str).collect::<Vec<_>>().join("\n")
    }
}

/// Logs what `pipe` yields until it ends. `source` names the child in each line.
pub(crate) async fn relay(mut pipe: impl AsyncRead + Unpin, source: String, last: LastLines) {
    let mut splitter = LineSplitter::default();
    let mut buffer = vec![0; READ_BYTES];
    while let Ok(1..) = read_into(&mut pipe, &mut buffer, &mut splitter, &source, &last).await {}
    splitter.finish(&mut |line| log(&source, line, &last));
}

async fn read_into(
    pipe: &mut (impl AsyncRead + Unpin),
    buffer: &mut [u8],
    splitter: &mut LineSplitter,
    source: &str,
    last: &LastLines,
) -> std::io::Result<usize> {
    let num_read = pipe.read(buffer).await?;
    splitter.push(&buffer[..num_read], &mut |line| log(source, line, last));
    Ok(num_read)
}

/// Cuts bytes into lines, whatever pieces they come in.
#[derive(Debug, Default)]
struct LineSplitter {
    pending: Vec<u8>,
}

impl LineSplitter {
    /// Calls `emit` for each line that is complete.
    fn push(&mut self, mut bytes: &[u8], emit: &mut impl FnMut(&[u8])) {
        while let Some(end) = bytes.iter().position(|&byte| byte == b'\n') {
            self.pending.extend_from_slice(&bytes[..end]);
            self.cut(emit);
            if !self.pending.is_empty() {
                emit(&std::mem::take(&mut self.pending));
            }
            bytes = &bytes[end + 1..];
        }
        self.pending.extend_from_slice(bytes);
        self.cut(emit);
    }

    /// Emits what came after the last line end.
    fn finish(mut self, emit: &mut impl FnMut(&[u8])) {
        if !self.pending.is_empty() {
            emit(&std::mem::take(&mut self.pending));
        }
    }

    /// Emits pieces of the longest length while more than that is pending, never cutting a character in two.
    fn cut(&mut self, emit: &mut impl FnMut(&[u8])) {
        while self.pending.len() > MAX_LINE_BYTES {
            let is_inside = |&at: &usize| self.pending[at] & 0xC0 == 0x80;
            let at = (MAX_LINE_BYTES - 3..=MAX_LINE_BYTES).rev().find(|at| !is_inside(at)).unwrap_or(MAX_LINE_BYTES);
            let rest = self.pending.split_off(at);
            emit(&std::mem::replace(&mut self.pending, rest));
        }
    }
}

/// One line as it will be logged.
#[derive(Debug, PartialEq, Eq)]
struct Line {
    level: Level,
    text: String,
}

fn log(source: &str, line: &[u8], last: &LastLines) {
    let Line { level, text } = read_line(line);
    last.push(text.clone());
    match level {
        Level::ERROR => tracing::error!(target: "worker", source, "{text}"),
        Level::WARN => tracing::warn!(target: "worker", source, "{text}"),
        Level::INFO => tracing::info!(target: "worker", source, "{text}"),
        Level::DEBUG => tracing::debug!(target: "worker", source, "{text}"),
        Level::TRACE => tracing::trace!(target: "worker", source, "{text}"),
    }
}

/// Workers write JSON objects; libraries below them write what they like, which counts as information.
fn read_line(line: &[u8]) -> Line {
    let text = String::from_utf8_lossy(line);
    let text = text.trim_end_matches('\r');
    match serde_json::from_str::<Map<String, Value>>(text) {
        Ok(fields) => from_fields(fields).unwrap_or_else(|| Line { level: Level::INFO, text: text.to_owned() }),
        Err(_) => Line { level: Level::INFO, text: text.to_owned() },
    }
}

/// `level`, `message`, maybe `target` and `traceback`; `None` if it is another kind of object.
fn from_fields(mut fields: Map<String, Value>) -> Option<Line> {
    let level = match fields.get("level")?.as_str()?.to_ascii_lowercase().as_str() {
        "error" | "critical" => Level::ERROR,
        "warn" | "warning" => Level::WARN,
        "debug" => Level::DEBUG,
        "trace" => Level::TRACE,
        _ => Level::INFO,
    };
    let Value::String(mut text) = fields.remove("message")? else { return None };
    if let Some(target) = fields.get("target").and_then(Value::as_str) {
        text = format!("{target}: {text}");
    }
    if let Some(traceback) = fields.get("traceback").and_then(Value::as_str) {
        text = format!("{text}\n{traceback}");
    }
    Some(Line { level, text })
}

#[cfg(test)]
mod tests;
