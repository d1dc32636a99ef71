//! HTTP/1.1 on the consumer's socket: for `curl`, for probes, and for programs that have nothing else.
//!
//! A connection is one task that serves one request after the other. The messages of a request are those of a
//! connection without hello, and its answer is made of their replies.

mod answer;
pub(crate) mod body;
mod caller;
mod config;
mod look;
mod pace;
pub(crate) mod query;
mod routes;
mod stream;

use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use bytes::BytesMut;
use hyper::body::Incoming;
use hyper::header::{CONNECTION, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use tokio::net::unix::OwnedReadHalf;
use tokio::time::timeout;
use tower_service::Service as _;

use crate::connection::LAST_WORDS_MAX;
use crate::shared::Life;

pub(crate) use caller::Caller;
pub use config::HttpConfig;
use stream::Stream;

/// Bytes that a request's head may have, and what is read of a body at a time.
const BUFFER_BYTES_MAX: usize = 64 * 1024;

/// Serves a connection whose first bytes, `read`, open HTTP, to its end.
pub(crate) async fn serve(caller: Caller, reader: OwnedReadHalf, read: BytesMut) {
    let caller = Arc::new(caller);
    let routes = routes::of(Arc::clone(&caller));
    let answering = service_fn(|request: hyper::Request<Incoming>| {
        caller.pace.answering();
        let request: Request = request.map(Body::new);
        let answer = routes.clone().call(request);
        let caller = &caller;
        async move {
            let mut answer = answer.await?;
            if caller.is_last() {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
            caller.pace.answered();
            Ok::<_, Infallible>(answer)
        }
    });
    let stream = TokioIo::new(Stream::new(Arc::clone(&caller), reader, read));
    let connection = http1::Builder::new()
        // Who writes a request and closes is heard, and who closes only the writing side is answered.
        .half_close(true)
        .max_buf_size(BUFFER_BYTES_MAX)
        .serve_connection(stream, answering);
    let mut connection = pin!(connection);
    let mut leaving = false;
    loop {
        tokio::select! {
            biased;
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(conn = caller.conn(), "HTTP connection ended: {error}");
                }
                break;
            }
            () = caller.shared.reached(Life::Draining), if !leaving => {
                leaving = true;
                caller.leave();
            }
            () = caller.shared.reached(Life::Over), if leaving => {
                // A peer that does not read its last answer is not waited for longer.
                let _ = timeout(LAST_WORDS_MAX, connection.as_mut()).await;
                break;
            }
            () = caller.pace.lapsed() => {
                tracing::debug!(conn = caller.conn(), "HTTP connection closed: no request in time");
                break;
            }
        }
    }
    caller.close();
}
