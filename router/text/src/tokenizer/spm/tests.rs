use super::*;
use crate::test_random::Random;

/// Joins as the definition says: of all neighbours whose joint text is a token those of the highest score, the leftmost
/// first; what is no token becomes its bytes, which here are the unknown token each.
fn joined_slowly(tokens: &[(String, u32, f32)], unknown: u32, text: &str) -> Vec<u32> {
    let find = |name: &str| tokens.iter().find(|(token, ..)| token == name);
    let mut parts: Vec<String> = text.chars().map(|c| if c == ' ' { SPACE } else { c }.to_string()).collect();
    loop {
        let scored = parts.windows(2).enumerate().filter_map(|(at, pair)| Some((at, find(&pair.concat())?.2)));
        let best = scored.fold(None, |best: Option<(usize, f32)>, (at, score)| match best {
            Some((_, highest)) if score <= highest => best,
            _ => Some((at, score)),
        });
        let Some((at, _)) = best else { break };
        let right = parts.remove(at + 1);
        parts[at] += &right;
    }
    let ids = parts.iter().flat_map(|part| match find(part) {
        Some(&(_, id, _)) => vec![id],
        None => vec![unknown; part.len()],
    });
    ids.collect()
}

/// Tokens of a few letters with scores that repeat; some letters are in tokens and no token themselves.
fn random_tokens(random: &mut Random, alphabet: &[&str]) -> Vec<(String, u32, f32)> {
    let mut names: Vec<String> = Vec::new();
    for _ in 0..random.below(30) {
        let name = random.string(alphabet, 4);
        if !name.is_empty() && !names.contains(&name) {
            names.push(name);
        }
    }
    names.into_iter().zip(1..).map(|(name, id)| (name, id, -(random.below(6) as f32))).collect()
}

#[test]
fn joining_equals_its_definition() {
    let mut random = Random::new(41);
    let (mut num_cut, mut num_whole) = (0, 0);
    for round in 0..300 {
        let mut tokens = random_tokens(&mut random, &["▁", "▁a", "a", "b", "é", "cd"]);
        tokens.retain(|(name, ..)| round % 2 == 0 || !has_space_inside(name));
        let spm = Spm::new(tokens.iter().map(|(name, id, score)| (name.as_str(), *id, *score)), 0, true);
        *(if spm.cuts_at_spaces { &mut num_cut } else { &mut num_whole }) += 1;
        for max_len in [6, 60] {
            let text = random.string(&[" ", "a", "b", "é", "c", "d", "▁", "한"], max_len);
            for prefixed in [false, true] {
                let (mut ids, mut covered) = (Vec::new(), 0);
                spm.encode(&text, prefixed, |id, range| {
                    assert!(text.get(range.clone()).is_some() && range.start <= covered, "{text:?} {range:?}");
                    covered = range.end;
                    ids.push(id);
                });
                let whole = if prefixed && !text.is_empty() { format!(" {text}") } else { text.clone() };
                assert_eq!(ids, joined_slowly(&tokens, 0, &whole), "{text:?} {tokens:?}");
                assert_eq!(covered, text.len());
            }
        }
    }
    assert!(num_cut > 50 && num_whole > 50, "{num_cut} {num_whole}");
}
