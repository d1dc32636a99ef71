//! Bodies: read whole, within their limits, and taken apart into messages.

use axum::body::Body;
use axum::extract::Request;
use axum::http::{HeaderMap, StatusCode};
use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use hyper::body::Body as _;
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE};
use spoolway_proto::{
    Code, Incoming, Invalid, Limits, LineDecoder, Message, Payload, decode_for_consumer,
};
use tokio::time::timeout;

use super::HttpConfig;
use super::answer::Refusal;

const TRACEPARENT: &str = "traceparent";

/// What a body says it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Kind {
    /// JSON, or what programs send that do not say: `curl -d` calls it a form.
    Json,
    /// One JSON value a line.
    Lines,
}

/// The messages of a body.
pub(crate) struct Messages {
    pub(crate) all: Vec<Result<Message, Invalid>>,
    /// The body was one message, not a list of one.
    pub(crate) alone: bool,
}

impl Messages {
    fn list(all: Vec<Result<Message, Invalid>>) -> Self {
        Self { all, alone: false }
    }
}

/// Reads the whole body.
pub(super) async fn read(request: Request, config: &HttpConfig) -> Result<(Kind, Bytes), Refusal> {
    let kind = kind(request.headers())?;
    let max = config.body_bytes_max;
    let body: Body = request.into_body();
    // Before any of it is read, or asked for by `100 Continue`.
    if body.size_hint().lower() > max as u64 {
        return Err(too_large(max));
    }
    let whole = timeout(config.body_max, Limited::new(body, max).collect()).await;
    match whole {
        Ok(Ok(whole)) => Ok((kind, whole.to_bytes())),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large(max)),
        Ok(Err(error)) => {
            let error = format!("bad_body: the body ended early: {error}");
            Err(Refusal::new(StatusCode::BAD_REQUEST, "bad_body", error))
        }
        Err(_) => {
            let error = format!("timeout: the body was not there in {:?}", config.body_max);
            Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", error))
        }
    }
}

fn too_large(max: usize) -> Refusal {
    let allowed = format!("{max} bytes (`body_bytes_max`)");
    Invalid::new(Code::TooLarge, "a larger body", allowed).into()
}

/// What the headers say of a body.
pub(crate) fn kind(headers: &HeaderMap) -> Result<Kind, Refusal> {
    let text = |name| headers.get(name).map(|value| value.to_str().unwrap_or("?"));
    let unsupported = |found: &str, allowed| {
        let status = StatusCode::UNSUPPORTED_MEDIA_TYPE;
        let error = format!(
            "unsupported_media_type: found {}, allowed is {allowed}",
            Invalid::quote(found)
        );
        Err(Refusal::new(status, "unsupported_media_type", error))
    };
    if let Some(encoding) = text(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        return unsupported(encoding, "a body that is not encoded");
    }
    let Some(given) = text(CONTENT_TYPE) else {
        return Ok(Kind::Json);
    };
    let essence = given.split(';').next().unwrap_or_default().trim();
    match essence.to_ascii_lowercase().as_str() {
        "application/x-ndjson"
        | "application/ndjson"
        | "application/jsonl"
        | "application/x-jsonlines" => Ok(Kind::Lines),
        ""
        | "application/json"
        | "text/json"
        | "text/plain"
        | "application/x-www-form-urlencoded" => Ok(Kind::Json),
        other if other.ends_with("+json") => Ok(Kind::Json),
        _ => unsupported(given, "application/json or application/x-ndjson"),
    }
}

/// The header that ties a message to the request that brought it, if its caller traces.
pub(super) fn trace(headers: &HeaderMap) -> Option<(String, String)> {
    let value = headers.get(TRACEPARENT)?.to_str().ok()?;
    Some((TRACEPARENT.to_owned(), value.to_owned()))
}

/// The JSON value that a body is.
pub(crate) fn payload(body: Bytes) -> Result<Payload, Refusal> {
    Ok(Payload::from_json(body)?)
}

/// The messages that a body holds.
pub(crate) fn messages(kind: Kind, body: Bytes, limits: &Limits) -> Result<Messages, Refusal> {
    if kind == Kind::Lines {
        return lines(body, limits);
    }
    match decode_for_consumer(&body, limits) {
        Ok(Incoming::Message(message)) => Ok(Messages {
            all: vec![message],
            alone: true,
        }),
        Ok(Incoming::Batch(batch)) => Ok(Messages::list(batch)),
        Ok(Incoming::Op(_)) => Err(no_op().into()),
        Err(invalid) if invalid.code == Code::BadJson && has_lines(&body, limits) => {
            lines(body, limits)
        }
        Err(invalid) => Err(invalid.into()),
    }
}

/// Whether a body that is not one JSON value has one on its first line.
fn has_lines(body: &Bytes, limits: &Limits) -> bool {
    let start = body.trim_ascii_start();
    let first = start.split(|&byte| byte == b'\n').next().unwrap_or(start);
    first.len() < start.len() && decode_for_consumer(&body.slice_ref(first), limits).is_ok()
}

fn lines(body: Bytes, limits: &Limits) -> Result<Messages, Refusal> {
    let mut buffer = body
        .try_into_mut()
        .unwrap_or_else(|shared| BytesMut::from(&shared[..]));
    let mut decoder = LineDecoder::new(limits.frame_bytes_max);
    let mut messages = Vec::new();
    let mut at_end = false;
    while !at_end {
        let line = match decoder.next(&mut buffer).map_err(Invalid::from)? {
            Some(line) => line,
            None => {
                at_end = true;
                match decoder.end(&mut buffer).map_err(Invalid::from)? {
                    Some(line) => line,
                    None => break,
                }
            }
        };
        match decode_for_consumer(&line, limits) {
            Ok(Incoming::Message(message)) => messages.push(message),
            Ok(Incoming::Batch(batch)) => messages.extend(batch),
            Ok(Incoming::Op(_)) => messages.push(Err(no_op())),
            Err(invalid) => messages.push(Err(invalid)),
        }
        if messages.len() > limits.batch_max {
            let max = limits.batch_max;
            let found = format!("more than {max} messages");
            let invalid = Invalid::new(Code::TooLarge, found, format!("{max} messages"));
            return Err(invalid.into());
        }
    }
    if messages.is_empty() {
        return Err(Invalid::new(Code::BadJson, "no line", "a message a line").into());
    }
    Ok(Messages::list(messages))
}

fn no_op() -> Invalid {
    Invalid::new(
        Code::BadOp,
        "a control object",
        "messages, which is all that HTTP takes",
    )
}
