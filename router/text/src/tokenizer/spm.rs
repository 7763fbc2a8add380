//! `SentencePiece` encoding from scores, as llama.cpp does it (`llm_tokenizer_spm`).
//!
//! Of all neighbours whose joint text is a token, those with the highest score are joined first, of equals the leftmost;
//! characters that end up in no token become bytes. The crate's BPE cannot give these ids: it orders pairs by a rank
//! that is never equal, and knows only pairs of tokens, where here a character that is no token may join too.

use std::cmp::{Ordering, Reverse};
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::work;

/// What stands for a space in a token's name.
pub(super) const SPACE: char = '▁';

#[derive(Debug)]
pub(super) struct Spm {
    /// Ids and scores by name.
    tokens: HashMap<String, (u32, f32)>,
    bytes: Box<[u32; 256]>,
    /// Whether a space is put before a text and after each control token.
    pub(super) add_space_prefix: bool,
}

/// A piece of the text that is being joined; of no length when its left neighbour has taken it.
#[derive(Clone, Copy)]
struct Symbol {
    start: usize,
    end: usize,
    prev: Option<usize>,
    next: Option<usize>,
}

/// Two neighbours that could be joined, and how far they reached when that was found.
struct Pair {
    score: f32,
    left: usize,
    right: usize,
    start: usize,
    end: usize,
}

impl Spm {
    /// Tokens with ids and scores; `unknown` stands for bytes that have no token.
    pub(super) fn new(tokens: impl Iterator<Item = (String, u32, f32)>, unknown: u32, add_space_prefix: bool) -> Self {
        let tokens: HashMap<String, (u32, f32)> = tokens.map(|(name, id, score)| (name, (id, score))).collect();
        let byte_token = |byte: usize| {
            let plain = char::from_u32(byte as u32).filter(char::is_ascii).map(String::from);
            let found = tokens.get(&format!("<0x{byte:02X}>")).or_else(|| tokens.get(&plain?));
            found.map_or(unknown, |&(id, _)| id)
        };
        let bytes = Box::new(std::array::from_fn(byte_token));
        Self { tokens, bytes, add_space_prefix }
    }

    /// Calls `take` with each id and its range of the text; each byte of a character has the whole character's, and the
    /// space that is put before (`prefixed`) has none.
    pub(super) fn encode(&self, text: &str, prefixed: bool, mut take: impl FnMut(u32, Range<usize>)) {
        let prefix = if prefixed && self.add_space_prefix { " " } else { "" };
        let escaped: String = prefix.chars().chain(text.chars()).map(|c| if c == ' ' { SPACE } else { c }).collect();
        let mut original = text.chars();
        let (mut is_prefix, mut at) = (!prefix.is_empty(), 0);
        for symbol in self.join(&escaped).iter().filter(|symbol| symbol.end > symbol.start) {
            let name = &escaped[symbol.start..symbol.end];
            let num_chars = name.chars().count() - usize::from(is_prefix);
            is_prefix = false;
            let len: usize = original.by_ref().take(num_chars).map(char::len_utf8).sum();
            let range = at..at + len;
            at += len;
            match self.tokens.get(name) {
                Some(&(id, _)) => take(id, range),
                None => name.bytes().for_each(|byte| take(self.bytes[usize::from(byte)], range.clone())),
            }
        }
    }

    fn join(&self, text: &str) -> Vec<Symbol> {
        let mut symbols: Vec<Symbol> = Vec::new();
        for (index, (start, c)) in text.char_indices().enumerate() {
            let end = start + c.len_utf8();
            let next = (end < text.len()).then_some(index + 1);
            symbols.push(Symbol { start, end, prev: index.checked_sub(1), next });
        }
        work::count(symbols.len());
        let mut pairs = BinaryHeap::new();
        for right in 1..symbols.len() {
            pairs.extend(self.pair(text, &symbols, Some(right - 1), Some(right)));
        }
        while let Some(pair) = pairs.pop() {
            work::count(1);
            let (left, right) = (symbols[pair.left], symbols[pair.right]);
            // One of them has been joined to something else since.
            if left.end == left.start || right.end == right.start || (left.start, right.end) != (pair.start, pair.end) {
                continue;
            }
            symbols[pair.left] = Symbol { end: right.end, next: right.next, ..left };
            symbols[pair.right].end = right.start;
            if let Some(next) = right.next {
                symbols[next].prev = Some(pair.left);
            }
            pairs.extend(self.pair(text, &symbols, left.prev, Some(pair.left)));
            pairs.extend(self.pair(text, &symbols, Some(pair.left), right.next));
        }
        symbols
    }

    fn pair(&self, text: &str, symbols: &[Symbol], left: Option<usize>, right: Option<usize>) -> Option<Pair> {
        let (left, right) = (left?, right?);
        let (start, end) = (symbols[left].start, symbols[right].end);
        let &(_, score) = self.tokens.get(&text[start..end])?;
        Some(Pair { score, left, right, start, end })
    }
}

impl Ord for Pair {
    fn cmp(&self, other: &Self) -> Ordering {
        self.score.total_cmp(&other.score).then(Reverse(self.left).cmp(&Reverse(other.left)))
    }
}

impl PartialOrd for Pair {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Pair {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Pair {}
