//! Cuts text into the words that a byte-level vocabulary merges within.
//!
//! Each model was trained with a regular expression for this; the few that are in use are matched by hand here, in one
//! pass and without a regex engine's limits: a megabyte of spaces is one word, not an exhausted stack. What each rule
//! stands for is written beside it. `\s` is Unicode's white space, `L` and `N` its letters and numbers, `O` the rest.

use regex_syntax::hir::{Class, Hir, HirKind};
use serde_json::Value;

/// How words are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum WordRules {
    /// `'s|'t|'re|'ve|'m|'ll|'d| ?L+| ?N+| ?O+|\s+(?!\S)|\s+`, GPT-2's.
    Gpt2,
    /// Every number alone (`N`), then GPT-2's between them: `SmolLM`'s, `StarCoder`'s.
    DigitsThenGpt2,
    /// `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\nLN]?L+|N{1,max_digits}| ?O+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`, with 3 digits
    /// Llama 3's, with 1 Qwen 2's. Under `(?i)` the long s (U+017F) is an s; llama.cpp does not take it for one.
    Llama3 { max_digits: usize, long_s: bool },
}

/// A cutter with its tables.
#[derive(Debug)]
pub(super) struct Words {
    rules: WordRules,
    letters: Ranges,
    numbers: Ranges,
}

/// Ranges of characters, ascending.
type Ranges = Vec<(char, char)>;

const CONTRACTIONS: [&str; 7] = ["s", "t", "re", "ve", "m", "ll", "d"];

/// As they stand in the `tokenizer.json` of Llama 3 and Qwen 2 and their many descendants.
pub(super) const LLAMA3_EXPRESSION: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
pub(super) const QWEN2_EXPRESSION: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

impl WordRules {
    /// The rules that a whole `tokenizer.json` follows, if they are among these.
    pub(super) fn from_json(json: &Value) -> Option<Self> {
        let pre = &json["pre_tokenizer"];
        if json["model"]["type"] != "BPE" {
            return None;
        }
        if is_byte_level(pre, true) {
            return Some(Self::Gpt2);
        }
        let [split, byte_level] = pre["pretokenizers"].as_array()?.as_slice() else { return None };
        let isolates = split["type"] == "Split" && split["behavior"] == "Isolated" && split["invert"] == false;
        if !(isolates && is_byte_level(byte_level, false)) {
            return None;
        }
        match split["pattern"]["Regex"].as_str()? {
            LLAMA3_EXPRESSION => Some(Self::Llama3 { max_digits: 3, long_s: true }),
            QWEN2_EXPRESSION => Some(Self::Llama3 { max_digits: 1, long_s: true }),
            _ => None,
        }
    }
}

fn is_byte_level(json: &Value, cuts: bool) -> bool {
    json["type"] == "ByteLevel"
        && json["add_prefix_space"] == false
        && json["use_regex"].as_bool().unwrap_or(true) == cuts
}

impl Words {
    pub(super) fn new(rules: WordRules) -> Self {
        Self { rules, letters: class(r"\p{L}"), numbers: class(r"\p{N}") }
    }

    /// Calls `take` with each word; joined they are the text.
    pub(super) fn cut<'t, E>(&self, text: &'t str, mut take: impl FnMut(&'t str) -> Result<(), E>) -> Result<(), E> {
        if self.rules != WordRules::DigitsThenGpt2 {
            return self.cut_piece(text, &mut take);
        }
        let mut rest = text;
        while let Some((at, digit)) = rest.char_indices().find(|&(_, c)| self.kind(c) == Kind::Number) {
            self.cut_piece(&rest[..at], &mut take)?;
            take(&rest[at..at + digit.len_utf8()])?;
            rest = &rest[at + digit.len_utf8()..];
        }
        self.cut_piece(rest, &mut take)
    }

    fn cut_piece<'t, E>(&self, piece: &'t str, take: &mut impl FnMut(&'t str) -> Result<(), E>) -> Result<(), E> {
        let mut rest = piece;
        while let Some(first) = rest.chars().next() {
            let len = match self.rules {
                WordRules::Gpt2 | WordRules::DigitsThenGpt2 => self.gpt2_word(rest, first),
                WordRules::Llama3 { max_digits, long_s } => match rest.strip_prefix("'ſ") {
                    Some(after) if long_s => rest.len() - after.len(),
                    _ => self.llama3_word(rest, first, max_digits),
                },
            };
            let (word, after) = rest.split_at(len);
            take(word)?;
            rest = after;
        }
        Ok(())
    }

    fn gpt2_word(&self, text: &str, first: char) -> usize {
        if let Some(len) = contraction(text, |name, text| text.starts_with(name)) {
            return len;
        }
        let space = usize::from(first == ' ');
        let Some(kind) = text[space..].chars().next().map(|c| self.kind(c)).filter(|kind| *kind != Kind::Space) else {
            return white_space(text);
        };
        space + run(&text[space..], |c| self.kind(c) == kind)
    }

    fn llama3_word(&self, text: &str, first: char, max_digits: usize) -> usize {
        let same_letters = |name: &str, text: &str| {
            text.len() >= name.len() && text.as_bytes()[..name.len()].eq_ignore_ascii_case(name.as_bytes())
        };
        if let Some(len) = contraction(text, same_letters) {
            return len;
        }
        let (kind, first_len) = (self.kind(first), first.len_utf8());
        let second = text[first_len..].chars().next().map(|c| self.kind(c));
        let is_line_end = |c: char| matches!(c, '\r' | '\n');
        match (kind, second) {
            (Kind::Letter, _) => run(text, |c| self.kind(c) == Kind::Letter),
            (Kind::Number, _) => {
                let digits = text.chars().take(max_digits).take_while(|&c| self.kind(c) == Kind::Number);
                digits.map(char::len_utf8).sum()
            }
            (_, Some(Kind::Letter)) if !is_line_end(first) => {
                first_len + run(&text[first_len..], |c| self.kind(c) == Kind::Letter)
            }
            (Kind::Space, second) if !(first == ' ' && second == Some(Kind::Other)) => {
                let spaces = run(text, char::is_whitespace);
                text[..spaces].rfind(is_line_end).map_or_else(|| white_space(text), |at| at + 1)
            }
            _ => {
                let space = usize::from(first == ' ');
                let marks = space + run(&text[space..], |c| self.kind(c) == Kind::Other);
                marks + run(&text[marks..], is_line_end)
            }
        }
    }

    fn kind(&self, c: char) -> Kind {
        if c.is_ascii() {
            return match c {
                'a'..='z' | 'A'..='Z' => Kind::Letter,
                '0'..='9' => Kind::Number,
                '\t'..='\r' | ' ' => Kind::Space,
                _ => Kind::Other,
            };
        }
        if holds(&self.letters, c) {
            Kind::Letter
        } else if holds(&self.numbers, c) {
            Kind::Number
        } else if c.is_whitespace() {
            Kind::Space
        } else {
            Kind::Other
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Letter,
    Number,
    Space,
    Other,
}

/// `'s|'t|...`: the length, if one begins here.
fn contraction(text: &str, begins: impl Fn(&str, &str) -> bool) -> Option<usize> {
    let after = text.strip_prefix('\'')?;
    CONTRACTIONS.iter().find(|name| begins(name, after)).map(|name| 1 + name.len())
}

/// `\s+(?!\S)|\s+`: all white space at the end of the text; before a word all but the last of it, if there are two.
fn white_space(text: &str) -> usize {
    let spaces = run(text, char::is_whitespace);
    let last = text[..spaces].chars().next_back().map_or(0, char::len_utf8);
    if spaces == text.len() || spaces == last { spaces } else { spaces - last }
}

/// The length of the characters from the beginning on that are wanted.
fn run(text: &str, wanted: impl Fn(char) -> bool) -> usize {
    text.find(|c| !wanted(c)).unwrap_or(text.len())
}

fn holds(ranges: &Ranges, c: char) -> bool {
    let after = ranges.partition_point(|&(from, _)| from <= c);
    after > 0 && ranges[after - 1].1 >= c
}

/// A class from the tables of the regex crates, so that no second Unicode version comes in (the standard library's
/// numbers are not the same).
fn class(expression: &str) -> Ranges {
    match regex_syntax::parse(expression).map(Hir::into_kind) {
        Ok(HirKind::Class(Class::Unicode(class))) => {
            class.ranges().iter().map(|range| (range.start(), range.end())).collect()
        }
        _ => unreachable!("`{expression}` is a class of characters"),
    }
}

#[cfg(test)]
mod tests {
    use tokenizers::utils::SysRegex;

    use super::*;
    use crate::test_random::Random;

    const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
    const LLAMA3: &str = concat!(
        r"'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD]|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
        r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
    );

    fn words(rules: WordRules, text: &str) -> Vec<&str> {
        let mut words = Vec::new();
        let mut take = |word| {
            words.push(word);
            Ok::<(), ()>(())
        };
        Words::new(rules).cut(text, &mut take).unwrap();
        words
    }

    /// Isolates every match of each expression in turn, as the tokenizers crate does.
    fn matches<'t>(expressions: &[SysRegex], text: &'t str) -> Vec<&'t str> {
        let Some((expression, later)) = expressions.split_first() else { return vec![text] };
        let mut parts = Vec::new();
        let mut end = 0;
        for (start, stop) in expression.find_iter(text) {
            parts.extend([&text[end..start], &text[start..stop]]);
            end = stop;
        }
        parts.push(&text[end..]);
        parts.into_iter().filter(|part| !part.is_empty()).flat_map(|part| matches(later, part)).collect()
    }

    #[test]
    fn words_are_what_the_expressions_match() {
        let alphabet = [
            "a", "B", "s", "'", "'ll", "'RE", "'ſ", "é", "한", "e\u{301}", "1", "²", "Ⅷ", "٣", " ", " ", "  ", "\t",
            "\n", "\r\n", "\u{a0}", "\u{3000}", "\u{85}", "!", ".", "😀", "\u{200d}", "\u{4}", "\u{378}", "中", "_",
        ];
        let qwen2 = LLAMA3.replace("{1,3}", "");
        let rules: [(WordRules, &[&str]); 6] = [
            (WordRules::Gpt2, &[GPT2]),
            (WordRules::DigitsThenGpt2, &[r"\p{N}", GPT2]),
            (WordRules::Llama3 { max_digits: 3, long_s: false }, &[LLAMA3]),
            (WordRules::Llama3 { max_digits: 1, long_s: false }, &[&qwen2]),
            (WordRules::Llama3 { max_digits: 3, long_s: true }, &[LLAMA3_EXPRESSION]),
            (WordRules::Llama3 { max_digits: 1, long_s: true }, &[QWEN2_EXPRESSION]),
        ];
        let mut random = Random::new(5);
        for (rules, expressions) in rules {
            let expressions: Vec<SysRegex> = expressions.iter().map(|text| SysRegex::new(text).unwrap()).collect();
            for _ in 0..1500 {
                let text = random.string(&alphabet, 16);
                assert_eq!(words(rules, &text), matches(&expressions, &text), "{rules:?} {text:?}");
            }
        }
    }

    #[test]
    fn every_character_is_of_the_kind_that_the_expressions_say() {
        let words = Words::new(WordRules::Gpt2);
        let all: String = (char::MIN..=char::MAX).collect();
        for (kind, class) in [
            (Kind::Letter, r"\p{L}"),
            (Kind::Number, r"\p{N}"),
            (Kind::Space, r"\s"),
            (Kind::Other, r"[^\s\p{L}\p{N}]"),
        ] {
            let expected: String =
                SysRegex::new(class).unwrap().find_iter(&all).map(|(from, to)| &all[from..to]).collect();
            let found: String = all.chars().filter(|&c| words.kind(c) == kind).collect();
            assert!(found == expected, "{class}");
        }
    }
}
