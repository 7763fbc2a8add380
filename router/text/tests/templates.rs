//! Chat templates in many styles against what jinja2 renders under transformers' settings (`fixtures/make_templates.py`).
#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test may fail by panic")]

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use forebay_text::{ChatInputs, ChatTemplate};
use serde_json::Value;

const FIXTURE: &str = include_str!("fixtures/templates.json");
/// The fixture's `now`.
const NOW: u64 = 1_722_002_709;

fn now() -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(NOW)
}

fn inputs(case: &Value) -> ChatInputs {
    let continue_final_message = case["continue_final_message"].as_bool().unwrap_or(false);
    ChatInputs {
        messages: case["messages"].as_array().unwrap().clone(),
        tools: case["tools"].as_array().cloned(),
        add_generation_prompt: case["add_generation_prompt"].as_bool().unwrap_or(!continue_final_message),
        continue_final_message,
        kwargs: case["kwargs"].as_object().cloned().unwrap_or_default(),
    }
}

#[test]
fn every_template_renders_to_the_bytes_that_jinja2_gives() {
    let fixture: Value = serde_json::from_str(FIXTURE).unwrap();
    assert_eq!(fixture["now"].as_u64(), Some(NOW));
    let cases = fixture["cases"].as_array().unwrap();
    let mut num_rendered = 0;
    let mut wrong = Vec::new();
    for template in fixture["templates"].as_array().unwrap() {
        let source = template["template"].as_str().unwrap();
        let compiled = ChatTemplate::compile_with_clock(source, Some("<s>"), Some("</s>"), now).unwrap();
        for (index, expected) in template["expected"].as_object().unwrap() {
            let rendered = compiled.render(&inputs(&cases[index.parse::<usize>().unwrap()]));
            num_rendered += 1;
            if rendered.as_deref().ok() != expected.as_str() {
                wrong.push(format!("{} {index}:\nours     {rendered:?}\nexpected {expected:?}", template["name"]));
            }
        }
    }
    assert!(wrong.is_empty(), "{} of {num_rendered} differ:\n{}", wrong.len(), wrong.join("\n"));
    assert!(fixture["templates"].as_array().unwrap().len() >= 200 && num_rendered >= 2000, "{num_rendered}");
}
