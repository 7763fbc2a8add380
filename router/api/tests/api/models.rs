//! `GET /v1/models`.

use serde_json::json;

use crate::support::{MODEL_ID, server};

#[tokio::test]
async fn the_list_holds_the_served_model() {
    let server = server(&[]).await;
    let model = json!({ "id": MODEL_ID, "object": "model", "created": 0, "owned_by": MODEL_ID });
    assert_eq!(server.get("/v1/models").await.ok(), json!({ "object": "list", "data": [model] }));
    assert_eq!(server.get("/v1/models/org/tiny").await.ok(), model);
}

#[tokio::test]
async fn another_model_does_not_exist() {
    let answer = server(&[]).await.get("/v1/models/other").await;
    assert_eq!(answer.status, 404);
    assert_eq!(answer.json()["error"]["code"], "model_not_found");
}
