//! Parsers keep to the document: what it lists is taken and nothing else; its defaults change nothing; its limits are
//! where values begin to be refused.

use serde_json::{Map, Number, Value, json};

use super::document_of;
use crate::support::{Answer, END, HELLO, Server, WORLD, server};

/// An object of a request: its schema, and where it stands.
struct Place {
    path: &'static str,
    schema: &'static str,
    /// A request whose object holds these properties beside those that must be there.
    body: fn(Map<String, Value>) -> Value,
    refused: u16,
}

const PLACES: [Place; 7] = [
    Place {
        path: "/generate",
        schema: "GenerateParameters",
        body: |fields| json!({ "inputs": "Hello and", "parameters": fields }),
        refused: 422,
    },
    Place {
        path: "/generate",
        schema: "GenerateRequest",
        body: |fields| with("inputs", "Hello and", fields),
        refused: 422,
    },
    Place {
        path: "/tokenize",
        schema: "GenerateRequest",
        body: |fields| with("inputs", "Hello and", fields),
        refused: 422,
    },
    Place {
        path: "/v1/chat/completions",
        schema: "ChatRequest",
        body: |fields| with("messages", json!([{ "role": "user", "content": "Hello" }]), fields),
        refused: 400,
    },
    Place {
        path: "/vertex",
        schema: "VertexRequest",
        body: |fields| with("instances", json!([{ "inputs": "Hello and" }]), fields),
        refused: 422,
    },
    Place {
        path: "/v2/models/m/versions/1/infer",
        schema: "InferRequest",
        body: |fields| with("inputs", json!([{ "data": ["Hello and"] }]), fields),
        refused: 422,
    },
    Place {
        path: "/v1/completions",
        schema: "CompletionRequest",
        body: |fields| with("prompt", "Hello and", fields),
        refused: 400,
    },
];

fn with(name: &str, value: impl Into<Value>, fields: Map<String, Value>) -> Value {
    let mut body = Map::from_iter([(name.to_owned(), value.into())]);
    body.extend(fields);
    Value::Object(body)
}

/// Without which a field has no effect or is refused.
fn companions(schema: &str, name: &str) -> Map<String, Value> {
    let companions = match (schema, name) {
        ("GenerateParameters", "best_of") => json!({ "do_sample": true }),
        ("ChatRequest", "top_logprobs") => json!({ "logprobs": true }),
        ("CompletionRequest", "max_tokens" | "max_completion_tokens") => json!({ "echo": true }),
        (_, "stream_options") => json!({ "stream": true }),
        _ => json!({}),
    };
    companions.as_object().unwrap().clone()
}

impl Place {
    async fn post(&self, server: &Server, name: &str, value: Value) -> Answer {
        let mut fields = companions(self.schema, name);
        fields.insert(name.to_owned(), value);
        server.post(self.path, (self.body)(fields)).await
    }

    async fn assert_taken(&self, server: &Server, name: &str, value: Value) {
        let answer = self.post(server, name, value.clone()).await;
        assert_eq!(answer.status, 200, "{} {name} = {value}: {}", self.path, answer.body);
    }

    async fn assert_refused(&self, server: &Server, name: &str, value: Value) {
        let answer = self.post(server, name, value.clone()).await;
        assert_eq!(answer.status, self.refused, "{} {name} = {value}: {}", self.path, answer.body);
        assert!(answer.message().contains(&format!("{name}`")), "{name} = {value}: {}", answer.message());
    }
}

fn properties(document: &Value, schema: &str) -> Map<String, Value> {
    document["components"]["schemas"][schema]["properties"].as_object().unwrap().clone()
}

#[tokio::test]
async fn what_it_lists_is_taken_and_nothing_else() {
    let server = server(&[HELLO, WORLD, END]).await;
    let document = document_of(&server).await;
    for place in PLACES {
        let required = &document["components"]["schemas"][place.schema]["required"];
        for name in properties(&document, place.schema).keys() {
            if required.as_array().is_some_and(|required| required.contains(&json!(name))) {
                place.assert_refused(&server, name, Value::Null).await;
            } else {
                place.assert_taken(&server, name, Value::Null).await;
            }
        }
        place.assert_refused(&server, "surprise", json!(1)).await;
    }
}

#[tokio::test]
async fn its_defaults_change_nothing() {
    let server = server(&[HELLO, WORLD, END]).await;
    let document = document_of(&server).await;
    for place in PLACES {
        for (name, property) in properties(&document, place.schema) {
            let Some(default) = property.get("default") else { continue };
            let plain = server.post(place.path, (place.body)(companions(place.schema, &name))).await;
            let last = |server: &Server| server.worker.samplings().pop();
            let mut wire = last(&server);
            let answer = place.post(&server, &name, default.clone()).await;
            assert_eq!(answer.stable_body(), plain.stable_body(), "{name} = {default}");
            // A seed of ours is another each time.
            if let (Some(plain), Some(given)) = (&mut wire, last(&server)) {
                plain.seed = given.seed;
                assert_eq!(*plain, given, "{name} = {default}");
            }
        }
    }
}

#[tokio::test]
async fn its_limits_are_where_refusals_begin() {
    let server = server(&[HELLO, WORLD, END]).await;
    let document = document_of(&server).await;
    let mut num_limits = 0;
    for place in PLACES {
        for (name, property) in properties(&document, place.schema) {
            let (inside, outside) = edges(&property);
            num_limits += outside.len();
            for value in inside {
                place.assert_taken(&server, &name, value).await;
            }
            for value in outside {
                place.assert_refused(&server, &name, value).await;
            }
        }
    }
    assert!(num_limits > 80, "{num_limits}");
}

/// Values at a schema's limits, and the next ones beyond.
fn edges(schema: &Value) -> (Vec<Value>, Vec<Value>) {
    let (mut inside, mut outside) = (Vec::new(), Vec::new());
    for (key, beyond) in [("minimum", -1), ("maximum", 1)] {
        if let Some(limit) = schema.get(key) {
            inside.push(limit.clone());
            outside.push(step(limit, beyond));
        }
    }
    for (key, within) in [("exclusiveMinimum", 1), ("exclusiveMaximum", -1)] {
        if let Some(limit) = schema.get(key) {
            inside.push(step(limit, within));
            outside.push(limit.clone());
        }
    }
    if let Some(words) = schema["enum"].as_array() {
        inside.extend(words.clone());
        outside.push(json!("surprise"));
    }
    if schema.get("minLength").is_some() {
        outside.push(json!(""));
    }
    if let Some(items) = schema.get("items").filter(|items| items["type"] == "string" && items.get("enum").is_none()) {
        let longest = schema["maxItems"].as_u64().unwrap() as usize;
        inside.push(json!(vec!["z"; longest]));
        outside.extend([json!(vec!["z"; longest + 1]), json!([edges(items).1[0]])]);
    } else if schema.get("minItems").is_some() {
        outside.push(json!([]));
    }
    for inner in schema["anyOf"].as_array().into_iter().flatten().filter(|inner| inner.get("$ref").is_none()) {
        let (taken, refused) = edges(inner);
        inside.extend(taken);
        outside.extend(refused);
    }
    (inside, outside)
}

/// The next number in a direction: the next integer, or a little away.
fn step(limit: &Value, direction: i32) -> Value {
    match limit.as_number().and_then(Number::as_i128) {
        Some(integer) => {
            let next = integer + i128::from(direction);
            // Beyond 64 bits there are no integers in JSON.
            Number::from_i128(next).map_or_else(|| json!(next as f64), Value::Number)
        }
        None => json!(limit.as_f64().unwrap() + f64::from(direction) / 1024.0),
    }
}
