//! KServe's open inference protocol, version 2, as TGI serves it, and with texts as strings, as the protocol has them. Any
//! model name and version will do: a deployment has names of its own.

use axum::extract::{Path, State};
use axum::routing::{get, post};
use axum::{Json, Router};
use futures::future::try_join_all;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::{parse_each, place};
use crate::error::{ApiError, NativeError};
use crate::fields::{Accept, Body, Fields, Served, Unserved};
use crate::schema::{any_of, integer, list, named, string, words};
use crate::state::AppState;
use crate::telemetry::RequestRecord;
use crate::tgi::generate::answer_whole;
use crate::tgi::request::{GenerateRequest, JsonBody};

pub(super) const BODY: Body = Body { prefix: "", required: &["inputs"], served: &[REQUEST], unserved: &[] };

const REQUEST: &[Served] = &[
    ("id", |_| string(), "Told in the answer."),
    ("parameters", |_| named("GenerateParameters"), "How to generate. Without it, tokens are sampled."),
    ("inputs", |limits| list(INPUT.schema(limits)).at_least_items(1), "The prompts."),
    (
        "outputs",
        |limits| list(OUTPUT.schema(limits)).at_least_items(1),
        "The names of the answers, as many as `inputs`; by default `generated_text`.",
    ),
];

const INPUT: Body = Body { prefix: "", required: &["data"], served: &[TENSOR], unserved: &[SHAPE] };
const TENSOR: &[Served] = &[
    ("datatype", |_| words(&["BYTES"]), "What `data` holds."),
    (
        "data",
        |_| any_of([list(string()).at_least_items(1), list(integer().at_least(0).at_most(255)).at_least_items(1)]),
        "Prompts, or the bytes of one prompt in UTF-8; the answer is in the same form.",
    ),
];
/// `data` tells what they say.
const SHAPE: &[Unserved] = &[("name", Accept::Anything), ("shape", Accept::Anything), ("parameters", Accept::Empty)];

const OUTPUT: Body = Body { prefix: "", required: &["name"], served: &[NAME], unserved: &[SHAPE_OF_OUTPUT] };
const NAME: &[Served] = &[("name", |_| string(), "Told in the answer.")];
const SHAPE_OF_OUTPUT: &[Unserved] = &[("parameters", Accept::Empty)];

pub(crate) fn router() -> Router<AppState> {
    Router::new()
        .route("/v2", get(server))
        .route("/v2/health/live", get(async || Json(json!({ "live": true }))))
        .route("/v2/health/ready", get(ready))
        .route("/v2/models/{model_name}/versions/{model_version}", get(model))
        .route("/v2/models/{model_name}/versions/{model_version}/ready", get(ready))
        .route("/v2/models/{model_name}/versions/{model_version}/infer", post(infer))
}

#[derive(Debug, Serialize)]
struct Metadata {
    name: String,
    version: String,
    extensions: &'static [&'static str],
}

async fn server(State(state): State<AppState>) -> Json<Metadata> {
    let version = state.build().version.clone();
    Json(Metadata { name: "forebay".to_owned(), version, extensions: &["health", "models", "metrics"] })
}

async fn model(Path((name, version)): Path<(String, String)>) -> Json<Metadata> {
    Json(Metadata { name, version, extensions: &["infer", "ready"] })
}

/// `live` is TGI's word for it, `ready` the protocol's.
async fn ready(State(state): State<AppState>) -> Result<Json<Value>, NativeError> {
    if !state.is_ready() {
        return Err(ApiError::Unhealthy.into());
    }
    Ok(Json(json!({ "live": true, "ready": true })))
}

/// Prompts or texts, in the form of the request.
#[derive(Debug, Serialize, Deserialize)]
#[serde(untagged)]
enum Data {
    Texts(Vec<String>),
    /// Of one text.
    Bytes(Vec<u8>),
}

#[derive(Debug, Serialize)]
struct Answer {
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    outputs: Vec<Output>,
}

#[derive(Debug, Serialize)]
struct Output {
    name: String,
    shape: Vec<usize>,
    datatype: &'static str,
    data: Data,
}

/// A request's body, checked.
struct InferRequest {
    id: Option<String>,
    parameters: Option<Map<String, Value>>,
    inputs: Vec<Data>,
    names: Vec<String>,
}

async fn infer(State(state): State<AppState>, body: JsonBody) -> Result<Json<Answer>, NativeError> {
    let request = parse(&state, body).inspect_err(|error| RequestRecord::begin().failed(error))?;
    let InferRequest { id, parameters, inputs, names } = request;
    let outputs = names.into_iter().zip(inputs).enumerate().map(async |(index, (name, data))| {
        let output = output(&state, name, data, parameters.as_ref()).await;
        output.map_err(|error| error.within(&place("inputs", index)))
    });
    Ok(Json(Answer { id, outputs: try_join_all(outputs).await? }))
}

fn parse(state: &AppState, body: JsonBody) -> Result<InferRequest, ApiError> {
    let mut fields = Fields::of_body(body, state.limits().max_body_bytes, &BODY)?;
    let id = fields.take("id")?;
    let parameters: Option<Map<String, Value>> = fields.take("parameters")?;
    refuse_untold(parameters.as_ref())?;
    let inputs: Vec<Map<String, Value>> = fields.require("inputs")?;
    let names = fields.take::<Vec<Map<String, Value>>>("outputs")?;
    fields.finish()?;
    let inputs = parse_each("inputs", inputs, parse_input)?;
    let names = match names {
        Some(names) => parse_each("outputs", names, parse_name)?,
        None => vec!["generated_text".to_owned(); inputs.len()],
    };
    if names.len() != inputs.len() {
        let message = format!("`outputs` must name as many as `inputs`. Given: {} and {}", names.len(), inputs.len());
        return Err(ApiError::validation("outputs", message));
    }
    let num_prompts: usize =
        inputs.iter().map(|data| if let Data::Texts(texts) = data { texts.len() } else { 1 }).sum();
    let max = state.limits().max_client_batch_size;
    if num_prompts == 0 || num_prompts > max {
        let message = format!("`inputs` must hold 1 to {max} prompts. Given: {num_prompts}");
        return Err(ApiError::validation("inputs", message));
    }
    Ok(InferRequest { id, parameters, inputs, names })
}

/// What an output, which is a text, cannot tell.
fn refuse_untold(parameters: Option<&Map<String, Value>>) -> Result<(), ApiError> {
    for name in ["details", "decoder_input_details"] {
        if parameters.is_some_and(|parameters| parameters.get(name) == Some(&Value::Bool(true))) {
            return Err(ApiError::validation(name, format!("`{name}`: an output is a text; leave it out")));
        }
    }
    Ok(())
}

fn parse_input(values: Map<String, Value>) -> Result<Data, ApiError> {
    let mut fields = Fields::of_object(values, &INPUT);
    let datatype: Option<String> = fields.take("datatype")?;
    if datatype.is_some_and(|datatype| datatype != "BYTES") {
        return Err(ApiError::validation("datatype", "`datatype` must be `BYTES`"));
    }
    let data: Value = fields.require("data")?;
    fields.finish()?;
    let data = serde_json::from_value(data).map_err(|_| {
        ApiError::wrong_type("data", "`data` must be a list of strings, or of one text's bytes".to_owned())
    })?;
    match data {
        Data::Texts(texts) if texts.is_empty() => Err(ApiError::validation("data", "`data` cannot be empty")),
        data => Ok(data),
    }
}

fn parse_name(values: Map<String, Value>) -> Result<String, ApiError> {
    let mut fields = Fields::of_object(values, &OUTPUT);
    let name = fields.require("name")?;
    fields.finish()?;
    Ok(name)
}

async fn output(
    state: &AppState,
    name: String,
    data: Data,
    parameters: Option<&Map<String, Value>>,
) -> Result<Output, ApiError> {
    let (data, shape) = match data {
        Data::Texts(prompts) => {
            let texts = try_join_all(prompts.into_iter().map(|prompt| text(state, prompt, parameters))).await?;
            let shape = vec![texts.len()];
            (Data::Texts(texts), shape)
        }
        Data::Bytes(bytes) => {
            let prompt = String::from_utf8(bytes)
                .map_err(|error| ApiError::validation("data", format!("`data` is no UTF-8: {}", error.utf8_error())))?;
            let bytes = text(state, prompt, parameters).await?.into_bytes();
            let shape = vec![1, bytes.len()];
            (Data::Bytes(bytes), shape)
        }
    };
    Ok(Output { name, shape, datatype: "BYTES", data })
}

/// The text behind one prompt, as `/generate` gives it.
async fn text(state: &AppState, prompt: String, parameters: Option<&Map<String, Value>>) -> Result<String, ApiError> {
    let mut record = RequestRecord::begin();
    let body = json!({ "inputs": prompt, "parameters": parameters });
    let body = body.as_object().cloned().unwrap_or_default();
    let request = record.check(GenerateRequest::parse(state, Ok(Json(body))))?;
    let (_, answer) = answer_whole(state, request, false, record).await?;
    Ok(answer.into_text())
}
