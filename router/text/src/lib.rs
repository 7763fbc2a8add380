//! Strings to token ids and back. Synchronous, pure but for loading files.
#![forbid(unsafe_code)]

mod chat_template;
mod detokenizer;
mod end_tokens;
mod error;
mod gguf;
mod model_text;
mod stop_strings;
#[cfg(test)]
mod test_gguf;
#[cfg(test)]
mod test_random;
mod tokenizer;

pub use chat_template::{ChatInputs, ChatTemplate, ChatTemplates, Clock};
pub use detokenizer::Detokenizer;
pub use error::TextError;
pub use model_text::{ModelText, TextFiles};
pub use stop_strings::{StopStep, StopStrings};
pub use tokenizer::{Encoding, Tokenizer};
