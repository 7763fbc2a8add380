//! A set of characters: a bit each for ASCII, ranges beyond.

use regex_syntax::hir::ClassUnicode;

use crate::tokenizer::work;

#[derive(Debug)]
pub(super) struct CharClass {
    ascii: u128,
    /// Ascending.
    ranges: Vec<(char, char)>,
}

impl CharClass {
    pub(super) fn new(ranges: &[(char, char)]) -> Self {
        let holds = |c: char| ranges.iter().any(|&(from, to)| from <= c && c <= to);
        let ascii = (0..128_u8).filter(|&byte| holds(char::from(byte))).fold(0, |bits, byte| bits | 1 << byte);
        Self { ascii, ranges: ranges.to_vec() }
    }

    pub(super) fn holds(&self, c: char) -> bool {
        if c.is_ascii() {
            return self.ascii >> (c as u32) & 1 == 1;
        }
        let after = self.ranges.partition_point(|&(from, _)| from <= c);
        after > 0 && self.ranges[after - 1].1 >= c
    }

    /// Bytes and characters of the run of this class that `text` begins with, of `max` characters at most.
    pub(super) fn run(&self, text: &str, max: u32) -> (usize, u32) {
        let (mut len, mut count) = (0, 0);
        while count < max {
            let char_len = match text.as_bytes().get(len) {
                Some(byte) if byte.is_ascii() => usize::from(self.ascii >> byte & 1 == 1),
                Some(_) => text[len..].chars().next().filter(|&c| self.holds(c)).map_or(0, char::len_utf8),
                None => 0,
            };
            if char_len == 0 {
                break;
            }
            (len, count) = (len + char_len, count + 1);
        }
        work::count(count as usize + 1);
        (len, count)
    }

    /// A bit for each ASCII character.
    pub(super) fn ascii(&self) -> u128 {
        self.ascii
    }
}

impl From<&ClassUnicode> for CharClass {
    fn from(class: &ClassUnicode) -> Self {
        let ranges: Vec<_> = class.ranges().iter().map(|range| (range.start(), range.end())).collect();
        Self::new(&ranges)
    }
}
