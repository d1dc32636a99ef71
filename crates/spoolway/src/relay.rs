//! Relays an outbox through a producer.

use std::path::Path;

use spoolway_client::{Fate, Producer, Receipt, SendCode, SendError};
use spoolway_proto::{AckLevel, Code, Message};
use spoolway_queue::{Outbox, QueueError, Relay, Ticket};
use tokio::runtime::Handle;

/// Sends what is committed to `outbox` in the database at `path`, until the value is dropped.
///
/// A message is deleted from the outbox when `producer` says that it is processed, or on disk: the
/// relay asks for `processed` unless the message asks for `stored`, since what was only `received`
/// may be lost. What the producer could not send, and may, is sent again under the same id; what
/// was refused for what it is, is kept aside ([`Outbox::failed`]).
///
/// Call it inside a tokio runtime; the answers are waited for there. Closing or dropping the relay
/// blocks: briefly, unless another holds the write lock of the database.
///
/// ```no_run
/// # async fn example() -> Result<(), Box<dyn std::error::Error>> {
/// use rusqlite::Connection;
/// use spoolway::{Message, Outbox, Producer};
///
/// let mut db = Connection::open("/var/lib/app/app.db")?;
/// let outbox = Outbox::default();
/// outbox.create(&db)?;
/// let producer = Producer::open("/run/app/orders.sock", "/var/lib/app/orders.db").await?;
/// let relay = spoolway::relay("/var/lib/app/app.db", &outbox, &producer)?;
///
/// let tx = db.transaction()?;
/// tx.execute("INSERT INTO orders (item) VALUES ('tea')", ())?;
/// outbox.enqueue(&tx, Message::new("order", "tea")?)?;
/// tx.commit()?; // both, or neither
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`Relay::start`]; [`QueueError::Misuse`] outside of a runtime.
pub fn relay(
    path: impl AsRef<Path>,
    outbox: &Outbox,
    producer: &Producer,
) -> Result<Relay, QueueError> {
    let path = path.as_ref();
    let runtime = Handle::try_current().map_err(|error| QueueError::Misuse {
        path: path.into(),
        what: format!("its outbox is relayed inside a tokio runtime: {error}"),
    })?;
    let producer = producer.clone();
    Relay::start(path, outbox, move |message, ticket| {
        let sending = producer.send(vouched_for(message));
        runtime.spawn(async move { settle(ticket, sending.await) });
    })
}

/// The last copy is given up only for an outcome that a crash does not undo.
fn vouched_for(mut message: Message) -> Message {
    if message.ack != Some(AckLevel::Stored) {
        message.ack = Some(AckLevel::Processed);
    }
    message
}

fn settle(ticket: Ticket, answer: Result<Receipt, SendError>) {
    match answer {
        Ok(_) => ticket.sent(),
        Err(error) if is_refused(&error) => ticket.refused(error),
        Err(error) => ticket.later(error),
    }
}

/// Whether the message itself is at fault, and not the way.
fn is_refused(error: &SendError) -> bool {
    use Code::{Conflict, Expired, Forbidden, Invalid, TooLarge};
    let at_fault = matches!(
        error.code,
        SendCode::Refused(Conflict | Expired | Forbidden | Invalid | TooLarge)
    );
    at_fault && error.fate == Fate::NotTaken
}
