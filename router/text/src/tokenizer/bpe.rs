//! Byte-pair merging within a word: of all neighbours that a merge joins, the earliest merge first, of equals the
//! leftmost.
//!
//! What is merged are bytes (GPT-2 and most after it) or characters, of which those without a token become bytes
//! (`<0xE9>`). Something that has no token at all keeps its neighbours apart and is left out, as in llama.cpp; in a `tokenizer.json` they
//! join over it, as in the crate.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::ops::Range;

use super::pair_map::PairMap;
use super::work;

/// Stands for what no token stands for. No merge names it.
const MISSING: u32 = u32::MAX;
/// A part that the part before it has taken.
const TAKEN: u32 = u32::MAX - 1;
/// No merge joins this part to the next.
const NO_MERGE: u32 = u32::MAX;
/// Words of more parts than this are merged with a heap: looking for the earliest merge among all parts each time is
/// faster for short words and quadratic for long ones.
const MAX_SCANNED: usize = 32;

/// A vocabulary with its merges.
#[derive(Debug)]
pub(super) struct Bpe {
    symbols: Symbols,
    merges: PairMap<Merge>,
    /// Words that are taken without merging.
    whole: HashMap<Box<[u8]>, u32>,
}

/// What merging begins with.
#[derive(Debug)]
pub(super) enum Symbols {
    /// The token of each byte. One that has none keeps its neighbours apart, or is as if it were not there if
    /// `joins_over_missing` says so.
    Bytes { tokens: Box<[u32; 256]>, joins_over_missing: bool },
    /// The token of each character, and of each byte (`<0x0A>`) for the others.
    Characters {
        known: HashMap<char, u32>,
        bytes: Box<[u32; 256]>,
        /// Ids from here on are characters without a token, which join all the same.
        nameless: u32,
        /// What a space is written as.
        space: char,
        /// Whether one is put before each line that begins with none.
        prefix: bool,
    },
}

/// The rank of a merge, and the token that it makes.
#[derive(Debug, Clone, Copy)]
struct Merge {
    rank: u32,
    joined: u32,
}

/// Two neighbours, and what they become; the lowest rank goes first.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pair {
    pub(super) left: u32,
    pub(super) right: u32,
    pub(super) rank: u32,
    pub(super) joined: u32,
}

impl Symbols {
    /// Bytes by their stand-ins; `id` knows tokens by name. `joins_over_missing` is the crate's way.
    pub(super) fn bytes(id: impl Fn(&str) -> Option<u32>, joins_over_missing: bool) -> Self {
        let token = |byte: usize| id(super::byte_level::symbol(byte as u8).encode_utf8(&mut [0; 4])).unwrap_or(MISSING);
        Self::Bytes { tokens: Box::new(std::array::from_fn(token)), joins_over_missing }
    }

    /// The characters among these tokens, of which `space` is a space; `prefix` puts one before each line.
    pub(super) fn characters<'t>(tokens: impl Iterator<Item = (&'t str, u32)>, space: char, prefix: bool) -> Self {
        let (mut known, mut bytes) = (HashMap::new(), Box::new([MISSING; 256]));
        for (token, id) in tokens {
            let mut chars = token.chars();
            if let (Some(c), None) = (chars.next(), chars.next()) {
                known.insert(c, id);
            } else if let Some(byte) = super::decoder::fallback_byte(token) {
                bytes[usize::from(byte)] = id;
            }
        }
        Self::Characters { known, bytes, nameless: TAKEN, space, prefix }
    }

    /// Characters of a vocabulary that goes by score.
    pub(super) fn scored(known: HashMap<char, u32>, bytes: Box<[u32; 256]>, nameless: u32, space: char) -> Self {
        Self::Characters { known, bytes, nameless, space, prefix: false }
    }
}

impl Bpe {
    /// `merges` are pairs with their joint token, the earliest first; of two for one pair the first counts.
    pub(super) fn new(symbols: Symbols, merges: impl IntoIterator<Item = [u32; 3]>) -> Self {
        let ranked = (0..).zip(merges);
        Self::from_pairs(symbols, ranked.map(|(rank, [left, right, joined])| Pair { left, right, rank, joined }))
    }

    /// The same with ranks, which pairs may share.
    pub(super) fn from_pairs(symbols: Symbols, pairs: impl IntoIterator<Item = Pair>) -> Self {
        let mut merges = PairMap::new();
        for Pair { left, right, rank, joined } in pairs {
            merges.get_or_insert((left, right), Merge { rank, joined });
        }
        Self { symbols, merges, whole: HashMap::new() }
    }

    /// Takes these words without merging.
    pub(super) fn with_whole(mut self, words: impl Iterator<Item = (Box<[u8]>, u32)>) -> Self {
        self.whole = words.collect();
        self
    }

    /// One for all words of a text: it keeps its memory.
    pub(super) fn merger(&self) -> Merger<'_> {
        Merger { bpe: self, parts: Vec::new(), skipped: 0, links: Vec::new(), queue: BinaryHeap::new() }
    }
}

/// Merges one word after another.
#[derive(Debug)]
pub(super) struct Merger<'b> {
    bpe: &'b Bpe,
    parts: Vec<Part>,
    /// Bytes of the word before the first part.
    skipped: usize,
    links: Vec<Link>,
    /// Rank and part of what may be joined, in one number.
    queue: BinaryHeap<Reverse<u64>>,
}

/// A piece of the word, and what joining it to the next would give.
#[derive(Debug, Clone, Copy)]
struct Part {
    id: u32,
    /// In bytes of the word; a space that was put before it has none.
    len: u32,
    merge: Merge,
}

/// The neighbours of a part that is left.
#[derive(Debug, Clone, Copy)]
struct Link {
    prev: usize,
    next: usize,
}

impl Merger<'_> {
    /// Calls `take` with each id and its range of the word; each byte of a character that has no token of its own has
    /// the whole character's.
    pub(super) fn merge(&mut self, word: &str, take: impl FnMut(u32, Range<usize>)) {
        self.merge_prefixed(word, self.bpe.symbols.prefixes(word), take);
    }

    /// The same after a space that is put before the word if `prefixed`.
    pub(super) fn merge_prefixed(&mut self, word: &str, prefixed: bool, mut take: impl FnMut(u32, Range<usize>)) {
        if let Some(&id) = self.bpe.whole.get(word.as_bytes()) {
            return take(id, 0..word.len());
        }
        self.split(word, prefixed);
        work::count(self.parts.len());
        if self.parts.len() <= MAX_SCANNED {
            self.merge_by_scanning();
        } else {
            self.merge_by_queue();
        }
        let nameless = self.bpe.symbols.nameless();
        let mut start = self.skipped;
        for part in &self.parts {
            let range = start..start + part.len as usize;
            start = range.end;
            match part.id {
                TAKEN => {}
                id if id >= nameless => {
                    self.bpe.symbols.fall_back(&word.as_bytes()[range.clone()], |id| take(id, range.clone()));
                }
                id => take(id, range),
            }
        }
    }

    fn split(&mut self, word: &str, prefixed: bool) {
        let part = |id, len| Part { id, len, merge: Merge::NONE };
        self.parts.clear();
        self.skipped = 0;
        match &self.bpe.symbols {
            Symbols::Bytes { tokens, joins_over_missing } => {
                for byte in word.bytes() {
                    match (tokens[usize::from(byte)], self.parts.last_mut()) {
                        (MISSING, Some(last)) if *joins_over_missing => last.len += 1,
                        (MISSING, None) if *joins_over_missing => self.skipped += 1,
                        (id, _) => self.parts.push(part(id, 1)),
                    }
                }
            }
            Symbols::Characters { known, space, .. } => {
                let id = |c: char| known.get(if c == ' ' { space } else { &c }).copied().unwrap_or(MISSING);
                if prefixed {
                    self.parts.push(part(id(' '), 0));
                }
                self.parts.extend(word.chars().map(|c| part(id(c), c.len_utf8() as u32)));
            }
        }
        for left in 1..self.parts.len() {
            self.parts[left - 1].merge = self.find(left - 1, left);
        }
    }

    fn find(&self, left: usize, right: usize) -> Merge {
        self.bpe.merges.get((self.parts[left].id, self.parts[right].id)).unwrap_or(Merge::NONE)
    }

    fn merge_by_scanning(&mut self) {
        loop {
            work::count(self.parts.len());
            let earliest = self.parts.iter().enumerate().min_by_key(|(_, part)| part.merge.rank);
            let Some((at, &Part { merge, .. })) = earliest.filter(|(_, part)| part.merge.rank != NO_MERGE) else {
                break;
            };
            let right = self.parts.remove(at + 1);
            self.parts[at].id = merge.joined;
            self.parts[at].len += right.len;
            let has_next = at + 1 < self.parts.len();
            self.parts[at].merge = if has_next { self.find(at, at + 1) } else { Merge::NONE };
            if at > 0 {
                self.parts[at - 1].merge = self.find(at - 1, at);
            }
        }
    }

    fn merge_by_queue(&mut self) {
        let num_parts = self.parts.len();
        self.links.clear();
        // Before the first comes `usize::MAX`, after the last `num_parts`.
        self.links.extend((0..num_parts).map(|at| Link { prev: at.wrapping_sub(1), next: at + 1 }));
        self.queue.clear();
        for at in 0..num_parts {
            self.push(at);
        }
        while let Some(Reverse(entry)) = self.queue.pop() {
            work::count(1);
            let (rank, at) = ((entry >> 32) as u32, entry as u32 as usize);
            // A part that has changed since has another rank.
            if self.parts[at].merge.rank != rank {
                continue;
            }
            let Link { prev, next: right } = self.links[at];
            let next = self.links[right].next;
            self.parts[at].id = self.parts[at].merge.joined;
            self.parts[at].len += self.parts[right].len;
            self.parts[right] = Part { id: TAKEN, len: 0, merge: Merge::NONE };
            self.links[at].next = next;
            self.parts[at].merge = Merge::NONE;
            if next < num_parts {
                self.links[next].prev = at;
                self.parts[at].merge = self.find(at, next);
                self.push(at);
            }
            if prev < num_parts {
                self.parts[prev].merge = self.find(prev, at);
                self.push(prev);
            }
        }
    }

    fn push(&mut self, at: usize) {
        let rank = self.parts[at].merge.rank;
        if rank != NO_MERGE {
            self.queue.push(Reverse(u64::from(rank) << 32 | at as u64));
        }
    }
}

impl Symbols {
    /// Whether a space is put before this word.
    fn prefixes(&self, word: &str) -> bool {
        matches!(self, Self::Characters { prefix: true, space, .. } if !word.starts_with([' ', *space, '\n']))
    }

    /// Ids from here on have no token.
    fn nameless(&self) -> u32 {
        if let Self::Characters { nameless, .. } = self { *nameless } else { MISSING }
    }

    /// The bytes of a character that has no token; an empty text is the space put before a line.
    fn fall_back(&self, text: &[u8], mut take: impl FnMut(u32)) {
        let Self::Characters { bytes, space, .. } = self else { return };
        let mut buffer = [0; 4];
        let text = if matches!(text, b"" | b" ") { space.encode_utf8(&mut buffer).as_bytes() } else { text };
        for id in text.iter().map(|&byte| bytes[usize::from(byte)]).filter(|&id| id != MISSING) {
            take(id);
        }
    }
}

impl Merge {
    const NONE: Self = Self { rank: NO_MERGE, joined: MISSING };
}

#[cfg(test)]
mod tests;
