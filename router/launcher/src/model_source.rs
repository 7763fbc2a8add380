//! From the name of a model to its files, through the Python child that knows the hub and the formats.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use forebay_text::TextFiles;
use serde::Deserialize;

use crate::args::DownloadArgs;
use crate::process::Spawner;
use crate::python_task::{PythonTask, TaskError};

/// The child's exit code for what the user can mend.
const REFUSED: i32 = 2;

/// Which model the operator wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ModelSource {
    /// Hub id, folder or `.gguf` file; the bundled default if absent.
    pub(crate) model_id: Option<String>,
    pub(crate) revision: Option<String>,
    pub(crate) num_shard: u32,
    pub(crate) hub_cache: Option<PathBuf>,
    pub(crate) weights_cache: Option<PathBuf>,
    /// Used instead of the model's own.
    pub(crate) tokenizer_config: Option<PathBuf>,
}

/// What `model-info` says.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ModelInfo {
    pub(crate) model_id: String,
    pub(crate) revision: Option<String>,
    pub(crate) path: PathBuf,
    pub(crate) format: Option<String>,
    pub(crate) architecture: Option<String>,
    pub(crate) quantization: Option<String>,
    pub(crate) pipeline_tag: Option<String>,
    text_files: TextFilePaths,
}

/// Each text file that the model has.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct TextFilePaths {
    tokenizer_json: Option<PathBuf>,
    gguf: Option<PathBuf>,
    tokenizer_config: Option<PathBuf>,
    chat_template_jinja: Option<PathBuf>,
    chat_template_json: Option<PathBuf>,
    generation_config: Option<PathBuf>,
    config: Option<PathBuf>,
}

/// Why there is no model.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModelError {
    /// This model cannot be served, or not like this.
    #[error("{asked_for} is refused: {reason}")]
    Refused {
        /// The model, and into how many shards it was to be cut.
        asked_for: String,
        /// The child's last words.
        reason: String,
    },
    /// It could not be found out.
    #[error(transparent)]
    Failed(TaskError),
    /// Its answer is not what it should be.
    #[error("`forebay_worker model-info` gave no description of a model: {0}")]
    Answer(#[from] serde_json::Error),
}

impl fmt::Display for ModelSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.model_id {
            Some(id) => write!(formatter, "the model `{id}`")?,
            None => write!(formatter, "the bundled model")?,
        }
        if self.num_shard > 1 {
            write!(formatter, " with `--num-shard {}`", self.num_shard)?;
        }
        Ok(())
    }
}

impl From<DownloadArgs> for ModelSource {
    fn from(args: DownloadArgs) -> Self {
        Self {
            model_id: args.model_id,
            revision: args.revision,
            num_shard: 1,
            hub_cache: args.huggingface_hub_cache,
            weights_cache: args.weights_cache_override,
            tokenizer_config: None,
        }
    }
}

impl ModelSource {
    /// Finds the files, fetching them first if need be.
    pub(crate) async fn resolve(&self, spawner: &Spawner, python: &Path) -> Result<ModelInfo, ModelError> {
        let mut arguments: Vec<OsString> = vec!["--num-shard".into(), self.num_shard.to_string().into()];
        arguments.extend(self.arguments());
        let answer = self.run(spawner, python, "model-info", arguments).await?;
        Ok(serde_json::from_slice(&answer)?)
    }

    /// Fetches the files and answers what the child wrote: where they lie.
    pub(crate) async fn download(&self, spawner: &Spawner, python: &Path) -> Result<Vec<u8>, ModelError> {
        self.run(spawner, python, "download", self.arguments()).await
    }

    fn arguments(&self) -> Vec<OsString> {
        let mut arguments: Vec<OsString> = Vec::new();
        if let Some(revision) = &self.revision {
            arguments.extend(["--revision".into(), revision.into()]);
        }
        if let Some(folder) = &self.weights_cache {
            arguments.extend(["--weights-cache-dir".into(), folder.into()]);
        }
        // Behind `--`: a name that begins with a dash is no flag.
        if let Some(model_id) = &self.model_id {
            arguments.extend(["--".into(), model_id.into()]);
        }
        arguments
    }

    async fn run(
        &self,
        spawner: &Spawner,
        python: &Path,
        name: &'static str,
        arguments: Vec<OsString>,
    ) -> Result<Vec<u8>, ModelError> {
        let task = PythonTask { name, arguments, hub_cache: self.hub_cache.as_deref() };
        task.run(spawner, python).await.map_err(|error| match error {
            TaskError::Failed { code: Some(REFUSED), reason, .. } => {
                ModelError::Refused { asked_for: self.to_string(), reason }
            }
            error => ModelError::Failed(error),
        })
    }
}

impl ModelInfo {
    /// For the tokenizer and the chat templates; `override_config` is `--tokenizer-config-path`, whose template wins.
    pub(crate) fn text_files(&self, override_config: Option<&Path>) -> TextFiles {
        let own = override_config.is_none();
        let found = self.text_files.clone();
        TextFiles {
            tokenizer_json: found.tokenizer_json,
            gguf: found.gguf,
            tokenizer_config: override_config.map(Path::to_owned).or(found.tokenizer_config),
            chat_template_jinja: found.chat_template_jinja.filter(|_| own),
            chat_template_json: found.chat_template_json.filter(|_| own),
            generation_config: found.generation_config,
            config: found.config,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_facts_are_null_or_left_out() {
        let info: ModelInfo = serde_json::from_str(
            r#"{"model_id":"m","path":"/m/x.gguf","text_files":{"gguf":"/m/x.gguf","tokenizer_json":null},"revision":null,"num_heads":9}"#,
        )
        .unwrap();
        let files = info.text_files(None);
        assert_eq!(files, TextFiles { gguf: Some("/m/x.gguf".into()), ..TextFiles::default() });
    }

    #[test]
    fn the_operators_tokenizer_config_brings_its_own_template() {
        let text_files = TextFilePaths {
            tokenizer_config: Some("/m/tokenizer_config.json".into()),
            chat_template_jinja: Some("/m/chat_template.jinja".into()),
            ..TextFilePaths::default()
        };
        let info = ModelInfo { text_files, ..ModelInfo::default() };
        let files = info.text_files(Some("/mine.json".as_ref()));
        assert_eq!(files.tokenizer_config, Some("/mine.json".into()));
        assert_eq!(files.chat_template_jinja, None);
    }

    #[test]
    fn a_model_name_can_never_be_read_as_a_flag() {
        let source = ModelSource {
            model_id: Some("--version".to_owned()),
            revision: Some("main".to_owned()),
            num_shard: 1,
            hub_cache: None,
            weights_cache: None,
            tokenizer_config: None,
        };
        assert_eq!(source.arguments(), ["--revision", "main", "--", "--version"].map(OsString::from));
    }
}
