//! `spoolway send`: one message, or a stream of them.

mod lines;
mod stream;
mod tally;

use std::io::{self, IsTerminal as _, Read as _};
use std::time::{Duration, Instant};

use clap::CommandFactory as _;
use clap::error::ErrorKind;
use serde::Serialize;
use spoolway::client::SocketReason;
use spoolway::{Message, Outcome, Path, Payload, Producer, Receipt};

use crate::args::{Args, Send};
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::paths::Places;
use crate::units::span;

pub(crate) use lines::{Line, read_all};
pub(crate) use tally::Summary;

/// How long the end waits for what is unanswered before it is spooled.
const CLOSE_MAX: Duration = Duration::from_secs(5);

/// What the command line asks for.
enum Source {
    One(Box<Message>),
    Many(Box<dyn io::Read + std::marker::Send>),
}

pub(crate) async fn run(places: Places, args: Send, quiet: bool) -> Result<u8, Failure> {
    let source = source(&args)?;
    places.make_database_directory()?;
    let mut builder = Producer::builder(&places.socket, &places.database)
        .ack(args.ack)
        .durability(args.durability.into())
        .disk_bytes_kept(args.room.disk_bytes_kept)
        .wal_bytes_alarm(args.room.wal_bytes_alarm)
        .client_name(concat!("spoolway send ", env!("CARGO_PKG_VERSION")));
    if let Some(bytes) = args.room.queue_bytes_max {
        builder = builder.queue_bytes_max(bytes);
    }
    if let Some(messages) = args.room.queue_messages_max {
        builder = builder.queue_messages_max(messages);
    }
    let producer = builder.open().await?;
    match source {
        Source::One(message) => one(&producer, *message, &args, quiet).await,
        Source::Many(input) => stream::run(&producer, input, &args, quiet).await,
    }
}

fn source(args: &Send) -> Result<Source, Failure> {
    let stdin_waits = !io::stdin().is_terminal();
    let dash = |text: &str| text == "-";
    match (&args.kind, args.payload.as_deref(), &args.file) {
        (_, _, Some(path)) if path.as_os_str() == "-" => Ok(Source::Many(Box::new(io::stdin()))),
        (_, _, Some(path)) => match std::fs::File::open(path) {
            Ok(file) => Ok(Source::Many(Box::new(file))),
            Err(error) => Err(Failure::io(
                format!("cannot read {}", path.display()),
                &error,
            )),
        },
        (Some(kind), Some(payload), None) if !dash(payload) => message(args, kind, payload),
        (Some(kind), payload, None) if stdin_waits || payload.is_some_and(dash) => {
            let mut text = String::new();
            io::stdin()
                .read_to_string(&mut text)
                .map_err(|error| Failure::io("cannot read the standard input", &error))?;
            message(args, kind, text.trim())
        }
        (None, None, None) if stdin_waits => Ok(Source::Many(Box::new(io::stdin()))),
        (None, Some(payload), None) if dash(payload) => Ok(Source::Many(Box::new(io::stdin()))),
        (None, Some(_), None) => misused("a payload needs its --type"),
        (Some(_), _, None) => misused("the payload is missing: give any JSON, or `-` to read it"),
        (None, None, None) => misused("nothing to send: give --type and a payload, or --file"),
    }
}

/// Ends the process as clap does for the mistakes that it finds itself.
fn misused(what: &str) -> ! {
    let mut command = Args::command();
    command.build();
    let error = match command.find_subcommand_mut("send") {
        Some(send) => send.error(ErrorKind::MissingRequiredArgument, what),
        None => command.error(ErrorKind::MissingRequiredArgument, what),
    };
    debug_assert_eq!(error.exit_code(), i32::from(exit::USAGE));
    error.exit()
}

fn message(args: &Send, kind: &str, payload: &str) -> Result<Source, Failure> {
    if payload.is_empty() {
        let failure = Failure::new(exit::BAD_DATA, "bad_json", "the payload is empty");
        return Err(failure.help("give any JSON; `null` for none"));
    }
    let payload = Payload::from_json(payload.to_owned()).map_err(|invalid| {
        Failure::new(
            exit::BAD_DATA,
            invalid.code.as_str(),
            "the payload is no JSON",
        )
        .because(invalid.found.replace(" at line 1 column ", " at column "))
        .help("quote text twice: --type note '\"hello\"'")
    })?;
    let mut message = Message::with_payload(kind, payload);
    let set = |text: &Option<String>| text.as_deref().map(Into::into);
    message.topic = set(&args.topic);
    message.sender = set(&args.sender);
    message.recipient = set(&args.recipient);
    message.priority = args.priority.unwrap_or(message.priority);
    message.headers = args.header.iter().cloned().collect();
    if let Some(id) = &args.id {
        message = message.id(id);
    }
    if let Some(key) = &args.key {
        message = message.key(key);
    }
    if let Some(ttl) = args.ttl {
        message = message.ttl(ttl);
    }
    Ok(Source::One(Box::new(message)))
}

/// A receipt as JSON.
#[derive(Debug, Serialize)]
struct Sent<'a> {
    id: &'a str,
    path: &'a str,
    outcome: Outcome,
    duplicate: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    ms: f64,
}

async fn one(
    producer: &Producer,
    message: Message,
    args: &Send,
    quiet: bool,
) -> Result<u8, Failure> {
    let started = Instant::now();
    let sent = producer.send(message).await;
    let took = started.elapsed();
    let socket = producer.status().socket;
    producer.close(CLOSE_MAX).await;
    let receipt = sent?;
    let reason = why(&receipt, socket.as_ref());
    if args.json {
        print_json(&Sent {
            id: receipt.id.as_str(),
            path: receipt.path.as_str(),
            outcome: receipt.outcome,
            duplicate: receipt.duplicate,
            reason,
            ms: (took.as_secs_f64() * 1e6).round() / 1e3,
        })?;
    } else if !quiet {
        print(sentence(&receipt, took, reason))?;
    }
    Ok(exit::OK)
}

/// Why it is not simply processed by the socket.
fn why(receipt: &Receipt, socket: Option<&SocketReason>) -> Option<String> {
    match (receipt.path, socket) {
        (Path::Queue, Some(reason)) => Some(reason.to_string()),
        _ => receipt.reason.clone(),
    }
}

fn sentence(receipt: &Receipt, took: Duration, reason: Option<String>) -> String {
    let Receipt {
        id, outcome, path, ..
    } = receipt;
    let mut text = format!("{id}  {outcome} by {path} in {}", span(took));
    if receipt.duplicate {
        text += " (was taken before)";
    }
    if let Some(reason) = reason {
        text += &format!(": {reason}");
    }
    text
}

#[cfg(test)]
mod tests {
    use spoolway::client::Absence;

    use super::*;

    #[test]
    fn the_sentence_says_what_became_of_it_and_why() {
        let mut receipt = Receipt {
            id: spoolway::MessageId::new("a1").unwrap(),
            path: Path::Socket,
            outcome: Outcome::Processed,
            duplicate: false,
            reason: None,
        };
        let took = Duration::from_micros(213);
        let line = |receipt: &Receipt, socket: &SocketReason| {
            sentence(receipt, took, why(receipt, Some(socket)))
        };
        let refused = Absence::Refused.into();
        let text = line(&receipt, &refused);
        assert_eq!(text, "a1  processed by socket in 0.2 ms");
        receipt.path = Path::Queue;
        receipt.outcome = Outcome::Stored;
        let text = line(&receipt, &refused);
        let expected = "a1  stored by queue in 0.2 ms: consumer not running (connection refused)";
        assert_eq!(text, expected);
    }
}
