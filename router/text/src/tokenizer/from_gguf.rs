//! A tokenizer from `tokenizer.ggml.*`, giving the ids that llama.cpp gives.
//!
//! Merging (`tokenizer.ggml.model` = `gpt2`, `gemma4`), cut into words as [`pre`] says, and
//! `SentencePiece`'s two kinds (`llama`, `t5`).

mod vocab;

use super::added::AddedTokens;
use super::bpe::{Bpe, Symbols};
use super::charsmap::Charsmap;
use super::decoder::TokenDecoder;
use super::pre::{self, Alphabet, Bos, Whole};
use super::spm::{SPACE, Spm};
use super::unigram::{Spaces, Unigram};
use super::words::Words;
use super::{ByHand, Method, Tokenizer, byte_level};
use crate::error::TextError;
use crate::gguf::Metadata;
use vocab::{Defaults, Edges, Vocab};

/// Builds the tokenizer of a header.
pub(super) fn build(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    let Some(model) = metadata.string("tokenizer.ggml.model")? else { return Err(TextError::NoTokenizer) };
    match model {
        "gpt2" => match metadata.string("tokenizer.ggml.pre")?.filter(|pre| !pre.is_empty()) {
            Some(pre) => build_bpe(metadata, pre),
            None => Ok(Tokenizer { warning: Some(no_pre(metadata)), ..build_bpe(metadata, pre::DEFAULT)? }),
        },
        "gemma4" => build_bpe(metadata, pre::GEMMA4),
        "llama" => build_spm(metadata),
        "t5" => build_unigram(metadata),
        _ => {
            let (path, what) = (metadata.path().to_owned(), "tokenizer model");
            Err(TextError::Unsupported { path, what, name: model.to_owned() })
        }
    }
}

/// llama.cpp goes on and warns too.
fn no_pre(metadata: &Metadata) -> String {
    let path = metadata.path().display();
    format!(
        "`{path}`: key `tokenizer.ggml.pre` is missing; text is cut by llama.cpp's `default` rules, so prompts may become \
         other ids than in training and answers worse; convert the model again, or serve a folder with its `tokenizer.json`"
    )
}

fn build_bpe(metadata: &Metadata, pre: &str) -> Result<Tokenizer, TextError> {
    let Some(pre) = pre::find(pre) else {
        let known = pre::names().collect::<Vec<_>>().join(", ");
        let hint = "pass a folder that holds a supported `tokenizer.json`";
        return Err(metadata.error(format!("pre-tokenizer `{pre}` is not supported; known are {known}; {hint}")));
    };
    let words = Words::parse(pre.expressions.iter().copied())
        .ok_or_else(|| metadata.error("the pre-tokenizer's expressions cannot be read"))?;
    let vocab = Vocab::read(metadata)?;
    let (symbols, decoder) = match pre.alphabet {
        Alphabet::Bytes => (Symbols::bytes(|name| vocab.get(name), false), TokenDecoder::byte_level()),
        Alphabet::Characters => (Symbols::characters(vocab.iter(), ' ', false), TokenDecoder::characters()),
        Alphabet::Metaspace { prefix } => (Symbols::characters(vocab.iter(), SPACE, prefix), TokenDecoder::spm(prefix)),
    };
    let whole = vocab.iter().filter_map(|(token, id)| {
        let wanted = match pre.whole {
            Whole::None => false,
            Whole::LineEnds => token.bytes().all(|byte| byte == b'\n'),
            Whole::All => true,
        };
        let word = if pre.alphabet == Alphabet::Bytes {
            byte_level::written_bytes(token)
        } else {
            Some(token.as_bytes().into())
        };
        Some((word.filter(|_| wanted)?, id))
    });
    let bpe = Bpe::new(symbols, merges(metadata, &vocab)?).with_whole(whole);
    let edges = Edges::read(metadata, &vocab, &Defaults { bos: pre.bos, eos: false, bos_id: None, eos_id: None })?;
    finish(metadata, &vocab, &decoder, Method::Words(words, bpe), edges)
}

/// Beginning, end and unknown are 1, 2 and 0 where a header does not say, as in llama.cpp.
fn build_spm(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    let vocab = Vocab::read(metadata)?;
    let scores = vocab.scores(metadata)?;
    let add_space_prefix = metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(true);
    let unknown = vocab.id(metadata, "tokenizer.ggml.unknown_token_id")?.unwrap_or(0);
    let tokens = vocab.iter().map(|(name, id)| (name, id, scores[id as usize]));
    let spm = Spm::new(tokens, unknown, add_space_prefix);
    let edges =
        Edges::read(metadata, &vocab, &Defaults { bos: Bos::Present, eos: false, bos_id: Some(1), eos_id: Some(2) })?;
    finish(metadata, &vocab, &TokenDecoder::spm(add_space_prefix), Method::Spm(spm), edges)
}

/// End, unknown and padding are 1, 2 and 0 where a header does not say, as in llama.cpp; a text gets its end token.
fn build_unigram(metadata: &Metadata) -> Result<Tokenizer, TextError> {
    let vocab = Vocab::read(metadata)?;
    let scores = vocab.scores(metadata)?;
    let key = "tokenizer.ggml.precompiled_charsmap";
    let charsmap: Vec<u8> = metadata.ints(key)?.unwrap_or_default().iter().map(|&byte| byte as u8).collect();
    let charsmap = if charsmap.is_empty() { Ok(Charsmap::default()) } else { Charsmap::parse(&charsmap) };
    let charsmap = charsmap.map_err(|reason| metadata.error(format!("key `{key}`: {reason}")))?;
    let spaces = Spaces {
        prefix: metadata.bool("tokenizer.ggml.add_space_prefix")?.unwrap_or(false),
        joined: metadata.bool("tokenizer.ggml.remove_extra_whitespaces")?.unwrap_or(false),
    };
    let score = |id: u32| scores[id as usize];
    let unknown = vocab.id(metadata, "tokenizer.ggml.unknown_token_id")?.unwrap_or(2);
    let worst = vocab.iter().filter(|&(_, id)| vocab.is_normal(id)).map(|(_, id)| score(id)).fold(f32::MAX, f32::min);
    let tokens = vocab.iter().filter(|&(_, id)| vocab.is_text(id));
    let tokens = tokens.map(|(token, id)| (token, id, (!vocab.is_user_defined(id)).then(|| score(id))));
    let method = Method::Unigram(Unigram::new(tokens, unknown, worst, charsmap, spaces));
    let defaults = Defaults { bos: Bos::Absent, eos: true, bos_id: None, eos_id: Some(1) };
    let edges = Edges::read(metadata, &vocab, &defaults)?;
    finish(metadata, &vocab, &TokenDecoder::spm(spaces.prefix || spaces.joined), method, edges)
}

fn finish(
    metadata: &Metadata,
    vocab: &Vocab<'_>,
    decoder: &TokenDecoder,
    method: Method,
    edges: Edges,
) -> Result<Tokenizer, TextError> {
    let inner = vocab.names(metadata)?;
    let name = |id: Option<u32>| id.map(|id| vocab.tokens[id as usize].clone());
    let by_hand = ByHand {
        method,
        added: AddedTokens::new(&inner),
        prefix: edges.prefix.into_iter().collect(),
        suffix: edges.suffix.into_iter().collect(),
        offsets: true,
    };
    let (bos_token, eos_token) = (name(edges.bos), name(edges.eos));
    Ok(Tokenizer { inner, pieces: vocab.pieces(decoder), by_hand: Some(by_hand), bos_token, eos_token, warning: None })
}

/// The merges as pairs with their joint token.
fn merges(metadata: &Metadata, vocab: &Vocab<'_>) -> Result<Vec<[u32; 3]>, TextError> {
    let merges = metadata.strings("tokenizer.ggml.merges")?.unwrap_or_default();
    let ids = |merge: &str| {
        let (left, right) = split_merge(merge)?;
        Some([vocab.get(left)?, vocab.get(right)?, vocab.get(&format!("{left}{right}"))?])
    };
    let mut pairs = Vec::with_capacity(merges.len());
    for (index, merge) in merges.iter().enumerate() {
        pairs.push(ids(merge).ok_or_else(|| {
            metadata
                .error(format!("`tokenizer.ggml.merges`: element {index} (`{merge}`) does not join two tokens to one"))
        })?);
    }
    Ok(pairs)
}

/// `"Ġ t"` joins `Ġ` and `t`. The first half may itself begin with a space (never so in byte-level vocabularies).
fn split_merge(merge: &str) -> Option<(&str, &str)> {
    let first = merge.chars().next()?.len_utf8();
    let space = first + merge[first..].find(' ')?;
    Some((&merge[..space], &merge[space + 1..]))
}

#[cfg(test)]
mod tests;
