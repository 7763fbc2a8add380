//! The API's document: that it is one, that parsers keep to it, and that answers look as it says.

mod answers;
mod requests;
mod schemas;

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use axum::body::Body;
use axum::http::Request;
use forebay_engine::fake_worker::FakeScript;
use serde_json::{Value, json};

use crate::support::{END, HELLO, MODEL_ID, Server, post, send, server, server_of, without_model};

/// Routes that the document does not speak of: its own.
const ITSELF: [&str; 5] = ["/docs", "/docs/", "/docs/{*file}", "/openapi.json", "/api-doc/openapi.json"];

async fn document_of(server: &Server) -> Value {
    server.get("/openapi.json").await.ok()
}

/// Every operation: method, path, description.
fn operations(document: &Value) -> Vec<(String, String, Value)> {
    let paths = document["paths"].as_object().unwrap().iter();
    let all = paths.flat_map(|(path, methods)| {
        let methods = methods.as_object().unwrap().iter();
        methods.map(|(method, operation)| (method.clone(), path.clone(), operation.clone()))
    });
    all.collect()
}

#[tokio::test]
async fn it_is_openapi_and_the_same_under_both_names() {
    let server = server(&[]).await;
    let document = document_of(&server).await;
    assert_eq!(server.get("/api-doc/openapi.json").await.ok(), document);
    assert_eq!(document["info"]["version"], "1.2.3");
    // What the types of another's hand do not know is lost on the way.
    let typed: utoipa::openapi::OpenApi = serde_json::from_value(document.clone()).unwrap();
    assert_eq!(with_floats(serde_json::to_value(typed).unwrap()), with_floats(document));
}

/// The same with 1 as 1.0, which it is in JSON.
fn with_floats(value: Value) -> Value {
    match value {
        Value::Number(number) => json!(number.as_f64()),
        Value::Array(list) => list.into_iter().map(with_floats).collect(),
        Value::Object(object) => object.into_iter().map(|(name, value)| (name, with_floats(value))).collect(),
        other => other,
    }
}

#[tokio::test]
async fn it_is_there_before_any_model_is() {
    let app = without_model();
    let answer = send(&app, Request::get("/openapi.json").body(Body::empty()).unwrap()).await;
    assert!(answer.ok()["paths"].as_object().unwrap().contains_key("/generate"));
}

#[tokio::test]
async fn every_route_is_in_it() {
    let server = server(&[]).await;
    let documented: BTreeSet<String> =
        operations(&document_of(&server).await).into_iter().map(|(_, path, _)| path).collect();
    let mut routed = BTreeSet::new();
    routes(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut routed);
    for path in ITSELF {
        assert!(routed.remove(path), "{path}");
    }
    let routed: BTreeSet<String> = routed.into_iter().map(|path| path.replace("{*", "{")).collect();
    assert_eq!(documented, routed);
}

/// The paths in our sources' calls of `Router::route`.
fn routes(folder: &Path, found: &mut BTreeSet<String>) {
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            routes(&path, found);
        } else {
            let source = fs::read_to_string(&path).unwrap();
            let source = source.split("#[cfg(test)]").next().unwrap();
            found.extend(source.split(".route(\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()));
        }
    }
}

#[tokio::test]
async fn its_examples_are_answered_and_it_tells_what_needs_a_key() {
    let server = server(&[HELLO, END]).await;
    let locked = server_of(FakeScript::default(), |config| config.api_keys = vec!["k".to_owned()]).await;
    for (method, path, operation) in operations(&document_of(&server).await) {
        let path = path.replace("{id}", MODEL_ID);
        let request = || match operation.pointer("/requestBody/content/application~1json/example") {
            Some(example) => post(&path, example),
            None => Request::builder().method(method.to_uppercase().as_str()).uri(&path).body(Body::empty()).unwrap(),
        };
        assert_eq!(send(&server.app, request()).await.status, 200, "{method} {path}");
        let needs_key = send(&locked.app, request()).await.status == 401;
        assert_eq!(operation["security"] != json!([]), needs_key, "{method} {path}");
    }
}
