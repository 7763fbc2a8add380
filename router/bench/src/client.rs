//! One request over HTTP/1.1: connect or reuse, send, read events, note when each came.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

use crate::error::BenchError;
use crate::events::{Lines, payload};
use crate::live::Live;
use crate::record::{Failure, Record, Stream, Window, beginning};
use crate::settings::Target;

/// Of an answer that is no stream.
const MAX_BODY_BYTES: usize = 1 << 20;
/// For the list of models.
const MODELS_TIMEOUT: Duration = Duration::from_secs(60);

type Sender = SendRequest<Full<Bytes>>;

/// Asks one server. Connections that ended their answer are used again, the last first.
#[derive(Debug)]
pub(crate) struct Client {
    address: SocketAddr,
    host: HeaderValue,
    prefix: String,
    path: String,
    authorization: Option<HeaderValue>,
    timeout: Duration,
    idle: Mutex<Vec<Sender>>,
    num_resent: AtomicU64,
}

impl Client {
    /// Looks the name up, once.
    pub(crate) async fn new(target: &Target, timeout: Duration) -> Result<Self, BenchError> {
        let refuse = |reason: String| BenchError::Url { url: target.url.clone(), reason };
        let uri: Uri = target.url.parse().map_err(|error| refuse(format!("no URL: {error}")))?;
        if uri.scheme_str() != Some("http") {
            return Err(refuse("it must begin with `http://`; TLS is not built, measure behind it".to_owned()));
        }
        let authority = uri.authority().ok_or_else(|| refuse("it has no host".to_owned()))?;
        let port = authority.port_u16().unwrap_or(80);
        let name = authority.host().trim_matches(['[', ']']);
        let found = tokio::net::lookup_host((name, port)).await.map_err(|error| refuse(error.to_string()))?;
        let address = found.into_iter().next().ok_or_else(|| refuse("the name has no address".to_owned()))?;
        let host = HeaderValue::from_str(authority.as_str()).map_err(|error| refuse(error.to_string()))?;
        let authorization = target.api_key.as_ref().map(|key| bearer(key)).transpose()?;
        let prefix = uri.path().trim_end_matches('/').to_owned();
        let path = format!("{prefix}{}", target.api.path());
        Ok(Self {
            address,
            host,
            prefix,
            path,
            authorization,
            timeout,
            idle: Mutex::default(),
            num_resent: AtomicU64::new(0),
        })
    }

    /// The first model that the server lists.
    pub(crate) async fn first_model(&self) -> Result<String, BenchError> {
        let refuse = |words: String| BenchError::Model(words);
        let path = format!("{}/v1/models", self.prefix);
        let answer = tokio::time::timeout(MODELS_TIMEOUT, async {
            let (_sender, response) = self.send(Method::GET, &path, Bytes::new()).await?;
            let status = response.status();
            Ok((status, read_body(response).await))
        });
        let answer = answer.await.map_err(|_| refuse(format!("no answer from `{path}`")))?;
        let (status, body) = answer.map_err(|failure: Failure| refuse(failure.words().to_owned()))?;
        let models: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
        let name = models["data"][0]["id"].as_str();
        name.map(str::to_owned).ok_or_else(|| refuse(format!("`{path}` answers {status}: {}", beginning(&body))))
    }

    /// Requests that were sent a second time, since the last time that this was asked.
    pub(crate) fn take_num_resent(&self) -> u64 {
        self.num_resent.swap(0, Ordering::Relaxed)
    }

    /// Sends `body`, which was due at `scheduled`, and reads the answer to its end.
    pub(crate) async fn ask(&self, body: Bytes, scheduled: Instant, window: &Window, live: &Live) -> Record {
        let lag = scheduled.elapsed();
        let mut stream = Stream::new(scheduled);
        live.began();
        let exchange = self.exchange(body, &mut stream, window, live);
        let outcome = tokio::time::timeout_at((scheduled + self.timeout).into(), exchange).await;
        let outcome = outcome.unwrap_or(Err(Failure::Timeout));
        let end = Instant::now();
        live.ended(outcome.is_ok());
        Record { lag, took: end - scheduled, ended_in_window: window.holds(end), stream, outcome }
    }

    async fn exchange(&self, body: Bytes, stream: &mut Stream, window: &Window, live: &Live) -> Result<(), Failure> {
        let (sender, response) = self.send(Method::POST, &self.path, body).await?;
        let status = response.status();
        let is_stream = |kind: &HeaderValue| kind.as_bytes().starts_with(b"text/event-stream");
        if status == StatusCode::OK && response.headers().get(CONTENT_TYPE).is_some_and(is_stream) {
            read_stream(response.into_body(), stream, window, live).await?;
            self.keep(sender);
            return stream.verdict();
        }
        let words = beginning(&read_body(response).await);
        self.keep(sender);
        Err(if status == StatusCode::OK { Failure::NotAStream(words) } else { Failure::Status(status.as_u16(), words) })
    }

    /// For another request, once the answer has been read to its end.
    fn keep(&self, sender: Sender) {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        // A path that came out of a URL, and a constant behind it, are one.
        *request.uri_mut() = path.parse().unwrap_or_default();
        let headers = request.headers_mut();
        headers.insert(HOST, self.host.clone());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("text/event-stream, application/json"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        request
    }

    /// On an idle connection if one is still open, else on a new one. A server may close an idle connection just when a
    /// request comes on it: that is no failure of the request, which is sent again, once, and counted.
    async fn send(&self, method: Method, path: &str, body: Bytes) -> Result<(Sender, Response<Incoming>), Failure> {
        while let Some(mut sender) = self.take_idle() {
            if sender.ready().await.is_err() {
                continue;
            }
            match sender.send_request(self.request(method.clone(), path, body.clone())).await {
                Ok(response) => return Ok((sender, response)),
                Err(error) if error.is_canceled() || error.is_incomplete_message() => {
                    self.num_resent.fetch_add(1, Ordering::Relaxed);
                    break;
                }
                Err(error) => return Err(Failure::Cut(words(&error))),
            }
        }
        let mut sender = self.connect().await?;
        let response = sender.send_request(self.request(method, path, body)).await;
        Ok((sender, response.map_err(|error| Failure::Cut(words(&error)))?))
    }

    fn take_idle(&self) -> Option<Sender> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    async fn connect(&self) -> Result<Sender, Failure> {
        let socket = TcpStream::connect(self.address).await.map_err(|error| Failure::Connect(error.to_string()))?;
        // Only delays: without it a request may wait for the answer to the last one's end.
        socket.set_nodelay(true).map_err(|error| Failure::Connect(error.to_string()))?;
        let (sender, connection) =
            handshake(TokioIo::new(socket)).await.map_err(|error| Failure::Connect(words(&error)))?;
        // What breaks is told to whoever waits for an answer.
        tokio::spawn(connection);
        Ok(sender)
    }
}

fn bearer(key: &str) -> Result<HeaderValue, BenchError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {key}"))
        .map_err(|_| BenchError::Unsupported("the API key holds characters that no header may hold"))?;
    value.set_sensitive(true);
    Ok(value)
}

async fn read_stream(mut body: Incoming, stream: &mut Stream, window: &Window, live: &Live) -> Result<(), Failure> {
    let mut lines = Lines::default();
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame.map_err(|error| Failure::Cut(words(&error)))?.into_data() else { continue };
        let now = Instant::now();
        let in_bounds = lines.feed(&data, |line| {
            if let Some(payload) = payload(line) {
                live.saw(stream.take(payload, now, window));
            }
        });
        if let Some(error) = stream.error.take() {
            return Err(Failure::ErrorEvent(error));
        }
        if !in_bounds {
            return Err(Failure::NotAStream("a line without end".to_owned()));
        }
    }
    Ok(())
}

async fn read_body(response: Response<Incoming>) -> Bytes {
    let body = Limited::new(response.into_body(), MAX_BODY_BYTES).collect().await;
    body.map(http_body_util::Collected::to_bytes).unwrap_or_default()
}

/// An error with its cause, where the reason mostly is.
fn words(error: &hyper::Error) -> String {
    let cause = std::error::Error::source(error);
    cause.map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// A client shared by all requests of a run.
pub(crate) type Shared = Arc<Client>;
