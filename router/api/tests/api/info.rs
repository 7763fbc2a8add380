//! `GET /info`.

use crate::support::server;

#[tokio::test]
async fn it_has_tgis_keys_in_tgis_order_then_those_of_its_version_2() {
    let server = server(&[]).await;
    let answer = server.get("/info").await;
    answer.ok();
    insta::assert_snapshot!(serde_json::to_string_pretty(&answer.json()).unwrap());
}
