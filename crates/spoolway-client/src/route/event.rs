//! What the route is told, and what it asks for in return.

use std::time::Duration;

use spoolway_proto::{Code, Epoch, InstanceId, Outcome, ProducerId, Ranges};

/// Something that happened outside the route.
#[derive(Debug)]
pub enum Event {
    /// The dial that was asked for has a connection; nothing was said on it yet.
    Connected,
    /// The dial that was asked for failed.
    Refused,
    /// The consumer answered hello.
    Greeted {
        /// Which run of the consumer it is.
        instance: InstanceId,
        /// Messages that may be unanswered at a time.
        window: u32,
        /// Bytes that may be unanswered at a time.
        window_bytes: u64,
    },
    /// The consumer answered these numbers with one outcome.
    Acked {
        /// What became of them.
        outcome: Outcome,
        /// Which ones.
        ranges: Ranges,
    },
    /// The consumer gave one message up for good.
    Dead {
        /// Its number.
        n: u64,
        /// Why.
        reason: String,
    },
    /// The consumer did not take one message.
    Nacked {
        /// Its number.
        n: u64,
        /// Why.
        code: Code,
        /// The consumer's sentence.
        message: String,
        /// How long to wait before it is tried again.
        retry_after: Option<Duration>,
    },
    /// The consumer grants another window.
    Window {
        /// Messages.
        window: u32,
        /// Bytes.
        window_bytes: u64,
    },
    /// Bytes arrived, whatever they were.
    Heard,
    /// The consumer asks whether we are there.
    Pinged,
    /// The consumer is going away and expects to be back within this time.
    Goodbye {
        /// How long new messages are held for it.
        hold: Duration,
    },
    /// The consumer ended the connection with an error.
    Faulted {
        /// Why.
        code: Code,
        /// The consumer's sentence.
        message: String,
        /// The message it names, if it names one.
        n: Option<u64>,
    },
    /// The connection is over; everything that could be read from it was.
    Closed {
        /// Messages whose `Write` never left this process whole, so that nobody can have taken them.
        unsent: Vec<u64>,
    },
    /// The socket file appeared: dial now.
    Appeared,
    /// A group was committed to the queue file; one result a number, in its order.
    Spooled {
        /// Which group.
        group: u64,
        /// What became of each.
        results: Vec<Spooled>,
    },
    /// A group could not be committed; none of it is in the file.
    SpoolFailed {
        /// Which group.
        group: u64,
        /// The commit failed half way: all of it may be in the file after all.
        unknown: bool,
    },
    /// Somebody counts on what was answered: confirm it now, whatever there is.
    Confirm,
    /// The socket is given up for good: what is unsettled goes to the file, and nothing is dialled again.
    Abandon,
    /// Time passed.
    Tick,
}

/// What became of one message of a spooled group.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spooled {
    /// A new row holds it.
    Stored,
    /// A row of this id and content was there already.
    Duplicate(Outcome),
    /// A row of this id with other content was there already.
    Conflict,
}

/// Something the shell must do, in the order given.
#[derive(Debug, Eq, PartialEq)]
pub enum Action<T> {
    /// Open a connection; answer `Connected` or `Refused`.
    Dial,
    /// Close the connection, or stop the dial that is under way; no answer is expected.
    HangUp,
    /// Say hello.
    Hello {
        /// Who sends.
        producer: ProducerId,
        /// Which connection of it.
        epoch: Epoch,
        /// The first number that will be written.
        first: u64,
        /// The first number that was never written to any consumer.
        fresh: u64,
        /// How many numbers were answered over the socket, so far.
        socket: u64,
        /// How many numbers it made a row of the queue file of, so far.
        queue: u64,
        /// How many numbers ended with nothing that holds them, so far.
        err: u64,
    },
    /// Move the connection's number; the next message written is `n`.
    At {
        /// The number.
        n: u64,
    },
    /// Write message `n`; its body is [`super::Route::body`].
    Write {
        /// The number.
        n: u64,
    },
    /// Confirm answers, and tell the counts.
    Seen {
        /// The answered numbers; none where only the counts are news.
        ranges: Ranges,
        /// How many numbers it made a row of the queue file of, so far.
        queue: u64,
        /// How many numbers ended with nothing that holds them, so far.
        err: u64,
    },
    /// Ask whether the consumer is there.
    Ping,
    /// Answer a ping.
    Pong,
    /// Commit these messages to the queue file, in this order, in one transaction.
    Spool {
        /// The group's name in the answer.
        group: u64,
        /// Written into the rows.
        producer: ProducerId,
        /// Written into the rows.
        epoch: Epoch,
        /// Which messages.
        numbers: Vec<u64>,
    },
    /// Message `n` is settled and forgotten.
    Settle {
        /// The number.
        n: u64,
        /// What the shell gave with it.
        body: T,
        /// What became of it.
        verdict: Verdict,
    },
    /// Tell the caller of `n` that its fate is unknown; the message stays.
    Unknown {
        /// The number.
        n: u64,
    },
}

/// What became of a message, as its sender is told.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Verdict {
    /// The consumer answered.
    Answered(Outcome),
    /// The consumer gave it up: a dead letter.
    Dead(String),
    /// It is in the queue file.
    Spooled(Spooled),
    /// The consumer refused it; nothing holds it.
    Refused(Code, String),
    /// Neither the socket nor the file took it, and neither holds it.
    NotTaken(Lack),
    /// The producer ends and cannot say.
    Unknown,
}

/// Why a message was not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lack {
    /// The queue file could not be written.
    Spool,
    /// There was no room in the window: at once with [`super::OnFull::Error`], else until `send_timeout`, since a
    /// keyed message waits for its turn.
    Window,
}
