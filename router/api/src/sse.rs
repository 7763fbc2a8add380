//! Server-sent events: bytes as clients of TGI expect them (`data: ` with one space), and the pump that turns a
//! generation into a response body.

use std::convert::Infallible;
use std::pin::Pin;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderName, HeaderValue};
use axum::response::Response;
use bytes::{BufMut, Bytes, BytesMut};
use metrics::Histogram;
use serde::Serialize;
use tokio::time::{Sleep, sleep};

use crate::choices::Choices;
use crate::error::ApiError;
use crate::headers;
use crate::state::AppState;
use crate::telemetry;
use crate::text_generation::{TextGeneration, TextStep};

/// A comment keeps proxies from closing a stream whose request waits in line: one comes when nothing else has between two
/// looks, so within 15 s.
const LOOK_INTERVAL: Duration = Duration::from_millis(7_500);

/// One dialect's words for a generation's events. It writes whole events; it may write none.
pub(crate) trait EventWriter: Send + 'static {
    /// Before the first token.
    fn begin(&mut self, choices: &Choices, out: &mut BytesMut);
    /// A token of one of the choices; with `step.finish`, its last.
    fn step(&mut self, step: TextStep, generation: &TextGeneration, out: &mut BytesMut);
    /// After the last token of the last choice.
    fn end(&mut self, choices: &Choices, out: &mut BytesMut);
    /// The request broke: the last event.
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

/// The same where the event's first fields are written already: `head` is their JSON without its closing brace, `rest` an
/// object of the others, of which there must be some.
pub(crate) fn write_data_behind(out: &mut BytesMut, head: &[u8], rest: &impl Serialize) {
    out.put_slice(b"data: ");
    out.put_slice(head);
    let joint = out.len();
    if let Err(error) = serde_json::to_writer(out.writer(), rest) {
        tracing::error!(%error, "an event could not be serialized");
    }
    if let Some(brace) = out.get_mut(joint) {
        *brace = b',';
    }
    out.put_slice(b"\n\n");
}

/// Appends OpenAI's mark of a stream that ended well.
pub(crate) fn write_done(out: &mut BytesMut) {
    out.put_slice(b"data: [DONE]\n\n");
}

/// A response that streams `choices`. Dropping its body (the client left) drops them, which cancels them.
pub(crate) fn response(state: &AppState, choices: Choices, writer: impl EventWriter) -> Result<Response, ApiError> {
    let compute = headers::compute(state, &choices)?;
    let relay = telemetry::relay_histogram();
    let keep_alive = Box::pin(sleep(LOOK_INTERVAL));
    let pump = Pump {
        choices,
        writer,
        begun: false,
        ended: false,
        buffer: BytesMut::new(),
        received: None,
        relay,
        keep_alive,
        has_spoken: false,
    };
    let stream = futures::stream::unfold(Box::new(pump), |mut pump| async {
        let bytes = pump.next().await?;
        Some((Ok::<_, Infallible>(bytes), pump))
    });
    let mut response = Response::new(Body::from_stream(stream));
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    headers.extend(compute);
    Ok(response)
}

struct Pump<W> {
    choices: Choices,
    writer: W,
    begun: bool,
    ended: bool,
    buffer: BytesMut,
    /// When the engine had the oldest token in `buffer`.
    received: Option<Instant>,
    relay: Histogram,
    keep_alive: Pin<Box<Sleep>>,
    /// Whether anything came since the last look.
    has_spoken: bool,
}

impl<W: EventWriter> Pump<W> {
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if !self.begun {
                self.begun = true;
                self.writer.begin(&self.choices, &mut self.buffer);
            } else if self.ended {
                return None;
            } else {
                self.advance().await;
            }
            if !self.buffer.is_empty() {
                // The connection writes them to its socket before its task does anything else.
                if let Some(received) = self.received.take() {
                    self.relay.record(received.elapsed());
                }
                return Some(self.buffer.split().freeze());
            }
        }
    }

    async fn advance(&mut self) {
        // The choices are asked first, so that a stream with tokens never looks at the timer.
        let next = tokio::select! {
            biased;
            next = self.choices.next() => next,
            () = self.keep_alive.as_mut() => return self.keep_alive(),
        };
        self.has_spoken = true;
        match next {
            Some(Ok((step, generation))) => {
                self.received.get_or_insert(step.received);
                self.writer.step(step, generation, &mut self.buffer);
                // The end travels with the last token: nobody waits for an event that brings nothing.
                if self.choices.generations().iter().all(TextGeneration::has_ended) {
                    self.writer.end(&self.choices, &mut self.buffer);
                    self.ended = true;
                }
            }
            Some(Err(error)) => {
                self.writer.error(&error, &mut self.buffer);
                self.ended = true;
            }
            None => self.ended = true,
        }
    }

    /// The timer is not set anew with every token.
    fn keep_alive(&mut self) {
        if !std::mem::take(&mut self.has_spoken) {
            self.buffer.put_slice(b":\n\n");
        }
        self.keep_alive.as_mut().reset(tokio::time::Instant::now() + LOOK_INTERVAL);
    }
}
