//! Prompts: from a file, or random words.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::error::BenchError;
use crate::random::Random;
use crate::settings::{DEFAULT_OUTPUT_TOKENS, Prompts};

/// Each about one token, with the space before it, in vocabularies made from English.
const WORDS: [&str; 64] = [
    "river", "stone", "market", "lantern", "quiet", "harbor", "engine", "winter", "letter", "garden", "signal",
    "copper", "window", "thunder", "paper", "bridge", "orchard", "captain", "silver", "meadow", "clock", "forest",
    "island", "voyage", "kettle", "shadow", "mirror", "candle", "branch", "village", "summer", "music", "teacher",
    "doctor", "machine", "yellow", "carbon", "doubt", "energy", "farmer", "glass", "history", "iron", "journey",
    "kitchen", "ladder", "mountain", "needle", "ocean", "pencil", "question", "road", "school", "table", "uncle",
    "valley", "water", "young", "basket", "circle", "dinner", "eagle", "fabric", "gentle",
];
/// Streams of random numbers: what all prompts share, then one a prompt.
const SHARED_STREAM: u64 = 1;
const FIRST_PROMPT_STREAM: u64 = 2;
/// So far from the counted prompts that none of them is met while warming up.
const FIRST_WARM_UP: u64 = 1 << 40;
/// Words of a warm-up prompt where a file tells no length.
const WARM_UP_WORDS: u32 = 32;

/// What one request asks.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Prompt {
    pub(crate) content: Content,
    pub(crate) output_tokens: u32,
}

/// A text, or the messages of a conversation as they stand in the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Content {
    Text(String),
    Messages(Value),
}

/// Gives the prompt of each request by its number.
#[derive(Debug)]
pub(crate) enum Source {
    File(Vec<Prompt>),
    Generated(Generator),
}

impl Source {
    /// Reads the file, if there is one, whole.
    pub(crate) fn load(prompts: &Prompts, seed: u64) -> Result<Self, BenchError> {
        match *prompts {
            Prompts::File { ref path, output_tokens } => Ok(Self::File(read_file(path, output_tokens)?)),
            Prompts::Generated { input_words, output_tokens, shared_prefix } => {
                Ok(Self::Generated(Generator { input_words, output_tokens, shared_prefix, seed }))
            }
        }
    }

    /// How many different prompts there are, if there is an end to them.
    pub(crate) fn num_prompts(&self) -> Option<usize> {
        match self {
            Self::File(prompts) => Some(prompts.len()),
            Self::Generated(_) => None,
        }
    }

    pub(crate) fn prompt(&self, index: u64) -> Prompt {
        match self {
            Self::File(prompts) => prompts[(index % prompts.len() as u64) as usize].clone(),
            Self::Generated(generator) => generator.prompt(index),
        }
    }

    /// None of the counted prompts, so that no cache holds one beforehand; only what all share is met.
    pub(crate) fn warm_up_prompt(&self, index: u64) -> Prompt {
        match self {
            Self::File(prompts) => {
                let words = Generator { input_words: WARM_UP_WORDS, output_tokens: 0, shared_prefix: 0.0, seed: 0 };
                Prompt { output_tokens: prompts[0].output_tokens, ..words.prompt(FIRST_WARM_UP + index) }
            }
            Self::Generated(generator) => generator.prompt(FIRST_WARM_UP + index),
        }
    }
}

/// Random words.
#[derive(Debug)]
pub(crate) struct Generator {
    input_words: u32,
    output_tokens: u32,
    shared_prefix: f64,
    seed: u64,
}

impl Generator {
    fn prompt(&self, index: u64) -> Prompt {
        let num_shared = (f64::from(self.input_words) * self.shared_prefix).round() as u32;
        let mut shared = Random::new(self.seed, SHARED_STREAM);
        let mut own = Random::new(self.seed, FIRST_PROMPT_STREAM + index);
        let words = (0..self.input_words).map(|place| {
            let random = if place < num_shared { &mut shared } else { &mut own };
            *random.choose(&WORDS)
        });
        Prompt { content: Content::Text(words.collect::<Vec<_>>().join(" ")), output_tokens: self.output_tokens }
    }
}

fn read_file(path: &Path, output_tokens: Option<u32>) -> Result<Vec<Prompt>, BenchError> {
    let text = std::fs::read_to_string(path).map_err(|error| BenchError::File { path: path.to_owned(), error })?;
    let refuse = |place: String, reason: String| BenchError::Dataset { path: PathBuf::from(path), place, reason };
    let entries: Vec<(String, Value)> = if text.trim_start().starts_with('[') {
        let entries: Vec<Value> = serde_json::from_str(&text)
            .map_err(|error| refuse("as a whole".to_owned(), format!("no JSON array: {error}")))?;
        entries.into_iter().enumerate().map(|(number, entry)| (format!("entry `{number}`"), entry)).collect()
    } else {
        let lines = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
        lines
            .map(|(number, line)| {
                let place = format!("line `{}`", number + 1);
                match serde_json::from_str(line) {
                    Ok(entry) => Ok((place, entry)),
                    Err(error) => Err(refuse(place, format!("no JSON: {error}"))),
                }
            })
            .collect::<Result<_, _>>()?
    };
    let prompts = entries
        .into_iter()
        .map(|(place, entry)| parse_entry(&entry, output_tokens).map_err(|reason| refuse(place, reason)))
        .collect::<Result<Vec<_>, _>>()?;
    if prompts.is_empty() {
        return Err(refuse("as a whole".to_owned(), "it holds no prompt".to_owned()));
    }
    Ok(prompts)
}

/// `{"prompt": …}`, `{"messages": […]}`, each with an optional `max_tokens`; or `ShareGPT`'s `{"conversations": …}`, of
/// which the first turn is asked.
fn parse_entry(entry: &Value, output_tokens: Option<u32>) -> Result<Prompt, String> {
    let stated = match &entry["max_tokens"] {
        Value::Null => None,
        number => Some(
            number
                .as_u64()
                .and_then(|number| u32::try_from(number).ok())
                .filter(|&number| number > 0)
                .ok_or_else(|| format!("`max_tokens` is `{number}`, no number from 1 on"))?,
        ),
    };
    let content = if let Some(prompt) = entry["prompt"].as_str() {
        Content::Text(prompt.to_owned())
    } else if entry["messages"].is_array() {
        Content::Messages(entry["messages"].clone())
    } else if let Some(turn) = entry["conversations"][0]["value"].as_str() {
        Content::Text(turn.to_owned())
    } else {
        return Err("neither `prompt` (a text), `messages` (a list) nor `conversations` (as ShareGPT's)".to_owned());
    };
    Ok(Prompt { content, output_tokens: output_tokens.or(stated).unwrap_or(DEFAULT_OUTPUT_TOKENS) })
}

#[cfg(test)]
mod tests;
