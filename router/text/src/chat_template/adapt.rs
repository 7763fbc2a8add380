//! The few places where a source written for jinja2 under transformers must change for minijinja.
//!
//! - `{% generation %}` marks what the assistant said, for training; here it becomes a block like any other.
//! - `x[::-1]` becomes a method call, since minijinja's own slice panics on an empty value.
//! - `'...' % (a, b)` becomes the filter `format`, since minijinja's `%` takes numbers only.
//!
//! Text outside tags, comments, raw blocks and string literals stay as they are.

use super::nesting::Nesting;

/// The method that stands for `[::-1]`; `python::call_method` has it.
pub(super) const REVERSED: &str = "__reversed__";

/// The source as minijinja takes it, or which limit of nesting it breaks.
pub(super) fn adapt(source: &str) -> Result<String, String> {
    let mut nesting = Nesting::default();
    let mut result = String::with_capacity(source.len() + 64);
    let mut rest = source;
    while let Some((text, tag)) = next_tag(rest) {
        result.push_str(text);
        rest = match &tag[..2] {
            "{#" => copy_through(tag, "#}", &mut result),
            "{%" if tag_name(tag) == "raw" => copy_raw(tag, &mut result),
            opening => {
                let end = tag_end(tag, if opening == "{{" { "}}" } else { "%}" });
                nesting.visit(&tag[..end])?;
                adapt_tag(&tag[..end], &mut result);
                &tag[end..]
            }
        };
    }
    result.push_str(rest);
    Ok(result)
}

/// Splits before the next `{{`, `{%` or `{#`.
fn next_tag(source: &str) -> Option<(&str, &str)> {
    let mut from = 0;
    loop {
        let at = from + source[from..].find('{')?;
        if source[at + 1..].starts_with(['{', '%', '#']) {
            return Some(source.split_at(at));
        }
        from = at + 1;
    }
}

fn copy_through<'s>(tag: &'s str, end: &str, result: &mut String) -> &'s str {
    let end = tag.find(end).map_or(tag.len(), |at| at + end.len());
    result.push_str(&tag[..end]);
    &tag[end..]
}

/// Copies up to the `{%` of `endraw`.
fn copy_raw<'s>(tag: &'s str, result: &mut String) -> &'s str {
    let ends = tag.match_indices("{%").skip(1).map(|(at, _)| at);
    let end = ends.into_iter().find(|&at| tag_name(&tag[at..]) == "endraw").unwrap_or(tag.len());
    result.push_str(&tag[..end]);
    &tag[end..]
}

/// The first word in `{%- word ...`.
pub(super) fn tag_name(tag: &str) -> &str {
    let inner = tag[2..].trim_start_matches(['-', '+']).trim_start();
    &inner[..inner.find(|c: char| !c.is_alphanumeric() && c != '_').unwrap_or(inner.len())]
}

/// Where the tag ends, string literals aside.
fn tag_end(tag: &str, closing: &str) -> usize {
    let mut at = 2;
    while at < tag.len() {
        let rest = &tag[at..];
        if rest.starts_with(closing) {
            return at + closing.len();
        }
        at += literal_len(rest).unwrap_or_else(|| first_len(rest));
    }
    tag.len()
}

fn adapt_tag(tag: &str, result: &mut String) {
    let replacement = match tag_name(tag) {
        "generation" if tag.starts_with("{%") => Some(("generation", "if true")),
        "endgeneration" if tag.starts_with("{%") => Some(("endgeneration", "endif")),
        _ => None,
    };
    if let Some((from, to)) = replacement {
        result.push_str(&tag.replacen(from, to, 1));
        return;
    }
    let mut rest = tag;
    while !rest.is_empty() {
        if let Some(len) = reversal_len(rest) {
            result.push('.');
            result.push_str(REVERSED);
            result.push_str("()");
            rest = &rest[len..];
        } else {
            let literal = literal_len(rest);
            let len = literal.unwrap_or_else(|| first_len(rest));
            result.push_str(&rest[..len]);
            rest = &rest[len..];
            if let Some(arguments) = literal.and_then(|_| formatted(rest)) {
                result.push_str("|format");
                rest = arguments;
            }
        }
    }
}

/// What follows a string literal from the parenthesis on, if that is `% (...)` and nothing binds closer to the
/// parentheses than the `%` does.
fn formatted(after_literal: &str) -> Option<&str> {
    let arguments = after_literal.trim_start().strip_prefix('%')?.trim_start();
    let (mut depth, mut at) = (0_usize, 0);
    while at < arguments.len() {
        let rest = &arguments[at..];
        match rest.as_bytes()[0] {
            b'(' | b'[' | b'{' => depth += 1,
            b')' | b']' | b'}' => depth = depth.checked_sub(1)?,
            _ => {}
        }
        at += literal_len(rest).unwrap_or_else(|| first_len(rest));
        if depth == 0 {
            break;
        }
    }
    let binds_closer = arguments[at..].trim_start().starts_with(['|', '.', '[', '(']);
    (arguments.starts_with('(') && !binds_closer).then_some(arguments)
}

/// The length of a string literal that begins here, closing quote included.
pub(super) fn literal_len(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|c| matches!(c, '"' | '\''))?;
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return Some(at + 1),
            _ => {}
        }
    }
    Some(text.len())
}

/// The length of a `[::-1]` that begins here.
fn reversal_len(text: &str) -> Option<usize> {
    let mut rest = text;
    for part in ["[", ":", ":", "-", "1", "]"] {
        rest = rest.trim_start().strip_prefix(part)?;
    }
    text.starts_with('[').then_some(text.len() - rest.len())
}

pub(super) fn first_len(text: &str) -> usize {
    text.chars().next().map_or(1, char::len_utf8)
}

#[cfg(test)]
mod tests {
    use super::adapt;

    #[test]
    fn generation_tags_become_conditions_that_hold() {
        assert_eq!(adapt("{%- generation -%}a{%endgeneration%}b").unwrap(), "{%- if true -%}a{%endif%}b");
    }

    #[test]
    fn reversals_become_a_method() {
        assert_eq!(
            adapt("{% for x in y[ ::-1] %}{{ x[::-1][0] }}").unwrap(),
            "{% for x in y.__reversed__() %}{{ x.__reversed__()[0] }}"
        );
    }

    #[test]
    fn a_string_formats_what_stands_in_parentheses() {
        assert_eq!(adapt("{{ 'a%s)' % (x, f(')')) ~ b }}").unwrap(), "{{ 'a%s)'|format(x, f(')')) ~ b }}");
        for source in ["{{ 'a' % (x)|trim }}", "{{ 'a' % (x).y }}", "{{ 'a' % x }}", "{%- if 'a' %}b", "{{ 1 % (2) }}"]
        {
            assert_eq!(adapt(source).unwrap(), source);
        }
    }

    #[test]
    fn text_strings_comments_and_raw_blocks_stay() {
        for source in [
            "x[::-1] { generation }",
            "{{ '[::-1] {% generation %}' }}",
            r#"{{ "a\"[::-1]" ~ '}}' }}"#,
            "{# {% generation %} y[::-1] #}",
            "{%- raw %}{{ y[::-1] }}{% generation %}{% endraw -%}",
            "{% set generation = '%}' %}{{ generation }} {{ x[::-2] }}",
            "{{ unended 'é",
            "{% generate",
            "{",
            "{%",
        ] {
            assert_eq!(adapt(source).unwrap(), source);
        }
    }
}
