//! Which `tokenizer.json` we follow by hand: byte-level merging within words that known kinds of expressions cut.
//!
//! The crate would take 400 bytes of memory for each byte of text. What is not sure to give the same ids is left to it.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::added::AddedTokens;
use super::bpe::{Bpe, Symbols};
use super::pieces::MAX_VOCAB;
use super::words::Words;
use super::{ByHand, Method, byte_level};

/// Refuses a vocabulary whose ids are no ids, are beyond all bounds, or stand for two tokens.
pub(super) fn check_ids(vocab: &Value) -> Result<(), String> {
    let mut tokens = HashMap::new();
    for (token, id) in vocab.as_object().into_iter().flatten() {
        let valid = id.as_u64().filter(|&id| id < MAX_VOCAB as u64);
        let id = valid.ok_or_else(|| format!("token `{token}` has the id `{id}`; ids are 0 to {}", MAX_VOCAB - 1))?;
        if let Some(other) = tokens.insert(id, token) {
            return Err(format!("tokens `{other}` and `{token}` have the same id {id}"));
        }
    }
    Ok(())
}

/// The way of a whole `tokenizer.json`, parsed as `inner` too; `None` leaves it to the crate.
pub(super) fn by_hand(json: &Value, inner: &tokenizers::Tokenizer) -> Option<ByHand> {
    let words = Words::from_json(&json["pre_tokenizer"])?;
    let bpe = bpe(&json["model"])?;
    let (prefix, suffix) = added_around(inner)?;
    let added = AddedTokens::new(inner);
    Some(ByHand { method: Method::Words(words, bpe), added, prefix, suffix, offsets: false })
}

/// A model without dropout or marks on words.
fn bpe(model: &Value) -> Option<Bpe> {
    let is_empty = |name: &str| model[name].is_null() || model[name] == "";
    let plain = ["dropout", "continuing_subword_prefix", "end_of_word_suffix"].iter().all(|name| is_empty(name));
    if model["type"] != "BPE" || !plain {
        return None;
    }
    let entry = |(token, id): (_, &Value)| Some((token, u32::try_from(id.as_u64()?).ok()?));
    let vocab: HashMap<&str, u32> =
        model["vocab"].as_object()?.iter().map(|(token, id)| entry((token.as_str(), id))).collect::<Option<_>>()?;
    let id = |token: &str| vocab.get(token).copied();
    let symbols = symbols(model, id)?;
    let merges: Vec<[u32; 3]> =
        model["merges"].as_array()?.iter().map(|merge| joined(merge, id)).collect::<Option<_>>()?;
    // Of two merges of one pair the crate takes the later.
    let pairs: HashSet<_> = merges.iter().map(|[left, right, _]| (left, right)).collect();
    (pairs.len() == merges.len()).then_some(())?;
    let whole = vocab.iter().filter_map(|(token, &id)| Some((byte_level::written_bytes(token)?, id)));
    let ignore_merges = model["ignore_merges"] == true;
    Some(Bpe::new(symbols, merges).with_whole(whole.filter(|_| ignore_merges)))
}

/// The bytes' tokens; one that has none is unknown, or left out where nothing stands for that.
fn symbols(model: &Value, id: impl Fn(&str) -> Option<u32>) -> Option<Symbols> {
    let unknown = model["unk_token"].as_str().filter(|name| !name.is_empty());
    let is_whole = (0..=255).map(byte_level::symbol).all(|symbol| id(symbol.encode_utf8(&mut [0; 4])).is_some());
    let is_fused = unknown.is_some() && model["fuse_unk"] == true;
    (is_whole || !is_fused && model["byte_fallback"] != true).then_some(())?;
    Some(Symbols::bytes(|symbol| id(symbol).or_else(|| id(unknown?)), true))
}

/// `["a", "b"]`, or `"a b"` in older files.
fn joined(merge: &Value, id: impl Fn(&str) -> Option<u32>) -> Option<[u32; 3]> {
    let (left, right) = match merge {
        Value::String(pair) => pair.split_once(' ')?,
        pair => (pair[0].as_str()?, pair[1].as_str()?),
    };
    Some([id(left)?, id(right)?, id(&format!("{left}{right}"))?])
}

/// What a post-processor puts before and after a text; `None` if it does more than that.
fn added_around(inner: &tokenizers::Tokenizer) -> Option<(Vec<u32>, Vec<u32>)> {
    let ids = |add_special| inner.encode_fast("a", add_special).ok().map(|encoding| encoding.get_ids().to_vec());
    let (with, without) = (ids(true)?, ids(false)?);
    let at = with.windows(without.len().max(1)).position(|window| window == without)?;
    Some((with[..at].to_vec(), with[at + without.len()..].to_vec()))
}

#[cfg(test)]
mod tests;
