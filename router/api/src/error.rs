//! Every way a request can fail, its status in each dialect and its body. The only place with status codes.
//!
//! | error | native | `/v1` |
//! |---|---|---|
//! | not JSON, JSON of the wrong type, a value out of range | 400, 422, 422 | 400 |
//! | wrong content type, body too large, unknown path, wrong method, no key | 415, 413, 404, 405, 401 | the same |
//! | the line is full | 429 with `retry-after` | the same |
//! | no model loaded, workers restarting | 503 with `retry-after` | the same |
//! | a generation broke | 424 | 500 |
//! | a generation ended without its last token, a bug of ours | 500 | 500 |
//! | the request's deadline passed | 504 | 504 |
//!
//! Native bodies are TGI's flat `{"error", "error_type"}`, `/v1` bodies OpenAI's nested ones. Both are always JSON.

use std::time::Duration;

use axum::Json;
use axum::extract::rejection::JsonRejection;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, Request, StatusCode};
use axum::response::{IntoResponse, Response};
use forebay_engine::EngineError;
use forebay_text::TextError;
use forebay_wire::v1::SequenceErrorKind;
use serde_json::{Value, json};

/// How long a client is told to wait when nothing better is known.
const DEFAULT_RETRY_AFTER: Duration = Duration::from_secs(1);

/// Which shape and which statuses an error takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dialect {
    /// TGI's own routes, and everything that is not `/v1`.
    Native,
    /// `/v1`.
    OpenAi,
}

impl Dialect {
    /// For errors that arise outside of any handler. Chooses a shape, never a right.
    pub(crate) fn of_path(path: &str) -> Self {
        if path.starts_with("/v1/") { Self::OpenAi } else { Self::Native }
    }
}

/// Why a request got no answer.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum ApiError {
    /// Not JSON.
    #[error("{0}")]
    Syntax(String),
    /// JSON, but a field has the wrong type or is missing.
    #[error("{message}")]
    Type { message: String, param: Option<String> },
    /// The body is not declared as JSON.
    #[error("expected a request with `content-type: application/json`")]
    MediaType,
    /// The body is larger than the limit.
    #[error("the request's body is larger than the limit of {limit} bytes")]
    TooLarge { limit: usize },
    /// The body could not be read.
    #[error("the request's body could not be read: {0}")]
    Body(String),
    #[error("unknown path `{0}`")]
    UnknownPath(String),
    #[error("the method `{method}` is not allowed for `{path}`")]
    Method { method: String, path: String },
    #[error("the model `{0}` does not exist")]
    UnknownModel(String),
    #[error("a valid API key is needed: `authorization: Bearer <key>`")]
    Unauthorized,
    /// A value out of range, a field that is unknown or not served.
    #[error("{message}")]
    Validation { message: String, param: Option<String>, code: Option<&'static str> },
    /// The chat template refused the messages.
    #[error("Template error: {0}")]
    Template(String),
    #[error("Missing template variable: {0}")]
    MissingTemplateVariable(String),
    #[error("{message}")]
    Overloaded { message: String, retry_after: Duration },
    #[error("{0}")]
    Unavailable(String),
    /// What `/health` says while requests cannot be served.
    #[error("unhealthy")]
    Unhealthy,
    #[error("Request failed during generation: {0}")]
    Generation(String),
    #[error("Incomplete generation")]
    IncompleteGeneration,
    #[error("{0}")]
    Deadline(String),
    #[error("the server failed on this request; its log says why")]
    Internal,
}

/// An error's two statuses and names.
struct Shape {
    native: StatusCode,
    native_type: &'static str,
    openai: StatusCode,
    openai_type: &'static str,
    code: Option<&'static str>,
}

impl Shape {
    fn caller(native: StatusCode, native_type: &'static str, openai: StatusCode, code: Option<&'static str>) -> Self {
        Self { native, native_type, openai, openai_type: "invalid_request_error", code }
    }

    fn server(native: StatusCode, native_type: &'static str, openai: StatusCode, code: &'static str) -> Self {
        Self { native, native_type, openai, openai_type: "server_error", code: Some(code) }
    }
}

impl ApiError {
    /// A value of `param` that is not allowed.
    pub(crate) fn validation(param: &str, message: impl Into<String>) -> Self {
        Self::Validation { message: message.into(), param: Some(param.to_owned()), code: None }
    }

    /// More tokens than the model or the operator allows.
    pub(crate) fn too_many_tokens(param: &str, message: String) -> Self {
        Self::Validation { message, param: Some(param.to_owned()), code: Some("context_length_exceeded") }
    }

    /// A field of the wrong type, or absent though needed.
    pub(crate) fn wrong_type(param: &str, message: String) -> Self {
        Self::Type { message, param: Some(param.to_owned()) }
    }

    /// A known field with a value whose feature this server does not have.
    pub(crate) fn not_served(param: &str) -> Self {
        Self::Validation {
            message: format!("`{param}` is not supported by this server; leave it out or give its neutral value"),
            param: Some(param.to_owned()),
            code: Some("unsupported_parameter"),
        }
    }

    /// The same of one of several requests in a body.
    pub(crate) fn within(self, place: &str) -> Self {
        match self {
            Self::Type { message, param } => Self::Type { message: format!("{place}: {message}"), param },
            Self::Validation { message, param, code } => {
                Self::Validation { message: format!("{place}: {message}"), param, code }
            }
            other => other,
        }
    }

    fn shape(&self) -> Shape {
        use StatusCode as S;
        let bad = S::BAD_REQUEST;
        let unprocessable = S::UNPROCESSABLE_ENTITY;
        match self {
            Self::Syntax(_) | Self::Body(_) => Shape::caller(bad, "validation", bad, None),
            Self::Type { .. } => Shape::caller(unprocessable, "validation", bad, None),
            Self::Validation { code, .. } => Shape::caller(unprocessable, "validation", bad, *code),
            Self::Template(_) => Shape::caller(unprocessable, "template_error", bad, None),
            Self::MissingTemplateVariable(_) => Shape::caller(unprocessable, "missing_template_variable", bad, None),
            Self::MediaType => Shape::caller(S::UNSUPPORTED_MEDIA_TYPE, "validation", S::UNSUPPORTED_MEDIA_TYPE, None),
            Self::TooLarge { .. } => Shape::caller(S::PAYLOAD_TOO_LARGE, "validation", S::PAYLOAD_TOO_LARGE, None),
            Self::UnknownPath(_) => Shape::caller(S::NOT_FOUND, "not_found", S::NOT_FOUND, Some("unknown_url")),
            Self::UnknownModel(_) => Shape::caller(S::NOT_FOUND, "not_found", S::NOT_FOUND, Some("model_not_found")),
            Self::Method { .. } => {
                Shape::caller(S::METHOD_NOT_ALLOWED, "method_not_allowed", S::METHOD_NOT_ALLOWED, None)
            }
            Self::Unauthorized => {
                Shape::caller(S::UNAUTHORIZED, "unauthorized", S::UNAUTHORIZED, Some("invalid_api_key"))
            }
            Self::Overloaded { .. } => Shape {
                openai_type: "rate_limit_error",
                ..Shape::caller(S::TOO_MANY_REQUESTS, "overloaded", S::TOO_MANY_REQUESTS, Some("rate_limit_exceeded"))
            },
            Self::Unavailable(_) => {
                Shape::server(S::SERVICE_UNAVAILABLE, "unavailable", S::SERVICE_UNAVAILABLE, "unavailable")
            }
            Self::Unhealthy => {
                Shape::server(S::SERVICE_UNAVAILABLE, "healthcheck", S::SERVICE_UNAVAILABLE, "unhealthy")
            }
            Self::Generation(_) => {
                Shape::server(S::FAILED_DEPENDENCY, "generation", S::INTERNAL_SERVER_ERROR, "generation")
            }
            Self::IncompleteGeneration => Shape::server(
                S::INTERNAL_SERVER_ERROR,
                "incomplete_generation",
                S::INTERNAL_SERVER_ERROR,
                "incomplete_generation",
            ),
            Self::Deadline(_) => Shape::server(S::GATEWAY_TIMEOUT, "deadline", S::GATEWAY_TIMEOUT, "deadline"),
            Self::Internal => {
                Shape::server(S::INTERNAL_SERVER_ERROR, "internal", S::INTERNAL_SERVER_ERROR, "internal_error")
            }
        }
    }

    /// The `err` label of `tgi_request_failure`.
    pub(crate) fn metric_label(&self) -> &'static str {
        match self {
            Self::Overloaded { .. } => "overloaded",
            Self::Template(_) | Self::MissingTemplateVariable(_) => "template",
            Self::Generation(_) | Self::Deadline(_) => "generation",
            Self::IncompleteGeneration | Self::Internal => "incomplete",
            Self::Unavailable(_) | Self::Unhealthy => "unavailable",
            _ => "validation",
        }
    }

    /// The body, also as a stream's last event.
    pub(crate) fn body(&self, dialect: Dialect) -> Value {
        let shape = self.shape();
        match dialect {
            Dialect::Native => json!({ "error": self.native_message(), "error_type": shape.native_type }),
            // `error_type` beside it: TGI's clients map it to their exceptions on these routes as well.
            Dialect::OpenAi => json!({
                "error": {
                    "message": self.to_string(),
                    "type": shape.openai_type,
                    "param": self.param(),
                    "code": shape.code,
                    "http_status_code": shape.openai.as_u16(),
                },
                "error_type": shape.native_type,
            }),
        }
    }

    /// The whole answer.
    pub(crate) fn response(&self, dialect: Dialect) -> Response {
        let shape = self.shape();
        let status = match dialect {
            Dialect::Native => shape.native,
            Dialect::OpenAi => shape.openai,
        };
        let mut response = (status, Json(self.body(dialect))).into_response();
        if let Some(wait) = self.retry_after() {
            let seconds = wait.as_millis().div_ceil(1000).max(1) as u64;
            response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }

    fn native_message(&self) -> String {
        match self {
            Self::Validation { message, .. } => format!("Input validation error: {message}"),
            other => other.to_string(),
        }
    }

    fn param(&self) -> Option<&str> {
        match self {
            Self::Validation { param, .. } | Self::Type { param, .. } => param.as_deref(),
            _ => None,
        }
    }

    fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Overloaded { retry_after, .. } => Some(*retry_after),
            Self::Unavailable(_) | Self::Unhealthy => Some(DEFAULT_RETRY_AFTER),
            _ => None,
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        match error {
            EngineError::Overloaded { message, retry_after } => Self::Overloaded { message, retry_after },
            EngineError::Invalid(message) => Self::Validation { message, param: None, code: None },
            EngineError::Unavailable(_) => Self::Unavailable(error.to_string()),
            EngineError::Deadline => Self::Deadline(error.to_string()),
            EngineError::GroupLost(_) | EngineError::Quarantined { .. } => Self::Generation(error.to_string()),
            EngineError::SlowReader { .. } => Self::Generation(error.to_string()),
            EngineError::Sequence { kind, message } => Self::of_sequence(kind, message),
        }
    }
}

impl ApiError {
    /// What a worker says of one sequence: an option it does not have is the caller's mistake, the rest is not.
    pub(crate) fn of_sequence(kind: i32, message: String) -> Self {
        if kind == SequenceErrorKind::Unsupported as i32 {
            return Self::Validation { message, param: None, code: Some("unsupported_parameter") };
        }
        Self::Generation(message)
    }
}

impl From<TextError> for ApiError {
    fn from(error: TextError) -> Self {
        match error {
            TextError::Template(message) => Self::Template(message),
            TextError::MissingVariable(name) => Self::MissingTemplateVariable(name),
            other => Self::Validation { message: other.to_string(), param: None, code: None },
        }
    }
}

impl ApiError {
    /// What axum's JSON extractor says, in our words and shape.
    pub(crate) fn of_rejection(rejection: &JsonRejection, max_body_bytes: usize) -> Self {
        match rejection {
            JsonRejection::JsonSyntaxError(error) => Self::Syntax(error.body_text()),
            JsonRejection::JsonDataError(error) => Self::Type { message: error.body_text(), param: None },
            JsonRejection::MissingJsonContentType(_) => Self::MediaType,
            other if other.status() == StatusCode::PAYLOAD_TOO_LARGE => Self::TooLarge { limit: max_body_bytes },
            other => Self::Body(other.body_text()),
        }
    }
}

/// An error of a native handler.
pub(crate) struct NativeError(ApiError);

/// An error of a `/v1` handler.
pub(crate) struct OpenAiError(ApiError);

impl<E: Into<ApiError>> From<E> for NativeError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl<E: Into<ApiError>> From<E> for OpenAiError {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for NativeError {
    fn into_response(self) -> Response {
        self.0.response(Dialect::Native)
    }
}

impl IntoResponse for OpenAiError {
    fn into_response(self) -> Response {
        self.0.response(Dialect::OpenAi)
    }
}

/// The router's fallback.
pub(crate) async fn unknown_path<B: Send + 'static>(request: Request<B>) -> Response {
    let path = request.uri().path();
    ApiError::UnknownPath(path.to_owned()).response(Dialect::of_path(path))
}

/// The fallback of known paths.
pub(crate) async fn method_not_allowed<B: Send + 'static>(request: Request<B>) -> Response {
    let path = request.uri().path();
    ApiError::Method { method: request.method().to_string(), path: path.to_owned() }.response(Dialect::of_path(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unsupported_option_is_the_callers_mistake_and_nan_is_not() {
        let unsupported = ApiError::of_sequence(SequenceErrorKind::Unsupported as i32, "no `min_p`".to_owned());
        assert_eq!(unsupported.response(Dialect::Native).status(), 422);
        let numerical = ApiError::of_sequence(SequenceErrorKind::Numerical as i32, "NaN".to_owned());
        assert_eq!(numerical.response(Dialect::Native).status(), 424);
        assert_eq!(numerical.response(Dialect::OpenAi).status(), 500);
    }

    #[test]
    fn retry_after_is_whole_seconds_and_never_zero() {
        for (wait_ms, seconds) in [(0, "1"), (1, "1"), (1000, "1"), (1001, "2")] {
            let error =
                ApiError::Overloaded { message: "full".to_owned(), retry_after: Duration::from_millis(wait_ms) };
            assert_eq!(error.response(Dialect::OpenAi).headers()[RETRY_AFTER], seconds);
        }
    }
}
