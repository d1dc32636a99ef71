//! How the consumer is: for probes, for Prometheus and for people.

use std::fmt::Write as _;
use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use serde::Serialize;
use spoolway_proto::Code;
use spoolway_queue::{QueueError, SqliteQueue, Stats};

use super::Caller;
use super::answer::{Refusal, json, with_type};
use crate::Summary;
use crate::consumer::unblocked;
use crate::shared::Shared;

const SERVER: &str = concat!("spoolway ", env!("CARGO_PKG_VERSION"));

/// It answers.
pub(super) async fn health(State(caller): State<Arc<Caller>>) -> Response {
    #[derive(Serialize)]
    struct Health {
        success: bool,
        server: &'static str,
        instance: String,
    }

    let health = Health {
        success: true,
        server: SERVER,
        instance: caller.shared.instance.to_string(),
    };
    json(StatusCode::OK, &health)
}

/// It takes messages, and can store them.
pub(super) async fn ready(State(caller): State<Arc<Caller>>) -> Response {
    #[derive(Serialize)]
    struct Ready {
        success: bool,
        #[serde(skip_serializing_if = "Option::is_none")]
        error: Option<String>,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<Code>,
        reasons: Vec<&'static str>,
    }

    let reasons = caller.shared.troubles();
    let (status, code) = match reasons.is_empty() {
        true => (StatusCode::OK, None),
        false => (StatusCode::SERVICE_UNAVAILABLE, Some(Code::Unavailable)),
    };
    let ready = Ready {
        success: reasons.is_empty(),
        error: code.map(|code| format!("{code}: {}", reasons.join(", "))),
        code,
        reasons,
    };
    json(status, &ready)
}

/// What this run did, and what the queue file holds.
pub(super) async fn stats(State(caller): State<Arc<Caller>>) -> Result<Response, Refusal> {
    #[derive(Serialize)]
    struct Report {
        success: bool,
        server: &'static str,
        instance: String,
        uptime_s: u64,
        connections: usize,
        in_memory: usize,
        full: bool,
        processed: u64,
        stored: u64,
        dead: u64,
        failed: u64,
        queue: Stats,
    }

    let shared = &caller.shared;
    let queue = ask(shared, SqliteQueue::stats).await?;
    let did = shared.summary();
    let report = Report {
        success: true,
        server: SERVER,
        instance: shared.instance.to_string(),
        uptime_s: shared.uptime().as_secs(),
        connections: shared.connections(),
        in_memory: shared.pending(),
        full: shared.is_full(),
        processed: did.processed,
        stored: did.stored,
        dead: did.dead,
        failed: did.failed,
        queue,
    };
    Ok(json(StatusCode::OK, &report))
}

/// The same for Prometheus, without the counts that take long on a large file.
pub(super) async fn metrics(State(caller): State<Arc<Caller>>) -> Result<Response, Refusal> {
    let shared = &caller.shared;
    // What cannot be read is left out: the others are wanted most then.
    let backlog = ask(shared, SqliteQueue::pending).await.ok();
    let text = exposition(shared, shared.summary(), backlog);
    Ok(with_type(
        StatusCode::OK,
        "text/plain; version=0.0.4; charset=utf-8",
        text,
    ))
}

fn exposition(shared: &Shared, did: Summary, backlog: Option<u64>) -> String {
    let mut text = String::new();
    let mut metric = |name: &str, r#type: &str, help: &str, value: u64| {
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "# HELP spoolway_{name} {help}\n# TYPE spoolway_{name} {type}\nspoolway_{name} {value}\n"
        );
    };
    for (name, help, value) in [
        ("processed_total", "Handlers that succeeded.", did.processed),
        (
            "stored_total",
            "Messages from the socket that were written to the queue file.",
            did.stored,
        ),
        ("dead_total", "Messages that became dead letters.", did.dead),
        ("failed_total", "Attempts that failed.", did.failed),
        (
            "commits_total",
            "Transactions of the queue file.",
            shared.queue.commits(),
        ),
    ] {
        metric(name, "counter", help, value);
    }
    let troubles = shared.troubles();
    for (name, help, value) in [
        (
            "uptime_seconds",
            "Since it started.",
            shared.uptime().as_secs(),
        ),
        (
            "connections",
            "Open connections.",
            shared.connections() as u64,
        ),
        ("in_memory", "Messages in memory.", shared.pending() as u64),
        (
            "full",
            "1 while connections without hello wait for room.",
            shared.is_full().into(),
        ),
        (
            "ready",
            "1 while it takes messages and can store them.",
            troubles.is_empty().into(),
        ),
    ] {
        metric(name, "gauge", help, value);
    }
    if let Some(backlog) = backlog {
        let help = "Unprocessed messages in the queue file.";
        metric("backlog", "gauge", help, backlog);
    }
    text
}

/// Reads the queue file where that may block. One at a time, so that who asks often takes no reader from the consumer.
async fn ask<T: Send + 'static>(
    shared: &Arc<Shared>,
    read: fn(&SqliteQueue) -> Result<T, QueueError>,
) -> Result<T, Refusal> {
    let failed = |error: &dyn std::fmt::Display| {
        let error = format!("unavailable: the queue file cannot be read: {error}");
        let status = StatusCode::SERVICE_UNAVAILABLE;
        Refusal::new(status, Code::Unavailable.as_str(), error)
    };
    let turn = Arc::clone(&shared.asking).lock_owned().await;
    let queue = shared.queue.clone();
    let read = unblocked(move || {
        let read = read(&queue);
        drop(turn);
        read
    });
    match read.await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(failed(&error)),
        Err(error) => Err(failed(&error)),
    }
}
