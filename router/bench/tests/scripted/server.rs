//! A server whose every answer is written down beforehand, byte by byte.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

/// What came in.
#[derive(Debug, Clone)]
pub(crate) struct Asked {
    pub(crate) head: String,
    pub(crate) body: String,
}

/// What to do with a connection, of which a request has been read.
pub(crate) enum Answer {
    /// Write this and read the next request.
    Bytes(Vec<u8>),
    /// Write this and close.
    Close(Vec<u8>),
    /// Write nothing, and wait until the client gives up.
    Silence,
}

/// Listens until the test ends.
pub(crate) struct Server {
    pub(crate) url: String,
    asked: Arc<Mutex<Vec<Asked>>>,
    num_connections: Arc<AtomicUsize>,
}

impl Server {
    /// `script` answers the requests, numbered in the order in which they come.
    pub(crate) fn start(script: impl Fn(usize, &Asked) -> Answer + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let server = Self { url, asked: Arc::default(), num_connections: Arc::default() };
        let (asked, num_connections) = (Arc::clone(&server.asked), Arc::clone(&server.num_connections));
        let script = Arc::new(script);
        std::thread::spawn(move || {
            for connection in listener.incoming() {
                num_connections.fetch_add(1, Ordering::SeqCst);
                let (asked, script) = (Arc::clone(&asked), Arc::clone(&script));
                std::thread::spawn(move || serve(&connection.unwrap(), &asked, &*script));
            }
        });
        server
    }

    pub(crate) fn asked(&self) -> Vec<Asked> {
        self.asked.lock().unwrap().clone()
    }

    pub(crate) fn num_connections(&self) -> usize {
        self.num_connections.load(Ordering::SeqCst)
    }
}

fn serve(socket: &TcpStream, all: &Mutex<Vec<Asked>>, script: &dyn Fn(usize, &Asked) -> Answer) {
    let mut reader = BufReader::new(socket);
    let mut writer = socket;
    while let Some(asked) = read_request(&mut reader) {
        let number = {
            let mut all = all.lock().unwrap();
            all.push(asked.clone());
            all.len() - 1
        };
        // A client that is gone is no failure of the script.
        match script(number, &asked) {
            Answer::Bytes(bytes) if writer.write_all(&bytes).is_ok() => {}
            Answer::Bytes(_) => return,
            Answer::Close(bytes) => {
                let _ = writer.write_all(&bytes);
                return;
            }
            Answer::Silence => {
                let _ = reader.read_to_end(&mut Vec::new());
                return;
            }
        }
    }
}

fn read_request(reader: &mut impl BufRead) -> Option<Asked> {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.split("content-length: ").nth(1).map_or(0, |rest| rest.lines().next().unwrap().parse().unwrap());
    let mut body = vec![0; length];
    reader.read_exact(&mut body).ok()?;
    Some(Asked { head, body: String::from_utf8(body).unwrap() })
}

/// A whole answer.
pub(crate) fn plain(status: &str, kind: &str, body: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status}\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n{body}", body.len()).into_bytes()
}

/// An answer in chunks, each an event, without the end.
pub(crate) fn unfinished(events: &[&str]) -> Vec<u8> {
    let mut answer =
        b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    for event in events {
        let event = format!("data: {event}\n\n");
        answer.extend_from_slice(format!("{:x}\r\n{event}\r\n", event.len()).as_bytes());
    }
    answer
}

/// The same, whole.
pub(crate) fn stream(events: &[&str]) -> Vec<u8> {
    let mut answer = unfinished(events);
    answer.extend_from_slice(b"0\r\n\r\n");
    answer
}

/// Three tokens as a chat.
pub(crate) fn chat() -> Vec<u8> {
    stream(&[
        r#"{"choices":[{"delta":{"role":"assistant","content":""},"finish_reason":null}],"usage":null}"#,
        r#"{"choices":[{"delta":{"content":"a"},"finish_reason":null}],"usage":null}"#,
        r#"{"choices":[{"delta":{"content":"b"},"finish_reason":null}],"usage":null}"#,
        r#"{"choices":[{"delta":{},"finish_reason":"length"}],"usage":null}"#,
        r#"{"choices":[],"usage":{"prompt_tokens":5,"completion_tokens":3}}"#,
        "[DONE]",
    ])
}
