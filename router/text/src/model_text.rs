//! Everything textual about one model, read from the files that came with it.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use crate::chat_template::{ChatTemplates, TemplateSources};
use crate::end_tokens::EndTokens;
use crate::error::TextError;
use crate::gguf::Metadata;
use crate::tokenizer::{Tokenizer, added_token};

/// The longest file that is read whole; the `tokenizer.json` of 256,000 tokens has 33 MB.
const MAX_FILE_BYTES: u64 = 1 << 28;

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
    pub fn load(files: &TextFiles) -> Result<Self, TextError> {
        let gguf = files.gguf.as_deref().map(Metadata::read).transpose()?;
        let config = read_json(files.tokenizer_config.as_deref())?;
        let tokenizer = load_tokenizer(files, gguf.as_ref(), config.as_ref())?;
        let sources = TemplateSources::read(files, config.as_ref(), gguf.as_ref())?;
        let mut end_tokens = EndTokens::new(&tokenizer);
        for path in [&files.generation_config, &files.config] {
            if let Some((path, json)) = path.as_deref().zip(read_json(path.as_deref())?) {
                end_tokens.add_config(&json, path)?;
            }
        }
        if let Some(gguf) = &gguf {
            end_tokens.add_gguf(gguf)?;
        }
        sources.iter().for_each(|source| end_tokens.add_template(source));
        let end_token_ids = end_tokens.finish();
        let chat_templates = sources.compile(tokenizer.bos_token(), tokenizer.eos_token()).map(Arc::new);
        Ok(Self { tokenizer: Arc::new(tokenizer), chat_templates, end_token_ids })
    }
}

fn load_tokenizer(files: &TextFiles, gguf: Option<&Metadata>, config: Option<&Value>) -> Result<Tokenizer, TextError> {
    let tokenizer = match (&files.tokenizer_json, gguf) {
        (Some(path), _) => Tokenizer::from_json(path)?,
        (None, Some(gguf)) => return Ok(with_names(Tokenizer::from_metadata(gguf)?, config)),
        (None, None) => return Err(TextError::NoTokenizer),
    };
    let Some((path, config)) = files.tokenizer_config.as_deref().zip(config) else { return Ok(tokenizer) };
    let mut added = Vec::new();
    for (id, entry) in config["added_tokens_decoder"].as_object().into_iter().flatten() {
        let parsed = id.parse().ok().zip(added_token(entry));
        added.push(
            parsed.ok_or_else(|| TextError::file(path, format!("`added_tokens_decoder` entry `{id}` is malformed")))?,
        );
    }
    added.sort_unstable_by_key(|(id, _)| *id);
    Ok(with_names(tokenizer.with_added_tokens(added, path)?, Some(config)))
}

fn with_names(tokenizer: Tokenizer, config: Option<&Value>) -> Tokenizer {
    let name = |key: &str| {
        let token = &config?[key];
        token.as_str().or_else(|| token["content"].as_str())
    };
    tokenizer.with_bos_eos(name("bos_token"), name("eos_token"))
}

pub(crate) fn read_json(path: Option<&Path>) -> Result<Option<Value>, TextError> {
    let Some(path) = path else { return Ok(None) };
    let text = read_text(path)?;
    serde_json::from_str(&text).map(Some).map_err(|error| TextError::file(path, error))
}

pub(crate) fn read_text(path: &Path) -> Result<String, TextError> {
    String::from_utf8(read_bytes(path)?).map_err(|_| TextError::file(path, "the file is not UTF-8"))
}

/// A whole file, within bounds.
pub(crate) fn read_bytes(path: &Path) -> Result<Vec<u8>, TextError> {
    read_at_most(path, MAX_FILE_BYTES)
}

fn read_at_most(path: &Path, max_bytes: u64) -> Result<Vec<u8>, TextError> {
    let fail = |error: std::io::Error| TextError::file(path, error);
    let mut bytes = Vec::new();
    File::open(path).map_err(fail)?.take(max_bytes + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() as u64 > max_bytes {
        return Err(TextError::file(path, format!("the file exceeds the limit of {max_bytes} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_gguf::{GgufWriter, write_file};

    fn fixture(name: &str) -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
    }

    #[test]
    fn a_folder_gives_tokenizer_template_and_ends() {
        let generation_config = write_file(br#"{"eos_token_id": 5}"#);
        let text = ModelText::load(&TextFiles {
            tokenizer_json: Some(fixture("tiny_tokenizer.json")),
            tokenizer_config: Some(fixture("tiny_tokenizer_config.json")),
            generation_config: Some(generation_config.path().to_owned()),
            ..TextFiles::default()
        })
        .unwrap();
        assert_eq!(
            (text.tokenizer.bos_token(), text.tokenizer.eos_token()),
            (Some("<|im_start|>"), Some("<|im_end|>"))
        );
        assert_eq!(text.end_token_ids, [5, text.tokenizer.token_to_id("<|im_end|>").unwrap()]);
        assert!(text.chat_templates.is_some());
    }

    #[test]
    fn a_gguf_alone_is_enough() {
        let gguf = GgufWriter::tiny("smollm")
            .u32("tokenizer.ggml.eot_token_id", 3)
            .u32("tokenizer.ggml.eom_token_id", u32::MAX)
            .write();
        let text = ModelText::load(&TextFiles { gguf: Some(gguf.path().to_owned()), ..TextFiles::default() }).unwrap();
        assert_eq!(text.end_token_ids, [3, text.tokenizer.token_to_id("<|im_end|>").unwrap()]);
        assert!(text.chat_templates.is_none());
    }

    #[test]
    fn a_file_that_never_ends_is_refused() {
        let error = read_at_most(Path::new("/dev/zero"), 1 << 12).unwrap_err().to_string();
        assert_eq!(error, "`/dev/zero`: the file exceeds the limit of 4096 bytes");
        assert_eq!(read_at_most(write_file(b"1234").path(), 4).unwrap(), b"1234");
    }

    #[test]
    fn nothing_at_all_is_no_tokenizer_and_a_bad_file_is_named() {
        assert!(matches!(ModelText::load(&TextFiles::default()), Err(TextError::NoTokenizer)));
        let bad = write_file(b"{");
        let files = TextFiles { tokenizer_json: Some(bad.path().to_owned()), ..TextFiles::default() };
        let error = ModelText::load(&files).unwrap_err().to_string();
        assert!(error.starts_with(&format!("`{}`: ", bad.path().display())), "{error}");
    }
}
