//! Token ids to text as they come, never half a character.

use std::sync::Arc;

use crate::tokenizer::{LeadingRule, Tokenizer};

/// One stream's state. Concatenated output of `push` and `finish` equals `Tokenizer::decode` of all ids; after a prompt,
/// the prompt's ids only decide whether the text begins here (a decoder may drop a space at the beginning of a text).
#[derive(Debug)]
pub struct Detokenizer {
    tokenizer: Arc<Tokenizer>,
    skip_special: bool,
    builder: TextBuilder,
}

impl Detokenizer {
    /// For one stream that follows `prompt_ids` (some decoders need the context, e.g. for a leading space).
    pub fn new(tokenizer: Arc<Tokenizer>, prompt_ids: &[u32], skip_special: bool) -> Self {
        let shown = |id: u32| !(tokenizer.piece(id).is_empty() || skip_special && tokenizer.is_special(id));
        let begun = prompt_ids.iter().any(|&id| shown(id));
        let leading = if begun { LeadingRule::Keep } else { tokenizer.leading_rule() };
        Self { tokenizer, skip_special, builder: TextBuilder::new(leading) }
    }

    /// The text that this id completes; empty while a character is half known.
    pub fn push(&mut self, id: u32) -> String {
        let mut text = String::new();
        if !(self.skip_special && self.tokenizer.is_special(id)) {
            self.builder.push(self.tokenizer.piece(id), &mut text);
        }
        text
    }

    /// What is still held back, with U+FFFD for bytes that never became a character.
    pub fn finish(&mut self) -> String {
        let mut text = String::new();
        self.builder.finish(&mut text);
        text
    }
}

/// Bytes to text: drops what the decoder drops at the beginning, holds back at most the three bytes of a half-known
/// character, and writes U+FFFD where `String::from_utf8_lossy` of the whole would.
#[derive(Debug)]
pub(crate) struct TextBuilder {
    leading: LeadingRule,
    /// The beginning of a character whose end has not come.
    half: Vec<u8>,
}

impl TextBuilder {
    pub(crate) fn new(leading: LeadingRule) -> Self {
        Self { leading, half: Vec::with_capacity(4) }
    }

    pub(crate) fn push(&mut self, piece: &[u8], text: &mut String) {
        let piece = self.drop_leading(piece);
        if self.half.is_empty() {
            let half = decode_lossy(piece, text);
            self.half.extend_from_slice(half);
        } else {
            self.half.extend_from_slice(piece);
            let bytes = std::mem::take(&mut self.half);
            self.half.extend_from_slice(decode_lossy(&bytes, text));
        }
    }

    pub(crate) fn finish(&mut self, text: &mut String) {
        if !std::mem::take(&mut self.half).is_empty() {
            text.push(char::REPLACEMENT_CHARACTER);
        }
    }

    fn drop_leading<'p>(&mut self, piece: &'p [u8]) -> &'p [u8] {
        match self.leading {
            LeadingRule::Keep => piece,
            LeadingRule::FirstToken if piece.is_empty() => piece,
            LeadingRule::FirstToken => {
                self.leading = LeadingRule::Keep;
                &piece[piece.iter().take_while(|&&byte| byte == b' ').count()..]
            }
            LeadingRule::Strip { content, count } => {
                let dropped = piece.iter().take(count).take_while(|&&byte| byte == content).count();
                let ended = dropped == count || dropped < piece.len();
                self.leading =
                    if ended { LeadingRule::Keep } else { LeadingRule::Strip { content, count: count - dropped } };
                &piece[dropped..]
            }
        }
    }
}

/// Appends the text of `bytes` and gives back the beginning of a character at their end, if any.
fn decode_lossy<'b>(mut bytes: &'b [u8], text: &mut String) -> &'b [u8] {
    loop {
        let error = match std::str::from_utf8(bytes) {
            Ok(valid) => {
                text.push_str(valid);
                return &[];
            }
            Err(error) => error,
        };
        let (valid, rest) = bytes.split_at(error.valid_up_to());
        text.push_str(std::str::from_utf8(valid).unwrap_or_default());
        let Some(wrong) = error.error_len() else { return rest };
        text.push(char::REPLACEMENT_CHARACTER);
        bytes = &rest[wrong..];
    }
}

#[cfg(test)]
mod tests;
