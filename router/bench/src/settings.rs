//! What to measure, as plain values. The command line makes them; nothing here reads the environment.

use std::path::PathBuf;
use std::time::Duration;

use crate::error::BenchError;

/// Everything that a benchmark needs to know.
#[derive(Clone)]
pub struct Settings {
    /// Whom to ask.
    pub target: Target,
    /// One run for each, in this order.
    pub loads: Vec<Load>,
    /// When a run sends no more.
    pub stop: Stop,
    /// Requests before each run that are not counted.
    pub num_warm_up: u32,
    /// What to ask.
    pub prompts: Prompts,
    /// Makes prompts and arrivals repeatable.
    pub seed: u64,
    /// What a good request keeps.
    pub goals: Vec<Goal>,
    /// What one request may take in all.
    pub timeout: Duration,
}

/// A server and how its requests look. Without `Debug`, which would show the key.
#[derive(Clone)]
pub struct Target {
    /// `http://HOST[:PORT][/PREFIX]`.
    pub url: String,
    /// The route and its events.
    pub api: Api,
    /// The model's name; the first that the server lists if not given.
    pub model: Option<String>,
    /// Sent as `Authorization: Bearer`.
    pub api_key: Option<String>,
    /// 0 is greedy.
    pub temperature: f64,
    /// Go on after an end token.
    pub ignore_eos: bool,
    /// Further fields of every body; they win.
    pub extra: serde_json::Map<String, serde_json::Value>,
}

/// A route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Api {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Completions,
    /// `/generate_stream`.
    Tgi,
}

impl Api {
    /// Below the URL's prefix.
    pub fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Tgi => "/generate_stream",
        }
    }

    /// Whether a body names its model.
    pub(crate) fn needs_model(self) -> bool {
        self != Self::Tgi
    }
}

/// How requests come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Load {
    /// So many streams, each of which sends its next request when its last has ended.
    Closed {
        /// Streams.
        concurrency: u32,
        /// Over which they start, evenly; it lies before what is measured.
        ramp_up: Duration,
    },
    /// Requests come when they come, whatever the server does.
    Open {
        /// Requests a second, in the mean.
        rate: f64,
        /// How their times vary.
        arrivals: Arrivals,
    },
}

/// How times of arrival vary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrivals {
    /// As of many who know nothing of each other.
    Poisson,
    /// One interval after the other.
    Constant,
}

/// When a run sends no more. What runs by then is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// After so many requests.
    Requests(u64),
    /// After so long.
    Duration(Duration),
}

/// Where prompts come from.
#[derive(Debug, Clone, PartialEq)]
pub enum Prompts {
    /// A file, in its order, from its beginning again when it ends.
    File {
        /// JSON lines, or `ShareGPT`'s array.
        path: PathBuf,
        /// Wins over what the file says of an entry.
        output_tokens: Option<u32>,
    },
    /// Random words, about a token each.
    Generated {
        /// Words of a prompt.
        input_words: u32,
        /// `max_tokens`.
        output_tokens: u32,
        /// The share of a prompt's words, from its beginning, that all prompts have.
        shared_prefix: f64,
    },
}

/// `max_tokens` of an entry that states none.
pub const DEFAULT_OUTPUT_TOKENS: u32 = 128;

/// A limit that a good request keeps.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    /// Of which figure.
    pub metric: Metric,
    /// Milliseconds.
    pub limit_ms: f64,
}

/// A figure of one request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Metric {
    /// Time to the first token.
    Ttft,
    /// Inter-token latency: every single one must keep a goal.
    Itl,
    /// Time per output token after the first.
    Tpot,
    /// From end to end.
    E2e,
}

impl Metric {
    /// As written in goals and tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Itl => "itl",
            Self::Tpot => "tpot",
            Self::E2e => "e2e",
        }
    }
}

impl std::str::FromStr for Goal {
    type Err = BenchError;

    fn from_str(goal: &str) -> Result<Self, Self::Err> {
        let refuse = |reason| BenchError::Goal { goal: goal.to_owned(), reason };
        let (name, limit) = goal.split_once(':').ok_or_else(|| refuse("it has no `:`"))?;
        let metric = [Metric::Ttft, Metric::Itl, Metric::Tpot, Metric::E2e]
            .into_iter()
            .find(|metric| metric.name() == name)
            .ok_or_else(|| refuse("no such figure"))?;
        let limit_ms = limit.parse().ok().filter(|limit: &f64| limit.is_finite() && *limit > 0.0);
        Ok(Self { metric, limit_ms: limit_ms.ok_or_else(|| refuse("the limit is no number above 0"))? })
    }
}

#[cfg(test)]
mod tests {
    use super::{Goal, Metric};

    #[test]
    fn a_goal_is_a_metric_and_milliseconds() {
        assert_eq!("ttft:500".parse::<Goal>().unwrap(), Goal { metric: Metric::Ttft, limit_ms: 500.0 });
        assert_eq!("itl:12.5".parse::<Goal>().unwrap(), Goal { metric: Metric::Itl, limit_ms: 12.5 });
    }

    #[test]
    fn a_goal_that_is_none_is_refused_by_name() {
        for (goal, reason) in
            [("ttft", "no `:`"), ("speed:3", "no such"), ("itl:-1", "above 0"), ("itl:NaN", "above 0")]
        {
            let error = goal.parse::<Goal>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{goal}`")) && error.contains(reason), "{error}");
        }
    }
}
