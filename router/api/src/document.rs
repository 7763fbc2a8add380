//! The API's document, `OpenAPI` 3.1. Request bodies come from the tables by which parsers take them apart.

mod operations;

use serde_json::{Map, Value, json};

use self::operations::{Answer, OPERATIONS, Operation};
use crate::auth;
use crate::error::Dialect;
use crate::schema::{Schema, named, string};
use crate::state::Limits;
use crate::{cloud, openai, tgi};

const DESCRIPTION: &str = "Text Generation Inference's routes and OpenAI's. Every field of a request works or is \
    refused by its name; `null` is as good as nothing. Limits are those that this server was started with; where a \
    model sets them, its refusals tell them.";

/// Under the operator's limits, whatever the model.
pub fn document(limits: &Limits, version: &str) -> Value {
    let mut paths = Map::new();
    for operation in OPERATIONS {
        let path = paths.entry(operation.path.replace("{*", "{")).or_insert_with(|| json!({}));
        path[operation.method] = describe(operation);
    }
    let schemas = [tgi::schemas(limits), openai::schemas(limits), cloud::schemas(limits)].into_iter().flatten();
    let schemas: Map<String, Value> = schemas.map(|(name, schema)| (name.to_owned(), schema.into())).collect();
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Forebay",
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0", "identifier": "Apache-2.0" },
            "version": version,
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "api_key": { "type": "http", "scheme": "bearer", "description": "If the server was started with keys." },
            },
        },
    })
}

fn describe(operation: &Operation) -> Value {
    let Operation { id, tag, summary, dialect, body, answers, path, method } = operation;
    let refused = match dialect {
        Dialect::Native => "ErrorResponse",
        Dialect::OpenAi => "OpenAiErrorResponse",
    };
    let mut described = json!({
        "operationId": id,
        "tags": [tag],
        "summary": summary,
        "responses": {
            "200": { "description": "Done." },
            "4XX": { "description": "The request is wrong, or comes at a bad time.", "content": json_of(named(refused)) },
            "5XX": { "description": "The server failed, or is not ready.", "content": json_of(named(refused)) },
        },
        "security": if *method == "get" && auth::is_public_route(path) { json!([]) } else { json!([{ "api_key": [] }]) },
    });
    if !answers.is_empty() {
        described["responses"]["200"]["content"] = contents(answers);
    }
    if let Some((schema, example)) = body {
        let mut content = json_of(named(schema));
        content["application/json"]["example"] = example();
        described["requestBody"] = json!({ "required": true, "content": content });
    }
    let parameters = path.split('{').skip(1).filter_map(|rest| rest.split('}').next());
    let describe = |name: &str| json!({ "name": name.trim_start_matches('*'), "in": "path", "required": true, "schema": Value::from(string()) });
    if path.contains('{') {
        described["parameters"] = parameters.map(describe).collect();
    }
    described
}

/// Whether a path is one of our own, with this method.
pub(crate) fn is_operation(method: &str, path: &str) -> bool {
    let is_of_the_document = ["/docs", "/docs/", "/openapi.json", "/api-doc/openapi.json"].contains(&path);
    let is_listed = |operation: &Operation| operation.method == method && operation.path == path;
    (method == "get" && is_of_the_document) || OPERATIONS.iter().any(is_listed)
}

fn contents(answers: &[Answer]) -> Value {
    let content =
        |(media_type, schema): &Answer| ((*media_type).to_owned(), json!({ "schema": Value::from(schema()) }));
    Value::Object(answers.iter().map(content).collect())
}

fn json_of(schema: Schema) -> Value {
    json!({ "application/json": { "schema": Value::from(schema) } })
}
