//! Strings to token ids and back. Synchronous, pure but for loading files.
#![forbid(unsafe_code)]

mod chat_template;
mod detokenizer;
mod error;
mod stop_strings;
mod tokenizer;

pub use chat_template::{ChatInputs, ChatTemplate, ChatTemplates};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use stop_strings::{StopStep, StopStrings};
pub use tokenizer::{Encoding, Tokenizer};

use std::path::PathBuf;
use std::sync::Arc;

/// Where a model's text files lie, as `forebay_worker model-info` found them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TextFiles {
    /// `tokenizer.json`.
    pub tokenizer_json: Option<PathBuf>,
    /// A GGUF file, whose header holds a tokenizer and maybe templates. `tokenizer_json` wins when both are given.
    pub gguf: Option<PathBuf>,
    /// `tokenizer_config.json` (template, bos/eos, added tokens), also the operator's `--tokenizer-config-path`.
    pub tokenizer_config: Option<PathBuf>,
    /// `chat_template.jinja`; wins over the other places.
    pub chat_template_jinja: Option<PathBuf>,
    /// `chat_template.json`.
    pub chat_template_json: Option<PathBuf>,
    /// `generation_config.json`: eos ids.
    pub generation_config: Option<PathBuf>,
    /// `config.json`: eos ids.
    pub config: Option<PathBuf>,
}

/// Everything textual about one model.
#[derive(Debug, Clone)]
pub struct ModelText {
    /// Encodes and decodes.
    pub tokenizer: Arc<Tokenizer>,
    /// Absent when the model has none; `Err` of rendering says so.
    pub chat_templates: Option<Arc<ChatTemplates>>,
    /// Union of `generation_config`, config, the GGUF's eos/eot and the ids that end the template's turns; sorted.
    pub end_token_ids: Vec<u32>,
}

impl ModelText {
    /// Reads the files. Errors name the file and what is wrong with it.
    pub fn load(_files: &TextFiles) -> Result<Self, TextError> {
        Err(TextError::NoTokenizer)
    }
}
