//! What the machine is told, and what it asks for in return.

use std::sync::Arc;
use std::time::Duration;

use spoolway_proto::{
    AckLevel, Code, Invalid, Key, Message, Outcome, ProducerHello, ProducerId, Ranges,
};
use spoolway_queue::{Cursor, KeyRows, Page, ProducerRecord, Write, Written};

/// A connection, numbered by the shell; a number is never used twice.
pub type ConnId = u64;
/// A message in memory.
pub type Ticket = u64;
/// Writes that are committed together.
pub type BatchId = u64;

/// Something that happened outside the machine. Small, because there are two for each message: what is large is boxed.
#[derive(Debug)]
pub enum Event {
    /// The connection said hello.
    Hello {
        /// Which connection.
        conn: ConnId,
        /// What it said.
        hello: Box<ProducerHello>,
    },
    /// The connection moves its number.
    At {
        /// Which connection.
        conn: ConnId,
        /// The number of its next message.
        n: u64,
    },
    /// A message arrived, or something that takes a number like one.
    Arrived {
        /// Which connection.
        conn: ConnId,
        /// The message, stamped; or why it is none.
        message: Result<Arc<Message>, Box<Invalid>>,
        /// On a connection that said no hello: whether an answer is asked for.
        answer: bool,
    },
    /// The producer confirms answers.
    Seen {
        /// Which connection.
        conn: ConnId,
        /// The answered numbers.
        ranges: Ranges,
        /// How many went by the file so far.
        queue: u64,
        /// How many returned an error so far.
        err: u64,
    },
    /// The connection is over, and everything that arrived on it was handed in.
    Closed {
        /// Which connection.
        conn: ConnId,
    },
    /// The answer to [`Action::Ask`].
    Asked {
        /// Which question.
        ask: u64,
        /// Whether the file held unprocessed keyed rows; `None` if it could not be read.
        keyed: Option<bool>,
        /// What the file remembers of the producer.
        producer: Option<Box<ProducerRecord>>,
    },
    /// The answer to [`Action::Lookup`].
    LookedUp {
        /// Which key.
        key: Key,
        /// Which read.
        read: u64,
        /// Its unprocessed rows (never replayed ones), ascending; `None` if the file could not be read.
        rows: Option<KeyRows>,
    },
    /// The answer to [`Action::Poll`]; `None` if the file could not be read.
    Polled(Option<Box<Page>>),
    /// The answer to [`Action::PollKey`]; `None` if the file could not be read.
    PolledKey {
        /// Which key.
        key: Key,
        /// Which read.
        read: u64,
        /// Its first unprocessed rows.
        page: Option<Box<Page>>,
    },
    /// The answer to [`Action::PollSuspects`].
    PolledSuspects {
        /// Which read.
        read: u64,
        /// The next suspects; `None` if the file could not be read.
        page: Option<Box<Page>>,
    },
    /// The file may have something new.
    Woken,
    /// The path names another file now, and it was taken over. Row numbers of the old one mean nothing; batches
    /// that name them fail, before or after this. What was written into the old one was answered before.
    Replaced {
        /// `Page::generation` of what is read from it.
        generation: u64,
    },
    /// The writes of a batch are committed; one result each, in their order.
    Committed {
        /// Which batch.
        batch: BatchId,
        /// The results.
        written: Vec<Written>,
    },
    /// Nothing of a batch is committed.
    CommitFailed {
        /// Which batch.
        batch: BatchId,
    },
    /// The handler of a message ended.
    Finished {
        /// Which message.
        ticket: Ticket,
        /// How.
        finish: Finish,
    },
    /// Save what is known of producers, and say when it is done.
    Save {
        /// The request's name in [`Action::Saved`].
        save: u64,
    },
    /// The consumer is going away: take nothing more from the file, finish what is here.
    Drain,
    /// Time is up: store what has not finished.
    Halt,
    /// Time passed.
    Tick,
}

impl Event {
    /// The names of all events.
    #[doc(hidden)]
    pub const NAMES: [&'static str; 19] = [
        "Hello",
        "At",
        "Arrived",
        "Seen",
        "Closed",
        "Asked",
        "LookedUp",
        "Polled",
        "PolledKey",
        "PolledSuspects",
        "Woken",
        "Replaced",
        "Committed",
        "CommitFailed",
        "Finished",
        "Save",
        "Drain",
        "Halt",
        "Tick",
    ];

    /// Its name: for the coverage of the simulation.
    #[doc(hidden)]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Hello { .. } => "Hello",
            Self::At { .. } => "At",
            Self::Arrived { .. } => "Arrived",
            Self::Seen { .. } => "Seen",
            Self::Closed { .. } => "Closed",
            Self::Asked { .. } => "Asked",
            Self::LookedUp { .. } => "LookedUp",
            Self::Polled(_) => "Polled",
            Self::PolledKey { .. } => "PolledKey",
            Self::PolledSuspects { .. } => "PolledSuspects",
            Self::Woken => "Woken",
            Self::Replaced { .. } => "Replaced",
            Self::Committed { .. } => "Committed",
            Self::CommitFailed { .. } => "CommitFailed",
            Self::Finished { .. } => "Finished",
            Self::Save { .. } => "Save",
            Self::Drain => "Drain",
            Self::Halt => "Halt",
            Self::Tick => "Tick",
        }
    }
}

/// How a handler ended.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Finish {
    /// It did its work.
    Done,
    /// It failed; the message is tried again, or dead after its attempts.
    Failed(String),
    /// What it needs is not there now: tried again later, and no attempt is counted.
    Unavailable(String),
    /// It will never work: dead at once, with this reason.
    Rejected {
        /// A word for it, such as `no_route`.
        reason: String,
        /// The handler's error.
        error: Option<String>,
    },
}

/// Something the shell must do, in the order given.
#[derive(Debug)]
pub enum Action {
    /// Answer hello.
    Greet {
        /// Which connection.
        conn: ConnId,
        /// Messages it may have unanswered.
        window: u32,
        /// Bytes it may have unanswered.
        window_bytes: u64,
    },
    /// Grant another window.
    Window {
        /// Which connection.
        conn: ConnId,
        /// Messages.
        window: u32,
        /// Bytes.
        window_bytes: u64,
    },
    /// Answer a number.
    Answer {
        /// Which connection.
        conn: ConnId,
        /// The number.
        n: u64,
        /// What became of it.
        outcome: Outcome,
        /// Why it is dead.
        reason: Option<Arc<str>>,
    },
    /// Refuse a number.
    Nack {
        /// Which connection.
        conn: ConnId,
        /// The number.
        n: u64,
        /// Why.
        code: Code,
        /// A sentence.
        message: String,
        /// When to try again.
        retry_after: Option<Duration>,
    },
    /// Answer a message of a connection that said no hello.
    Reply {
        /// Which connection.
        conn: ConnId,
        /// The message.
        message: Arc<Message>,
        /// What became of it, or why it was refused.
        outcome: Result<Outcome, Code>,
        /// Why it is dead.
        reason: Option<Arc<str>>,
    },
    /// End the connection with an error.
    Fault {
        /// Which connection.
        conn: ConnId,
        /// Why.
        code: Code,
        /// A sentence.
        message: String,
    },
    /// Stop reading the connection and close it: a newer one of its producer stands.
    Fence {
        /// Which connection.
        conn: ConnId,
    },
    /// Run the handler; answer [`Event::Finished`].
    Run {
        /// Which message.
        ticket: Ticket,
        /// The message.
        message: Arc<Message>,
        /// Which attempt this is, from 1.
        attempt: u32,
        /// Whether it was processed before and is delivered again by request.
        replayed: bool,
    },
    /// Commit these in one transaction, after every batch asked for before.
    Commit {
        /// The batch's name in the answer.
        batch: BatchId,
        /// The file whose rows it names; `None`: it names none, and goes into any.
        generation: Option<u64>,
        /// What to write.
        writes: Vec<Write>,
    },
    /// What was asked for by [`Event::Save`] is committed, or could not be.
    Saved {
        /// Which request.
        save: u64,
        /// Whether it is in the file.
        saved: bool,
    },
    /// Read whether the file holds unprocessed keyed rows, and what it remembers of the producer.
    Ask {
        /// The question's name in the answer.
        ask: u64,
        /// Of whom.
        producer: Option<ProducerId>,
    },
    /// Read the unprocessed rows of a key. The read begins after this action.
    Lookup {
        /// Which key.
        key: Key,
        /// The read's name in the answer.
        read: u64,
    },
    /// Read candidates after the cursor.
    Poll {
        /// Where the last page ended.
        cursor: Cursor,
        /// How many at most.
        limit: usize,
    },
    /// Read the first unprocessed rows of a key.
    PollKey {
        /// Which key.
        key: Key,
        /// The read's name in the answer.
        read: u64,
        /// How many at most.
        limit: usize,
    },
    /// Read suspects behind a row.
    PollSuspects {
        /// The row before.
        after: i64,
        /// The read's name in the answer.
        read: u64,
        /// How many at most.
        limit: usize,
    },
}

/// The outcome a message's sender waits for.
pub(super) fn wanted(message: &Message, connection: AckLevel) -> AckLevel {
    message.ack.unwrap_or(connection)
}
