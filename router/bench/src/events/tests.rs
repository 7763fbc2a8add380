use super::*;

const TEXT: Marks = Marks { text: true, ends: false, counts: false, error: false };
const NOTHING: Marks = Marks { text: false, ..TEXT };
const ENDS: Marks = Marks { ends: true, ..NOTHING };
const COUNTS: Marks = Marks { counts: true, ..NOTHING };
const ERROR: Marks = Marks { error: true, ..NOTHING };

#[test]
fn lines_are_the_same_however_the_body_is_cut() {
    let body = b"data: {\"a\":1}\r\n\r\ndata: two\n\n";
    let whole: Vec<&[u8]> = vec![b"data: {\"a\":1}\r", b"\r", b"data: two", b""];
    for cut in 0..body.len() {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in [&body[..cut], &body[cut..]] {
            assert!(lines.feed(piece, |line| found.push(line.to_vec())));
        }
        assert_eq!(found, whole, "cut at {cut}");
    }
}

#[test]
fn a_line_without_end_is_refused() {
    let mut lines = Lines::default();
    let piece = vec![b'x'; 8 << 20];
    assert!(lines.feed(&piece, |_| {}) && lines.feed(&piece, |_| {}));
    assert!(!lines.feed(b"x", |_| {}));
}

#[test]
fn only_data_lines_have_a_payload() {
    assert_eq!(payload(b"data: {}\r"), Some(&b"{}"[..]));
    assert_eq!(payload(b"data:[DONE]"), Some(&b"[DONE]"[..]));
    assert_eq!(payload(b": keep-alive"), None);
    assert_eq!(payload(b""), None);
}

#[test]
fn events_of_all_servers_are_recognized_by_their_keys() {
    for (event, expected) in [
        // ours and vLLM's: role first, text, finish, usage
        (
            r#"{"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
            NOTHING,
        ),
        (r#"{"choices":[{"index":0,"delta":{"content":" a"},"logprobs":null,"finish_reason":null}]}"#, TEXT),
        (r#"{"choices":[{"index":0,"delta":{"reasoning_content":"hm"},"finish_reason":null}]}"#, TEXT),
        (r#"{"choices":[{"delta":{"tool_calls":[{"function":{"arguments":"{\"a\""}}]}}]}"#, TEXT),
        (r#"{"choices":[{"index":0,"delta":{},"finish_reason":"length"}]}"#, ENDS),
        (r#"{"choices":[],"usage":{"prompt_tokens":3,"completion_tokens":2}}"#, COUNTS),
        // Python's json.dumps puts spaces
        (r#"{"choices": [{"text": "x", "finish_reason": null}], "usage": null}"#, TEXT),
        (r#"{"choices": [{"text": "x", "finish_reason": "stop"}]}"#, Marks { ends: true, ..TEXT }),
        // TGI's
        (
            r#"{"index":1,"token":{"id":5,"text":"\n","logprob":-0.1,"special":false},"generated_text":null,"details":null}"#,
            TEXT,
        ),
        (
            r#"{"token":{"text":"b"},"generated_text":"ab","details":{"finish_reason":"length","generated_tokens":2}}"#,
            Marks { ends: true, counts: true, ..TEXT },
        ),
        // errors of all kinds
        (r#"{"error":{"message":"m","type":"server_error"}}"#, ERROR),
        (r#"{"error":"m","error_type":"generation"}"#, ERROR),
        (r#"{"object":"error","message":"m"}"#, ERROR),
        ("[DONE]", ENDS),
        ("", NOTHING),
        ("{\"content\":\"cut", TEXT),
    ] {
        assert_eq!(marks(event.as_bytes()), expected, "{event}");
    }
}

#[test]
fn keys_within_a_text_are_text() {
    let event = r#"{"choices":[{"delta":{"content":"\"usage\": {\"error\": \"\\\" "}}]}"#;
    assert_eq!(marks(event.as_bytes()), TEXT);
}

#[test]
fn counts_come_from_usage_or_details() {
    let counted = Counts { prompt: Some(3), output: Some(2) };
    assert_eq!(counts(br#"{"usage":{"prompt_tokens":3,"completion_tokens":2}}"#), counted);
    assert_eq!(counts(br#"{"details":{"input_length":3,"generated_tokens":2}}"#), counted);
    assert_eq!(counts(br#"{"details":{"generated_tokens":2}}"#), Counts { prompt: None, ..counted });
    assert_eq!(counts(b"{"), Counts::default());
}
