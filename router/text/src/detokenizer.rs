//! Token ids to text as they come, never half a character.

use std::sync::Arc;

use crate::tokenizer::Tokenizer;

/// One stream's state. Concatenated output of `push` and `finish` equals `Tokenizer::decode` of all ids.
#[derive(Debug)]
pub struct Detokenizer {}

impl Detokenizer {
    /// For one stream that follows `prompt_ids` (some decoders need the context, e.g. for a leading space).
    pub fn new(_tokenizer: Arc<Tokenizer>, _prompt_ids: &[u32], _skip_special: bool) -> Self {
        Self {}
    }

    /// The text that this id completes; empty while a character is half known.
    pub fn push(&mut self, _id: u32) -> String {
        String::new()
    }

    /// What is still held back, with U+FFFD for bytes that never became a character.
    pub fn finish(&mut self) -> String {
        String::new()
    }
}
