//! Text to token ids, and what is known of each id.
//!
//! Encoding is ours where the rules are known: merging within words ([`bpe`]), `SentencePiece`'s two kinds ([`spm`],
//! [`unigram`]). What a `tokenizer.json` says beyond that is left to the `tokenizers` crate. Decoding is ours: a table of
//! each token's bytes ([`pieces`]), so that a stream decodes in constant time a token and whole texts and streams agree
//! to the byte.

mod added;
mod bpe;
mod byte_level;
mod charsmap;
mod decoder;
mod from_gguf;
mod from_json;
mod pair_map;
mod pieces;
mod pre;
mod spm;
mod trie;
mod unigram;
mod words;
mod work;

use std::ops::Range;
use std::path::Path;

use serde_json::Value;
use tokenizers::{AddedToken, OffsetReferential, OffsetType};

use crate::detokenizer::TextBuilder;
use crate::error::TextError;
use crate::gguf::Metadata;
use crate::model_text::read_bytes;
use added::AddedTokens;
use bpe::Bpe;
use decoder::TokenDecoder;
pub(crate) use pieces::LeadingRule;
use pieces::Pieces;
use spm::Spm;
use unigram::Unigram;
use words::Words;

/// A loaded tokenizer, from `tokenizer.json` or from a GGUF header.
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    pieces: Pieces,
    /// Known word rules; without them the crate cuts, which takes 400 bytes of memory for each byte of text.
    by_hand: Option<ByHand>,
    bos_token: Option<String>,
    eos_token: Option<String>,
    warning: Option<String>,
}

/// Encoding without the crate's pre-tokenizer and post-processor.
struct ByHand {
    method: Method,
    /// How marked tokens are found; `None` leaves it to the crate.
    added: Option<AddedTokens>,
    /// Ids around a text that asks for special tokens.
    prefix: Vec<u32>,
    suffix: Vec<u32>,
    /// Whether offsets are ours too: the post-processor of a `tokenizer.json` has its own ideas of them.
    offsets: bool,
}

/// How the text between added tokens is encoded.
enum Method {
    /// Cut into words, of which each is merged.
    Words(Words, Bpe),
    Spm(Spm),
    Unigram(Unigram),
}

/// An encoded text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Encoding {
    /// Token ids.
    pub ids: Vec<u32>,
    /// Byte range of each token in the text that was encoded; empty for added special tokens.
    pub offsets: Vec<Range<usize>>,
}

impl Tokenizer {
    /// Reads `tokenizer.json`.
    pub fn from_json(path: &Path) -> Result<Self, TextError> {
        Self::parse_json(&read_bytes(path)?, path)
    }

    /// Parses the content of a `tokenizer.json`.
    pub fn from_json_bytes(bytes: &[u8]) -> Result<Self, TextError> {
        Self::parse_json(bytes, Path::new("tokenizer.json"))
    }

    /// Builds it from `tokenizer.ggml.*` of a GGUF header.
    pub fn from_gguf(path: &Path) -> Result<Self, TextError> {
        Self::from_metadata(&Metadata::read(path)?)
    }

    /// The pre-tokenizers that [`Self::from_gguf`] knows (`tokenizer.ggml.pre`).
    pub fn pre_tokenizers() -> impl Iterator<Item = &'static str> {
        pre::names()
    }

    pub(crate) fn from_metadata(metadata: &Metadata) -> Result<Self, TextError> {
        from_gguf::build(metadata)
    }

    fn parse_json(bytes: &[u8], path: &Path) -> Result<Self, TextError> {
        let json: Value = serde_json::from_slice(bytes).map_err(|error| TextError::file(path, error))?;
        from_json::check_ids(&json["model"]["vocab"]).map_err(|reason| TextError::file(path, reason))?;
        let decoder = TokenDecoder::from_json(&json["decoder"], path)?;
        let mut inner = tokenizers::Tokenizer::from_bytes(bytes).map_err(|error| TextError::file(path, error))?;
        // A file may carry the truncation and padding of somebody's training run.
        inner.with_truncation(None).map_err(|error| TextError::file(path, error))?.with_padding(None);
        let pieces = Pieces::from_tokenizer(&inner, &decoder, path)?;
        let by_hand = from_json::by_hand(&json, &inner);
        Ok(Self { inner, pieces, by_hand, bos_token: None, eos_token: None, warning: None })
    }

    /// Names the beginning and end tokens, as `tokenizer_config.json` does; `None` leaves the name as it is.
    #[must_use]
    pub fn with_bos_eos(mut self, bos: Option<&str>, eos: Option<&str>) -> Self {
        self.bos_token = bos.map(str::to_owned).or(self.bos_token);
        self.eos_token = eos.map(str::to_owned).or(self.eos_token);
        self
    }

    /// Adds what `added_tokens_decoder` of a `tokenizer_config.json` lists and `tokenizer.json` lacks. Each token must
    /// get the id that the config names: a model was trained with it.
    pub(crate) fn with_added_tokens(mut self, tokens: Vec<(u32, AddedToken)>, path: &Path) -> Result<Self, TextError> {
        let known = self.inner.get_added_tokens_decoder();
        for (id, token) in tokens.into_iter().filter(|(id, token)| known.get(id) != Some(token)) {
            let content = token.content.clone();
            let added = if token.special {
                self.inner.add_special_tokens([token.clone()])
            } else {
                self.inner.add_tokens([token.clone()])
            };
            added.map_err(|error| TextError::file(path, error))?;
            if self.inner.token_to_id(&content) != Some(id) {
                let reason = format!("added token `{content}` cannot have the id {id}: `tokenizer.json` disagrees");
                return Err(TextError::file(path, reason));
            }
            self.pieces.set_added(id, &content, token.special);
        }
        if let Some(by_hand) = &mut self.by_hand {
            by_hand.added = AddedTokens::new(&self.inner);
        }
        Ok(self)
    }

    /// Text to ids. `add_special` adds what the model's own post-processor adds (BOS); special tokens written in the
    /// text are recognised either way.
    pub fn encode(&self, text: &str, add_special: bool) -> Result<Encoding, TextError> {
        if self.by_hand.as_ref().is_some_and(|by_hand| by_hand.offsets) {
            return self.encode_exact(text, add_special);
        }
        self.encode_by_crate(text, add_special)
    }

    /// As [`Self::encode`] at the price of [`Self::encode_ids`]. Every range holds all bytes that its token stands for,
    /// of which the post-processor of a `tokenizer.json` may leave out a leading space.
    pub fn encode_exact(&self, text: &str, add_special: bool) -> Result<Encoding, TextError> {
        let Some(by_hand) = &self.by_hand else { return self.encode_by_crate(text, add_special) };
        let mut result = Encoding::default();
        self.encode_by_hand(by_hand, text, add_special, &mut |id, range| {
            result.ids.push(id);
            result.offsets.push(whole_characters(text, range));
        });
        Ok(result)
    }

    /// The ids of [`Self::encode`] alone.
    pub fn encode_ids(&self, text: &str, add_special: bool) -> Result<Vec<u32>, TextError> {
        let Some(by_hand) = &self.by_hand else {
            let encoding = self.inner.encode_fast(text, add_special).map_err(|error| failed(&error))?;
            return Ok(encoding.get_ids().to_vec());
        };
        let mut ids = Vec::new();
        self.encode_by_hand(by_hand, text, add_special, &mut |id, _| ids.push(id));
        Ok(ids)
    }

    fn encode_by_crate(&self, text: &str, add_special: bool) -> Result<Encoding, TextError> {
        let encoding = self.inner.encode(text, add_special).map_err(|error| failed(&error))?;
        let offsets = encoding.get_offsets().iter().map(|&(start, end)| start..end).collect();
        Ok(Encoding { ids: encoding.get_ids().to_vec(), offsets })
    }

    fn encode_by_hand(
        &self,
        by_hand: &ByHand,
        text: &str,
        add_special: bool,
        take: &mut impl FnMut(u32, Range<usize>),
    ) {
        let edge = |ids: &'_ [u32], at: usize, take: &mut dyn FnMut(u32, Range<usize>)| {
            ids.iter().filter(|_| add_special).for_each(|&id| take(id, at..at));
        };
        edge(&by_hand.prefix, 0, take);
        self.encode_pieces(by_hand, text, take);
        edge(&by_hand.suffix, text.len(), take);
    }

    /// Added tokens are taken out, what lies between is encoded.
    fn encode_pieces(&self, by_hand: &ByHand, text: &str, take: &mut impl FnMut(u32, Range<usize>)) {
        let mut after_added = true;
        if let Some(added) = by_hand.added.as_ref().filter(|added| added.takes(text)) {
            return added.split(text, |range, token| {
                match token {
                    Some(id) => take(id, range),
                    None => by_hand.method.encode(&text[range.clone()], range.start, after_added, take),
                }
                after_added = token.is_some();
            });
        }
        let added = self.inner.get_added_vocabulary().extract_and_normalize(self.inner.get_normalizer(), text);
        for (piece, (start, end), tokens) in added.get_splits(OffsetReferential::Original, OffsetType::Byte) {
            match tokens {
                Some(tokens) => tokens.iter().for_each(|token| take(token.id, start..end)),
                None => by_hand.method.encode(piece, start, after_added, take),
            }
            after_added = tokens.is_some();
        }
    }

    /// Ids to text in one piece. Bytes that make no character become U+FFFD; ids that no token has are left out.
    pub fn decode(&self, ids: &[u32], skip_special: bool) -> String {
        let mut builder = TextBuilder::new(self.leading_rule());
        let mut text = String::new();
        for &id in ids.iter().filter(|&&id| !(skip_special && self.is_special(id))) {
            builder.push(self.pieces.bytes(id), &mut text);
        }
        builder.finish(&mut text);
        text
    }

    /// One token's own text, as TGI's `token.text`: special tokens by their name, half characters as U+FFFD. A leading
    /// space that the token stands for is kept.
    pub fn token_text(&self, id: u32) -> String {
        String::from_utf8_lossy(self.pieces.bytes(id)).into_owned()
    }

    /// One token's bytes (a special token's name); empty for ids that stand for none.
    pub fn token_bytes(&self, id: u32) -> Vec<u8> {
        self.pieces.bytes(id).to_vec()
    }

    /// A control token: hidden when special tokens are skipped.
    pub fn is_special(&self, id: u32) -> bool {
        self.pieces.is_special(id)
    }

    /// The id of a token by its exact name.
    pub fn token_to_id(&self, token: &str) -> Option<u32> {
        self.inner.token_to_id(token).filter(|&id| (id as usize) < self.pieces.len())
    }

    /// Highest id + 1.
    pub fn vocab_size(&self) -> u32 {
        self.pieces.len() as u32
    }

    /// The beginning-of-sequence token's name, for templates.
    pub fn bos_token(&self) -> Option<&str> {
        self.bos_token.as_deref()
    }

    /// The end-of-sequence token's name, for templates.
    pub fn eos_token(&self) -> Option<&str> {
        self.eos_token.as_deref()
    }

    /// What the operator should know of this tokenizer: it works, and yet something is wrong with its file.
    pub fn warning(&self) -> Option<&str> {
        self.warning.as_deref()
    }

    /// The bytes that a token adds to a text.
    pub(crate) fn piece(&self, id: u32) -> &[u8] {
        self.pieces.bytes(id)
    }

    /// What the decoder drops at the beginning of a text.
    pub(crate) fn leading_rule(&self) -> LeadingRule {
        self.pieces.leading()
    }
}

impl Method {
    /// Calls `take` with each id of a piece that begins at `start`, and its range.
    fn encode(&self, piece: &str, start: usize, after_added: bool, take: &mut impl FnMut(u32, Range<usize>)) {
        let take = |id, range: Range<usize>| take(id, start + range.start..start + range.end);
        match self {
            Self::Words(words, bpe) => encode_words(words, bpe, piece, take),
            Self::Spm(spm) => spm.encode(piece, after_added, take),
            Self::Unigram(unigram) => unigram.encode(piece, take),
        }
    }
}

/// Cuts into words and merges each.
fn encode_words(words: &Words, bpe: &Bpe, text: &str, mut take: impl FnMut(u32, Range<usize>)) {
    let (mut merger, mut at) = (bpe.merger(), 0);
    words.cut(text, |word| {
        merger.merge(word, |id, range| take(id, at + range.start..at + range.end));
        at += word.len();
    });
}

impl std::fmt::Debug for Tokenizer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tokenizer")
            .field("vocab_size", &self.vocab_size())
            .field("bos_token", &self.bos_token)
            .field("eos_token", &self.eos_token)
            .finish_non_exhaustive()
    }
}

fn failed(error: &tokenizers::Error) -> TextError {
    TextError::Encode(error.to_string())
}

/// The range widened to the characters that it has parts of.
fn whole_characters(text: &str, range: Range<usize>) -> Range<usize> {
    let start = (0..=range.start.min(text.len())).rev().find(|&at| text.is_char_boundary(at)).unwrap_or(0);
    let end = (range.end..text.len()).find(|&at| text.is_char_boundary(at)).unwrap_or(text.len());
    start..end
}

/// One entry of `added_tokens_decoder` (`tokenizer_config.json`).
pub(crate) fn added_token(entry: &Value) -> Option<AddedToken> {
    let flag = |name: &str| entry[name].as_bool().unwrap_or(false);
    let token = AddedToken::from(entry["content"].as_str()?, flag("special"));
    Some(
        token
            .single_word(flag("single_word"))
            .lstrip(flag("lstrip"))
            .rstrip(flag("rstrip"))
            .normalized(flag("normalized")),
    )
}

#[cfg(test)]
pub(crate) mod tests;
