//! The routes of clouds: `/invocations`, `/vertex`, KServe's, and those at paths that Vertex AI chooses.

use axum::body::Body;
use axum::http::Request;
use forebay_api::PlatformRoutes;
use forebay_engine::fake_worker::FakeScript;
use serde_json::{Value, json};

use crate::support::{Answer, END, HELLO, Server, WORLD, post, send, server, server_of, without_model};

const INFER: &str = "/v2/models/any/versions/1/infer";

fn chat() -> Value {
    json!({ "messages": [{ "role": "user", "content": "Hello" }], "max_tokens": 2 })
}

async fn predict(server: &Server, instances: Value) -> Answer {
    server.post("/vertex", json!({ "instances": instances })).await
}

#[tokio::test]
async fn an_invocation_is_answered_as_on_the_route_that_its_fields_mean() {
    let server = server(&[HELLO, WORLD, END]).await;
    let mut streamed = chat();
    streamed["stream"] = json!(true);
    for (path, body) in [
        ("/", json!({ "inputs": "and", "parameters": { "max_new_tokens": 2 } })),
        ("/", json!({ "inputs": "and", "stream": true })),
        ("/", json!({ "inputs": "" })),
        ("/v1/chat/completions", chat()),
        ("/v1/chat/completions", streamed),
        ("/v1/chat/completions", json!({ "messages": [] })),
        ("/v1/completions", json!({ "prompt": ["a", "and"], "max_tokens": 2 })),
        ("/v1/completions", json!({ "prompt": "a", "max_tokens": -1 })),
    ] {
        let (meant, invoked) = (server.post(path, body.clone()).await, server.post("/invocations", body).await);
        assert_eq!(invoked.status, meant.status, "{path}");
        assert_eq!(invoked.stable_body(), meant.stable_body(), "{path}");
    }
}

#[tokio::test]
async fn an_invocation_that_means_no_route_is_told_what_could() {
    let server = server(&[]).await;
    let answer = server.post("/invocations", json!({ "text": "a" })).await;
    assert_eq!(answer.status, 422);
    assert_eq!(answer.message(), "expected `inputs`, `messages` or `prompt`");
    assert_eq!(server.post("/invocations", json!([])).await.status, 422);
}

#[tokio::test]
async fn each_instance_gets_its_prediction_in_order() {
    let server = server(&[HELLO, WORLD, END]).await;
    let generate = |max_new_tokens: u32| json!({ "inputs": "a", "parameters": { "max_new_tokens": max_new_tokens } });
    let answer = predict(&server, json!([generate(1), chat(), generate(2)])).await;
    assert_eq!(answer.ok(), json!({ "predictions": ["Hello", "Hello world", "Hello world"] }));
}

/// TGI honours `max_new_tokens` and `seed` alone.
#[tokio::test]
async fn every_parameter_of_an_instance_is_honoured() {
    let server = server(&[HELLO, WORLD, END]).await;
    let parameters = json!({
        "temperature": 0.5, "top_k": 5, "top_p": 0.5, "typical_p": 0.5, "repetition_penalty": 1.5,
        "frequency_penalty": 0.25, "seed": 7, "stop": ["lo"], "return_full_text": true, "truncate": 1,
    });
    let answer = predict(&server, json!([{ "inputs": "and a", "parameters": parameters }])).await;
    assert_eq!(answer.ok(), json!({ "predictions": ["and aHello"] }));
    let sampling = server.worker.samplings().pop().unwrap();
    assert_eq!((sampling.temperature, sampling.top_k, sampling.top_p, sampling.typical_p), (0.5, 5, 0.5, 0.5));
    assert_eq!((sampling.repetition_penalty, sampling.tgi_frequency_penalty, sampling.seed), (1.5, 0.25, 7));
    assert_eq!(server.last_prompt().len(), 1);
    let details = json!({ "max_new_tokens": 1, "details": true, "top_n_tokens": 2 });
    let detailed = predict(&server, json!([{ "inputs": "a", "parameters": details }])).await.ok();
    assert_eq!(detailed["predictions"][0]["details"]["top_tokens"][0].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn a_bad_instance_is_named_and_keeps_its_status() {
    let server = server(&[HELLO, END]).await;
    let good = json!({ "inputs": "a" });
    for (instance, message) in [
        (json!({ "inputs": "" }), "`instances[1]`: `inputs` cannot be empty"),
        (json!({ "inputs": "a", "parameters": { "top_p": 7 } }), "`instances[1]`: `top_p` must be > 0.0 and < 1.0"),
        (json!({ "inputs": "a", "stream": true }), "`instances[1]`: `stream`: a prediction is one text; leave it out"),
        (
            json!({ "messages": [{ "role": "user", "content": "a" }], "n": 2 }),
            "`instances[1]`: `n`: a prediction is one text; leave it out",
        ),
        (
            json!({ "messages": [{ "role": "user", "content": "a" }], "logprobs": true }),
            "`instances[1]`: `logprobs`: a prediction is one text; leave it out",
        ),
    ] {
        let answer = predict(&server, json!([good, instance])).await;
        assert_eq!(answer.status, 422, "{instance}");
        assert_eq!(answer.message(), format!("Input validation error: {message}"));
    }
    let answer = predict(&server, json!([{ "text": "a" }])).await;
    assert_eq!(
        (answer.status.as_u16(), answer.message().as_str()),
        (422, "`instances[0]`: expected `inputs` or `messages`")
    );
    for instances in [json!([]), json!([good, good, good, good, good])] {
        assert!(predict(&server, instances).await.message().contains("`instances` must hold 1 to 4 requests"));
    }
    let locked = server_of(FakeScript::default(), |config| config.limits.max_concurrent_requests = 1).await;
    assert_eq!(predict(&locked, json!([good, good])).await.status, 429, "overload is told as such");
}

#[tokio::test]
async fn kserve_answers_in_the_form_of_the_input() {
    let server = server(&[HELLO, WORLD, END]).await;
    let texts = json!({ "name": "prompt", "shape": [2], "datatype": "BYTES", "data": ["a", "and"] });
    let body = json!({ "id": "7", "inputs": [texts], "parameters": { "max_new_tokens": 1 } });
    let output = json!({ "name": "generated_text", "shape": [2], "datatype": "BYTES", "data": ["Hello", "Hello"] });
    assert_eq!(server.post(INFER, body).await.ok(), json!({ "id": "7", "outputs": [output] }));
    // As TGI has it: the bytes of one prompt, and of its answer.
    let bytes = json!({ "name": "prompt", "shape": [1], "datatype": "BYTES", "data": b"and" });
    let body = json!({
        "inputs": [bytes], "outputs": [{ "name": "text" }], "parameters": { "max_new_tokens": 1, "seed": 7, "top_k": 3 },
    });
    let output = json!({ "name": "text", "shape": [1, 5], "datatype": "BYTES", "data": b"Hello" });
    assert_eq!(server.post(INFER, body).await.ok(), json!({ "outputs": [output] }));
    let sampling = server.worker.samplings().pop().unwrap();
    assert_eq!((sampling.seed, sampling.top_k), (7, 3));
}

#[tokio::test]
async fn kserve_refuses_by_name() {
    let server = server(&[HELLO]).await;
    let good = json!({ "data": ["a"] });
    for (body, message) in [
        (json!({ "inputs": [good, { "datatype": "FP32", "data": ["a"] }] }), "`inputs[1]`: `datatype` must be `BYTES`"),
        (json!({ "inputs": [{ "data": [0xFF] }] }), "`inputs[0]`: `data` is no UTF-8"),
        (json!({ "inputs": [{ "data": [] }] }), "`inputs[0]`: `data` cannot be empty"),
        (json!({ "inputs": [{ "data": [256] }] }), "`inputs[0]`: `data` must be a list of strings"),
        (json!({ "inputs": [] }), "`inputs` must hold 1 to 4 prompts. Given: 0"),
        (json!({ "inputs": [{ "data": ["a", "a", "a", "a", "a"] }] }), "`inputs` must hold 1 to 4 prompts. Given: 5"),
        (
            json!({ "inputs": [good], "outputs": [{ "name": "a" }, { "name": "b" }] }),
            "`outputs` must name as many as `inputs`. Given: 2 and 1",
        ),
        (json!({ "inputs": [good], "parameters": { "details": true } }), "`details`: an output is a text"),
        (json!({ "inputs": [good], "parameters": { "top_k": 0 } }), "`inputs[0]`: `top_k` must be strictly positive"),
        (json!({ "inputs": [good], "model": "m" }), "unknown field `model`"),
    ] {
        let answer = server.post(INFER, body.clone()).await;
        assert_eq!(answer.status, 422, "{body}");
        assert!(answer.message().contains(message), "{}", answer.message());
    }
}

#[tokio::test]
async fn kserve_tells_the_server_the_model_and_whether_they_are_ready() {
    let server = server(&[]).await;
    assert_eq!(server.get("/v2").await.ok()["version"], "1.2.3");
    let model = server.get("/v2/models/my-model/versions/3").await.ok();
    assert_eq!((&model["name"], &model["version"]), (&json!("my-model"), &json!("3")));
    let ready = ["/v2/health/ready", "/v2/models/m/versions/1/ready"];
    for path in ready {
        assert_eq!(server.get(path).await.ok(), json!({ "live": true, "ready": true }));
    }
    let loading = without_model();
    let get = async |path: &str| send(&loading, Request::get(path).body(Body::empty()).unwrap()).await;
    for path in ready {
        assert_eq!(get(path).await.status, 503);
    }
    assert_eq!(get("/v2/health/live").await.ok(), json!({ "live": true }));
}

#[tokio::test]
async fn the_platforms_paths_lead_to_the_same_routes_and_predictions_ask_for_the_key() {
    let (predict, health) = ("/v1/endpoints/1/deployedModels/2:predict", "/v1/endpoints/1/deployedModels/2");
    let server = server_of(FakeScript::sequence([HELLO, END]), |config| {
        config.api_keys = vec!["k".to_owned()];
        config.platform_routes = PlatformRoutes::new(Some(predict.to_owned()), Some(health.to_owned())).unwrap();
    })
    .await;
    let body = json!({ "instances": [{ "inputs": "a" }] });
    assert_eq!(server.post(predict, body.clone()).await.status, 401);
    let mut request = post(predict, &body);
    request.headers_mut().insert("authorization", "Bearer k".parse().unwrap());
    assert_eq!(send(&server.app, request).await.ok(), json!({ "predictions": ["Hello"] }));
    assert_eq!(server.get(health).await.status, 200);
    let other = Request::post(health).body(Body::empty()).unwrap();
    assert_eq!(send(&server.app, other).await.status, 401);
}
