//! What can be wrong with a tokenizer, a template or a text.

use std::fmt::Display;
use std::path::{Path, PathBuf};

/// Each variant names the culprit.
#[derive(Debug, thiserror::Error)]
pub enum TextError {
    /// Neither `tokenizer.json` nor a GGUF header.
    #[error("the model has no tokenizer: neither `tokenizer.json` nor a GGUF file was found")]
    NoTokenizer,
    /// A file could not be read or parsed.
    #[error("`{}`: {reason}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// A tokenizer kind that is not built yet.
    #[error("`{}`: {what} `{name}` is not supported; pass a folder that holds a supported `tokenizer.json`", path.display())]
    Unsupported {
        /// Which file.
        path: PathBuf,
        /// "tokenizer model", "pre-tokenizer", "decoder".
        what: &'static str,
        /// Its name in the file.
        name: String,
    },
    /// The text could not be encoded.
    #[error("tokenizer error {0}")]
    Encode(String),
    /// The template refused the messages or failed: `raise_exception`, an undefined value, out of fuel.
    #[error("template error: {0}")]
    Template(String),
    /// The template needs a variable that the request did not give.
    #[error("missing template variable: {0}")]
    MissingVariable(String),
}

impl TextError {
    pub(crate) fn file(path: &Path, reason: impl Display) -> Self {
        Self::File { path: path.to_owned(), reason: reason.to_string() }
    }
}
