//! How deep a template nests. The template engine parses, compiles and drops what is nested by recursion, so a template
//! that nests without bound would exhaust the process's stack, which no error can catch.

use super::adapt::{first_len, literal_len, tag_name};

/// Brackets in brackets; the deepest public templates have about 10.
const MAX_BRACKETS: usize = 100;
/// Blocks in blocks, an `elif` counted as one inside its `if`; the deepest public templates have about 20.
const MAX_BLOCKS: usize = 100;
/// Bytes of one tag, string literals aside: an operator or filter nests what stands before it.
const MAX_TAG_BYTES: usize = 16 << 10;

/// Blocks that end with an `end...`; `set` is one when it assigns nothing.
const BLOCKS: [&str; 9] = ["if", "for", "macro", "call", "filter", "with", "block", "autoescape", "generation"];

/// What is open where a reader stands, tag by tag.
#[derive(Debug, Default)]
pub(super) struct Nesting {
    /// Levels that each open block takes.
    blocks: Vec<usize>,
}

impl Nesting {
    /// Goes past one `{{ }}` or `{% %}`, or says which limit it breaks.
    pub(super) fn visit(&mut self, tag: &str) -> Result<(), String> {
        let assigns = check_tag(tag)?;
        if !tag.starts_with("{%") {
            return Ok(());
        }
        let name = tag_name(tag);
        if BLOCKS.contains(&name) || (name == "set" && !assigns) {
            self.blocks.push(1);
        } else if name == "elif" {
            if let Some(levels) = self.blocks.last_mut() {
                *levels += 1;
            }
        } else if name.starts_with("end") {
            self.blocks.pop();
        }
        let depth: usize = self.blocks.iter().sum();
        if depth > MAX_BLOCKS {
            return Err(format!("blocks are nested deeper than {MAX_BLOCKS}"));
        }
        Ok(())
    }
}

/// Checks a tag by itself; gives whether it has a `=` outside brackets.
fn check_tag(tag: &str) -> Result<bool, String> {
    let (mut brackets, mut bytes, mut assigns, mut at) = (0_usize, 0, false, 2);
    while at < tag.len() {
        let rest = &tag[at..];
        if let Some(len) = literal_len(rest) {
            at += len;
            continue;
        }
        match rest.as_bytes()[0] {
            b'(' | b'[' | b'{' => brackets += 1,
            b')' | b']' | b'}' => brackets = brackets.saturating_sub(1),
            b'=' => assigns |= brackets == 0,
            _ => {}
        }
        if brackets > MAX_BRACKETS {
            return Err(format!("brackets are nested deeper than {MAX_BRACKETS}"));
        }
        at += first_len(rest);
        bytes += 1;
        if bytes > MAX_TAG_BYTES {
            return Err(format!("a tag exceeds {MAX_TAG_BYTES} characters beside its strings"));
        }
    }
    Ok(assigns)
}
