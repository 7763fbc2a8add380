//! Where a model's templates are written: the first of `chat_template.jinja` (with the named ones of
//! `additional_chat_templates/` beside it), `chat_template.json`, `tokenizer_config.json` and the GGUF header that has
//! any.

use std::path::Path;

use serde_json::Value;

use super::{ChatTemplate, ChatTemplates};
use crate::error::TextError;
use crate::gguf::{self, Metadata};
use crate::model_text::{TextFiles, read_json, read_text};

const FOLDER: &str = "additional_chat_templates";
const GGUF_KEY: &str = "tokenizer.chat_template";

/// Template sources by name.
#[derive(Debug, Default)]
pub(crate) struct TemplateSources(Vec<(String, String)>);

impl TemplateSources {
    pub(crate) fn read(files: &TextFiles, config: Option<&Value>, gguf: Option<&Metadata>) -> Result<Self, TextError> {
        if let Some(path) = &files.chat_template_jinja {
            let mut sources = Self(vec![("default".to_owned(), read_text(path)?)]);
            sources.add_folder(&path.with_file_name(FOLDER))?;
            return Ok(sources);
        }
        let json = read_json(files.chat_template_json.as_deref())?;
        let places = [(json.as_ref(), &files.chat_template_json), (config, &files.tokenizer_config)];
        for (json, path) in places {
            let Some((json, path)) = json.zip(path.as_deref()) else { continue };
            let found = Self::from_json(&json["chat_template"], path)?;
            if !found.0.is_empty() {
                return Ok(found);
            }
        }
        Ok(gguf.map(Self::from_gguf).unwrap_or_default())
    }

    /// `NAME.jinja` is the template `NAME`; a folder that is not there has none.
    fn add_folder(&mut self, folder: &Path) -> Result<(), TextError> {
        if !folder.is_dir() {
            return Ok(());
        }
        let mut paths = Vec::new();
        for entry in std::fs::read_dir(folder).map_err(|error| TextError::file(folder, error))? {
            paths.push(entry.map_err(|error| TextError::file(folder, error))?.path());
        }
        paths.sort_unstable();
        for path in paths.iter().filter(|path| path.extension().is_some_and(|extension| extension == "jinja")) {
            let name = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
            if self.0.iter().any(|(known, _)| *known == name) {
                return Err(TextError::file(path, format!("the template `{name}` is also in `chat_template.jinja`")));
            }
            self.0.push((name, read_text(path)?));
        }
        Ok(())
    }

    /// A string, a list of `{name, template}` or an object of templates by name.
    fn from_json(json: &Value, path: &Path) -> Result<Self, TextError> {
        let entry = |name: Option<&str>, template: Option<&str>| Some((name?.to_owned(), template?.to_owned()));
        let entries: Option<Vec<_>> = match json {
            Value::Null => Some(Vec::new()),
            Value::String(source) => Some(vec![("default".to_owned(), source.clone())]),
            Value::Array(list) => {
                list.iter().map(|item| entry(item["name"].as_str(), item["template"].as_str())).collect()
            }
            Value::Object(map) => map.iter().map(|(name, source)| entry(Some(name), source.as_str())).collect(),
            _ => None,
        };
        let malformed = || TextError::file(path, "`chat_template` is neither a string nor a list of {name, template}");
        entries.map(Self).ok_or_else(malformed)
    }

    /// `tokenizer.chat_template` is the default, `tokenizer.chat_template.<name>` a named one.
    fn from_gguf(metadata: &Metadata) -> Self {
        let mut entries: Vec<(String, String)> = Vec::new();
        for (key, value) in metadata.iter() {
            let (Some(suffix), gguf::Value::String(source)) = (key.strip_prefix(GGUF_KEY), value) else { continue };
            match suffix.strip_prefix('.') {
                Some(name) => entries.push((name.to_owned(), source.clone())),
                None if suffix.is_empty() => entries.push(("default".to_owned(), source.clone())),
                None => {}
            }
        }
        entries.sort_unstable();
        Self(entries)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(_, source)| source.as_str())
    }

    /// Compiles all; none gives `None`.
    pub(crate) fn compile(&self, bos_token: Option<&str>, eos_token: Option<&str>) -> Option<ChatTemplates> {
        let compile = |source: &str| ChatTemplate::compile(source, bos_token, eos_token);
        let named: Vec<_> = self
            .0
            .iter()
            .map(|(name, source)| {
                (name.clone(), compile(source).map_err(|error| format!("chat template `{name}`: {error}")))
            })
            .collect();
        (!named.is_empty()).then_some(ChatTemplates { named })
    }
}
