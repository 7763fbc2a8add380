//! Every field of every endpoint that generates: what it does by default and as `null`, what each value becomes for the
//! worker or in the answer, and the words in which a bad one is refused. One table an endpoint.

mod chat;
mod native;

use forebay_wire::SamplingParams;
use serde_json::{Map, Value, json};

use crate::support::{Answer, END, HELLO, Server, WORLD, server};

/// What a value does.
enum Effect {
    /// The worker's sampling parameters differ from the plain request's in these, and in nothing else.
    Wire(Value),
    /// The answer holds this at this JSON pointer.
    Answer(&'static str, Value),
}

/// One field's rows.
struct Field {
    name: &'static str,
    taken: Vec<(Value, Effect)>,
    /// A value, and a part of the message that refuses it.
    refused: Vec<(Value, &'static str)>,
}

fn field(name: &'static str, taken: Vec<(Value, Effect)>, refused: Vec<(Value, &'static str)>) -> Field {
    Field { name, taken, refused }
}

fn wire(differences: Value) -> Effect {
    Effect::Wire(differences)
}

fn answer(pointer: &'static str, value: Value) -> Effect {
    Effect::Answer(pointer, value)
}

/// One endpoint: where it is, and where in its body the fields stand.
struct Endpoint {
    path: &'static str,
    /// A body with these fields.
    body: fn(Map<String, Value>) -> Value,
    /// The status of a refusal.
    bad_status: u16,
}

impl Endpoint {
    async fn post(&self, server: &Server, name: &str, value: &Value) -> Answer {
        let fields = [(name.to_owned(), value.clone())];
        server.post(self.path, (self.body)(fields.into_iter().collect())).await
    }

    /// Walks a table on one server; the worker says "Hello", " world" and ends.
    async fn walk(&self, table: Vec<Field>) {
        let server = server(&[HELLO, WORLD, END]).await;
        server.post(self.path, (self.body)(Map::new())).await.ok();
        let plain = last_wire(&server);
        for Field { name, taken, refused } in table {
            self.post(&server, name, &Value::Null).await.ok();
            assert_eq!(last_wire(&server), plain, "{name}: null is not as if it were absent");
            for (value, effect) in taken {
                let answer = self.post(&server, name, &value).await;
                let context = format!("{name} = {value}");
                assert_eq!(answer.status, 200, "{context}: {}", answer.body);
                check(&effect, &plain, &server, &answer, &context);
            }
            for (value, message) in refused {
                let answer = self.post(&server, name, &value).await;
                assert_eq!(answer.status, self.bad_status, "{name} = {value}: {}", answer.body);
                assert!(answer.message().contains(message), "{name} = {value}: {}", answer.message());
            }
        }
        assert_eq!(server.worker.violations(), Vec::<String>::new());
    }
}

fn check(effect: &Effect, plain: &Value, server: &Server, answer: &Answer, context: &str) {
    match effect {
        Effect::Wire(differences) => {
            let mut expected = plain.clone();
            expected.as_object_mut().unwrap().extend(differences.as_object().unwrap().clone());
            assert_eq!(last_wire(server), expected, "{context}");
        }
        Effect::Answer(pointer, value) => {
            let body = answer.json();
            assert_eq!(body.pointer(pointer).unwrap_or(&Value::Null), value, "{context}: {body}");
        }
    }
}

/// The sampling parameters that the worker got last; of the seed only what a test can know.
fn last_wire(server: &Server) -> Value {
    let sampling = server.worker.samplings().pop().unwrap();
    let SamplingParams { temperature, top_k, top_p, typical_p, min_p, .. } = sampling;
    let SamplingParams { repetition_penalty, frequency_penalty, presence_penalty, tgi_frequency_penalty, .. } =
        sampling;
    let SamplingParams { min_new_tokens, num_top_logprobs, top_ties, num_prompt_logprobs, logprobs_kind, .. } =
        sampling;
    json!({
        "temperature": temperature, "top_k": top_k, "top_p": top_p, "typical_p": typical_p, "min_p": min_p,
        "repetition_penalty": repetition_penalty, "frequency_penalty": frequency_penalty,
        "presence_penalty": presence_penalty, "tgi_frequency_penalty": tgi_frequency_penalty,
        "logit_bias_ids": u32s(&sampling.logit_bias_ids), "logit_bias_values": f32s(&sampling.logit_bias_values),
        "allowed_token_ids": u32s(&sampling.allowed_token_ids), "bad_words": u32s(&sampling.bad_words),
        "min_new_tokens": min_new_tokens, "end_token_ids": u32s(&sampling.end_token_ids),
        "num_top_logprobs": num_top_logprobs, "top_ties": top_ties, "num_prompt_logprobs": num_prompt_logprobs,
        "logprobs_kind": logprobs_kind, "small_seed": (sampling.seed < 100).then_some(sampling.seed),
        "grammar_id": sampling.grammar_id, "watermark": sampling.watermark.map(|watermark| [watermark.gamma, watermark.delta]),
    })
}

fn u32s(array: &[u8]) -> Vec<u32> {
    array.chunks(4).map(|bytes| u32::from_le_bytes(bytes.try_into().unwrap())).collect()
}

fn f32s(array: &[u8]) -> Vec<f32> {
    array.chunks(4).map(|bytes| f32::from_le_bytes(bytes.try_into().unwrap())).collect()
}
