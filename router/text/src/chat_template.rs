//! Messages to prompt: the model's own Jinja template, rendered as transformers renders it, under fuel.

mod adapt;
mod continue_final;
mod environment;
mod nesting;
mod python;
mod sources;
mod strftime;

use std::collections::HashSet;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::SystemTime;

use minijinja::{Environment, ErrorKind, Value as JinjaValue};
use serde_json::Value;

use crate::error::TextError;
use environment::{RaisedByTemplate, TEMPLATE_NAME};
pub(crate) use sources::TemplateSources;

/// A rendered prompt longer than this is an error; it is well above what any context holds.
const MAX_PROMPT_BYTES: usize = 16 << 20;
/// Touched only as far as a template nests: the longest chain of operators that [`nesting`] allows takes a third of it.
const COMPILER_STACK_BYTES: usize = 128 << 20;
/// What the template and the tokenizer define; `chat_template_kwargs` cannot.
const RESERVED: [&str; 5] = ["messages", "tools", "bos_token", "eos_token", "add_generation_prompt"];
/// Names under which clients send a message's reasoning; templates read the first, gpt-oss's the second.
const REASONING_FIELDS: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Where `strftime_now` gets the time, so that a test can fix it. Days and hours are UTC's.
pub type Clock = fn() -> SystemTime;

/// What a template sees. JSON values keep the client's structure (content parts, tool calls) for the template to read.
#[derive(Debug, Clone)]
pub struct ChatInputs {
    /// The conversation.
    pub messages: Vec<Value>,
    /// Tools, if any.
    pub tools: Option<Vec<Value>>,
    /// Open the assistant's turn at the end.
    pub add_generation_prompt: bool,
    /// Leave the last (assistant's) turn open and go on in it; no generation prompt is added then.
    pub continue_final_message: bool,
    /// Further variables (`chat_template_kwargs`).
    pub kwargs: serde_json::Map<String, Value>,
}

/// One compiled template.
#[derive(Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    variables: HashSet<String>,
    bos_token: Option<String>,
    eos_token: Option<String>,
}

/// A model's templates: the default one and named ones. One that does not compile is kept as its error, so that a
/// broken template costs a model its chat routes and nothing else.
#[derive(Debug)]
pub struct ChatTemplates {
    named: Vec<(String, Result<ChatTemplate, String>)>,
}

impl ChatTemplate {
    /// Compiles a source.
    pub fn compile(source: &str, bos_token: Option<&str>, eos_token: Option<&str>) -> Result<Self, TextError> {
        Self::compile_with_clock(source, bos_token, eos_token, SystemTime::now)
    }

    /// Compiles a source whose `strftime_now` asks this clock.
    pub fn compile_with_clock(
        source: &str,
        bos_token: Option<&str>,
        eos_token: Option<&str>,
        clock: Clock,
    ) -> Result<Self, TextError> {
        let compiled = on_a_deep_stack(|| {
            let environment = environment::build(source, clock)?;
            let variables = environment.get_template(TEMPLATE_NAME)?.undeclared_variables(false);
            Ok((environment, variables))
        });
        let (environment, variables) = compiled.map_err(|error| template_error(&error))?;
        let token = |name: Option<&str>| name.map(str::to_owned);
        Ok(Self {
            environment,
            source: source.to_owned(),
            variables,
            bos_token: token(bos_token),
            eos_token: token(eos_token),
        })
    }

    /// Whether the template reads this variable (`tools`, say, or one that `chat_template_kwargs` may set).
    pub fn uses(&self, variable: &str) -> bool {
        self.variables.contains(variable)
    }

    /// Renders; bounded in time by fuel and in size.
    pub fn render(&self, inputs: &ChatInputs) -> Result<String, TextError> {
        let mut messages: Vec<Value> = inputs.messages.iter().map(with_reasoning_aliases).collect();
        if !inputs.continue_final_message {
            return self.render_messages(&messages, inputs);
        }
        let content = continue_final::mark(&mut messages, &self.source)?;
        let rendered = self.render_messages(&messages, inputs)?;
        continue_final::cut(rendered, &content)
    }

    fn render_messages(&self, messages: &[Value], inputs: &ChatInputs) -> Result<String, TextError> {
        let template = self.environment.get_template(TEMPLATE_NAME).map_err(|error| template_error(&error))?;
        let mut prompt = Prompt(Vec::new());
        let context = self.context(messages, inputs);
        // A slip in the template engine must not take the server along (minijinja 3.0 panics on some slices).
        let rendered = catch_unwind(AssertUnwindSafe(|| template.render_captured_to(context, &mut prompt).map(|_| ())));
        let failed = |_| TextError::Template("the template engine failed on this template".to_owned());
        rendered.map_err(failed)?.map_err(|error| template_error(&error))?;
        String::from_utf8(prompt.0).map_err(|error| TextError::Template(error.to_string()))
    }

    fn context(&self, messages: &[Value], inputs: &ChatInputs) -> JinjaValue {
        let none = || JinjaValue::from(());
        let kwargs = inputs.kwargs.iter().filter(|(name, _)| !RESERVED.contains(&name.as_str()));
        let tokens = [("bos_token", &self.bos_token), ("eos_token", &self.eos_token)];
        let tools = inputs.tools.as_ref();
        let add_generation_prompt = inputs.add_generation_prompt && !inputs.continue_final_message;
        // transformers defines `documents` and `tools` always, as None when there are none.
        let variables = std::iter::once(("documents", none()))
            .chain(kwargs.map(|(name, value)| (name.as_str(), python::from_json(value))))
            .chain([
                ("messages", messages.iter().map(python::from_json).collect()),
                ("tools", tools.map_or_else(none, |tools| tools.iter().map(python::from_json).collect())),
                ("add_generation_prompt", add_generation_prompt.into()),
            ])
            .chain(tokens.into_iter().filter_map(|(name, token)| Some((name, token.as_deref()?.into()))));
        JinjaValue::from_pairs(variables)
    }
}

impl ChatTemplates {
    /// The template for these inputs: `tool_use` when tools are given (an empty list, too, as in transformers) and it
    /// exists, else the default.
    pub fn select(&self, inputs: &ChatInputs) -> Result<&ChatTemplate, TextError> {
        let tool_use = inputs.tools.as_ref().and_then(|_| self.get("tool_use"));
        let Some(found) = tool_use.or_else(|| self.get("default")) else {
            let names: Vec<&str> = self.named.iter().map(|(name, _)| name.as_str()).collect();
            let names = names.join("`, `");
            return Err(TextError::Template(format!("the model has no default chat template, only `{names}`")));
        };
        found.as_ref().map_err(|error| TextError::Template(error.clone()))
    }

    fn get(&self, wanted: &str) -> Option<&Result<ChatTemplate, String>> {
        self.named.iter().find_map(|(name, template)| (name == wanted).then_some(template))
    }
}

/// Runs what recurses as deep as [`nesting`] allows on a stack that is deep enough for it, whoever calls.
fn on_a_deep_stack<T: Send>(work: impl FnOnce() -> Result<T, minijinja::Error> + Send) -> Result<T, minijinja::Error> {
    let failed = |reason: String| minijinja::Error::new(ErrorKind::InvalidOperation, reason);
    std::thread::scope(|scope| {
        let builder = std::thread::Builder::new().name("chat-template".to_owned()).stack_size(COMPILER_STACK_BYTES);
        let thread = builder.spawn_scoped(scope, work).map_err(|error| failed(error.to_string()))?;
        thread.join().unwrap_or_else(|_| Err(failed("the template engine failed on this template".to_owned())))
    })
}

/// Fills the names for a message's reasoning from each other, as transformers does.
fn with_reasoning_aliases(message: &Value) -> Value {
    let mut message = message.clone();
    let Some(fields) = message.as_object_mut() else { return message };
    let reasoning =
        REASONING_FIELDS.iter().find_map(|name| fields.get(*name).filter(|value| !value.is_null())).cloned();
    if let Some(reasoning) = reasoning {
        fields.insert(REASONING_FIELDS[0].to_owned(), reasoning.clone());
        fields.entry(REASONING_FIELDS[1]).or_insert(reasoning);
    }
    message
}

/// The output, which ends in an error where it grows beyond the limit.
struct Prompt(Vec<u8>);

impl io::Write for &mut Prompt {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.0.len() + bytes.len() > MAX_PROMPT_BYTES {
            return Err(io::Error::other(format!("the rendered prompt exceeds {MAX_PROMPT_BYTES} bytes")));
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

fn template_error(error: &minijinja::Error) -> TextError {
    let source = std::error::Error::source(error);
    if let Some(raised) = source.and_then(|source| source.downcast_ref::<RaisedByTemplate>()) {
        return TextError::Template(raised.0.clone());
    }
    if let Some(limit) = source.and_then(|source| source.downcast_ref::<io::Error>()) {
        return TextError::Template(limit.to_string());
    }
    let message = error.to_string();
    match undefined_name(&message) {
        Some(name) if error.kind() == ErrorKind::UndefinedError => TextError::MissingVariable(name.to_owned()),
        _ => TextError::Template(message),
    }
}

/// The variable in "undefined value: `name` is undefined (in ...)", when it is one and not a field of something.
fn undefined_name(message: &str) -> Option<&str> {
    let (name, _) = message.split_once('`')?.1.split_once("` is undefined")?;
    let is_name = name.chars().all(|c| c.is_alphanumeric() || c == '_') && !name.is_empty();
    is_name.then_some(name)
}

#[cfg(test)]
mod tests;
