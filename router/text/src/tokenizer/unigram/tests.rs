use super::*;

/// The fixtures' table: `ﬁ` is `fi`, `…` is `...`, tabs and wide spaces are spaces, a soft hyphen is nothing.
fn charsmap_bytes() -> Vec<u8> {
    let fixture: serde_json::Value =
        serde_json::from_str(include_str!("../../../tests/fixtures/sentencepiece.json")).unwrap();
    fixture["charsmap"].as_array().unwrap().iter().map(|byte| byte.as_u64().unwrap() as u8).collect()
}

const TOKENS: [(&str, u32, Option<f32>); 9] = [
    ("▁", 3, Some(-3.0)),
    ("a", 4, Some(-4.0)),
    ("b", 5, Some(-4.0)),
    ("ab", 6, Some(-5.0)),
    ("▁a", 7, Some(-3.5)),
    ("f", 8, Some(-4.0)),
    ("i", 9, Some(-4.0)),
    ("bab", 10, Some(-12.5)),
    ("ba", 11, None),
];

fn unigram(spaces: Spaces) -> Unigram {
    Unigram::new(TOKENS.into_iter(), 2, -12.5, Charsmap::parse(&charsmap_bytes()).unwrap(), spaces)
}

const AS_WRITTEN: Spaces = Spaces { prefix: false, joined: false };

fn encoded(spaces: Spaces, text: &str) -> Vec<(u32, Range<usize>)> {
    let mut found = Vec::new();
    unigram(spaces).encode(text, |id, range| found.push((id, range)));
    found
}

fn ids(spaces: Spaces, text: &str) -> Vec<u32> {
    encoded(spaces, text).into_iter().map(|(id, _)| id).collect()
}

#[test]
fn the_highest_sum_of_scores_wins_and_what_the_user_defined_costs_nothing() {
    assert_eq!(ids(AS_WRITTEN, "ab"), [6]);
    assert_eq!(ids(AS_WRITTEN, "a a"), [4, 7]);
    // a + ba beats ab + a, and ba + b beats bab.
    assert_eq!(ids(AS_WRITTEN, "aba"), [4, 11]);
    assert_eq!(ids(AS_WRITTEN, "bab"), [11, 5]);
    assert!(ids(AS_WRITTEN, "").is_empty());
}

#[test]
fn a_run_of_unknown_characters_is_one_token() {
    assert_eq!(encoded(AS_WRITTEN, "a한국b"), [(4, 0..1), (2, 1..7), (5, 7..8)]);
}

#[test]
fn characters_are_replaced_and_offsets_are_those_of_the_original() {
    assert_eq!(encoded(AS_WRITTEN, "aﬁb"), [(4, 0..1), (8, 1..4), (9, 1..4), (5, 4..5)]);
    assert_eq!(encoded(AS_WRITTEN, "a\u{ad}b\u{3000}a"), [(6, 0..4), (7, 4..8)]);
}

#[test]
fn spaces_are_put_before_and_joined_as_the_vocabulary_wants() {
    let with = |prefix, joined| Spaces { prefix, joined };
    assert_eq!(encoded(with(true, false), "a"), [(7, 0..1)]);
    assert_eq!(ids(with(true, false), "  a"), [3, 3, 7]);
    assert_eq!(encoded(with(true, true), "  a  b "), [(7, 0..3), (3, 3..5), (5, 5..6)]);
    assert!(ids(with(false, true), "\t").is_empty());
    assert_eq!(ids(with(false, false), " \t"), [3, 3]);
}

#[test]
fn a_table_that_points_outside_itself_is_refused_or_matches_nothing() {
    let bytes = charsmap_bytes();
    assert!(Charsmap::parse(&bytes[..3]).unwrap_err().contains("four bytes"));
    assert!(Charsmap::parse(&bytes[..100]).unwrap_err().contains("longer than the 96 bytes"));
    assert!(Charsmap::parse(&[&bytes[..], b"\xFF"].concat()).unwrap_err().contains("UTF-8"));
    for at in 4..bytes.len() {
        let mut broken = bytes.clone();
        broken[at] ^= 0x5A;
        let Ok(charsmap) = Charsmap::parse(&broken) else { continue };
        for text in ["ﬁ", "e\u{301}", "…", "Ａ", "a", "\u{1F600}"] {
            assert!(charsmap.longest(text).is_none_or(|(_, len)| text.is_char_boundary(len)), "byte {at} {text}");
        }
    }
}
