//! Messages to prompt: the model's own Jinja template, rendered as transformers renders it, under fuel.

use serde_json::Value;

use crate::error::TextError;

/// What a template sees. JSON values keep the client's structure (content parts, tool calls) for the template to read.
#[derive(Debug, Clone)]
pub struct ChatInputs {
    /// The conversation.
    pub messages: Vec<Value>,
    /// Tools, if any.
    pub tools: Option<Vec<Value>>,
    /// Open the assistant's turn at the end.
    pub add_generation_prompt: bool,
    /// Leave the last (assistant's) turn open and go on in it.
    pub continue_final_message: bool,
    /// Further variables (`chat_template_kwargs`).
    pub kwargs: serde_json::Map<String, Value>,
}

/// One compiled template.
#[derive(Debug)]
pub struct ChatTemplate {}

/// A model's templates: the default one and named ones.
#[derive(Debug)]
pub struct ChatTemplates {}

impl ChatTemplate {
    /// Compiles a source.
    pub fn compile(_source: &str, _bos_token: Option<&str>, _eos_token: Option<&str>) -> Result<Self, TextError> {
        Ok(Self {})
    }

    /// Renders; bounded in time by fuel and in size.
    pub fn render(&self, _inputs: &ChatInputs) -> Result<String, TextError> {
        Ok(String::new())
    }
}

impl ChatTemplates {
    /// The template for these inputs: "tool_use" when tools are given and it exists, else the default.
    pub fn select(&self, _inputs: &ChatInputs) -> Result<&ChatTemplate, TextError> {
        Err(TextError::Template("the model has no chat template".to_owned()))
    }
}
