//! Server-sent events: bytes as clients of TGI expect them (`data: ` with one space), and the pump that turns a
//! generation into a response body.

use std::convert::Infallible;
use std::time::Duration;

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use serde::Serialize;

use crate::error::ApiError;
use crate::generate::{TextGeneration, TextStep};

/// A comment this often keeps proxies from closing a stream whose request waits in line.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// One dialect's words for a generation's events. It writes whole events; it may write none.
pub(crate) trait EventWriter: Send + 'static {
    /// Before the first token.
    fn begin(&mut self, out: &mut BytesMut);
    /// A token; with `step.finish`, the last.
    fn step(&mut self, step: TextStep, generation: &TextGeneration, out: &mut BytesMut);
    /// The generation broke: the last event.
    fn error(&mut self, error: &ApiError, out: &mut BytesMut);
}

/// Appends `data: {json}\n\n`.
pub(crate) fn write_data(out: &mut BytesMut, event: &impl Serialize) {
    out.put_slice(b"data: ");
    if let Err(error) = serde_json::to_writer(out.writer(), event) {
        tracing::error!(%error, "an event could not be serialized");
    }
    out.put_slice(b"\n\n");
}

/// Appends OpenAI's mark of a stream that ended well.
pub(crate) fn write_done(out: &mut BytesMut) {
    out.put_slice(b"data: [DONE]\n\n");
}

/// A response that streams `generation`. Dropping its body (the client left) drops the generation, which cancels it.
pub(crate) fn response(generation: TextGeneration, writer: impl EventWriter) -> Response {
    let pump = Pump { generation, writer, begun: false, buffer: BytesMut::new() };
    let stream = futures::stream::unfold(Box::new(pump), |mut pump| async {
        let bytes = pump.next().await?;
        Some((Ok::<_, Infallible>(bytes), pump))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    response
}

struct Pump<W> {
    generation: TextGeneration,
    writer: W,
    begun: bool,
    buffer: BytesMut,
}

impl<W: EventWriter> Pump<W> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.begun {
                self.begun = true;
                self.writer.begin(&mut self.buffer);
            } else {
                match tokio::time::timeout(KEEP_ALIVE, self.generation.next()).await {
                    Err(_) => self.buffer.put_slice(b":\n\n"),
                    Ok(None) => return None,
                    Ok(Some(Ok(step))) => self.writer.step(step, &self.generation, &mut self.buffer),
                    Ok(Some(Err(error))) => self.writer.error(&error, &mut self.buffer),
                }
            }
            if !self.buffer.is_empty() {
                return Some(self.buffer.split().freeze());
            }
        }
    }
}
