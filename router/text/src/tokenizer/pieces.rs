//! The bytes of every token, in one block of memory.

use std::path::Path;

use super::decoder::TokenDecoder;
use crate::error::TextError;

/// Ids above this are a broken file: the table would be mostly holes.
pub(super) const MAX_VOCAB: usize = 1 << 24;

/// What a decoder drops at the beginning of a text (`SentencePiece` puts a space there when it encodes).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum LeadingRule {
    /// Nothing.
    Keep,
    /// Up to `count` characters `content`, wherever tokens end.
    Strip {
        /// An ASCII character.
        content: u8,
        /// How many at most.
        count: usize,
    },
    /// All spaces that begin the first token.
    FirstToken,
}

impl LeadingRule {
    pub(super) fn strip_spaces(count: usize) -> Self {
        Self::Strip { content: b' ', count }
    }
}

/// Bytes and kind by token id.
#[derive(Debug)]
pub(super) struct Pieces {
    bytes: Vec<u8>,
    spans: Vec<Span>,
    leading: LeadingRule,
}

#[derive(Debug, Clone, Copy, Default)]
struct Span {
    start: u32,
    len: u32,
    special: bool,
}

impl Pieces {
    pub(super) fn new(leading: LeadingRule) -> Self {
        Self { bytes: Vec::new(), spans: Vec::new(), leading }
    }

    pub(super) fn from_tokenizer(
        tokenizer: &tokenizers::Tokenizer,
        decoder: &TokenDecoder,
        path: &Path,
    ) -> Result<Self, TextError> {
        let mut pieces = Self::new(decoder.leading);
        let added = tokenizer.get_added_tokens_decoder();
        let mut tokens: Vec<(u32, String)> =
            tokenizer.get_vocab(true).into_iter().map(|(token, id)| (id, token)).collect();
        tokens.sort_unstable();
        if let Some((id, token)) = tokens.last().filter(|(id, _)| *id as usize >= MAX_VOCAB) {
            return Err(TextError::file(path, format!("token `{token}` has the id {id}; the limit is {MAX_VOCAB}")));
        }
        for (id, token) in tokens {
            let special = added.get(&id).is_some_and(|token| token.special);
            pieces.set(id, &decoder.bytes(&token), special);
        }
        Ok(pieces)
    }

    /// Sets one token; ids in between are holes.
    pub(super) fn set(&mut self, id: u32, bytes: &[u8], special: bool) {
        let index = id as usize;
        if index >= self.spans.len() {
            self.spans.resize(index + 1, Span::default());
        }
        self.spans[index] = Span { start: self.bytes.len() as u32, len: bytes.len() as u32, special };
        self.bytes.extend_from_slice(bytes);
    }

    /// Sets an added token, whose text is its name.
    pub(super) fn set_added(&mut self, id: u32, content: &str, special: bool) {
        self.set(id, content.as_bytes(), special);
    }

    pub(super) fn bytes(&self, id: u32) -> &[u8] {
        let span = self.spans.get(id as usize).copied().unwrap_or_default();
        &self.bytes[span.start as usize..][..span.len as usize]
    }

    pub(super) fn is_special(&self, id: u32) -> bool {
        self.spans.get(id as usize).is_some_and(|span| span.special)
    }

    /// Highest id + 1.
    pub(super) fn len(&self) -> usize {
        self.spans.len()
    }

    pub(super) fn leading(&self) -> LeadingRule {
        self.leading
    }
}
