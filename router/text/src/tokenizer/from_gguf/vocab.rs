//! What a header says of its tokens: names, types, and which of them begin and end a text.

use std::collections::HashMap;

use tokenizers::AddedToken;
use tokenizers::models::bpe::{BPE, Vocab as Names};

use crate::end_tokens::is_turn_end;
use crate::error::TextError;
use crate::gguf::Metadata;
use crate::tokenizer::decoder::TokenDecoder;
use crate::tokenizer::pieces::Pieces;
use crate::tokenizer::pre::Bos;

/// `tokenizer.ggml.token_type`.
const NORMAL: i64 = 1;
const UNKNOWN: i64 = 2;
const CONTROL: i64 = 3;
const USER_DEFINED: i64 = 4;
const UNUSED: i64 = 5;
/// The longest token of a `SentencePiece` vocabulary; they stop at 16 characters unless a user defined others.
const MAX_SCORED_BYTES: usize = 1 << 10;

/// The tokens of a header with their types.
pub(super) struct Vocab<'m> {
    pub(super) tokens: &'m [String],
    types: &'m [i64],
    ids: HashMap<&'m str, u32>,
}

impl<'m> Vocab<'m> {
    pub(super) fn read(metadata: &'m Metadata) -> Result<Self, TextError> {
        let tokens = metadata.strings("tokenizer.ggml.tokens")?.unwrap_or_default();
        let types = metadata.ints("tokenizer.ggml.token_type")?.unwrap_or_default();
        if tokens.is_empty() {
            return Err(metadata.error("key `tokenizer.ggml.tokens` is missing or empty"));
        }
        if !types.is_empty() && types.len() != tokens.len() {
            let (types, tokens) = (types.len(), tokens.len());
            return Err(metadata.error(format!("`tokenizer.ggml.token_type` has {types} elements for {tokens} tokens")));
        }
        let mut ids = HashMap::with_capacity(tokens.len());
        for (token, id) in tokens.iter().map(String::as_str).zip(0..).filter(|(token, _)| !token.is_empty()) {
            if let Some(first) = ids.insert(token, id) {
                let reason = format!("`tokenizer.ggml.tokens`: `{token}` has the ids {first} and {id}");
                return Err(metadata.error(reason));
            }
        }
        Ok(Self { tokens, types, ids })
    }

    /// The id of a token by its name.
    pub(super) fn get(&self, token: &str) -> Option<u32> {
        self.ids.get(token).copied()
    }

    /// Names with ids; a token without a name is none.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&'m str, u32)> {
        self.tokens.iter().map(String::as_str).zip(0..).filter(|(token, _)| !token.is_empty())
    }

    /// The crate's part: it looks tokens up and finds the marked ones in text; it merges nothing.
    pub(super) fn names(&self, metadata: &Metadata) -> Result<tokenizers::Tokenizer, TextError> {
        let names: Names = self.iter().map(|(token, id)| (token.to_owned(), id)).collect();
        let model = BPE::builder().vocab_and_merges(names, Vec::new()).cache_capacity(0).build();
        let mut inner = tokenizers::Tokenizer::new(model.map_err(|error| metadata.error(error.to_string()))?);
        add_marked_tokens(&mut inner, self).map_err(|error| metadata.error(error.to_string()))?;
        Ok(inner)
    }

    /// The token's type. Files that call `<|im_end|>` and its like ordinary are mended, as llama.cpp mends them. So is
    /// Gemma 4's `</s>`, which is ordinary text whatever the file says.
    fn kind(&self, index: usize) -> i64 {
        let kind = self.types.get(index).copied().unwrap_or(NORMAL);
        let token = &self.tokens[index];
        if token == "</s>" && self.get("<|tool_response>").is_some() {
            return NORMAL;
        }
        if matches!(kind, NORMAL | USER_DEFINED) && is_turn_end(token) { CONTROL } else { kind }
    }

    /// Whether the token stands for text that is written in it.
    pub(super) fn is_text(&self, id: u32) -> bool {
        matches!(self.kind(id as usize), NORMAL | USER_DEFINED | UNUSED)
    }

    pub(super) fn is_normal(&self, id: u32) -> bool {
        self.kind(id as usize) == NORMAL
    }

    pub(super) fn is_user_defined(&self, id: u32) -> bool {
        self.kind(id as usize) == USER_DEFINED
    }

    /// One score for each token. What goes by score looks at every token's beginning again and again, so none is long.
    pub(super) fn scores(&self, metadata: &'m Metadata) -> Result<&'m [f32], TextError> {
        let scores = metadata.floats("tokenizer.ggml.scores")?.unwrap_or_default();
        if scores.len() != self.tokens.len() {
            let (scores, tokens) = (scores.len(), self.tokens.len());
            return Err(metadata.error(format!("`tokenizer.ggml.scores` has {scores} elements for {tokens} tokens")));
        }
        if let Some(id) = scores.iter().position(|score| score.is_nan()) {
            return Err(metadata.error(format!("`tokenizer.ggml.scores`: element {id} is no number")));
        }
        if let Some((token, id)) = self.iter().find(|(token, _)| token.len() > MAX_SCORED_BYTES) {
            let len = token.len();
            let reason =
                format!("`tokenizer.ggml.tokens`: element {id} has `{len}` bytes; the limit is {MAX_SCORED_BYTES}");
            return Err(metadata.error(reason));
        }
        Ok(scores)
    }

    fn is_special(&self, index: usize) -> bool {
        matches!(self.kind(index), UNKNOWN | CONTROL)
    }

    pub(super) fn id(&self, metadata: &Metadata, key: &str) -> Result<Option<u32>, TextError> {
        let id = metadata.token_id(key)?;
        if let Some(id) = id.filter(|&id| id as usize >= self.tokens.len()) {
            return Err(metadata.error(format!("key `{key}` is `{id}`; the vocabulary ends at {}", self.tokens.len())));
        }
        Ok(id)
    }

    pub(super) fn pieces(&self, decoder: &TokenDecoder) -> Pieces {
        let mut pieces = Pieces::new(decoder.leading);
        for (index, token) in self.tokens.iter().enumerate() {
            let marked = matches!(self.kind(index), UNKNOWN | CONTROL | USER_DEFINED);
            let bytes = if marked { token.as_bytes().to_vec() } else { decoder.bytes(token) };
            pieces.set(index as u32, &bytes, self.is_special(index));
        }
        pieces
    }
}

/// The beginning and end tokens, and which of them a text gets.
#[derive(Clone, Copy)]
pub(super) struct Edges {
    pub(super) bos: Option<u32>,
    pub(super) eos: Option<u32>,
    pub(super) prefix: Option<u32>,
    pub(super) suffix: Option<u32>,
}

/// What holds where a header does not say.
#[derive(Debug, Clone, Copy)]
pub(super) struct Defaults {
    pub(super) bos: Bos,
    pub(super) eos: bool,
    pub(super) bos_id: Option<u32>,
    pub(super) eos_id: Option<u32>,
}

impl Edges {
    pub(super) fn read(metadata: &Metadata, vocab: &Vocab<'_>, defaults: &Defaults) -> Result<Self, TextError> {
        let id = |key: &str, default: Option<u32>| {
            let default = default.filter(|&id| (id as usize) < vocab.tokens.len());
            vocab.id(metadata, key).map(|id| id.or(default))
        };
        let bos = id("tokenizer.ggml.bos_token_id", defaults.bos_id)?;
        let eos = id("tokenizer.ggml.eos_token_id", defaults.eos_id)?;
        let edge = |key: &str, default: bool, id: Option<u32>| {
            let wanted = metadata.bool(key)?;
            if wanted == Some(true) && id.is_none() {
                return Err(metadata.error(format!("key `{key}` is true but the header names no such token")));
            }
            Ok(id.filter(|_| wanted.unwrap_or(default)))
        };
        let prefix = match defaults.bos {
            Bos::Forced => bos,
            other => edge("tokenizer.ggml.add_bos_token", other == Bos::Present, bos)?,
        };
        let suffix = edge("tokenizer.ggml.add_eos_token", defaults.eos, eos)?;
        Ok(Self { bos, eos, prefix, suffix })
    }
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
