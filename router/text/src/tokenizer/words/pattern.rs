//! One regular expression that cuts words, matched without a regex engine's limits.
//!
//! The expressions that models were trained with are alternatives of a few steps each: classes of characters, greedy
//! repeats, a group at the end, and `(?!\S)`. `regex-syntax` reads them; a backtracking matcher over single characters
//! runs them. A megabyte of spaces is one word to it, not an exhausted stack, and time is in proportion to the text.

use regex_syntax::hir::{Class, Hir, HirKind};

use super::class::CharClass;
use crate::tokenizer::work;

/// Alternatives, the first that matches wins.
#[derive(Debug)]
pub(super) struct Pattern(Vec<Alternative>);

#[derive(Debug)]
struct Alternative {
    steps: Vec<Step>,
    /// The ASCII characters that a match may begin with: most places rule out most alternatives by this alone.
    first: u128,
}

#[derive(Debug)]
enum Step {
    /// So many characters of a class, as many as there are.
    Chars { class: CharClass, min: u32, max: u32 },
    /// The first alternative that matches, so many times. Last of its sequence, so that nothing goes back into it.
    Group { alternatives: Vec<Vec<Step>>, min: u32, max: u32 },
    /// `(?!\S)`: white space or the end comes next.
    BeforeSpace,
    /// `$`.
    End,
}

const BEFORE_SPACE: &str = r"(?!\S)";

impl Pattern {
    /// Reads an expression; `None` for one that needs more than the above.
    pub(super) fn parse(expression: &str) -> Option<Self> {
        let build = |text| sequence(text).map(|steps| Alternative { first: first_ascii(&steps), steps });
        alternatives(expression).into_iter().map(build).collect::<Option<_>>().map(Self)
    }

    /// Calls `matched` and `between` with what matches in turn and what lies between; joined they are the text.
    pub(super) fn split<'t>(&self, text: &'t str, mut take: impl FnMut(&'t str)) {
        // Where a run ended from which an alternative failed: it fails from everywhere in that run.
        let mut dead = vec![0; self.0.len()];
        let (mut from, mut at) = (0, 0);
        while let Some(first) = text[at..].chars().next() {
            let Some(end) = self.match_at(text, at, &mut dead).filter(|&end| end > at) else {
                at += first.len_utf8();
                continue;
            };
            for word in [&text[from..at], &text[at..end]] {
                if !word.is_empty() {
                    take(word);
                }
            }
            (from, at) = (end, end);
        }
        if from < text.len() {
            take(&text[from..]);
        }
    }

    fn match_at(&self, text: &str, at: usize, dead: &mut [usize]) -> Option<usize> {
        work::count(1);
        let next = text.as_bytes()[at];
        for (Alternative { steps, first }, dead) in self.0.iter().zip(dead) {
            if at < *dead || next.is_ascii() && first >> next & 1 == 0 {
                continue;
            }
            if let Some(end) = run_steps(steps, text, at) {
                return Some(end);
            }
            if let [Step::Chars { class, max: u32::MAX, .. }, ..] = steps.as_slice() {
                *dead = at + class.run(&text[at..], u32::MAX).0;
            }
        }
        None
    }
}

/// What a match of these steps may begin with; everything if it may be empty.
fn first_ascii(steps: &[Step]) -> u128 {
    match steps.split_first() {
        Some((Step::Chars { class, min: 0, .. }, rest)) => class.ascii() | first_ascii(rest),
        Some((Step::Chars { class, .. }, _)) => class.ascii(),
        Some((Step::Group { alternatives, min: 1.., .. }, _)) => {
            alternatives.iter().map(|steps| first_ascii(steps)).fold(0, |all, one| all | one)
        }
        Some((Step::Group { .. } | Step::BeforeSpace | Step::End, _)) | None => u128::MAX,
    }
}

/// Where a match of these steps that begins here ends.
fn run_steps(steps: &[Step], text: &str, at: usize) -> Option<usize> {
    let Some((step, rest)) = steps.split_first() else { return Some(at) };
    match step {
        Step::BeforeSpace => {
            let fits = text[at..].chars().next().is_none_or(char::is_whitespace);
            if fits { run_steps(rest, text, at) } else { None }
        }
        Step::End => {
            if at == text.len() {
                run_steps(rest, text, at)
            } else {
                None
            }
        }
        Step::Group { alternatives, min, max } => {
            let (mut end, mut count) = (at, 0);
            while count < *max {
                let next = alternatives.iter().find_map(|steps| run_steps(steps, text, end));
                let Some(next) = next.filter(|&next| next > end) else { break };
                (end, count) = (next, count + 1);
            }
            (count >= *min).then_some(end)
        }
        Step::Chars { class, min, max } => {
            let (len, mut count) = class.run(&text[at..], *max);
            let mut end = at + len;
            while count >= *min {
                if let Some(found) = run_steps(rest, text, end) {
                    return Some(found);
                }
                let last = text[at..end].chars().next_back()?;
                (end, count) = (end - last.len_utf8(), count - 1);
            }
            None
        }
    }
}

/// Cuts at each `|` outside brackets and parentheses.
fn alternatives(expression: &str) -> Vec<&str> {
    let (mut parts, mut from, mut depth, mut in_class, mut escaped) = (Vec::new(), 0, 0, 0, false);
    for (at, c) in expression.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '[' => in_class += 1,
            ']' if in_class > 0 => in_class -= 1,
            '(' if in_class == 0 => depth += 1,
            ')' if in_class == 0 => depth -= 1,
            '|' if in_class == 0 && depth == 0 => {
                parts.push(&expression[from..at]);
                from = at + 1;
            }
            _ => {}
        }
    }
    parts.push(&expression[from..]);
    parts
}

fn sequence(expression: &str) -> Option<Vec<Step>> {
    let (body, tail) = match (expression.strip_suffix(BEFORE_SPACE), expression.strip_suffix('$')) {
        (Some(body), _) => (body, Some(Step::BeforeSpace)),
        (None, Some(body)) => (body, Some(Step::End)),
        (None, None) => (expression, None),
    };
    let mut steps = steps(&regex_syntax::parse(body).ok()?)?;
    steps.extend(tail);
    only_the_last_is_a_group(&steps).then_some(steps)
}

fn only_the_last_is_a_group(steps: &[Step]) -> bool {
    steps.iter().rev().skip(1).all(|step| !matches!(step, Step::Group { .. }))
}

fn steps(hir: &Hir) -> Option<Vec<Step>> {
    let found = match hir.kind() {
        HirKind::Empty => Vec::new(),
        HirKind::Literal(literal) => {
            let text = std::str::from_utf8(&literal.0).ok()?;
            text.chars().map(|c| Step::Chars { class: CharClass::new(&[(c, c)]), min: 1, max: 1 }).collect()
        }
        HirKind::Class(Class::Unicode(class)) => vec![Step::Chars { class: class.into(), min: 1, max: 1 }],
        HirKind::Capture(capture) => steps(&capture.sub)?,
        HirKind::Concat(parts) => {
            let parts: Option<Vec<Vec<Step>>> = parts.iter().map(steps).collect();
            parts?.into_iter().flatten().collect()
        }
        HirKind::Alternation(parts) => {
            let alternatives = parts.iter().map(steps).collect::<Option<_>>()?;
            vec![Step::Group { alternatives, min: 1, max: 1 }]
        }
        HirKind::Repetition(repetition) if repetition.greedy => {
            let (min, max) = (repetition.min, repetition.max.unwrap_or(u32::MAX));
            match <[Step; 1]>::try_from(steps(&repetition.sub)?) {
                Ok([Step::Chars { class, min: 1, max: 1 }]) => vec![Step::Chars { class, min, max }],
                Ok([Step::Group { alternatives, min: 1, max: 1 }]) if min <= 1 => {
                    vec![Step::Group { alternatives, min, max }]
                }
                Err(sequence) if min <= 1 => vec![Step::Group { alternatives: vec![sequence], min, max }],
                _ => return None,
            }
        }
        _ => return None,
    };
    only_the_last_is_a_group(&found).then_some(found)
}
