//! The generator against servers that are slow, broken, cut off or busy, all written down beforehand.
#![forbid(unsafe_code)]
#![allow(clippy::unwrap_used)]

mod server;

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;
use std::sync::{Barrier, Mutex};
use std::time::Duration;

use forebay_bench::{Api, Arrivals, BenchError, Load, Progress, Prompts, Run, Settings, Stop, Target};
use server::{Answer, Server, chat, plain, stream, unfinished};

const STREAM_OF_ONE: Load = Load::Closed { concurrency: 1, ramp_up: Duration::ZERO };

fn settings(server: &Server, load: Load, num_requests: u64) -> Settings {
    Settings {
        target: Target {
            url: server.url.clone(),
            api: Api::Chat,
            model: Some("m".to_owned()),
            api_key: None,
            temperature: 0.0,
            ignore_eos: false,
            extra: serde_json::Map::new(),
        },
        loads: vec![load],
        stop: Stop::Requests(num_requests),
        num_warm_up: 0,
        prompts: Prompts::Generated { input_words: 8, output_tokens: 3, shared_prefix: 0.0 },
        seed: 0,
        goals: Vec::new(),
        timeout: Duration::from_secs(120),
    }
}

fn run(settings: &Settings) -> Run {
    forebay_bench::run(settings, None).unwrap().runs.remove(0)
}

fn failures(run: &Run) -> BTreeMap<&str, u64> {
    run.failures.classes.iter().map(|(name, class)| (name.as_str(), class.count)).collect()
}

#[test]
fn every_api_is_asked_and_read_in_its_own_way() {
    let server = Server::start(|_, asked| {
        Answer::Bytes(if asked.head.starts_with("POST /generate_stream ") {
            stream(&[
                r#"{"token":{"text":"a"},"generated_text":null,"details":null}"#,
                r#"{"token":{"text":"b"},"generated_text":"ab","details":{"generated_tokens":3,"input_length":5}}"#,
            ])
        } else if asked.head.starts_with("POST /v1/completions ") {
            stream(&[
                r#"{"choices":[{"text":"a"}]}"#,
                r#"{"choices":[{"text":"b","finish_reason":"stop"}]}"#,
                r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}"#,
                "[DONE]",
            ])
        } else {
            chat()
        })
    });
    for api in [Api::Chat, Api::Completions, Api::Tgi] {
        let mut settings = settings(&server, STREAM_OF_ONE, 4);
        settings.target.api = api;
        let run = run(&settings);
        assert_eq!((run.num_ended, run.failures.count), (4, 0), "{api:?}: {:?}", run.failures);
        assert_eq!((run.tokens.prompt, run.tokens.output, run.tokens.num_counted_by_server), (Some(20), 12, 4));
        assert_eq!((run.ttft_ms.unwrap().count, run.itl_ms.unwrap().count, run.tpot_ms.unwrap().count), (4, 4, 4));
    }
    // One stream needs one connection, which is kept.
    assert_eq!(server.num_connections(), 3);
}

#[test]
fn every_way_to_fail_is_counted_by_its_name() {
    let text = r#"{"choices":[{"delta":{"content":"a"}}]}"#;
    let server = Server::start(move |number, _| match number {
        0 => Answer::Bytes(plain("429 Too Many Requests", "application/json", r#"{"error":"busy"}"#)),
        1 => Answer::Bytes(plain("503 Service Unavailable", "text/plain", "loading")),
        2 => Answer::Bytes(stream(&[text, r#"{"error":{"message":"lost"}}"#])),
        3 => Answer::Close(unfinished(&[text])),
        4 => Answer::Bytes(stream(&[text])),
        5 => Answer::Bytes(plain("200 OK", "application/json", "{}")),
        6 => Answer::Bytes(stream(&["[DONE]"])),
        // On a kept connection, then on a new one.
        7 | 8 => Answer::Close(Vec::new()),
        _ => Answer::Bytes(chat()),
    });
    let run = run(&settings(&server, STREAM_OF_ONE, 10));
    let expected =
        [("cut", 3), ("error_event", 1), ("no_text", 1), ("not_a_stream", 1), ("status_429", 1), ("status_503", 1)];
    assert_eq!(failures(&run), BTreeMap::from(expected), "{:?}", run.failures);
    assert_eq!(run.failures.classes["status_429"].first, r#"{"error":"busy"}"#);
    assert!(run.failures.classes["error_event"].first.contains("lost"));
    assert_eq!((run.num_ended, run.tokens.output, run.num_resent), (2, 6, 1));
}

#[test]
fn a_server_that_is_not_there_is_a_failure_of_every_request() {
    // Taken, so that nobody else gets it meanwhile, but not listened on.
    let taken = tokio::net::TcpSocket::new_v4().unwrap();
    taken.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let mut settings = settings(&Server::start(|_, _| Answer::Silence), STREAM_OF_ONE, 3);
    settings.target.url = format!("http://{}", taken.local_addr().unwrap());
    let run = run(&settings);
    assert_eq!(failures(&run), BTreeMap::from([("connect", 3)]));
    assert!(run.ttft_ms.is_none());
}

#[test]
fn a_request_that_is_never_answered_ends_by_its_timeout() {
    let server = Server::start(|_, _| Answer::Silence);
    let run = run(&Settings { timeout: Duration::from_millis(50), ..settings(&server, STREAM_OF_ONE, 2) });
    assert_eq!(failures(&run), BTreeMap::from([("timeout", 2)]));
}

#[test]
fn a_stream_is_read_the_same_when_every_byte_comes_alone() {
    let server = Server::start(|_, _| {
        let mut answer =
            b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
        for byte in "data: {\"choices\":[{\"delta\":{\"content\":\"é\"}}]}\r\n\r\ndata: [DONE]\n\n".bytes() {
            answer.extend_from_slice(&[b'1', b'\r', b'\n', byte, b'\r', b'\n']);
        }
        answer.extend_from_slice(b"0\r\n\r\n");
        Answer::Bytes(answer)
    });
    let run = run(&settings(&server, STREAM_OF_ONE, 1));
    // No usage came: the piece counts as a token, and that is told.
    assert_eq!((run.num_ended, run.tokens.output, run.tokens.num_counted_by_server), (1, 1, 0));
    assert_eq!((run.tokens.prompt, run.throughput.total_tokens_per_s), (None, None));
}

#[test]
fn streams_of_a_closed_loop_run_at_once_and_keep_their_connections() {
    // Nobody is answered before all four wait.
    let barrier = Barrier::new(4);
    let server = Server::start(move |_, _| {
        barrier.wait();
        Answer::Bytes(chat())
    });
    let load = Load::Closed { concurrency: 4, ramp_up: Duration::from_millis(20) };
    let run = run(&settings(&server, load, 12));
    assert_eq!((run.num_ended, run.peak_running, server.num_connections()), (12, 4, 4));
}

#[test]
fn a_kept_connection_that_closes_is_no_failure_of_the_next_request() {
    // Closes without a word when it is asked a second time on a connection.
    let has_answered = Mutex::new(false);
    let server = Server::start(move |_, _| {
        let mut has_answered = has_answered.lock().unwrap();
        *has_answered = !*has_answered;
        if *has_answered { Answer::Bytes(chat()) } else { Answer::Close(Vec::new()) }
    });
    let run = run(&settings(&server, STREAM_OF_ONE, 3));
    assert_eq!((run.num_ended, run.failures.count, run.num_resent), (3, 0, 2), "{:?}", run.failures);
    assert_eq!(server.num_connections(), 3);
}

#[test]
fn a_server_that_stands_still_cannot_hide_those_who_wait() {
    // One at a time, and the first takes half a second in which others are due. Closed loops would not have sent them.
    const STILL: Duration = Duration::from_millis(500);
    let is_first = Mutex::new(true);
    let server = Server::start(move |_, _| {
        let mut is_first = is_first.lock().unwrap();
        if std::mem::replace(&mut *is_first, false) {
            std::thread::sleep(STILL);
        }
        Answer::Bytes(chat())
    });
    let load = Load::Open { rate: 100.0, arrivals: Arrivals::Constant };
    let run = run(&settings(&server, load, 20));
    let ttft = run.ttft_ms.unwrap();
    // The last is due 190 ms after the first, so that all of them wait at least for what is left of it.
    assert_eq!(ttft.count, 20);
    assert!(ttft.p50 >= 300.0, "{ttft:?}");
}

#[test]
fn a_generator_that_stands_still_fakes_no_good_latency() {
    /// Holds the only thread up.
    struct Still;
    const STILL: Duration = Duration::from_millis(300);
    impl Write for Still {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            std::thread::sleep(STILL);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let server = Server::start(|_, _| Answer::Bytes(chat()));
    let settings = settings(&server, Load::Open { rate: 1_000.0, arrivals: Arrivals::Poisson }, 20);
    let progress = Progress { out: Box::new(Still), is_terminal: false };
    let run = forebay_bench::run(&settings, Some(progress)).unwrap().runs.remove(0);
    for distribution in [run.ttft_ms, run.e2e_ms, run.generator.send_lag_ms] {
        let found = distribution.unwrap();
        assert!(found.max >= 300.0, "{found:?}");
    }
}

#[test]
fn a_run_by_time_ends_and_counts_what_came_in_time() {
    let server = Server::start(|_, _| Answer::Bytes(chat()));
    let mut settings = settings(&server, STREAM_OF_ONE, 0);
    settings.stop = Stop::Duration(Duration::from_millis(200));
    let run = run(&settings);
    assert!((run.window_s - 0.2).abs() < 1e-9);
    assert_eq!(run.failures.count, 0);
    assert_eq!(run.num_ended as usize, server.asked().len());
}

#[test]
fn no_prompt_is_asked_twice_over_warm_ups_and_a_sweep() {
    let server = Server::start(|_, _| Answer::Bytes(chat()));
    let mut settings = settings(&server, STREAM_OF_ONE, 5);
    settings.loads.push(Load::Closed { concurrency: 2, ramp_up: Duration::ZERO });
    settings.num_warm_up = 3;
    let report = forebay_bench::run(&settings, None).unwrap();
    let names: Vec<_> = report.runs.iter().map(|run| (run.name.as_str(), run.num_ended)).collect();
    assert_eq!(names, [("1 stream", 5), ("2 streams", 5)]);
    let mut bodies: Vec<String> = server.asked().into_iter().map(|asked| asked.body).collect();
    assert_eq!(bodies.len(), 16);
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 16);
}

#[test]
fn a_file_that_is_too_short_is_told() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"{\"prompt\": \"a\"}\n{\"prompt\": \"b\"}\n").unwrap();
    let server = Server::start(|_, _| Answer::Bytes(chat()));
    let mut settings = settings(&server, STREAM_OF_ONE, 5);
    settings.prompts = Prompts::File { path: file.path().to_owned(), output_tokens: Some(3) };
    settings.loads.push(STREAM_OF_ONE);
    let report = forebay_bench::run(&settings, None).unwrap();
    assert_eq!(report.runs.iter().map(|run| run.num_repeated_prompts).collect::<Vec<_>>(), [3, 5]);
}

#[test]
fn the_model_is_asked_for_and_the_key_is_sent() {
    let server = Server::start(|_, asked| {
        assert!(asked.head.contains("authorization: Bearer secret\r\n"));
        Answer::Bytes(if asked.head.starts_with("GET /prefix/v1/models ") {
            plain("200 OK", "application/json", r#"{"data":[{"id":"the-model"}]}"#)
        } else {
            chat()
        })
    });
    let mut settings = settings(&server, STREAM_OF_ONE, 1);
    settings.target.url += "/prefix/";
    settings.target.model = None;
    settings.target.api_key = Some("secret".to_owned());
    let report = forebay_bench::run(&settings, None).unwrap();
    assert_eq!((report.model.as_str(), report.num_failed()), ("the-model", 0));
    let asked = server.asked();
    assert!(asked[1].head.starts_with("POST /prefix/v1/chat/completions ") && asked[1].body.contains("the-model"));
}

#[test]
fn what_cannot_be_asked_is_refused_by_name() {
    let server = Server::start(|_, _| Answer::Bytes(plain("404 Not Found", "text/plain", "no")));
    let refused = |change: &dyn Fn(&mut Settings)| {
        let mut settings = settings(&server, STREAM_OF_ONE, 1);
        change(&mut settings);
        forebay_bench::run(&settings, None).unwrap_err()
    };
    let tls = refused(&|settings| settings.target.url = "https://localhost".to_owned());
    assert!(tls.is_refusal() && tls.to_string().contains("`https://localhost`"), "{tls}");
    let model = refused(&|settings| settings.target.model = None);
    assert!(matches!(&model, BenchError::Model(words) if words.contains("404")), "{model}");
    assert!(model.to_string().contains("`--model`"), "{model}");
}

#[test]
fn the_reference_explains_every_field() {
    fn names(value: &serde_json::Value, found: &mut BTreeSet<String>) {
        match value {
            serde_json::Value::Object(fields) => {
                for (name, value) in fields {
                    found.insert(name.clone());
                    // Classes of failures are names of their own.
                    let inner = if name == "classes" { &value["status_503"] } else { value };
                    names(inner, found);
                }
            }
            serde_json::Value::Array(values) => values.iter().for_each(|value| names(value, found)),
            _ => {}
        }
    }
    let page = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/bench.md")).unwrap();
    let server = Server::start(|number, _| {
        Answer::Bytes(if number == 0 { plain("503 Service Unavailable", "text/plain", "no") } else { chat() })
    });
    let mut settings = settings(&server, STREAM_OF_ONE, 3);
    settings.goals = vec!["e2e:1000".parse().unwrap()];
    let report = serde_json::to_value(forebay_bench::run(&settings, None).unwrap()).unwrap();
    let mut found = BTreeSet::new();
    names(&report, &mut found);
    for name in found {
        assert!(page.contains(&format!("`{name}`")), "docs/reference/bench.md does not explain `{name}`");
    }
}

#[test]
fn the_picture_has_a_point_for_each_run() {
    let server = Server::start(|_, _| Answer::Bytes(chat()));
    let mut settings = settings(&server, STREAM_OF_ONE, 2);
    settings.loads.push(Load::Closed { concurrency: 2, ramp_up: Duration::ZERO });
    let svg = forebay_bench::svg(&forebay_bench::run(&settings, None).unwrap());
    // Two panels, two curves, two runs.
    assert_eq!(svg.matches("<circle").count(), 8);
    assert_eq!(svg.matches("<polyline").count(), 4);
}
