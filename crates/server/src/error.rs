//! What a request is refused with.
//!
//! One error, written in the form of the dialect that was spoken: OpenAI's `{"error": {message, type, param, code}}` here;
//! other dialects rewrite it at their door.

use alula_engine::RequestError;
use alula_engine::sample::ArgumentError;
use alula_engine::stop::StopError;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use std::time::Duration;
use utoipa::ToSchema;

/// A request that got no answer, or an answer that broke off.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{message}")]
pub struct ApiError {
    /// HTTP status.
    pub status: StatusCode,
    /// What kind, in OpenAI's words.
    pub kind: &'static str,
    /// A word for programs.
    pub code: Option<&'static str>,
    /// The field that it is about, as a path.
    pub param: Option<String>,
    /// What is wrong and what to do, for people.
    pub message: String,
    /// When to come back.
    pub retry_after: Option<Duration>,
}

/// An error as OpenAI writes it.
#[derive(Serialize, ToSchema)]
pub struct ErrorBody {
    /// The error.
    error: ErrorObject,
}

/// What is in it.
#[derive(Serialize, ToSchema)]
pub struct ErrorObject {
    /// What is wrong and what to do.
    message: String,
    /// What kind of error.
    #[serde(rename = "type")]
    kind: String,
    /// The field that it is about.
    param: Option<String>,
    /// A word for programs.
    code: Option<String>,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self { status, kind, code: None, param: None, message: message.into(), retry_after: None }
    }

    /// The request is wrong: 400.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// A field of the request is wrong: 400.
    pub fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::invalid(message) }
    }

    /// There is no such thing: 404.
    pub fn not_found(code: &'static str, message: impl Into<String>) -> Self {
        Self { code: Some(code), ..Self::new(StatusCode::NOT_FOUND, "not_found_error", message) }
    }

    /// Another status.
    pub fn status(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, kind, message)
    }

    /// Too much is waiting: 429.
    pub fn busy(message: impl Into<String>, retry_after: Duration) -> Self {
        let e = Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message);
        Self { code: Some("queue_full"), retry_after: Some(retry_after), ..e }
    }

    /// Not now: 503.
    pub fn unavailable(message: impl Into<String>) -> Self {
        let e = Self::new(StatusCode::SERVICE_UNAVAILABLE, "service_unavailable_error", message);
        Self { retry_after: Some(Duration::from_secs(1)), ..e }
    }

    /// It is our fault: 500.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// With a word for programs.
    pub fn code(self, code: &'static str) -> Self {
        Self { code: Some(code), ..self }
    }

    /// Its body in OpenAI's form.
    pub fn body(&self) -> ErrorBody {
        ErrorBody {
            error: ErrorObject {
                message: self.message.clone(),
                kind: self.kind.to_owned(),
                param: self.param.clone(),
                code: self.code.map(str::to_owned),
            },
        }
    }

    /// Its headers, with those of the status that need one.
    pub fn headers(&self, response: &mut Response) {
        if let Some(wait) = self.retry_after {
            let seconds = wait.as_secs_f64().ceil().max(1.0) as u64;
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, axum::Json(self.body())).into_response();
        self.headers(&mut response);
        response.extensions_mut().insert(self);
        response
    }
}

impl From<RequestError> for ApiError {
    fn from(e: RequestError) -> Self {
        let message = e.to_string();
        match e {
            RequestError::PromptTooLong { .. } => ApiError::field("messages", message).code("context_length_exceeded"),
            RequestError::Full { .. } | RequestError::Share { .. } => ApiError::busy(message, Duration::from_secs(1)),
            RequestError::PromptToken { .. } | RequestError::EmptyPrompt => ApiError::field("prompt", message),
            RequestError::Sampling(ArgumentError::Range { name, .. }) => ApiError::field(name, message),
            RequestError::Sampling(ArgumentError::BiasToken { id, .. } | ArgumentError::BiasValue { id, .. }) => {
                ApiError::field(format!("logit_bias.{id}"), message)
            }
            RequestError::Stop(StopError::Token { .. }) => ApiError::field("stop_token_ids", message),
            _ => ApiError::invalid(message),
        }
    }
}
