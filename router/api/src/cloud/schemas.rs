//! The envelopes, as the API's document shows them.

use super::{kserve, vertex};
use crate::schema::{Schema, any_of, boolean, integer, list, named, object, string, words};
use crate::state::Limits;

pub(crate) fn schemas(limits: &Limits) -> Vec<(&'static str, Schema)> {
    let routes = any_of(["GenerateRequest", "ChatRequest", "CompletionRequest"].map(named));
    let prediction = any_of([string(), named("GenerateResponse")]);
    vec![
        ("InvocationRequest", routes.about("What it is meant for is told by `inputs`, `messages` or `prompt`.")),
        ("VertexRequest", vertex::BODY.schema(limits)),
        ("VertexResponse", object().property("predictions", list(prediction))),
        ("InferRequest", kserve::BODY.schema(limits)),
        ("InferResponse", object().optional("id", string()).property("outputs", list(named("InferOutput")))),
        ("InferOutput", infer_output()),
        ("ServerMetadata", metadata()),
        ("Liveness", object().property("live", boolean()).optional("ready", boolean())),
    ]
}

fn infer_output() -> Schema {
    object()
        .property("name", string())
        .property("shape", list(integer()))
        .property("datatype", words(&["BYTES"]))
        .property("data", any_of([list(string()), list(integer())]).about("In the form of the input's."))
}

fn metadata() -> Schema {
    object().property("name", string()).property("version", string()).property("extensions", list(string()))
}
