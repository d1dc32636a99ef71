//! Answers: a status and a line of JSON.

use axum::body::Body;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use hyper::header::{CONTENT_TYPE, RETRY_AFTER};
use serde::Serialize;
use spoolway_proto::{Code, Invalid, Outcome, Reply};

/// Seconds after which it is worth trying again: what is full or cannot be written may not be by then.
const RETRY_AFTER_S: &str = "1";

/// A request that is refused as a whole; nothing of it was taken.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    code: &'static str,
    error: String,
}

impl Refusal {
    pub(super) fn new(status: StatusCode, code: &'static str, error: impl Into<String>) -> Self {
        let error = error.into();
        Self {
            status,
            code,
            error,
        }
    }

    pub(super) fn full() -> Self {
        let error = "unavailable: the consumer is full; try again later, or spool";
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            Code::Unavailable.as_str(),
            error,
        )
    }
}

impl From<Invalid> for Refusal {
    fn from(invalid: Invalid) -> Self {
        let error = invalid.to_string();
        Self::new(status_of(invalid.code), invalid.code.as_str(), error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        #[derive(Serialize)]
        struct Text<'a> {
            success: bool,
            error: &'a str,
            code: &'a str,
        }

        let Self {
            status,
            code,
            error,
        } = self;
        let success = false;
        json(
            status,
            &Text {
                success,
                error: &error,
                code,
            },
        )
    }
}

/// The answer to one message.
pub(super) fn one(reply: &Reply) -> Response {
    json(status(reply), reply)
}

/// The answer to several: its status is the highest of theirs.
pub(super) fn all(replies: &[Reply]) -> Response {
    #[derive(Serialize)]
    struct Results<'a> {
        success: bool,
        results: &'a [Reply],
    }

    let highest = replies.iter().map(status).max();
    let results = Results {
        success: replies.iter().all(|reply| reply.success),
        results: replies,
    };
    json(highest.unwrap_or(StatusCode::OK), &results)
}

/// What JSON is answered with.
pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    match serde_json::to_vec(value) {
        Ok(mut text) => {
            text.push(b'\n');
            with_type(status, "application/json", text)
        }
        Err(error) => {
            tracing::error!("an answer has no JSON form: {error}");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

pub(super) fn with_type(
    status: StatusCode,
    content_type: &'static str,
    text: impl Into<Body>,
) -> Response {
    let mut response = Response::new(text.into());
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    if is_for_later(status) {
        headers.insert(RETRY_AFTER, HeaderValue::from_static(RETRY_AFTER_S));
    }
    response
}

fn is_for_later(status: StatusCode) -> bool {
    status == StatusCode::SERVICE_UNAVAILABLE || status == StatusCode::TOO_MANY_REQUESTS
}

fn status(reply: &Reply) -> StatusCode {
    match (reply.outcome, reply.code) {
        (Some(Outcome::Processed), _) => StatusCode::OK,
        (Some(Outcome::Stored | Outcome::Received), _) => StatusCode::ACCEPTED,
        (Some(Outcome::Dead), _) => StatusCode::UNPROCESSABLE_ENTITY,
        (None, code) => status_of(code.unwrap_or(Code::Other)),
    }
}

fn status_of(code: Code) -> StatusCode {
    match code {
        Code::Conflict | Code::PairReused => StatusCode::CONFLICT,
        Code::Expired => StatusCode::UNPROCESSABLE_ENTITY,
        Code::Forbidden => StatusCode::FORBIDDEN,
        Code::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        Code::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Code::Busy | Code::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        _ => StatusCode::BAD_REQUEST,
    }
}
