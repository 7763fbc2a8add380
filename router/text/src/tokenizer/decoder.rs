//! The `decoder` of a `tokenizer.json`, as a function from one token to its bytes.
//!
//! Generation needs a token's text to depend on the token alone, apart from what is dropped at the beginning of a
//! text. Decoders for which that does not hold are refused by name.

use std::path::Path;

use serde_json::Value;
use tokenizers::decoders::wordpiece::cleanup;
use tokenizers::normalizers::Replace;
use tokenizers::{Decoder, PreTokenizerWrapper};

use super::byte_level;
use super::pieces::LeadingRule;
use super::spm::SPACE;
use crate::error::TextError;

/// The steps that turn a token into bytes.
#[derive(Debug)]
pub(super) struct TokenDecoder {
    steps: Vec<Step>,
    pub(super) leading: LeadingRule,
}

#[derive(Debug)]
enum Step {
    ByteLevel,
    ByteFallback,
    Metaspace(char),
    Replace(Box<Replace>),
    Strip {
        content: char,
        start: usize,
        stop: usize,
    },
    /// A space before every token, or before every word (`prefix` marks the continuation of one).
    Words {
        prefix: Option<String>,
        cleanup: bool,
    },
}

/// A token on its way: text still, or bytes that later steps leave alone.
enum Piece {
    Text(String),
    Bytes(Vec<u8>),
}

impl TokenDecoder {
    /// The decoder of byte-level vocabularies.
    pub(super) fn byte_level() -> Self {
        Self { steps: vec![Step::ByteLevel], leading: LeadingRule::Keep }
    }

    /// The decoder of vocabularies of characters in which a space is a space.
    pub(super) fn characters() -> Self {
        Self { steps: vec![Step::ByteFallback], leading: LeadingRule::Keep }
    }

    /// The decoder of `SentencePiece` vocabularies; `prefixed` if encoding puts a space before a text.
    pub(super) fn spm(prefixed: bool) -> Self {
        let leading = if prefixed { LeadingRule::strip_spaces(1) } else { LeadingRule::Keep };
        Self { steps: vec![Step::ByteFallback, Step::Metaspace(SPACE)], leading }
    }

    pub(super) fn from_json(json: &Value, path: &Path) -> Result<Self, TextError> {
        if json.is_null() {
            let words = Step::Words { prefix: None, cleanup: false };
            return Ok(Self { steps: vec![words], leading: LeadingRule::strip_spaces(1) });
        }
        let mut decoder = Self { steps: Vec::new(), leading: LeadingRule::Keep };
        let mut fused = false;
        let sequence = json["decoders"].as_array().filter(|_| json["type"] == "Sequence");
        for step in sequence.map_or(std::slice::from_ref(json), Vec::as_slice) {
            decoder.add(step, &mut fused).map_err(|name| TextError::Unsupported {
                path: path.to_owned(),
                what: "decoder",
                name,
            })?;
        }
        Ok(decoder)
    }

    /// Adds one step, or gives the name of one that cannot be taken.
    fn add(&mut self, json: &Value, fused: &mut bool) -> Result<(), String> {
        let name = json["type"].as_str().unwrap_or("without a type").to_owned();
        match name.as_str() {
            "Fuse" => *fused = true,
            "ByteLevel" if !*fused => self.steps.push(Step::ByteLevel),
            "ByteFallback" if !*fused => self.steps.push(Step::ByteFallback),
            "WordPiece" if !*fused => {
                let prefix = json["prefix"].as_str().unwrap_or("##").to_owned();
                let cleanup = json["cleanup"].as_bool().unwrap_or(true);
                self.steps.push(Step::Words { prefix: Some(prefix), cleanup });
                self.leading = LeadingRule::strip_spaces(1);
            }
            "Metaspace" if !*fused => self.add_metaspace(json)?,
            "Replace" if !*fused || is_one_character(&json["pattern"]["String"]) => {
                let replace = serde_json::from_value(json.clone()).map_err(|error| format!("Replace ({error})"))?;
                self.steps.push(Step::Replace(Box::new(replace)));
            }
            "Strip" => self.add_strip(json, *fused)?,
            _ if *fused => return Err(format!("{name} after Fuse")),
            _ => return Err(name),
        }
        Ok(())
    }

    fn add_metaspace(&mut self, json: &Value) -> Result<(), String> {
        let parsed = serde_json::from_value(json.clone()).map_err(|error| format!("Metaspace ({error})"))?;
        let PreTokenizerWrapper::Metaspace(metaspace) = parsed else { return Err("Metaspace".to_owned()) };
        self.steps.push(Step::Metaspace(metaspace.get_replacement()));
        if metaspace.get_prepend_scheme() != tokenizers::pre_tokenizers::metaspace::PrependScheme::Never {
            self.leading = LeadingRule::FirstToken;
        }
        Ok(())
    }

    fn add_strip(&mut self, json: &Value, fused: bool) -> Result<(), String> {
        let content = json["content"].as_str().and_then(|content| content.chars().next());
        let count = |name: &str| json[name].as_u64().unwrap_or(0) as usize;
        match content {
            Some(content) if !fused => {
                self.steps.push(Step::Strip { content, start: count("start"), stop: count("stop") });
            }
            Some(content) if content.is_ascii() && count("stop") == 0 => {
                self.leading = LeadingRule::Strip { content: content as u8, count: count("start") };
            }
            _ => return Err(format!("Strip of `{}` after Fuse", json["content"])),
        }
        Ok(())
    }

    /// The bytes of one token in the middle of a text.
    pub(super) fn bytes(&self, token: &str) -> Vec<u8> {
        let piece = self.steps.iter().fold(Piece::Text(token.to_owned()), |piece, step| match piece {
            Piece::Text(text) => step.apply(text),
            bytes @ Piece::Bytes(_) => bytes,
        });
        match piece {
            Piece::Text(text) => text.into_bytes(),
            Piece::Bytes(bytes) => bytes,
        }
    }
}

impl Step {
    fn apply(&self, text: String) -> Piece {
        match self {
            Self::ByteLevel => Piece::Bytes(byte_level::bytes(&text)),
            Self::ByteFallback => match fallback_byte(&text) {
                Some(byte) => Piece::Bytes(vec![byte]),
                None => Piece::Text(text),
            },
            Self::Metaspace(replacement) => Piece::Text(text.replace(*replacement, " ")),
            Self::Replace(replace) => {
                let replaced = replace.decode_chain(vec![text.clone()]).ok().and_then(|mut texts| texts.pop());
                Piece::Text(replaced.unwrap_or(text))
            }
            Self::Strip { content, start, stop } => Piece::Text(strip(&text, *content, *start, *stop).to_owned()),
            Self::Words { prefix, cleanup: clean } => {
                let continued = prefix.as_ref().and_then(|prefix| text.strip_prefix(prefix.as_str()));
                let word = continued.map_or_else(|| format!(" {text}"), str::to_owned);
                Piece::Text(if *clean { cleanup(&word) } else { word })
            }
        }
    }
}

/// `<0x0A>` is the byte 10.
pub(super) fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    if digits.len() == 2 { u8::from_str_radix(digits, 16).ok() } else { None }
}

fn strip(text: &str, content: char, start: usize, stop: usize) -> &str {
    let text = (0..start).fold(text, |text, _| text.strip_prefix(content).unwrap_or(text));
    (0..stop).fold(text, |text, _| text.strip_suffix(content).unwrap_or(text))
}

fn is_one_character(pattern: &Value) -> bool {
    pattern.as_str().is_some_and(|pattern| pattern.chars().count() == 1)
}
