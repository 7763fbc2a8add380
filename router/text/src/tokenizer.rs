//! Text to token ids, and what is known of each id.

use std::ops::Range;
use std::path::Path;

use crate::error::TextError;

/// A loaded tokenizer, from `tokenizer.json` or from a GGUF header.
#[derive(Debug)]
pub struct Tokenizer {}

/// An encoded text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte range of each token in the text that was encoded; empty for added special tokens.
    pub offsets: Vec<Range<usize>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    pub fn from_json(_path: &Path) -> Result<Self, TextError> {
        Ok(Self {})
    }

    /// Builds it from `tokenizer.ggml.*` of a GGUF header.
    pub fn from_gguf(_path: &Path) -> Result<Self, TextError> {
        Ok(Self {})
    }

    /// Text to ids. `add_special` adds what the model's own post-processor adds (BOS); special tokens written in the
    /// text are recognised either way.
    pub fn encode(&self, _text: &str, _add_special: bool) -> Result<Encoding, TextError> {
        Ok(Encoding::default())
    }

    /// Ids to text in one piece.
    pub fn decode(&self, _ids: &[u32], _skip_special: bool) -> String {
        String::new()
    }

    /// One token's own text, as TGI's `token.text`: special tokens by their name, half characters as U+FFFD.
    pub fn token_text(&self, _id: u32) -> String {
        String::new()
    }

    /// One token's bytes; empty for ids that stand for none.
    pub fn token_bytes(&self, _id: u32) -> Vec<u8> {
        Vec::new()
    }

    /// A control token: hidden when special tokens are skipped.
    pub fn is_special(&self, _id: u32) -> bool {
        false
    }

    /// The id of a token by its exact name.
    pub fn token_to_id(&self, _token: &str) -> Option<u32> {
        None
    }

    /// Highest id + 1.
    pub fn vocab_size(&self) -> u32 {
        0
    }

    /// The beginning-of-sequence token's name, for templates.
    pub fn bos_token(&self) -> Option<&str> {
        None
    }

    /// The end-of-sequence token's name, for templates.
    pub fn eos_token(&self) -> Option<&str> {
        None
    }
}
