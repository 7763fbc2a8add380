use std::io::Write;

use serde_json::json;

use super::*;

fn load(content: &str, output_tokens: Option<u32>) -> Result<Vec<Prompt>, String> {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(content.as_bytes()).unwrap();
    read_file(file.path(), output_tokens).map_err(|error| error.to_string())
}

fn text(content: &str, output_tokens: u32) -> Prompt {
    Prompt { content: Content::Text(content.to_owned()), output_tokens }
}

#[test]
fn lines_hold_prompts_or_messages() {
    let messages = json!([{"role": "user", "content": "two"}]);
    let lines = format!("{}\n\n{}\n", json!({"prompt": "one", "max_tokens": 7}), json!({"messages": messages}));
    assert_eq!(
        load(&lines, None).unwrap(),
        [text("one", 7), Prompt { content: Content::Messages(messages), output_tokens: DEFAULT_OUTPUT_TOKENS }]
    );
}

#[test]
fn of_sharegpt_the_first_turn_is_asked() {
    let entries =
        json!([{"id": "a", "conversations": [{"from": "human", "value": "ask"}, {"from": "gpt", "value": "x"}]}]);
    assert_eq!(load(&entries.to_string(), Some(9)).unwrap(), [text("ask", 9)]);
}

#[test]
fn what_is_not_understood_is_named_with_its_line() {
    for (content, words) in [
        ("{\"prompt\": \"a\"}\n{oops", vec!["line `2`", "no JSON"]),
        ("{\"text\": \"a\"}", vec!["line `1`", "neither `prompt`"]),
        ("{\"prompt\": \"a\", \"max_tokens\": 0}", vec!["`max_tokens` is `0`"]),
        ("[{\"conversations\": []}]", vec!["entry `0`"]),
        ("\n", vec!["holds no prompt"]),
    ] {
        let error = load(content, None).unwrap_err();
        assert!(words.iter().all(|word| error.contains(word)), "{error}");
    }
}

#[test]
fn generated_prompts_share_their_beginning_and_nothing_else() {
    let generator = Generator { input_words: 200, output_tokens: 5, shared_prefix: 0.25, seed: 1 };
    let words = |index| match generator.prompt(index).content {
        Content::Text(text) => text.split(' ').map(str::to_owned).collect::<Vec<_>>(),
        Content::Messages(_) => unreachable!(),
    };
    let (first, second) = (words(0), words(1));
    assert_eq!(first.len(), 200);
    assert_eq!(first[..50], second[..50]);
    let num_equal = first[50..].iter().zip(&second[50..]).filter(|(a, b)| a == b).count();
    // 150 pairs, each equal with a chance of 1 in 64.
    assert!(num_equal < 15, "{num_equal}");
    assert_eq!(words(1), second);
}

#[test]
fn a_file_repeats_from_its_beginning_and_warms_up_with_none_of_its_prompts() {
    let source = Source::File(vec![text("a", 3), text("b", 4)]);
    assert_eq!([0, 1, 2].map(|index| source.prompt(index)), [text("a", 3), text("b", 4), text("a", 3)]);
    let warm_up = source.warm_up_prompt(0);
    assert_eq!(warm_up.output_tokens, 3);
    assert!(matches!(warm_up.content, Content::Text(words) if words.split(' ').count() == 32));
}
