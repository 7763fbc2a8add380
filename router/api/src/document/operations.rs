//! Every route but the document's own: what it takes and answers.

use serde_json::{Value, json};

use crate::error::Dialect;
use crate::schema::{Schema, any_of, list, named, string};

/// A request's body: its schema's name, and an example.
pub(super) type Body = (&'static str, fn() -> Value);

/// A media type, and what it holds: of a stream, each event.
pub(super) type Answer = (&'static str, fn() -> Schema);

/// A method of a route.
pub(super) struct Operation {
    pub(super) method: &'static str,
    /// As the router has it.
    pub(super) path: &'static str,
    /// TGI's, where it has one.
    pub(super) id: &'static str,
    pub(super) tag: &'static str,
    pub(super) summary: &'static str,
    /// The shape of its errors.
    pub(super) dialect: Dialect,
    pub(super) body: Option<Body>,
    pub(super) answers: &'static [Answer],
}

const JSON: &str = "application/json";
const EVENTS: &str = "text/event-stream";
const TEXT: &str = "text/plain";

const NATIVE: Operation = Operation {
    method: "post",
    path: "",
    id: "",
    tag: "Text Generation Inference",
    summary: "",
    dialect: Dialect::Native,
    body: None,
    answers: &[],
};
const OPENAI: Operation = Operation { tag: "OpenAI", dialect: Dialect::OpenAi, ..NATIVE };
const CLOUD: Operation = Operation { tag: "Clouds", ..NATIVE };
const PROBE: Operation = Operation { method: "get", tag: "Operations", ..NATIVE };

pub(super) const OPERATIONS: &[Operation] = &[
    Operation {
        path: "/",
        id: "compat_generate",
        summary: "Generate text: a list of one answer, or a stream if `stream` is true",
        body: Some(("GenerateRequest", prompt)),
        answers: &[(JSON, || list(named("GenerateResponse"))), (EVENTS, || named("StreamResponse"))],
        ..NATIVE
    },
    Operation {
        path: "/generate",
        id: "generate",
        summary: "Generate text",
        body: Some(("GenerateRequest", prompt)),
        answers: &[(JSON, || named("GenerateResponse"))],
        ..NATIVE
    },
    Operation {
        path: "/generate_stream",
        id: "generate_stream",
        summary: "Generate text as a stream, an event a token",
        body: Some(("GenerateRequest", prompt)),
        answers: &[(EVENTS, || named("StreamResponse"))],
        ..NATIVE
    },
    Operation {
        path: "/tokenize",
        id: "tokenize",
        summary: "The tokens of a prompt; its `parameters` are checked and change nothing",
        body: Some(("GenerateRequest", || json!({ "inputs": "The capital of France is" }))),
        answers: &[(JSON, || list(named("SimpleToken")))],
        ..NATIVE
    },
    Operation {
        path: "/chat_tokenize",
        id: "chat_tokenize",
        summary: "The prompt that a chat becomes, and its tokens",
        body: Some(("ChatRequest", chat)),
        answers: &[(JSON, || named("ChatTokenizeResponse"))],
        ..NATIVE
    },
    Operation {
        method: "get",
        path: "/info",
        id: "get_model_info",
        summary: "The model and the limits",
        answers: &[(JSON, || named("Info"))],
        ..NATIVE
    },
    Operation {
        path: "/v1/chat/completions",
        id: "chat_completions",
        summary: "Answer a chat, whole or as a stream",
        body: Some(("ChatRequest", chat)),
        answers: &[(JSON, || named("ChatCompletion")), (EVENTS, || named("ChatCompletionChunk"))],
        ..OPENAI
    },
    Operation {
        path: "/v1/completions",
        id: "completions",
        summary: "Complete texts, whole or as a stream",
        body: Some(("CompletionRequest", || json!({ "prompt": "The capital of France is", "max_tokens": 20 }))),
        answers: &[(JSON, || named("Completion")), (EVENTS, || named("CompletionChunk"))],
        ..OPENAI
    },
    Operation {
        method: "get",
        path: "/v1/models",
        id: "openai_get_model_info",
        summary: "The model that is served, as a list",
        answers: &[(JSON, || named("Models"))],
        ..OPENAI
    },
    Operation {
        method: "get",
        path: "/v1/models/{*id}",
        id: "retrieve_model",
        summary: "The model, by its name",
        answers: &[(JSON, || named("Model"))],
        ..OPENAI
    },
    Operation {
        path: "/invocations",
        id: "sagemaker_compatibility",
        summary: "SageMaker's route: answers as the route that the body is meant for",
        body: Some(("InvocationRequest", prompt)),
        answers: &[(JSON, || any_of([list(named("GenerateResponse")), named("ChatCompletion"), named("Completion")]))],
        ..CLOUD
    },
    Operation {
        path: "/vertex",
        id: "vertex_compatibility",
        summary: "Vertex AI's route: a prediction for each instance",
        body: Some(("VertexRequest", || json!({ "instances": [prompt()] }))),
        answers: &[(JSON, || named("VertexResponse"))],
        ..CLOUD
    },
    Operation {
        method: "get",
        path: "/v2",
        id: "kserve_server_metadata",
        summary: "KServe: the server",
        answers: &[(JSON, || named("ServerMetadata"))],
        ..CLOUD
    },
    Operation {
        path: "/v2/health/live",
        id: "kserve_health_live",
        summary: "KServe: whether the server answers",
        answers: &[(JSON, || named("Liveness"))],
        ..PROBE
    },
    Operation {
        path: "/v2/health/ready",
        id: "kserve_health_ready",
        summary: "KServe: whether requests can be served now",
        answers: &[(JSON, || named("Liveness"))],
        ..PROBE
    },
    Operation {
        method: "get",
        path: "/v2/models/{model_name}/versions/{model_version}",
        id: "kserve_model_metadata",
        summary: "KServe: the model, by any name",
        answers: &[(JSON, || named("ServerMetadata"))],
        ..CLOUD
    },
    Operation {
        method: "get",
        path: "/v2/models/{model_name}/versions/{model_version}/ready",
        id: "kserve_model_ready",
        summary: "KServe: whether requests can be served now",
        answers: &[(JSON, || named("Liveness"))],
        ..CLOUD
    },
    Operation {
        path: "/v2/models/{model_name}/versions/{model_version}/infer",
        id: "kserve_model_infer",
        summary: "KServe: an output for each input",
        body: Some(("InferRequest", || {
            json!({
                "inputs": [{
                    "name": "prompt",
                    "shape": [1],
                    "datatype": "BYTES",
                    "data": ["The capital of France is"],
                }],
                "parameters": { "max_new_tokens": 20 },
            })
        })),
        answers: &[(JSON, || named("InferResponse"))],
        ..CLOUD
    },
    Operation { path: "/", id: "root_health", summary: "Whether requests can be served now", ..PROBE },
    Operation { path: "/health", id: "health", summary: "Whether requests can be served now", ..PROBE },
    Operation { path: "/ping", id: "ping", summary: "Whether requests can be served now", ..PROBE },
    Operation { path: "/metrics", id: "metrics", summary: "Prometheus metrics", answers: &[(TEXT, string)], ..PROBE },
];

fn prompt() -> Value {
    json!({ "inputs": "The capital of France is", "parameters": { "max_new_tokens": 20 } })
}

fn chat() -> Value {
    json!({ "messages": [{ "role": "user", "content": "What is the capital of France?" }], "max_tokens": 20 })
}
