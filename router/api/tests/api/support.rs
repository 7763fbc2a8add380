//! A server over a fake worker and a tiny tokenizer, and how to talk to it.

use std::path::Path;
use std::sync::{Arc, OnceLock};

use axum::Router;
use axum::body::Body;
use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderMap, Request, StatusCode};
use axum::response::Response;
use forebay_api::{AppConfig, AppState, Build, Limits, PlatformRoutes, ServedModel, Watermark};
use forebay_engine::fake_worker::{FakeGroup, FakeHandle, FakeScript, engine_config};
use forebay_engine::{Engine, EngineConfig, EngineState};
use forebay_text::{ModelText, TextFiles};
use http_body_util::BodyExt;
use metrics_exporter_prometheus::PrometheusHandle;
use serde_json::{Value, json};
use tower::ServiceExt;

/// Tokens of the tiny tokenizer: "Hello", " world", " and", "!", and the end of a turn.
pub(crate) const HELLO: u32 = 262;
pub(crate) const WORLD: u32 = 267;
pub(crate) const AND: u32 = 276;
pub(crate) const BANG: u32 = 0;
pub(crate) const END: u32 = 307;
/// The first three bytes of an emoji, and its last.
pub(crate) const GRIN_HEAD: u32 = 301;
pub(crate) const GRIN_TAIL: u32 = 222;

pub(crate) const MODEL_ID: &str = "org/tiny";

pub(crate) struct Server {
    pub(crate) app: Router,
    pub(crate) state: AppState,
    pub(crate) engine: Engine,
    pub(crate) worker: FakeHandle,
}

/// What came back.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: String,
}

/// A ready server whose worker yields these tokens to every request.
pub(crate) async fn server(token_ids: &[u32]) -> Server {
    server_of(FakeScript::sequence(token_ids), |_| {}).await
}

/// A ready server.
pub(crate) async fn server_of(script: FakeScript, configure: impl FnOnce(&mut AppConfig)) -> Server {
    let server = started(script, configure);
    assert_eq!(server.engine.state_changed(&EngineState::Starting).await, EngineState::Ready);
    server
}

/// A server that may not be ready yet.
pub(crate) fn started(script: FakeScript, configure: impl FnOnce(&mut AppConfig)) -> Server {
    let text = Arc::new(model_text());
    let group = FakeGroup::new(script);
    let worker = group.handle();
    let config = EngineConfig { tokenizer_vocab_size: text.tokenizer.vocab_size(), ..engine_config() };
    let engine = Engine::start(config, group);
    let state = AppState::new(app_config(configure));
    let model = ServedModel {
        id: MODEL_ID.to_owned(),
        sha: Some("abc".to_owned()),
        pipeline_tag: Some("text-generation".to_owned()),
        engine: engine.clone(),
        text,
    };
    state.serve(model).unwrap();
    Server { app: forebay_api::app(state.clone()), state, engine, worker }
}

/// A server that has no model yet.
pub(crate) fn without_model() -> Router {
    forebay_api::app(AppState::new(app_config(|_| {})))
}

fn app_config(configure: impl FnOnce(&mut AppConfig)) -> AppConfig {
    let mut config = AppConfig {
        limits: Limits::default(),
        watermark: Watermark::default(),
        api_keys: Vec::new(),
        platform_routes: PlatformRoutes::default(),
        compute_type: None,
        cors_allow_origin: Vec::new(),
        build: Build { version: "1.2.3".to_owned(), sha: None, docker_label: None },
        metrics: metrics_handle(),
    };
    configure(&mut config);
    config
}

/// One recorder for the process, as metrics are.
fn metrics_handle() -> PrometheusHandle {
    static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();
    HANDLE.get_or_init(|| forebay_api::recorder(2048).unwrap().install_recorder().unwrap()).clone()
}

fn model_text() -> ModelText {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../text/tests/fixtures");
    let files = TextFiles {
        tokenizer_json: Some(folder.join("tiny_tokenizer.json")),
        tokenizer_config: Some(folder.join("tiny_tokenizer_config.json")),
        ..TextFiles::default()
    };
    ModelText::load(&files).unwrap()
}

impl Server {
    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        read(self.open(path, body).await).await
    }

    /// The response with its body not yet read.
    pub(crate) async fn open(&self, path: &str, body: Value) -> Response {
        self.app.clone().oneshot(post(path, &body)).await.unwrap()
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        send(&self.app, Request::get(path).body(Body::empty()).unwrap()).await
    }

    /// The generated text of a native request.
    pub(crate) async fn generate(&self, inputs: &str, parameters: Value) -> Answer {
        self.post("/generate", json!({ "inputs": inputs, "parameters": parameters })).await
    }

    pub(crate) async fn chat(&self, options: Value) -> Answer {
        let mut body = json!({ "messages": [{ "role": "user", "content": "Hello" }] });
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        self.post("/v1/chat/completions", body).await
    }

    pub(crate) async fn complete(&self, options: Value) -> Answer {
        let mut body = json!({ "prompt": "Hello" });
        body.as_object_mut().unwrap().extend(options.as_object().unwrap().clone());
        self.post("/v1/completions", body).await
    }

    /// The prompt that the worker got last.
    pub(crate) fn last_prompt(&self) -> Vec<u32> {
        let plans = self.worker.plans();
        let sequence = plans.iter().flat_map(|plan| &plan.new_sequences).last().unwrap().clone();
        sequence.token_ids.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect()
    }
}

pub(crate) fn post(path: &str, body: &Value) -> Request<Body> {
    Request::post(path).header(CONTENT_TYPE, "application/json").body(Body::from(body.to_string())).unwrap()
}

pub(crate) async fn send(app: &Router, request: Request<Body>) -> Answer {
    read(app.clone().oneshot(request).await.unwrap()).await
}

async fn read(response: Response) -> Answer {
    let (parts, body) = response.into_parts();
    let bytes = body.collect().await.unwrap().to_bytes();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8(bytes.to_vec()).unwrap() }
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }

    /// The JSON of a 200.
    pub(crate) fn ok(&self) -> Value {
        assert_eq!(self.status, 200, "{}", self.body);
        self.json()
    }

    /// What an error says, in either dialect's shape.
    pub(crate) fn message(&self) -> String {
        let error = &self.json()["error"];
        error.as_str().or_else(|| error["message"].as_str()).unwrap().to_owned()
    }

    /// The events of a stream, comments left out, `[DONE]` as a string.
    pub(crate) fn events(&self) -> Vec<Value> {
        let blocks = self.body.split("\n\n").filter(|block| !block.is_empty() && !block.starts_with(':'));
        let data = blocks.map(|block| block.strip_prefix("data: ").unwrap());
        data.map(|data| serde_json::from_str(data).unwrap_or_else(|_| Value::from(data))).collect()
    }

    /// The body with what differs from run to run replaced.
    pub(crate) fn stable_body(&self) -> String {
        let mut body = self.body.clone();
        for key in ["\"id\":\"", "\"created\":"] {
            body = replace_values(&body, key);
        }
        body
    }
}

/// Replaces what follows each `key`, up to the next quote or comma.
fn replace_values(body: &str, key: &str) -> String {
    let mut parts = body.split(key);
    let first = parts.next().unwrap().to_owned();
    parts.fold(first, |text, part| {
        let end = part.find(['"', ',']).unwrap();
        format!("{text}{key}_{}", &part[end..])
    })
}

/// The concatenated text of a chat stream.
pub(crate) fn chat_text(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect()
}

/// The concatenated text of a completion stream.
pub(crate) fn completion_text(events: &[Value]) -> String {
    events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect()
}
