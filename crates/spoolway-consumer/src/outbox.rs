//! What a connection is to be told: answers, gathered until the socket takes them.
//!
//! What is said is framed, or put in a line, as the connection speaks; replies to an HTTP request are kept for it.
//! Outcomes stay a set of ranges until everything before them is written, so a peer that reads slowly costs a few
//! ranges, not a frame for each answer. Whoever has something to say writes it, without waiting; what the socket
//! does not take at once is left to the connection's task.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use rustix::net::{Shutdown, shutdown};
use spoolway_proto::{Ack, ConsumerOp, Dialect, Outcome, Reply};
use tokio::net::UnixStream;
use tokio::net::unix::OwnedWriteHalf;
use tokio::sync::Notify;

/// Unwritten bytes after which a peer counts as one that does not read: what it owes room for is a window of
/// answers, some tens of kilobytes.
const UNWRITTEN_MAX: usize = 1 << 20;

pub(crate) struct Outbox {
    stream: OwnedWriteHalf,
    state: Mutex<State>,
    /// The connection's task has something to do.
    pub(crate) wake: Notify,
}

struct State {
    dialect: Dialect,
    unwritten: BytesMut,
    /// Replies to the HTTP request that is being answered.
    replies: Vec<Reply>,
    ack: Ack,
    greeted: bool,
    /// Answers a connection without hello waits for.
    owed: usize,
    /// Nothing more is to be said or read.
    ended: bool,
    /// A write failed, or the peer does not read: answers are dropped.
    deaf: bool,
    /// The socket was full.
    blocked: bool,
    /// The connection's task should look.
    news: bool,
}

impl Outbox {
    pub(crate) fn new(stream: OwnedWriteHalf) -> Self {
        Self {
            stream,
            state: Mutex::new(State::new()),
            wake: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No state is left half-changed: each change is one assignment or an append.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Both halves of the connection.
    pub(crate) fn stream(&self) -> &UnixStream {
        self.stream.as_ref()
    }

    /// Says everything in that dialect from here on; frames until then.
    pub(crate) fn speak(&self, dialect: Dialect) {
        self.state().dialect = dialect;
    }

    /// The outcome of a number, said with the next flush.
    pub(crate) fn answer(&self, n: u64, outcome: Outcome, reason: Option<Arc<str>>) {
        let mut state = self.state();
        let ack = &mut state.ack;
        match outcome {
            Outcome::Processed => ack.processed.insert(n),
            Outcome::Stored => ack.stored.insert(n),
            Outcome::Received => ack.received.insert(n),
            Outcome::Dead => ack
                .dead
                .push((n, reason.as_deref().unwrap_or("dead").to_owned())),
        }
    }

    pub(crate) fn say(&self, op: &ConsumerOp) {
        let mut state = self.state();
        state.greeted |= matches!(op, ConsumerOp::Hello(_));
        state.put(op);
    }

    /// Like [`Outbox::say`], to connections that were greeted.
    pub(crate) fn say_if_greeted(&self, op: &ConsumerOp) {
        let mut state = self.state();
        if state.greeted {
            state.put(op);
        }
    }

    /// The last thing this connection hears; what was answered before is said before.
    pub(crate) fn say_last(&self, op: &ConsumerOp) {
        let mut state = self.state();
        if !state.ended {
            state.put_ack();
            state.put(op);
            state.end();
        }
    }

    /// The last line of a connection that said no hello and speaks no frames.
    pub(crate) fn say_last_line(&self, reply: &Reply) {
        let mut state = self.state();
        reply.put_line(&mut state.unwritten);
        state.end();
    }

    /// So many messages of this connection wait for a reply.
    pub(crate) fn owe(&self, messages: usize) {
        self.state().owed += messages;
    }

    pub(crate) fn reply(&self, reply: Reply) {
        let mut state = self.state();
        state.owed = state.owed.saturating_sub(1);
        match state.dialect {
            Dialect::Frames => reply.put(&mut state.unwritten),
            Dialect::Lines => reply.put_line(&mut state.unwritten),
            Dialect::Http => state.replies.push(reply),
        }
        // Whoever waits does so for the last one.
        state.news |= state.owed == 0;
    }

    /// The replies so far, and whether there are more to come.
    pub(crate) fn replies(&self) -> (Vec<Reply>, bool) {
        let mut state = self.state();
        let more = state.owed > 0 && !state.ended;
        (std::mem::take(&mut state.replies), more)
    }

    /// Nothing more is read; what is here is still written.
    pub(crate) fn end(&self) {
        self.state().end();
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.state().ended
    }

    /// Whether replies are still to come, and someone may read them.
    pub(crate) fn is_awaited(&self) -> bool {
        let state = self.state();
        state.owed > 0 && !state.deaf && !state.ended
    }

    /// Whether so much is unwritten that its peer should read before it is read from again.
    ///
    /// One that speaks frames and said no hello may never read, and one with a hello has a window.
    pub(crate) fn is_crowded(&self) -> bool {
        let state = self.state();
        state.dialect == Dialect::Lines && state.unwritten.len() > UNWRITTEN_MAX
    }

    /// Says nothing more to a peer that does not read. It sees an end, and can wait for nothing.
    pub(crate) fn give_up(&self) {
        self.state().deaf = true;
        if let Err(error) = shutdown(self.stream(), Shutdown::Write) {
            tracing::debug!("cannot close the writing side: {error}");
        }
        self.flush();
    }

    /// Whether the socket was full: flush again when it is writable.
    pub(crate) fn is_blocked(&self) -> bool {
        self.state().blocked
    }

    pub(crate) async fn writable(&self) -> io::Result<()> {
        self.stream.writable().await
    }

    /// Writes what the socket takes now.
    pub(crate) fn flush(&self) {
        let mut state = self.state();
        state.blocked = false;
        while !state.deaf {
            if state.unwritten.is_empty() {
                state.put_ack();
            }
            if state.unwritten.is_empty() {
                break;
            }
            match self.stream.try_write(&state.unwritten) {
                Ok(written) => state.unwritten.advance(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.blocked = true;
                    state.news = true;
                    state.deaf =
                        state.dialect == Dialect::Frames && state.unwritten.len() > UNWRITTEN_MAX;
                    break;
                }
                // The answers end here; what has arrived is read to its end all the same.
                Err(_) => state.deaf = true,
            }
        }
        if state.deaf {
            state.unwritten.clear();
            state.ack = Ack::default();
            state.blocked = false;
            state.news = true;
        }
        let news = std::mem::take(&mut state.news);
        drop(state);
        if news {
            self.wake.notify_one();
        }
    }
}

impl State {
    fn new() -> Self {
        Self {
            dialect: Dialect::Frames,
            unwritten: BytesMut::new(),
            replies: Vec::new(),
            ack: Ack::default(),
            greeted: false,
            owed: 0,
            ended: false,
            deaf: false,
            blocked: false,
            news: false,
        }
    }

    fn put(&mut self, op: &ConsumerOp) {
        match self.dialect {
            Dialect::Lines => op.put_line(&mut self.unwritten),
            Dialect::Frames | Dialect::Http => op.put(&mut self.unwritten),
        }
    }

    fn end(&mut self) {
        self.ended = true;
        self.news = true;
    }

    fn put_ack(&mut self) {
        if !self.ack.is_empty() {
            let ack = ConsumerOp::Ack(std::mem::take(&mut self.ack));
            self.put(&ack);
        }
    }
}
