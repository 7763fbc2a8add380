//! `POST /vertex`, and at the path that Vertex AI names: several requests in one body, each answered by a text. Unlike
//! TGI's it honours all parameters, asks for the key wherever it is, and answers errors as they are.

use axum::extract::State;
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::future::try_join_all;
use serde::Serialize;
use serde_json::{Map, Value};

use super::{PlatformRoutes, parse_each, place};
use crate::error::{ApiError, NativeError};
use crate::fields::{Accept, Body, Fields, Served, Unserved};
use crate::generate::generate;
use crate::openai::chat_completions::ChatRequest;
use crate::ops::health;
use crate::schema::{any_of, list, named};
use crate::state::AppState;
use crate::telemetry::RequestRecord;
use crate::tgi::generate::answer_whole;
use crate::tgi::request::{GenerateRequest, JsonBody};
use crate::tgi::response::GenerateResponse;

pub(super) const BODY: Body =
    Body { prefix: "", required: &["instances"], served: &[INSTANCES], unserved: &[UNSERVED] };

const INSTANCES: &[Served] = &[(
    "instances",
    |limits| {
        let instance = any_of([named("GenerateRequest"), named("ChatRequest")]);
        list(instance).at_least_items(1).at_most_items(limits.max_client_batch_size)
    },
    "Requests as of `/generate` or `/v1/chat/completions`. What a text cannot tell is refused, but for `details`.",
)];

/// Those of all instances; ours have their own.
const UNSERVED: &[Unserved] = &[("parameters", Accept::Empty)];

/// At our path, and at the platform's, which must not be one of ours.
pub(crate) fn router(routes: &PlatformRoutes) -> Router<AppState> {
    let mut router = Router::new().route("/vertex", post(handler));
    if let Some(path) = routes.predict() {
        router = router.route(path, post(handler));
    }
    if let Some(path) = routes.health() {
        router = router.route(path, get(health::handler));
    }
    router
}

#[derive(Debug, Serialize)]
struct Predictions {
    predictions: Vec<Prediction>,
}

/// The text, with TGI's details where they are asked for.
#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Prediction {
    Text(String),
    Detailed(Box<GenerateResponse>),
}

/// One of a body's requests.
enum Instance {
    Generate(Box<GenerateRequest>),
    Chat(Box<ChatRequest>),
}

async fn handler(State(state): State<AppState>, body: JsonBody) -> Result<Json<Predictions>, NativeError> {
    let instances = parse(&state, body).inspect_err(|error| RequestRecord::begin().failed(error))?;
    let answers = instances.into_iter().enumerate().map(async |(index, instance)| {
        let answer = instance.answer(&state, RequestRecord::begin()).await;
        answer.map_err(|error| error.within(&place("instances", index)))
    });
    Ok(Json(Predictions { predictions: try_join_all(answers).await? }))
}

fn parse(state: &AppState, body: JsonBody) -> Result<Vec<Instance>, ApiError> {
    let mut fields = Fields::of_body(body, state.limits().max_body_bytes, &BODY)?;
    let instances: Vec<Map<String, Value>> = fields.require("instances")?;
    fields.finish()?;
    let max = state.limits().max_client_batch_size;
    if instances.is_empty() || instances.len() > max {
        let message = format!("`instances` must hold 1 to {max} requests. Given: {}", instances.len());
        return Err(ApiError::validation("instances", message));
    }
    parse_each("instances", instances, |values| Instance::parse(state, values))
}

impl Instance {
    fn parse(state: &AppState, values: Map<String, Value>) -> Result<Self, ApiError> {
        if values.contains_key("messages") {
            let request = ChatRequest::parse(state, Ok(Json(values)))?;
            refuse_untold(&request)?;
            return Ok(Self::Chat(Box::new(request)));
        }
        if !values.contains_key("inputs") {
            return Err(ApiError::wrong_type("inputs", "expected `inputs` or `messages`".to_owned()));
        }
        let request = GenerateRequest::parse(state, Ok(Json(values)))?;
        refuse_if(request.stream, "stream")?;
        Ok(Self::Generate(Box::new(request)))
    }

    async fn answer(self, state: &AppState, mut record: RequestRecord) -> Result<Prediction, ApiError> {
        match self {
            Self::Generate(request) => {
                let (_, answer) = answer_whole(state, *request, false, record).await?;
                if answer.has_details() {
                    return Ok(Prediction::Detailed(Box::new(answer)));
                }
                Ok(Prediction::Text(answer.into_text()))
            }
            Self::Chat(request) => {
                let (_, job) = record.check(request.into_job())?;
                let mut choices = generate(state, job, record).await?;
                let mut text = String::new();
                while let Some(next) = choices.next().await {
                    text.push_str(&next?.0.text);
                }
                Ok(Prediction::Text(text))
            }
        }
    }
}

/// What the text of a chat's answer cannot tell.
fn refuse_untold(request: &ChatRequest) -> Result<(), ApiError> {
    refuse_if(request.common.stream, "stream")?;
    refuse_if(request.common.n > 1, "n")?;
    refuse_if(request.wants_logprobs(), "logprobs")?;
    refuse_if(request.common.num_prompt_logprobs.is_some(), "prompt_logprobs")
}

fn refuse_if(is_asked: bool, name: &str) -> Result<(), ApiError> {
    if is_asked {
        return Err(ApiError::validation(name, format!("`{name}`: a prediction is one text; leave it out")));
    }
    Ok(())
}
