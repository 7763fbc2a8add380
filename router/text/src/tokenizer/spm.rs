//! `SentencePiece` encoding from scores, as llama.cpp does it (`llm_tokenizer_spm`).
//!
//! Of all neighbours whose joint text is a token, those with the highest score are joined first, of equals the leftmost;
//! characters that end up in no token become bytes. What is joined is a token or a single character, so every pair that
//! can ever join is known beforehand: one for each way to halve a token. That makes it merging ([`Bpe`]), in which pairs
//! of one score have one rank.

use std::collections::HashMap;
use std::ops::Range;

use super::bpe::{Bpe, Pair, Symbols};

/// What stands for a space in a token's name.
pub(super) const SPACE: char = '▁';

#[derive(Debug)]
pub(super) struct Spm {
    bpe: Bpe,
    /// Whether a space is put before a text and after each control token.
    add_space_prefix: bool,
    /// No token reaches from another character over a space, so a text can be cut before it.
    cuts_at_spaces: bool,
}

/// Tokens with their ids and scores.
type Scored<'t> = (&'t str, u32, f32);

impl Spm {
    /// `unknown` stands for bytes that have no token.
    pub(super) fn new<'t>(tokens: impl Iterator<Item = Scored<'t>>, unknown: u32, add_space_prefix: bool) -> Self {
        let tokens: Vec<Scored<'t>> = tokens.collect();
        let ids: HashMap<&str, u32> = tokens.iter().map(|&(name, id, _)| (name, id)).collect();
        let byte_token = |byte: usize| {
            let plain = char::from_u32(byte as u32).filter(char::is_ascii).map(String::from);
            let found = ids.get(format!("<0x{byte:02X}>").as_str()).or_else(|| ids.get(plain?.as_str()));
            found.copied().unwrap_or(unknown)
        };
        let bytes = Box::new(std::array::from_fn(byte_token));
        let mut characters = Characters::new(&ids);
        let pairs = halves(&tokens, &ids, &mut characters);
        let cuts_at_spaces = !tokens.iter().any(|(name, ..)| has_space_inside(name));
        let symbols = Symbols::scored(characters.known, bytes, characters.nameless, SPACE);
        Self { bpe: Bpe::from_pairs(symbols, pairs), add_space_prefix, cuts_at_spaces }
    }

    /// Calls `take` with each id and its range of the text; each byte of a character has the whole character's, and the
    /// space that is put before (`prefixed`) has none.
    pub(super) fn encode(&self, text: &str, prefixed: bool, mut take: impl FnMut(u32, Range<usize>)) {
        let (mut merger, mut start) = (self.bpe.merger(), 0);
        let mut prefixed = prefixed && self.add_space_prefix;
        while start < text.len() {
            let end = if self.cuts_at_spaces { word_end(text, start, prefixed) } else { text.len() };
            merger.merge_prefixed(&text[start..end], prefixed, |id, range| {
                take(id, start + range.start..start + range.end);
            });
            (start, prefixed) = (end, false);
        }
    }
}

/// Ids of characters; those that no token stands for and some token has in it get ids beyond the vocabulary's.
struct Characters {
    known: HashMap<char, u32>,
    nameless: u32,
}

impl Characters {
    fn new(ids: &HashMap<&str, u32>) -> Self {
        let known = ids.iter().filter_map(|(name, &id)| Some((only_char(name)?, id))).collect();
        Self { known, nameless: ids.values().max().map_or(0, |max| max + 1) }
    }

    fn id(&mut self, c: char) -> u32 {
        let next = self.nameless + self.known.len() as u32;
        *self.known.entry(c).or_insert(next)
    }
}

fn only_char(text: &str) -> Option<char> {
    let mut chars = text.chars();
    chars.next().filter(|_| chars.next().is_none())
}

/// Every pair of tokens or characters that make a token, with the rank of its score.
fn halves(tokens: &[Scored<'_>], ids: &HashMap<&str, u32>, characters: &mut Characters) -> Vec<Pair> {
    // A negative zero is no less than a positive one.
    let mut scores: Vec<f32> = tokens.iter().map(|(.., score)| score + 0.0).collect();
    scores.sort_unstable_by(|a, b| b.total_cmp(a));
    scores.dedup();
    let mut half = |text: &str| {
        let nameless = only_char(text).map(|c| characters.id(c));
        ids.get(text).copied().or(nameless)
    };
    let mut pairs = Vec::new();
    for &(name, joined, score) in tokens {
        let rank = scores.partition_point(|&other| other > score) as u32;
        for (at, _) in name.char_indices().skip(1) {
            if let Some((left, right)) = half(&name[..at]).zip(half(&name[at..])) {
                pairs.push(Pair { left, right, rank, joined });
            }
        }
    }
    pairs
}

fn has_space_inside(name: &str) -> bool {
    name.char_indices().skip(1).any(|(at, c)| c == SPACE && !name[..at].ends_with(SPACE))
}

/// Where the next space begins after something else; a space put before the text is something like one.
fn word_end(text: &str, start: usize, prefixed: bool) -> usize {
    let is_space = |c: char| c == ' ' || c == SPACE;
    let mut after_space = prefixed || text[start..].starts_with(is_space);
    for (at, c) in text[start..].char_indices() {
        if is_space(c) && !after_space {
            return start + at;
        }
        after_space = is_space(c);
    }
    text.len()
}

#[cfg(test)]
mod tests;
