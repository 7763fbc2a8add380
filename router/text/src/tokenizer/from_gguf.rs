//! A tokenizer from `tokenizer.ggml.*`, giving the ids that llama.cpp gives.
//!
//! Byte-level BPE (`tokenizer.ggml.model` = `gpt2`), cut into words as [`pre`] says, and `SentencePiece` (`llama`).

use std::collections::HashMap;

use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab as Alphabet};

use super::decoder::TokenDecoder;
use super::pieces::Pieces;
use super::pre;
use super::spm::Spm;
use super::words::Words;
use super::{ByHand, Method, Tokenizer, byte_level};
use crate::end_tokens::is_turn_end;
use crate::error::TextError;
use crate::gguf::Metadata;

/// `tokenizer.ggml.token_type`.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;

/// Builds the tokenizer of a header.
pub(super) fn build(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    let Some(model) = metadata.string("tokenizer.ggml.model")? else { return Err(TextError::NoTokenizer) };
    match model {
        "gpt2" => build_byte_level(metadata),
        "llama" => build_spm(metadata),
        _ => {
            let (path, what) = (metadata.path().to_owned(), "tokenizer model");
            Err(TextError::Unsupported { path, what, name: model.to_owned() })
        }
    }
}

fn build_byte_level(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    let pre = metadata.string("tokenizer.ggml.pre")?.unwrap_or("(none)");
    let Some(pre) = pre::find(pre) else {
        let known = pre::names().collect::<Vec<_>>().join(", ");
        let hint = "pass a folder that holds a supported `tokenizer.json`";
        return Err(metadata.error(format!("pre-tokenizer `{pre}` is not supported; known are {known}; {hint}")));
    };
    let words = Words::parse(pre.expressions.iter().copied())
        .ok_or_else(|| metadata.error("the pre-tokenizer's expressions cannot be read"))?;
    let vocab = Vocab::read(metadata)?;
    let model = bpe(metadata, &vocab, pre.ignore_merges)?;
    let pieces = vocab.pieces(&TokenDecoder::byte_level());
    let edges = Edges::read(metadata, &vocab, pre.add_bos, [None, None])?;
    finish(metadata, model, &vocab, pieces, Method::Words(words), edges)
}

/// Beginning, end and unknown are 1, 2 and 0 where a header does not say, as in llama.cpp.
fn build_spm(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    let vocab = Vocab::read(metadata)?;
    let scores = metadata.floats("tokenizer.ggml.scores")?.unwrap_or_default();
    if scores.len() != vocab.tokens.len() {
        let (scores, tokens) = (scores.len(), vocab.tokens.len());
        return Err(metadata.error(format!("`tokenizer.ggml.scores` has {scores} elements for {tokens} tokens")));
    }
    let add_space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = vocab.id(metadata, "tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let tokens = vocab.tokens.iter().zip(scores).zip(0..).map(|((name, &score), id)| (name.clone(), id, score));
    let spm = Spm::new(tokens, unknown, add_space_prefix);
    // The crate looks tokens up and finds the marked ones in text; it merges nothing.
    let names: Alphabet = vocab.tokens.iter().cloned().zip(0..).collect();
    let model = BPE::builder().vocab_and_merges(names, Vec::new()).build();
    let model = model.map_err(|error| metadata.error(error.to_string()))?;
    let pieces = vocab.pieces(&TokenDecoder::spm(add_space_prefix));
    let edges = Edges::read(metadata, &vocab, true, [Some(1), Some(2)])?;
    finish(metadata, model, &vocab, pieces, Method::Spm(spm), edges)
}

/// The beginning and end tokens, and which of them a text gets.
#[derive(Clone, Copy)]
struct Edges {
    bos: Option<u32>,
    eos: Option<u32>,
    prefix: Option<u32>,
    suffix: Option<u32>,
}

impl Edges {
    fn read(
        metadata: &Metadata,
        vocab: &Vocab<'_>,
        add_bos: bool,
        default_ids: [Option<u32>; 2],
    ) -> Result<Self, TextError> {
        let default_ids = default_ids.map(|id| id.filter(|&id| (id as usize) < vocab.tokens.len()));
        let bos = vocab.id(metadata, "tokenizer.ggml.bos_token_id")?.or(default_ids[0]);
        let eos = vocab.id(metadata, "tokenizer.ggml.eos_token_id")?.or(default_ids[1]);
        let edge = |key: &str, default: bool, id: Option<u32>| {
            let wanted = metadata.bool(key)?;
            if wanted == Some(true) && id.is_none() {
                return Err(metadata.error(format!("key `{key}` is true but the header names no such token")));
            }
            Ok(id.filter(|_| wanted.unwrap_or(default)))
        };
        let prefix = edge("tokenizer.ggml.add_bos_token", add_bos, bos)?;
        let suffix = edge("tokenizer.ggml.add_eos_token", false, eos)?;
        Ok(Self { bos, eos, prefix, suffix })
    }
}

fn finish(
    metadata: &Metadata,
    model: BPE,
    vocab: &Vocab<'_>,
    pieces: Pieces,
    method: Method,
    edges: Edges,
) -> Result<Tokenizer, TextError> {
    let mut inner = tokenizers::Tokenizer::new(model);
    add_marked_tokens(&mut inner, vocab).map_err(|error| metadata.error(error.to_string()))?;
    let name = |id: Option<u32>| id.map(|id| vocab.tokens[id as usize].clone());
    let by_hand = ByHand {
        method,
        prefix: edges.prefix.into_iter().collect(),
        suffix: edges.suffix.into_iter().collect(),
        offsets: true,
    };
    Ok(Tokenizer { inner, pieces, by_hand: Some(by_hand), bos_token: name(edges.bos), eos_token: name(edges.eos) })
}

/// The tokens of a header with their types.
struct Vocab<'m> {
    tokens: &'m [String],
    types: &'m [i64],
}

impl<'m> Vocab<'m> {
    fn read(metadata: &'m Metadata) -> Result<Self, TextError> {
        let tokens = metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
        let types = metadata.ints("tokenizer.ggml.token_type")?.unwrap_or_default();
        if tokens.is_empty() {
            return Err(metadata.error("key `tokenizer.ggml.tokens` is missing or empty"));
        }
        if !types.is_empty() && types.len() != tokens.len() {
            let (types, tokens) = (types.len(), tokens.len());
            return Err(metadata.error(format!("`tokenizer.ggml.token_type` has {types} elements for {tokens} tokens")));
        }
        Ok(Self { tokens, types })
    }

    /// The token's type. Files that call `<|im_end|>` and its like ordinary are mended, as llama.cpp mends them.
    fn kind(&self, index: usize) -> i64 {
        let kind = self.types.get(index).copied().unwrap_or(NORMAL);
        if matches!(kind, NORMAL | USER_DEFINED) && is_turn_end(&self.tokens[index]) { CONTROL } else { kind }
    }

    fn is_special(&self, index: usize) -> bool {
        matches!(self.kind(index), UNKNOWN | CONTROL)
    }

    fn id(&self, metadata: &Metadata, key: &str) -> Result<Option<u32>, TextError> {
        let id = metadata.token_id(key)?;
        if let Some(id) = id.filter(|&id| id as usize >= self.tokens.len()) {
            return Err(metadata.error(format!("key `{key}` is `{id}`; the vocabulary ends at {}", self.tokens.len())));
        }
        Ok(id)
    }

    fn pieces(&self, decoder: &TokenDecoder) -> Pieces {
        let mut pieces = Pieces::new(decoder.leading);
        for (index, token) in self.tokens.iter().enumerate() {
            let marked = matches!(self.kind(index), UNKNOWN | CONTROL | USER_DEFINED);
            let bytes = if marked { token.as_bytes().to_vec() } else { decoder.bytes(token) };
            pieces.set(index as u32, &bytes, self.is_special(index));
        }
        pieces
    }
}

/// The merging model. Bytes that the vocabulary lacks get ids above it: they keep their neighbours apart while merging
/// and are dropped by `Tokenizer::encode`, as llama.cpp drops them.
fn bpe(metadata: &Metadata, vocab: &Vocab<'_>, ignore_merges: bool) -> Result<BPE, TextError> {
    let mut ids: HashMap<&str, u32> = HashMap::with_capacity(vocab.tokens.len() + 256);
    for (index, token) in vocab.tokens.iter().enumerate().filter(|(_, token)| !token.is_empty()) {
        ids.insert(token, index as u32);
    }
    let merges = metadata.strings("tokenizer.ggml.merges")?.unwrap_or_default();
    let mut pairs = Vec::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        let pair = split_merge(merge).filter(|(left, right)| {
            ids.contains_key(left) && ids.contains_key(right) && ids.contains_key(format!("{left}{right}").as_str())
        });
        let (left, right) = pair.ok_or_else(|| {
            metadata
                .error(format!("`tokenizer.ggml.merges`: element {index} (`{merge}`) does not join two tokens to one"))
        })?;
        pairs.push((left.to_owned(), right.to_owned()));
    }
    let mut all: Alphabet = ids.into_iter().map(|(token, id)| (token.to_owned(), id)).collect();
    let mut next = vocab.tokens.len() as u32;
    for symbol in (0..=255).map(|byte| byte_level::symbol(byte).to_string()) {
        all.entry(symbol).or_insert_with(|| {
            next += 1;
            next - 1
        });
    }
    let builder = BPE::builder().vocab_and_merges(all, pairs).ignore_merges(ignore_merges);
    builder.build().map_err(|error| metadata.error(error.to_string()))
}

/// `"Ġ t"` joins `Ġ` and `t`. The first half may itself begin with a space (never so in byte-level vocabularies).
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge[first..].find(' ')?;
    Some((&merge[..space], &merge[space + 1..]))
}

/// Control and user-defined tokens are found in text before anything else.
fn add_marked_tokens(inner: &mut tokenizers::Tokenizer, vocab: &Vocab<'_>) -> tokenizers::Result<()> {
    let marked = |wanted: fn(i64) -> bool, special: bool| -> Vec<AddedToken> {
        let tokens =
            vocab.tokens.iter().enumerate().filter(|(index, token)| wanted(vocab.kind(*index)) && !token.is_empty());
        tokens.map(|(_, token)| AddedToken::from(token.as_str(), special).normalized(false)).collect()
    };
    inner.add_special_tokens(marked(|kind| matches!(kind, UNKNOWN | CONTROL), true))?;
    inner.add_tokens(marked(|kind| kind == USER_DEFINED, false))?;
    Ok(())
}
