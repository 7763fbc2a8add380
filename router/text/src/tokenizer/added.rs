//! Tokens that are found in a text before anything else, such as those that mark turns.
//!
//! The crate finds them too, but copies the text to do so, at some 40 bytes a byte. Of those that begin at one place the
//! longest counts, and what it covers is not looked at again.

use std::ops::Range;

use super::trie::Trie;

#[derive(Debug)]
pub(super) struct AddedTokens {
    trie: Trie<u32>,
    /// Whether a token begins with this byte.
    begins: Box<[bool; 256]>,
}

impl AddedTokens {
    /// The added tokens of a tokenizer; `None` where some of them, or a normalizer, need the crate's own rules.
    pub(super) fn new(inner: &tokenizers::Tokenizer) -> Option<Self> {
        let tokens = inner.get_added_tokens_decoder();
        let plain = |token: &tokenizers::AddedToken| !(token.single_word || token.lstrip || token.rstrip);
        // Those that are looked for after normalizing come after the others.
        let is_one_kind =
            tokens.values().all(|token| token.normalized) || tokens.values().all(|token| !token.normalized);
        (inner.get_normalizer().is_none() && is_one_kind && tokens.values().all(plain)).then_some(())?;
        let (mut trie, mut begins) = (Trie::new(), Box::new([false; 256]));
        for (&id, token) in tokens.iter().filter(|(_, token)| !token.content.is_empty()) {
            trie.insert(token.content.as_bytes(), id);
            begins[usize::from(token.content.as_bytes()[0])] = true;
        }
        Some(Self { trie, begins })
    }

    /// Calls `take` with each piece of the text in turn, and its id if it is an added token.
    pub(super) fn split(&self, text: &str, mut take: impl FnMut(Range<usize>, Option<u32>)) {
        let bytes = text.as_bytes();
        let (mut from, mut at) = (0, 0);
        while let Some(next) = bytes[at..].iter().position(|&byte| self.begins[usize::from(byte)]) {
            at += next;
            let mut found = None;
            self.trie.prefixes(&bytes[at..], |len, id| found = Some((len, id)));
            let Some((len, id)) = found else {
                at += 1;
                continue;
            };
            if from < at {
                take(from..at, None);
            }
            take(at..at + len, Some(id));
            at += len;
            from = at;
        }
        if from < text.len() {
            take(from..text.len(), None);
        }
    }
}
