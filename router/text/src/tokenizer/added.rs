//! Tokens that are found in a text before anything else, such as those that mark turns.
//!
//! The crate finds them too, but copies the text to do so, at some 40 bytes a byte. Of those that begin at one place the
//! longest counts, and what it covers is not looked at again.

use std::ops::{Range, RangeInclusive};

use tokenizers::{AddedToken, NormalizerWrapper};

use super::trie::Trie;

#[derive(Debug)]
pub(super) struct AddedTokens {
    trie: Trie<u32>,
    /// Whether a token begins with this byte.
    begins: Box<[bool; 256]>,
    /// Whether the text is normalized to NFC before: then only a text that is so already is split here.
    composes: bool,
}

impl AddedTokens {
    /// The added tokens of a tokenizer; `None` where some of them, or a normalizer, need the crate's own rules.
    pub(super) fn new(inner: &tokenizers::Tokenizer) -> Option<Self> {
        let tokens = inner.get_added_tokens_decoder();
        // Those that are looked for after normalizing come after the others.
        let is_one_kind =
            tokens.values().all(|token| token.normalized) || tokens.values().all(|token| !token.normalized);
        let composes = match inner.get_normalizer() {
            None => false,
            Some(NormalizerWrapper::NFC(_)) => true,
            Some(_) => return None,
        };
        let plain = |token: &AddedToken| {
            let stays = !(composes && token.normalized) || is_composed(&token.content);
            stays && !(token.single_word || token.lstrip || token.rstrip)
        };
        (is_one_kind && tokens.values().all(plain)).then_some(())?;
        let (mut trie, mut begins) = (Trie::new(), Box::new([false; 256]));
        for (&id, token) in tokens.iter().filter(|(_, token)| !token.content.is_empty()) {
            trie.insert(token.content.as_bytes(), id);
            begins[usize::from(token.content.as_bytes()[0])] = true;
        }
        Some(Self { trie, begins, composes })
    }

    /// Whether this text needs nothing but [`Self::split`].
    pub(super) fn takes(&self, text: &str) -> bool {
        !self.composes || is_composed(text)
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

/// Whether NFC surely leaves a text as it is: ASCII and the common letters and signs that neither decompose nor join
/// what comes before them. Others may be composed too; they take the longer way.
fn is_composed(text: &str) -> bool {
    text.is_ascii() || text.chars().all(|c| COMPOSED.iter().any(|range| range.contains(&c)))
}

/// Latin, Han, punctuation, Greek, Cyrillic, Hebrew, Arabic, arrows, blocks, kana, Hangul, full-width forms, emoji.
const COMPOSED: [RangeInclusive<char>; 14] = [
    '\0'..='\u{2FF}',
    '\u{4E00}'..='\u{9FFF}',
    '\u{2010}'..='\u{2027}',
    '\u{391}'..='\u{3CE}',
    '\u{400}'..='\u{482}',
    '\u{5D0}'..='\u{5EA}',
    '\u{620}'..='\u{64A}',
    '\u{2190}'..='\u{21FF}',
    '\u{2500}'..='\u{25FF}',
    '\u{3000}'..='\u{3029}',
    '\u{3041}'..='\u{3096}',
    '\u{AC00}'..='\u{D7A3}',
    '\u{FF01}'..='\u{FF5E}',
    '\u{1F300}'..='\u{1FAFF}',
];

#[cfg(test)]
mod tests {
    use tokenizers::normalizers::NFC;
    use tokenizers::{NormalizedString, Normalizer};

    use super::*;
    use crate::test_random::Random;

    #[test]
    fn nfc_leaves_what_is_composed_alone() {
        let composed = |text: &str| {
            let mut normalized = NormalizedString::from(text);
            NFC.normalize(&mut normalized).unwrap();
            normalized.get().to_owned()
        };
        let all: Vec<char> = COMPOSED.iter().cloned().flatten().collect();
        let mut random = Random::new(31);
        for &c in &all {
            let text: String = [all[random.below(all.len())], c, all[random.below(all.len())]].iter().collect();
            assert!(is_composed(&text));
            assert_eq!(composed(&text), text);
        }
        for text in ["e\u{301}", "\u{212B}", "\u{1100}\u{1161}", "か\u{3099}", "\u{387}"] {
            assert!(!is_composed(text) && composed(text) != text, "{text}");
        }
    }
}
