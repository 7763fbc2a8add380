//! Cuts text into the words that a byte-level vocabulary merges within.
//!
//! Each model was trained with one or more regular expressions for this ([`expressions`]), applied one after another:
//! each cuts what the ones before it left, and both what matches and what lies between go on. `\s` is Unicode's white
//! space, `\p{L}` its letters and so on, from the tables of the regex crates.

mod class;
pub(super) mod expressions;
mod pattern;

use serde_json::Value;

use class::CharClass;
use pattern::Pattern;

/// A cutter.
#[derive(Debug)]
pub(super) struct Words(Vec<Cut>);

#[derive(Debug)]
enum Cut {
    Matches(Pattern),
    /// Behind each group of three digits counted from the right of a number, so that what precedes a number stays with
    /// its first group: llama.cpp's `AFMoE` cut, which it also takes for Tiny Aya's.
    BehindDigitGroups(CharClass),
    /// Before each group of three digits counted from the right: `(?=(\d{3})+(?!\d))`.
    BeforeDigitGroups(CharClass),
}

impl Words {
    /// Expressions of [`expressions`], or any that [`Pattern`] takes; `None` for others.
    pub(super) fn parse<'e>(expressions: impl IntoIterator<Item = &'e str>) -> Option<Self> {
        expressions.into_iter().map(Cut::parse).collect::<Option<_>>().map(Self)
    }

    /// The rules of a `pre_tokenizer` in `tokenizer.json`, if it is a byte-level one that cuts by expressions alone.
    pub(super) fn from_json(pre: &Value) -> Option<Self> {
        let steps = pre["pretokenizers"].as_array().map_or(std::slice::from_ref(pre), Vec::as_slice);
        let (last, steps) = steps.split_last()?;
        let mut expressions = steps.iter().map(json_expression).collect::<Option<Vec<&str>>>()?;
        if last["type"] != "ByteLevel" || last["add_prefix_space"] != false {
            return None;
        }
        if last["use_regex"].as_bool().unwrap_or(true) {
            expressions.push(expressions::GPT2);
        }
        Self::parse(expressions)
    }

    /// Calls `take` with each word; joined they are the text.
    pub(super) fn cut<'t>(&self, text: &'t str, mut take: impl FnMut(&'t str)) {
        cut_with(&self.0, text, &mut take);
    }
}

/// One cut after another, depth first.
fn cut_with<'t>(cuts: &[Cut], text: &'t str, take: &mut dyn FnMut(&'t str)) {
    match cuts.split_first() {
        None => take(text),
        Some((Cut::Matches(pattern), later)) => pattern.split(text, |word| cut_with(later, word, take)),
        Some((Cut::BehindDigitGroups(digits), later)) => {
            cut_at(text, digits, |len, left| left % 3 == 0 && len > 0, |word| cut_with(later, word, take));
        }
        Some((Cut::BeforeDigitGroups(digits), later)) => {
            cut_at(text, digits, |_, left| left % 3 == 0 && left > 0, |word| cut_with(later, word, take));
        }
    }
}

/// Cuts inside runs of digits, wherever `wanted(digits before, digits after)`.
fn cut_at<'t>(text: &'t str, digits: &CharClass, wanted: impl Fn(u32, u32) -> bool, mut take: impl FnMut(&'t str)) {
    let (mut from, mut at) = (0, 0);
    while at < text.len() {
        let (len, count) = digits.run(&text[at..], u32::MAX);
        let ends = text[at..at + len].char_indices().map(|(offset, _)| at + offset).chain([at + len]);
        for (before, end) in (0..=count).zip(ends).filter(|_| count > 0) {
            if wanted(before, count - before) && end > from {
                take(&text[from..end]);
                from = end;
            }
        }
        at += len;
        at += text[at..].chars().next().map_or(0, char::len_utf8);
    }
    if from < text.len() {
        take(&text[from..]);
    }
}

impl Cut {
    fn parse(expression: &str) -> Option<Self> {
        let class = |name: &str| regex_class(name);
        match expression {
            expressions::BEHIND_DIGIT_GROUPS => class(r"\p{N}").map(Self::BehindDigitGroups),
            expressions::BEFORE_DIGIT_GROUPS => class("[0-9]").map(Self::BeforeDigitGroups),
            _ => Pattern::parse(expression).map(Self::Matches),
        }
    }
}

fn regex_class(name: &str) -> Option<CharClass> {
    use regex_syntax::hir::{Class, HirKind};
    match regex_syntax::parse(name).ok()?.into_kind() {
        HirKind::Class(Class::Unicode(class)) => Some((&class).into()),
        _ => None,
    }
}

/// What a step before `ByteLevel` isolates.
fn json_expression(step: &Value) -> Option<&str> {
    match step["type"].as_str()? {
        "Split" if step["behavior"] == "Isolated" && step["invert"] == false => step["pattern"]["Regex"].as_str(),
        "Digits" if step["individual_digits"] == true => Some(expressions::NUMBER),
        "Digits" => Some(expressions::NUMBERS),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
