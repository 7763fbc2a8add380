use tokenizers::utils::SysRegex;

use super::expressions::*;
use super::*;
use crate::test_random::Random;

fn words<'t>(words: &Words, text: &'t str) -> Vec<&'t str> {
    let mut found = Vec::new();
    words.cut(text, |word| found.push(word));
    found
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

/// As they stand in the `tokenizer.json` of Llama 3, and of GPT-4o where cases are told apart.
const LLAMA3_JSON: &str = concat!(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}",
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);
const GPT4O_JSON: &str = concat!(
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
);

const ALPHABET: [&str; 36] = [
    "a",
    "B",
    "s",
    "'",
    "'ll",
    "'RE",
    "'ſ",
    "é",
    "한",
    "e\u{301}",
    "1",
    "²",
    "Ⅷ",
    "٣",
    " ",
    " ",
    "  ",
    "\t",
    "\n",
    "\r\n",
    "\u{a0}",
    "\u{3000}",
    "\u{85}",
    "!",
    ".",
    "😀",
    "\u{200d}",
    "\u{4}",
    "\u{378}",
    "中",
    "_",
    "ǅ",
    "/",
    "IMGIMGAZ",
    "<sentinel:1>",
    "。",
];
const LISTS: [&[&str]; 26] = [
    &[GPT2],
    &[NUMBER, GPT2],
    &[DEFAULT_MARKS, GPT2, NUMBERS, DIGITS_BY_THREE],
    &[FALCON_MARKS, GPT2, DIGITS_BY_THREE],
    &[LLAMA3],
    &[LLAMA3_JSON],
    &[JAIS2],
    &[QWEN2],
    &[QWEN35],
    &[UFAKZEKA],
    &[LINES, QWEN2],
    &[NUMBERS_BY_THREE, MINICPM5],
    &[KIMI_K2],
    &[LINE_ENDS, DEEPSEEK_LETTERS, DEEPSEEK_MARKS, SPACES_AT_END, DEEPSEEK_CJK, NUMBERS],
    &[LINE_ENDS, SPACE_AND_LETTERS, SPACE_AND_MARKS, DEEPSEEK_CJK, NUMBER],
    &[NUMBERS_BY_THREE, CJK, DEEPSEEK3],
    &[NUMBERS_BY_THREE, CJK, SPARK, NUMBER],
    &[YOUTU_SCRIPTS, YOUTU],
    &[BLOOM, NUMBER],
    &[TEKKEN],
    &[CHAMELEON_SENTINEL, CHAMELEON_IMAGE, CHAMELEON_SPACES, NUMBER, CHAMELEON_MARK, GPT2],
    &[GPT4O],
    &[GPT4O_JSON],
    &[GRANITE_MULTILINGUAL],
    &[BAILING],
    &[EXAONE_MOE],
];

#[test]
fn words_are_what_the_expressions_match() {
    let mut random = Random::new(5);
    for list in LISTS {
        let ours = Words::parse(list.iter().copied()).unwrap();
        let expressions: Vec<SysRegex> = list.iter().map(|text| SysRegex::new(text).unwrap()).collect();
        for _ in 0..800 {
            let text = random.string(&ALPHABET, 16);
            assert_eq!(words(&ours, &text), matches(&expressions, &text), "{list:?} {text:?}");
        }
    }
}

#[test]
fn digits_are_grouped_from_the_right() {
    let cut = |expression: &str, text| words(&Words::parse([expression]).unwrap(), text).join("|");
    assert_eq!(cut(BEFORE_DIGIT_GROUPS, "a1234567 12 123²1234"), "a1|234|567 12 |123²1|234");
    assert_eq!(cut(BEHIND_DIGIT_GROUPS, "ab1234567c 12"), "ab1|234|567|c 12");
    assert_eq!(cut(BEHIND_DIGIT_GROUPS, "é123"), "é123");
}

#[test]
fn what_needs_a_real_engine_is_not_taken() {
    for expression in [r"(a)\1", r"a(?=b)c", r"(?:a|ab)c", "a+?", r"(?:ab){2}"] {
        assert!(Words::parse([expression]).is_none(), "{expression}");
    }
}
