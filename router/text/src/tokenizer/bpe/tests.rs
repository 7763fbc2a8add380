use tokenizers::Model;
use tokenizers::models::bpe::{BPE, Vocab};

use super::*;
use crate::test_random::Random;

const LETTERS: [&str; 4] = ["a", "b", "c", "d"];

/// Tokens and merges that a seed gives; a merge joins any two tokens, so that many of them compete.
fn random_vocabulary(random: &mut Random) -> (Vec<String>, Vec<(String, String)>) {
    let mut tokens: Vec<String> = LETTERS.map(str::to_owned).to_vec();
    let mut merges = Vec::new();
    for _ in 0..random.below(24) {
        let pair = [0; 2].map(|_| tokens[random.below(tokens.len())].clone());
        let joined = pair.concat();
        if joined.len() <= 8 && !tokens.contains(&joined) {
            merges.push((pair[0].clone(), pair[1].clone()));
            tokens.push(joined);
        }
    }
    (tokens, merges)
}

fn build(tokens: &[String], merges: &[(String, String)], joins_over_missing: bool) -> Bpe {
    let id = |name: &str| tokens.iter().position(|token| token == name).map(|index| index as u32);
    let merges =
        merges.iter().map(|(left, right)| [left, right, &format!("{left}{right}")].map(|name| id(name).unwrap()));
    Bpe::new(Symbols::bytes(id, joins_over_missing), merges)
}

fn merged(bpe: &Bpe, word: &str) -> Vec<(u32, Range<usize>)> {
    let mut found = Vec::new();
    bpe.merger().merge(word, |id, range| found.push((id, range)));
    found
}

#[test]
fn short_and_long_words_merge_as_in_the_tokenizers_crate() {
    let mut random = Random::new(11);
    for _ in 0..200 {
        let (tokens, merges) = random_vocabulary(&mut random);
        let vocab: Vocab = tokens.iter().cloned().zip(0..).collect();
        let expected = BPE::builder().vocab_and_merges(vocab, merges.clone()).build().unwrap();
        let ours = build(&tokens, &merges, true);
        for max_len in [8, MAX_SCANNED, MAX_SCANNED + 2, 300] {
            let word = random.string(&LETTERS, max_len);
            let expected: Vec<(u32, Range<usize>)> = expected
                .tokenize(&word)
                .unwrap()
                .into_iter()
                .map(|token| (token.id, token.offsets.0..token.offsets.1))
                .collect();
            assert_eq!(merged(&ours, &word), expected, "{word} {merges:?}");
        }
    }
}

#[test]
fn over_a_byte_without_a_token_its_neighbours_join_if_so_wanted() {
    let tokens = ["a", "b", "ab"].map(str::to_owned);
    let bpe = build(&tokens, &[("a".to_owned(), "b".to_owned())], true);
    assert_eq!(merged(&bpe, "?a?b"), [(2, 1..4)]);
    assert_eq!(merged(&bpe, "??"), []);
}

#[test]
fn a_byte_without_a_token_inside_a_character_is_left_out() {
    let tokens = ["a", "Ã"].map(str::to_owned);
    assert_eq!(merged(&build(&tokens, &[], false), "aéa"), [(0, 0..1), (1, 1..2), (0, 3..4)]);
}

#[test]
fn of_two_merges_of_one_pair_the_first_counts() {
    let tokens = ["a", "b", "ab", "ba"].map(str::to_owned);
    let pair = |left: &str, right: &str| (left.to_owned(), right.to_owned());
    let bpe = build(&tokens, &[pair("a", "b"), pair("b", "a"), pair("a", "b")], false);
    assert_eq!(merged(&bpe, "aba"), [(2, 0..2), (0, 2..3)]);
}

/// Characters with byte tokens for `é` alone; ids in order.
fn characters(prefix: bool) -> Bpe {
    let tokens = ["▁", "a", "b", "▁a", "ab", "<0xC3>", "<0xA9>", "<0x58>"];
    let symbols = Symbols::characters(tokens.into_iter().zip(0..), '▁', prefix);
    Bpe::new(symbols, [[0, 1, 3], [1, 2, 4]]).with_whole([(Box::from(*b"ba"), 9)].into_iter())
}

#[test]
fn a_character_without_a_token_becomes_its_bytes_and_one_without_bytes_nothing() {
    let bpe = characters(false);
    assert_eq!(merged(&bpe, "é"), [(5, 0..2), (6, 0..2)]);
    assert_eq!(merged(&bpe, "aXb"), [(1, 0..1), (7, 1..2), (2, 2..3)]);
    // `한` has no byte tokens: it is left out and yet parts its neighbours.
    assert_eq!(merged(&bpe, "a한b"), [(1, 0..1), (2, 4..5)]);
}

#[test]
fn a_space_is_the_vocabulary_s_own_and_is_put_before_a_line_if_so_wanted() {
    assert_eq!(merged(&characters(false), " ab"), [(3, 0..2), (2, 2..3)]);
    assert_eq!(merged(&characters(true), "ab"), [(3, 0..1), (2, 1..2)]);
    assert_eq!(merged(&characters(true), "b"), [(0, 0..0), (2, 0..1)]);
    for begun in [" a", "▁a"] {
        assert_eq!(merged(&characters(true), begun), [(3, 0..begun.len())]);
    }
    assert_eq!(merged(&characters(true), "\n"), []);
}

#[test]
fn a_word_that_is_taken_whole_is_not_merged() {
    assert_eq!(merged(&characters(false), "ba"), [(9, 0..2)]);
    assert_eq!(merged(&characters(false), "bab"), [(2, 0..1), (4, 1..3)]);
}
