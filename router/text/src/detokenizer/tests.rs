use std::sync::Arc;

use super::*;
use crate::test_random::Random;
use crate::tokenizer::tests::decoding_kinds;

fn stream(tokenizer: &Arc<Tokenizer>, prompt: &[u32], ids: &[u32], skip_special: bool) -> Vec<String> {
    let mut detokenizer = Detokenizer::new(Arc::clone(tokenizer), prompt, skip_special);
    let mut texts: Vec<String> = ids.iter().map(|&id| detokenizer.push(id)).collect();
    texts.push(detokenizer.finish());
    texts
}

#[test]
fn a_character_comes_out_when_its_last_byte_has_come() {
    let tokenizer = Arc::new(decoding_kinds().remove(0));
    let ids = tokenizer.encode_ids("a😀b", false).unwrap();
    assert_eq!(stream(&tokenizer, &[], &ids, true), ["a", "", "😀", "b", ""]);
    assert_eq!(stream(&tokenizer, &[], &ids[..2], true), ["a", "", "\u{FFFD}"]);
    assert_eq!(stream(&tokenizer, &[], &[ids[1], ids[0]], true), ["", "\u{FFFD}a", ""]);
}

#[test]
fn special_tokens_between_two_halves_of_a_character_do_not_part_them_when_hidden() {
    let tokenizer = Arc::new(decoding_kinds().remove(0));
    let halves = tokenizer.encode_ids("😀", false).unwrap();
    let end = tokenizer.token_to_id("<|im_end|>").unwrap();
    let ids = [halves[0], end, halves[1]];
    assert_eq!(stream(&tokenizer, &[], &ids, true), ["", "", "😀", ""]);
    assert_eq!(stream(&tokenizer, &[], &ids, false), ["", "\u{FFFD}<|im_end|>", "\u{FFFD}", ""]);
}

#[test]
fn the_first_space_is_kept_after_a_prompt() {
    let tokenizer = Arc::new(decoding_kinds().remove(1));
    let hello = tokenizer.token_to_id("▁Hello").unwrap();
    let bos = tokenizer.token_to_id("<s>").unwrap();
    assert_eq!(stream(&tokenizer, &[], &[hello, hello], true).concat(), "Hello Hello");
    assert_eq!(stream(&tokenizer, &[bos], &[hello], true).concat(), "Hello");
    assert_eq!(stream(&tokenizer, &[bos, hello], &[hello], true).concat(), " Hello");
}

#[test]
fn pieces_joined_equal_the_whole_decoded_at_once() {
    let mut random = Random::new(11);
    for tokenizer in decoding_kinds().into_iter().map(Arc::new) {
        for _ in 0..3000 {
            let ids: Vec<u32> =
                (0..random.below(16)).map(|_| random.below(tokenizer.vocab_size() as usize + 2) as u32).collect();
            let cut = random.below(ids.len() + 1);
            for skip in [true, false] {
                let texts = stream(&tokenizer, &[], &ids, skip);
                assert_eq!(texts.concat(), tokenizer.decode(&ids, skip), "{ids:?}");
                // Whatever was emitted by the cut is a beginning of the whole, so no half character ever came out.
                let early = texts[..cut].concat();
                assert!(tokenizer.decode(&ids, skip).starts_with(&early), "{ids:?} at {cut}");
            }
        }
    }
}
