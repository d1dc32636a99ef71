//! What a connection is to be told: answers, gathered until the socket takes them.
//!
//! Outcomes stay a set of ranges until everything before them is written, so a peer that reads slowly costs a few
//! ranges, not a frame for each answer. Whoever has something to say writes it, without waiting; what the socket
//! does not take at once is left to the connection's task.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::{Buf, BytesMut};
use spoolway_proto::{Ack, ConsumerOp, Outcome, Reply};
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

#[derive(Default)]
struct State {
    frames: BytesMut,
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
            state: Mutex::default(),
            wake: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No state is left half-changed: each change is one assignment or an append.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
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
        op.put(&mut state.frames);
    }

    /// Like [`Outbox::say`], to connections that were greeted.
    pub(crate) fn say_if_greeted(&self, op: &ConsumerOp) {
        let mut state = self.state();
        if state.greeted {
            op.put(&mut state.frames);
        }
    }

    /// The last thing this connection hears; what was answered before is said before.
    pub(crate) fn say_last(&self, op: &ConsumerOp) {
        let mut state = self.state();
        if !state.ended {
            state.put_ack();
            op.put(&mut state.frames);
            state.end();
        }
    }

    /// The last line a connection reads that speaks no frames.
    pub(crate) fn say_last_line(&self, reply: &Reply) {
        let mut state = self.state();
        reply.put_line(&mut state.frames);
        state.end();
    }

    /// A message of this connection waits for a reply.
    pub(crate) fn owe(&self) {
        self.state().owed += 1;
    }

    pub(crate) fn reply(&self, reply: &Reply) {
        let mut state = self.state();
        state.owed = state.owed.saturating_sub(1);
        state.news = true;
        reply.put(&mut state.frames);
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
            if state.frames.is_empty() {
                state.put_ack();
            }
            if state.frames.is_empty() {
                break;
            }
            match self.stream.try_write(&state.frames) {
                Ok(written) => state.frames.advance(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    state.blocked = true;
                    state.news = true;
                    state.deaf = state.frames.len() > UNWRITTEN_MAX;
                    break;
                }
                // The answers end here; what has arrived is read to its end all the same.
                Err(_) => state.deaf = true,
            }
        }
        if state.deaf {
            state.frames.clear();
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
    fn end(&mut self) {
        self.ended = true;
        self.news = true;
    }

    fn put_ack(&mut self) {
        if !self.ack.is_empty() {
            ConsumerOp::Ack(std::mem::take(&mut self.ack)).put(&mut self.frames);
        }
    }
}
