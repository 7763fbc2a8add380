//! The body of a request, in each API's words.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::dataset::{Content, Prompt};
use crate::error::BenchError;
use crate::settings::{Api, Target};

/// What an API cannot say is refused before anything is sent.
pub(crate) fn check(target: &Target, prompt: &Prompt) -> Result<(), BenchError> {
    if target.api == Api::Tgi && target.ignore_eos {
        return Err(BenchError::Unsupported("`--ignore-eos` with `--api tgi`: that API has no such option"));
    }
    if target.api != Api::Chat && matches!(prompt.content, Content::Messages(_)) {
        return Err(BenchError::Unsupported("a dataset of `messages` needs `--api chat`"));
    }
    Ok(())
}

/// `model` is what the server calls it. Must have passed [`check`].
pub(crate) fn body(target: &Target, model: &str, prompt: &Prompt) -> Bytes {
    let mut body = match target.api {
        Api::Chat => {
            let messages = match &prompt.content {
                Content::Text(text) => json!([{"role": "user", "content": text}]),
                Content::Messages(messages) => messages.clone(),
            };
            openai(target, model, prompt, ("messages", messages))
        }
        Api::Completions => openai(target, model, prompt, ("prompt", text(prompt))),
        Api::Tgi => tgi(target, prompt),
    };
    if let Value::Object(fields) = &mut body {
        fields.extend(target.extra.clone());
    }
    Bytes::from(body.to_string())
}

fn text(prompt: &Prompt) -> Value {
    match &prompt.content {
        Content::Text(text) => text.as_str().into(),
        Content::Messages(messages) => messages.clone(),
    }
}

fn openai(target: &Target, model: &str, prompt: &Prompt, (name, content): (&str, Value)) -> Value {
    let mut body = json!({
        "model": model,
        name: content,
        "max_tokens": prompt.output_tokens,
        "temperature": target.temperature,
        "stream": true,
        "stream_options": {"include_usage": true},
    });
    // Not of OpenAI's API: servers that do not know it may refuse it, so it is sent only when asked for.
    if target.ignore_eos {
        body["ignore_eos"] = true.into();
    }
    body
}

/// TGI takes no temperature of 0; without one it is greedy.
fn tgi(target: &Target, prompt: &Prompt) -> Value {
    let mut parameters = json!({"max_new_tokens": prompt.output_tokens, "details": true});
    if target.temperature > 0.0 {
        parameters["do_sample"] = true.into();
        parameters["temperature"] = target.temperature.into();
    }
    json!({"inputs": text(prompt), "parameters": parameters})
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(api: Api) -> Target {
        let extra = json!({"min_tokens": 2}).as_object().unwrap().clone();
        Target { url: String::new(), api, model: None, api_key: None, temperature: 0.0, ignore_eos: false, extra }
    }

    fn prompt() -> Prompt {
        Prompt { content: Content::Text("hi".to_owned()), output_tokens: 4 }
    }

    fn parsed(target: &Target) -> Value {
        serde_json::from_slice(&body(target, "m", &prompt())).unwrap()
    }

    #[test]
    fn each_api_gets_its_own_body() {
        let chat = parsed(&Target { ignore_eos: true, ..target(Api::Chat) });
        assert_eq!(
            chat,
            json!({
                "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 4, "temperature": 0.0,
                "stream": true, "stream_options": {"include_usage": true}, "ignore_eos": true, "min_tokens": 2,
            })
        );
        assert_eq!(parsed(&target(Api::Completions))["prompt"], "hi");
        assert_eq!(
            parsed(&target(Api::Tgi)),
            json!({"inputs": "hi", "parameters": {"max_new_tokens": 4, "details": true}, "min_tokens": 2})
        );
    }

    #[test]
    fn what_an_api_cannot_say_is_refused() {
        let eos = Target { ignore_eos: true, ..target(Api::Tgi) };
        assert!(check(&eos, &prompt()).unwrap_err().to_string().contains("`--ignore-eos`"));
        let messages = Prompt { content: Content::Messages(json!([])), output_tokens: 1 };
        assert!(check(&target(Api::Completions), &messages).unwrap_err().to_string().contains("`--api chat`"));
        check(&target(Api::Chat), &messages).unwrap();
    }
}
