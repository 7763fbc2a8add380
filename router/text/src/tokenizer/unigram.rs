//! `SentencePiece`'s unigram model: of all ways to cut a text into tokens, the one with the highest sum of scores.
//!
//! As llama.cpp has it (`llm_tokenizer_ugm`): characters are replaced as [`Charsmap`] says, white space is escaped and
//! maybe joined, and the best cut is found by dynamic programming over its bytes. What no token covers is unknown, a
//! run of it one token.

use std::ops::Range;

use super::charsmap::Charsmap;
use super::spm::SPACE;
use super::trie::Trie;

/// An unknown character costs so much more than the worst token.
const UNKNOWN_PENALTY: f32 = 10.0;

/// A vocabulary with what is done to a text before.
#[derive(Debug)]
pub(super) struct Unigram {
    trie: Trie<(u32, f64)>,
    unknown: u32,
    unknown_score: f64,
    charsmap: Charsmap,
    spaces: Spaces,
}

/// What becomes of white space.
#[derive(Debug, Clone, Copy)]
pub(super) struct Spaces {
    /// One is put before a text that begins with none.
    pub(super) prefix: bool,
    /// Runs become one, and those at the ends none.
    pub(super) joined: bool,
}

/// A token with its score, `None` for one that the user defined: it is always preferred.
pub(super) type Scored<'t> = (&'t str, u32, Option<f32>);

/// A text as the model sees it, and for each of its bytes the range of the original that it stands for.
#[derive(Debug, Default)]
struct Normalized {
    text: String,
    origins: Vec<Range<u32>>,
}

/// The best cut of a beginning of the text: its last token, where that begins, and the score.
#[derive(Debug, Clone, Copy)]
struct Best {
    id: u32,
    start: usize,
    score: f64,
}

impl Unigram {
    /// `tokens` may stand for text; `worst` is the lowest score of a normal one.
    pub(super) fn new<'t>(
        tokens: impl Iterator<Item = Scored<'t>>,
        unknown: u32,
        worst: f32,
        charsmap: Charsmap,
        spaces: Spaces,
    ) -> Self {
        let mut trie = Trie::new();
        for (token, id, score) in tokens {
            trie.insert(token.as_bytes(), (id, score.map_or(0.0, f64::from)));
        }
        Self { trie, unknown, unknown_score: f64::from(worst - UNKNOWN_PENALTY), charsmap, spaces }
    }

    /// Calls `take` with each id and its range of the text.
    pub(super) fn encode(&self, text: &str, mut take: impl FnMut(u32, Range<usize>)) {
        let normalized = self.normalize(text);
        let best = self.best_cuts(&normalized.text);
        let (mut tokens, mut end): (Vec<(u32, Range<usize>)>, _) = (Vec::new(), normalized.text.len());
        while end > 0 {
            let Best { id, start, .. } = best[end];
            let range = normalized.origins[start].start as usize..normalized.origins[end - 1].end as usize;
            match tokens.last_mut() {
                Some((last, after)) if *last == self.unknown && id == self.unknown => after.start = range.start,
                _ => tokens.push((id, range)),
            }
            end = start;
        }
        tokens.into_iter().rev().for_each(|(id, range)| take(id, range));
    }

    /// For each length of a beginning of the text its best cut; those that end inside a character stay unreached.
    fn best_cuts(&self, text: &str) -> Vec<Best> {
        let mut best = vec![Best { id: self.unknown, start: 0, score: f64::MIN }; text.len() + 1];
        best[0].score = 0.0;
        for (start, c) in text.char_indices() {
            let next = start + c.len_utf8();
            let so_far = best[start].score;
            let mut offer = |end: usize, id, score| {
                if so_far + score > best[end].score {
                    best[end] = Best { id, start, score: so_far + score };
                }
            };
            let mut is_known = false;
            self.trie.prefixes(&text.as_bytes()[start..], |len, (id, score)| {
                is_known |= start + len == next;
                offer(start + len, id, score);
            });
            if !is_known {
                offer(next, self.unknown, self.unknown_score);
            }
        }
        best
    }

    fn normalize(&self, text: &str) -> Normalized {
        let mut result = Normalized::default();
        let (mut in_word, mut prefixed, mut at) = (false, false, 0);
        // Where the white space before the next word began.
        let mut spaces = 0;
        while let Some(first) = text[at..].chars().next() {
            let plain = &text[at..at + first.len_utf8()];
            let (replacement, len) = self.charsmap.longest(&text[at..]).unwrap_or((plain, plain.len()));
            let origin = at..at + len;
            for c in replacement.chars() {
                if c == ' ' {
                    in_word = false;
                    if !self.spaces.joined {
                        result.push(SPACE, &origin);
                    }
                    continue;
                }
                if !in_word {
                    in_word = true;
                    if self.spaces.joined || self.spaces.prefix && !prefixed {
                        result.push(SPACE, &(if self.spaces.joined { spaces..at } else { at..at }));
                        prefixed = true;
                    }
                }
                result.push(c, &origin);
                spaces = origin.end;
            }
            at += len;
        }
        result
    }
}

impl Normalized {
    fn push(&mut self, c: char, origin: &Range<usize>) {
        self.text.push(c);
        self.origins.resize(self.text.len(), origin.start as u32..origin.end as u32);
    }
}

#[cfg(test)]
mod tests;
