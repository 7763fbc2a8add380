use std::time::{Duration, Instant};

use serde_json::json;

use super::*;
use crate::model_text::{ModelText, TextFiles};
use crate::test_gguf::{GgufWriter, write_file};

fn inputs(messages: &Value) -> ChatInputs {
    ChatInputs {
        messages: messages.as_array().unwrap().clone(),
        tools: None,
        add_generation_prompt: true,
        continue_final_message: false,
        kwargs: serde_json::Map::new(),
    }
}

fn hello() -> ChatInputs {
    inputs(&json!([{"role": "user", "content": "hello"}]))
}

fn render(source: &str, inputs: &ChatInputs) -> Result<String, TextError> {
    ChatTemplate::compile(source, Some("<s>"), None)?.render(inputs)
}

#[test]
fn what_the_model_defines_cannot_be_overridden_by_the_client() {
    let mut inputs = hello();
    for name in RESERVED.into_iter().chain(["extra"]) {
        inputs.kwargs.insert(name.to_owned(), "mine".into());
    }
    let source = "{{ messages[0].content }} {{ tools }} {{ bos_token }} {{ eos_token is defined }} \
                  {{ add_generation_prompt }} {{ documents }} {{ extra }}";
    assert_eq!(render(source, &inputs).unwrap(), "hello None <s> False True None mine");
}

#[test]
fn a_template_that_refuses_gives_its_own_words() {
    let error = render("{{ raise_exception('roles must alternate') }}", &hello()).unwrap_err();
    assert_eq!(error.to_string(), "template error: roles must alternate");
}

#[test]
fn a_missing_variable_is_named() {
    let error = render("{{ persona.name }}", &hello()).unwrap_err();
    assert!(matches!(&error, TextError::MissingVariable(name) if name == "persona"), "{error}");
    let error = render("{{ messages[0].nothing.here }}", &hello()).unwrap_err();
    assert!(matches!(error, TextError::Template(_)), "{error}");
}

#[test]
fn a_template_tells_which_variables_it_reads() {
    let source = "{% for m in messages %}{% set tool = m %}{{ tool.x }}{{ enable_thinking }}{% endfor %}";
    let template = ChatTemplate::compile(source, None, None).unwrap();
    assert!(template.uses("messages") && template.uses("enable_thinking"));
    assert!(!template.uses("tools") && !template.uses("tool"));
}

#[test]
fn a_final_message_that_the_template_drops_cannot_be_continued() {
    let mut inputs = inputs(&json!([{"role": "assistant", "content": "half"}]));
    inputs.continue_final_message = true;
    assert_eq!(render("<{{ messages[0].content }}>", &inputs).unwrap(), "<half");
    let refused = |source: &str| render(source, &inputs).unwrap_err().to_string();
    assert!(refused("{# content #}x").contains("leaves out or changes the last message"));
    assert!(refused("x").contains("does not read `content`"));
    inputs.messages[0]["content"] = Value::Null;
    let error = render("{{ messages[0].content }}", &inputs).unwrap_err().to_string();
    assert!(error.contains("the last message has no text to continue"), "{error}");
}

#[test]
fn hostile_templates_end_in_an_error_soon() {
    let hostile = [
        ("an endless sum of loops", "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"),
        ("recursion", "{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"),
        ("a recursive loop", "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}"),
        ("a repeated string", "{{ 'a' * 10**9 }}"),
        ("a repeated list", "{{ ([0] * 10**9) | list }}"),
        ("a long range", "{{ range(10**9) | list }}"),
        ("much output", "{% for i in range(99999) %}{{ 'a' * 10000 }}{% endfor %}"),
        ("much raw output", &format!("{{% for i in range(99999) %}}{}{{% endfor %}}", "a".repeat(1000))),
        ("a wide indent", "{{ [[[1]]] | tojson(indent=10**9) }}"),
        (
            "a tree of references",
            "{% set ns = namespace(x=[1]) %}{% for i in range(40) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}\
          {{ ns.x | tojson }}",
        ),
        (
            "a deep list",
            "{% set ns = namespace(x=[]) %}{% for i in range(999) %}{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x | tojson }}",
        ),
        ("a big power", "{{ 10 ** 10 ** 10 }}"),
        ("deep nesting", &format!("{{{{ {}1{} }}}}", "(".repeat(5000), ")".repeat(5000))),
        ("an include", "{% include '/etc/passwd' %}"),
    ];
    for (name, source) in hostile {
        let start = Instant::now();
        assert!(render(source, &hello()).is_err(), "{name} renders");
        // Unbounded, each would take hours or all memory; bounded, some 50 ms, and more on a busy machine.
        assert!(start.elapsed() < Duration::from_secs(10), "{name} takes too long");
    }
}

/// Each of these once overflowed the stack of the whole process, or would without its limit.
#[test]
fn a_template_nested_a_hundred_thousand_deep_is_refused_by_the_limit_that_it_breaks() {
    let many = |unit: &str| unit.repeat(100_000);
    let blocks = "blocks are nested deeper than 100";
    let brackets = "brackets are nested deeper than 100";
    for (source, limit) in [
        (format!("{{{{ {}{} }}}}", many("["), many("]")), brackets),
        (format!("{{{{ {}1{} }}}}", many("("), many(")")), brackets),
        (format!("{{% set x = {}", many("{1:")), brackets),
        (many("{%if 1%}"), blocks),
        (many("{%set a%}"), blocks),
        (format!("{{%if 1%}}{}", many("{%elif 1%}")), blocks),
        (format!("{{{{ 1{} }}}}", many("+1")), "a tag exceeds 16384 characters"),
        (format!("{{{{ {}1 }}}}", many("not ")), "a tag exceeds 16384 characters"),
        (format!("{{{{ x{} }}}}", many("|f")), "a tag exceeds 16384 characters"),
    ] {
        let error = ChatTemplate::compile(&source, None, None).unwrap_err().to_string();
        assert!(error.contains(limit), "{error}");
    }
}

#[test]
fn what_the_limits_of_nesting_allow_compiles_or_is_refused_but_overflows_nothing() {
    let (brackets, blocks) = (|unit: &str| unit.repeat(100), |unit: &str| unit.repeat(100));
    for source in [
        format!("{{{{ {}{} }}}}", brackets("["), brackets("]")),
        format!("{}{}", blocks("{%if 1%}"), blocks("{%endif%}")),
        format!("{{{{ 1{} }}}}", "+1".repeat(8000)),
        format!("{{{{ x{} }}}}", "|e".repeat(8000)),
        format!("{{{{ x{} }}}}", ".a".repeat(8000)),
        format!("{{{{ {}1 }}}}", "-".repeat(16000)),
        format!("{{{{ {}1 }}}}", "not ".repeat(4000)),
        format!("{{{{ {}1 }}}}", "1 if 1 else ".repeat(1300)),
    ] {
        let _ = render(&source, &hello());
    }
    assert_eq!(render(&format!("{{{{ 1{} }}}}", "+1".repeat(3000)), &hello()).unwrap(), "3001");
}

#[test]
fn a_long_conversation_has_fuel_enough() {
    let turn = |index: usize| json!({"role": if index.is_multiple_of(2) { "user" } else { "assistant" }, "content": "some words"});
    let inputs = inputs(&(0..4000).map(turn).collect());
    let fixture: Value = serde_json::from_str(include_str!("../../tests/fixtures/templates.json")).unwrap();
    // Of the families, which cost the same, one in every way.
    let name = |template: &Value| template["name"].as_str().unwrap().to_owned();
    let wanted = |template: &&Value| !name(template).contains(", ") || name(template).starts_with("qwen-3, ");
    for template in fixture["templates"].as_array().unwrap().iter().filter(wanted) {
        let rendered = render(template["template"].as_str().unwrap(), &inputs);
        let out_of_fuel = rendered.is_err_and(|error| error.to_string().contains("fuel"));
        assert!(!out_of_fuel, "{}", template["name"]);
    }
}

#[test]
fn a_slip_of_the_engine_is_an_error() {
    let error = render("{{ [1, 2][0:5:-2] }}", &hello()).unwrap_err().to_string();
    assert_eq!(error, "template error: the template engine failed on this template");
}

#[test]
fn empty_values_are_reversed() {
    assert_eq!(render("{{ [][::-1] }}{{ ''[::-1] }}{{ 'ab'[::-1] }}{{ [1, 2][::-1][0] }}", &hello()).unwrap(), "[]ba2");
}

fn load(files: &TextFiles) -> ModelText {
    ModelText::load(files).unwrap()
}

fn select(text: &ModelText, inputs: &ChatInputs) -> Result<String, TextError> {
    text.chat_templates.as_ref().unwrap().select(inputs)?.render(inputs)
}

#[test]
fn the_first_place_that_has_a_template_wins() {
    let gguf = GgufWriter::tiny("smollm").string("tokenizer.chat_template", "gguf").write();
    let config = write_file(br#"{"chat_template": "config"}"#);
    let json = write_file(br#"{"chat_template": "json"}"#);
    let jinja = write_file(b"jinja");
    let path = |file: &tempfile::NamedTempFile| Some(file.path().to_owned());
    let mut files = TextFiles { gguf: path(&gguf), ..TextFiles::default() };
    assert_eq!(select(&load(&files), &hello()).unwrap(), "gguf");
    files.tokenizer_config = path(&config);
    assert_eq!(select(&load(&files), &hello()).unwrap(), "config");
    files.chat_template_json = path(&json);
    assert_eq!(select(&load(&files), &hello()).unwrap(), "json");
    files.chat_template_jinja = path(&jinja);
    assert_eq!(select(&load(&files), &hello()).unwrap(), "jinja");
}

#[test]
fn named_templates_are_chosen_by_what_the_request_has() {
    let with_tools = ChatInputs { tools: Some(vec![json!({})]), ..hello() };
    let gguf = GgufWriter::tiny("smollm")
        .string("tokenizer.chat_template", "plain")
        .string("tokenizer.chat_template.tool_use", "tools")
        .write();
    let text = load(&TextFiles { gguf: Some(gguf.path().to_owned()), ..TextFiles::default() });
    assert_eq!(select(&text, &hello()).unwrap(), "plain");
    assert_eq!(select(&text, &with_tools).unwrap(), "tools");
    let config = write_file(br#"{"chat_template": [{"name": "rag", "template": "rag"}]}"#);
    let files = TextFiles {
        gguf: Some(gguf.path().to_owned()),
        tokenizer_config: Some(config.path().to_owned()),
        ..TextFiles::default()
    };
    let error = select(&load(&files), &hello()).unwrap_err().to_string();
    assert_eq!(error, "template error: the model has no default chat template, only `rag`");
}

#[test]
fn an_empty_list_of_tools_is_rendered_as_transformers_renders_it() {
    let no_tools = ChatInputs { tools: Some(Vec::new()), ..hello() };
    let gguf = GgufWriter::tiny("smollm")
        .string("tokenizer.chat_template", "plain")
        .string("tokenizer.chat_template.tool_use", "tools {{ tools }}")
        .write();
    let text = load(&TextFiles { gguf: Some(gguf.path().to_owned()), ..TextFiles::default() });
    assert_eq!(select(&text, &no_tools).unwrap(), "tools []");
    assert_eq!(select(&text, &hello()).unwrap(), "plain");
}

#[test]
fn templates_of_the_additional_folder_go_by_their_file_names() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, content: &str| std::fs::write(folder.path().join(name), content).unwrap();
    let gguf = GgufWriter::tiny("smollm").write();
    let files = TextFiles {
        gguf: Some(gguf.path().to_owned()),
        chat_template_jinja: Some(folder.path().join("chat_template.jinja")),
        ..TextFiles::default()
    };
    let with_tools = ChatInputs { tools: Some(vec![json!({})]), ..hello() };
    write("chat_template.jinja", "plain");
    assert_eq!(select(&load(&files), &with_tools).unwrap(), "plain");
    std::fs::create_dir(folder.path().join("additional_chat_templates")).unwrap();
    write("additional_chat_templates/tool_use.jinja", "tools <|im_end|>");
    write("additional_chat_templates/README.md", "not one");
    let text = load(&files);
    assert_eq!(select(&text, &with_tools).unwrap(), "tools <|im_end|>");
    assert_eq!(select(&text, &hello()).unwrap(), "plain");
    write("additional_chat_templates/default.jinja", "another");
    let error = ModelText::load(&files).unwrap_err().to_string();
    assert!(error.contains("the template `default` is also in `chat_template.jinja`"), "{error}");
}

#[test]
fn a_template_that_does_not_compile_is_an_error_of_chat_alone() {
    let gguf = GgufWriter::tiny("smollm").string("tokenizer.chat_template", "{% if %}").write();
    let text = load(&TextFiles { gguf: Some(gguf.path().to_owned()), ..TextFiles::default() });
    let error = select(&text, &hello()).unwrap_err().to_string();
    assert!(error.starts_with("template error: chat template `default`: "), "{error}");
    assert!(error.contains("syntax error"), "{error}");
}
