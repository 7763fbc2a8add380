//! What is streamed is what is answered whole: random tokens, half characters, special ones and stops.

use serde_json::{Value, json};

use crate::support::{END, GRIN_HEAD, GRIN_TAIL, chat_text, completion_text, server};

/// A small generator: the cases are the same in every run.
struct Cases(u64);

impl Cases {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % bound
    }

    /// Often pieces of an emoji, so that characters break in every way.
    fn tokens(&mut self) -> Vec<u32> {
        (0..24)
            .map(|_| match self.below(8) {
                0 => GRIN_HEAD,
                1 => GRIN_TAIL,
                2 => 305,
                _ => self.below(305) as u32,
            })
            .collect()
    }

    /// Pieces of the text, so that some are found.
    fn stops(&mut self, text: &str) -> Vec<String> {
        let characters: Vec<char> = text.chars().collect();
        let piece = |from: usize, len: usize| characters[from..(from + len).min(characters.len())].iter().collect();
        let num_stops = self.below(3);
        (0..num_stops)
            .map(|_| piece(self.below(characters.len() as u64) as usize, 1 + self.below(4) as usize))
            .collect()
    }
}

fn native_text(events: &[Value]) -> String {
    let tokens = events.iter().map(|event| &event["token"]).filter(|token| token["special"] == false);
    tokens.map(|token| token["text"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn streamed_pieces_are_the_whole_text() {
    let mut cases = Cases(7);
    for case in 0..40 {
        let tokens = cases.tokens();
        let server = server(&tokens).await;
        let whole = server.generate("a", json!({ "max_new_tokens": 24 })).await.ok();
        let stops = cases.stops(whole["generated_text"].as_str().unwrap());
        let context = format!("case {case}: {tokens:?} {stops:?}");

        let mut native = json!({ "inputs": "a", "parameters": { "max_new_tokens": 24, "stop": stops } });
        let whole = server.post("/generate", native.clone()).await.ok()["generated_text"].clone();
        native["stream"] = json!(true);
        let events = server.post("/generate_stream", native).await.events();
        assert_eq!(events.last().unwrap()["generated_text"], whole, "{context}");
        assert_eq!(native_text(&events), whole.as_str().unwrap(), "{context}");

        let mut options = json!({ "max_tokens": 24, "stop": stops });
        let chat = server.chat(options.clone()).await.ok()["choices"][0]["message"]["content"].clone();
        let completion = server.complete(options.clone()).await.ok()["choices"][0]["text"].clone();
        assert_eq!(chat, completion, "{context}");
        assert!(stops.iter().all(|stop| !chat.as_str().unwrap().contains(stop.as_str())), "{context}");
        options["stream"] = json!(true);
        assert_eq!(chat_text(&server.chat(options.clone()).await.events()), chat.as_str().unwrap(), "{context}");
        assert_eq!(completion_text(&server.complete(options).await.events()), chat.as_str().unwrap(), "{context}");
        assert!(server.worker.violations().is_empty());
    }
}

/// One list of a completion's log-probabilities, of all events.
fn streamed_list(events: &[Value], name: &str) -> Value {
    let lists = events.iter().filter_map(|event| event["choices"][0]["logprobs"][name].as_array().cloned());
    lists.flatten().collect()
}

#[tokio::test]
async fn streamed_logprobs_are_the_whole_ones_and_lie_within_the_text() {
    let mut cases = Cases(11);
    for case in 0..40 {
        let tokens = cases.tokens();
        let server = server(&tokens).await;
        let mut options = json!({ "max_tokens": 24, "logprobs": 1, "echo": cases.below(2) == 1 });
        let text = server.complete(options.clone()).await.ok()["choices"][0]["text"].as_str().unwrap().to_owned();
        let (stops, min_tokens) = (cases.stops(&text), cases.below(12));
        let context = format!("case {case}: {tokens:?} {stops:?} {min_tokens} {options}");
        options["min_tokens"] = json!(min_tokens);
        options["stop"] = json!(stops);
        let choice = server.complete(options.clone()).await.ok()["choices"][0].clone();
        options["stream"] = json!(true);
        let events = server.complete(options).await.events();
        assert_eq!(completion_text(&events), choice["text"].as_str().unwrap(), "{context}");
        for name in ["tokens", "token_logprobs", "top_logprobs", "text_offset"] {
            assert_eq!(streamed_list(&events, name), choice["logprobs"][name], "{name}, {context}");
        }
        let offsets: Vec<u64> = serde_json::from_value(choice["logprobs"]["text_offset"].clone()).unwrap();
        let num_characters = choice["text"].as_str().unwrap().chars().count() as u64;
        assert!(
            offsets.is_sorted() && offsets.iter().all(|offset| *offset <= num_characters),
            "{offsets:?}, {context}"
        );
        assert!(server.worker.violations().is_empty());
    }
}

#[tokio::test]
async fn the_end_token_is_shown_natively_as_special_and_is_no_text() {
    let server = server(&[262, END]).await;
    let body = json!({ "inputs": "a", "parameters": { "max_new_tokens": 9 } });
    let events = server.post("/generate_stream", body).await.events();
    assert_eq!(events[1]["token"]["text"], "<|im_end|>");
    assert_eq!(events[1]["token"]["special"], true);
    assert_eq!(events[1]["generated_text"], "Hello");
}
