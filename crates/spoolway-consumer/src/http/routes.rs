//! What can be asked for. The description for programs is `openapi.json`, and a test holds the two together.

use std::sync::{Arc, LazyLock};

use axum::Router;
use axum::extract::{Request, State};
use axum::http::{Method, StatusCode, Uri};
use axum::response::Response;
use axum::routing::{get, post};

use spoolway_proto::{Invalid, Message};

use super::answer::{self, Refusal};
use super::body::{self, Messages};
use super::{Caller, look, query};

/// The type of a message that names none.
const TYPE: &str = "message";

const OPENAPI: &str = include_str!("openapi.json");

static ROUTES: LazyLock<Router<Arc<Caller>>> = LazyLock::new(|| {
    Router::new()
        .route("/messages", post(messages))
        .route("/send", post(send))
        .route("/health", get(look::health))
        .route("/ready", get(look::ready))
        .route("/metrics", get(look::metrics))
        .route("/stats", get(look::stats))
        .route("/openapi.json", get(openapi))
        .fallback(not_found)
        .method_not_allowed_fallback(not_allowed)
});

/// The routes for the requests of one connection.
pub(super) fn of(caller: Arc<Caller>) -> Router {
    ROUTES.clone().with_state(caller)
}

/// Messages as they are on every path: one, an array, or a line each.
async fn messages(
    State(caller): State<Arc<Caller>>,
    request: Request,
) -> Result<Response, Refusal> {
    let (kind, body) = body::read(request, &caller.shared.config.http).await?;
    let Messages { all, alone } = body::messages(kind, body, &caller.shared.limits)?;
    let replies = caller.deliver(all).await?;
    Ok(match alone {
        true => answer::one(&replies[0]),
        false => answer::all(&replies),
    })
}

/// One message whose payload is the body. The handler's own reply would be the answer's body.
async fn send(State(caller): State<Arc<Caller>>, request: Request) -> Result<Response, Refusal> {
    let uri = request.uri().clone();
    let trace = body::trace(request.headers());
    let (_, body) = body::read(request, &caller.shared.config.http).await?;
    let mut message = Message::with_payload(TYPE, body::payload(body)?);
    message.headers.extend(trace);
    let message = query::message(uri.query().unwrap_or(""), message, &caller.shared.limits);
    let replies = caller.deliver(vec![message]).await?;
    Ok(answer::one(&replies[0]))
}

async fn openapi() -> Response {
    answer::with_type(StatusCode::OK, "application/json", OPENAPI)
}

async fn not_found(uri: Uri) -> Refusal {
    let error = format!(
        "not_found: there is no {}; GET /openapi.json says what there is",
        Invalid::quote(uri.path())
    );
    Refusal::new(StatusCode::NOT_FOUND, "not_found", error)
}

async fn not_allowed(method: Method, uri: Uri) -> Refusal {
    let error = format!(
        "method_not_allowed: {} knows no {method}; the header `Allow` says what it knows",
        Invalid::quote(uri.path())
    );
    Refusal::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", error)
}
