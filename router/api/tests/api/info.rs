//! `GET /info`.

use forebay_engine::fake_worker::FakeScript;

use crate::support::{server, server_of};

#[tokio::test]
async fn it_has_tgis_keys_in_tgis_order_then_those_of_its_version_2() {
    let server = server(&[]).await;
    let answer = server.get("/info").await;
    answer.ok();
    insta::assert_snapshot!(serde_json::to_string_pretty(&answer.json()).unwrap());
}

#[tokio::test]
async fn it_tells_that_the_workers_are_deterministic() {
    let features = ["logprobs", "deterministic"].map(str::to_owned).to_vec();
    let server = server_of(FakeScript { features, ..FakeScript::sequence([]) }, |_| {}).await;
    assert_eq!(server.get("/info").await.json()["deterministic"], true);
}
