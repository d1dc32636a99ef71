//! The connection of a client: what is unwritten, who waits for an answer, and the task that waits for the socket.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::{Shutdown, shutdown};
use spoolway_proto::{
    ConsumerOp, FrameDecoder, Limits, Message, MessageId, Reply, decode_for_producer, put_frame,
};
use tokio::io::Interest;
use tokio::net::UnixStream;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, sleep_until};

use crate::ClientError;

/// How much is read at a time, and how much is gathered before the caller's task writes it.
const CHUNK_BYTES: usize = 64 * 1024;
/// Unwritten bytes over which a send waits.
const UNWRITTEN_MAX: usize = 1 << 20;

type Answer = Result<Reply, ClientError>;

#[derive(Debug)]
pub(crate) struct Link {
    stream: UnixStream,
    state: Mutex<State>,
    /// The task should look: there is something to write, or to end.
    wake: Notify,
    /// There is room again for what is unwritten.
    pub(crate) room: Notify,
    /// The connection is over.
    pub(crate) over: Notify,
}

#[derive(Debug, Default)]
struct State {
    out: BytesMut,
    /// By the id that is answered, oldest first.
    waiting: HashMap<MessageId, VecDeque<oneshot::Sender<Answer>>>,
    /// The task has been told that there is something in `out`, and comes by.
    gathering: bool,
    /// The socket was full; the task waits for it.
    blocked: bool,
    /// Nothing more is sent: the writing side is shut once `out` is empty.
    closing: bool,
    /// The writing side is shut, by us or by a failed write. The reading side may still have answers.
    shut: bool,
    ended: Option<Result<(), ClientError>>,
}

/// A message whose answer somebody waits for, until this value is dropped.
pub(crate) struct Awaited<'a> {
    link: &'a Link,
    id: &'a MessageId,
}

impl<'a> Awaited<'a> {
    pub(crate) fn new(link: &'a Link, id: &'a MessageId) -> (Self, oneshot::Receiver<Answer>) {
        let (sender, answer) = oneshot::channel();
        let mut state = link.state();
        state
            .waiting
            .entry(id.clone())
            .or_default()
            .push_back(sender);
        drop(state);
        (Self { link, id }, answer)
    }
}

impl Drop for Awaited<'_> {
    fn drop(&mut self) {
        let mut state = self.link.state();
        if let Some(senders) = state.waiting.get_mut(self.id) {
            senders.retain(|sender| !sender.is_closed());
            if senders.is_empty() {
                state.waiting.remove(self.id);
            }
        }
    }
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            state: Mutex::default(),
            wake: Notify::new(),
            room: Notify::new(),
            over: Notify::new(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // No state is left half-changed: each change is one assignment or an append.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts the message behind what is unwritten, and writes if nobody else is about to. `false`: there is no room.
    pub(crate) fn send(&self, message: &Message) -> Result<bool, ClientError> {
        let mut state = self.state();
        if let Some(Err(error)) = &state.ended {
            return Err(error.clone());
        }
        if state.closing || state.shut {
            return Err(ClientError::Closed);
        }
        if state.out.len() >= UNWRITTEN_MAX {
            return Ok(false);
        }
        put_frame(&mut state.out, |out| message.encode(out));
        if state.gathering && state.out.len() < CHUNK_BYTES {
            return Ok(true);
        }
        state.write(&self.stream);
        if !std::mem::replace(&mut state.gathering, true) {
            drop(state);
            self.wake.notify_one();
        }
        Ok(true)
    }

    /// Nothing more is sent.
    pub(crate) fn close(&self) {
        self.state().closing = true;
        self.wake.notify_one();
    }

    /// How the connection ended, if it did.
    pub(crate) fn result(&self) -> Option<Result<(), ClientError>> {
        self.state().ended.clone()
    }

    /// Serves the connection to its end. After [`close`](Self::close) the server has `timeout` to end it too.
    pub(crate) async fn run(self: Arc<Self>, timeout: Duration) {
        let mut inbox = BytesMut::new();
        let mut decoder = FrameDecoder::new(Limits::default().frame_bytes_max);
        let mut last = None;
        let ended = loop {
            match self.read(&mut inbox, &mut decoder) {
                Ok(false) => {}
                Ok(true) => break self.end_of_stream(),
                Err(error) => break Err(error),
            }
            let turn = self.state().turn(&self.stream);
            if turn.wrote {
                self.room.notify_waiters();
                // What is sent meanwhile is written with the next turn.
                tokio::task::yield_now().await;
                continue;
            }
            if turn.closing && last.is_none() {
                last = Some(Instant::now() + timeout);
            }
            let interest = match turn.blocked {
                true => Interest::READABLE | Interest::WRITABLE,
                false => Interest::READABLE,
            };
            tokio::select! {
                ready = self.stream.ready(interest) => {
                    // An error shows in the reading that follows.
                    if ready.is_ok_and(|ready| ready.is_writable()) {
                        self.state().blocked = false;
                    }
                }
                () = self.wake.notified() => {}
                () = at(last) => break Err(ClientError::TimedOut(timeout)),
            }
        };
        self.end(ended);
    }

    /// Reads what is there, and hands out the answers. `true`: that was the last.
    fn read(&self, inbox: &mut BytesMut, decoder: &mut FrameDecoder) -> Result<bool, ClientError> {
        inbox.reserve(CHUNK_BYTES);
        match self.stream.try_read_buf(inbox) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => return Ok(false),
            Err(_) => return Ok(true),
        }
        let garbled = |error: String| {
            tracing::warn!("the server says what is no answer: {error}");
            ClientError::Closed
        };
        loop {
            match decoder.next(inbox) {
                Ok(Some(frame)) => self.hear(&frame).map_err(|error| match error {
                    Heard::Said(error) => error,
                    Heard::Garbled(text) => garbled(text),
                })?,
                Ok(None) => return Ok(false),
                Err(error) => return Err(garbled(error.to_string())),
            }
        }
    }

    fn hear(&self, frame: &Bytes) -> Result<(), Heard> {
        if let Ok(reply) = serde_json::from_slice::<Reply>(frame) {
            let mut state = self.state();
            match state
                .waiting
                .get_mut(&reply.id)
                .and_then(VecDeque::pop_front)
            {
                // Who stopped waiting in this moment does not want it.
                Some(sender) => drop(sender.send(Ok(reply))),
                None => tracing::debug!(id = %reply.id, "an answer that nobody waits for"),
            }
            return Ok(());
        }
        match decode_for_producer(frame) {
            Ok(ConsumerOp::Error { code, message, .. }) => {
                Err(Heard::Said(ClientError::Said { code, message }))
            }
            Ok(_) => Ok(()),
            Err(invalid) => Err(Heard::Garbled(invalid.to_string())),
        }
    }

    fn end_of_stream(&self) -> Result<(), ClientError> {
        let state = self.state();
        match state.closing && state.out.is_empty() && state.waiting.is_empty() {
            true => Ok(()),
            false => Err(ClientError::Closed),
        }
    }

    fn end(&self, ended: Result<(), ClientError>) {
        let mut state = self.state();
        let error = ended.clone().err().unwrap_or(ClientError::Closed);
        for (_, senders) in state.waiting.drain() {
            for sender in senders {
                // As above.
                let _ = sender.send(Err(error.clone()));
            }
        }
        state.ended = Some(ended);
        state.out = BytesMut::new();
        drop(state);
        self.room.notify_waiters();
        self.over.notify_waiters();
    }
}

/// What a turn of the task found.
struct Turn {
    /// The socket took something.
    wrote: bool,
    blocked: bool,
    closing: bool,
}

/// What is not an answer.
enum Heard {
    Said(ClientError),
    Garbled(String),
}

impl State {
    /// Writes what is gathered. When there is nothing more, whoever sends next writes.
    fn turn(&mut self, stream: &UnixStream) -> Turn {
        let before = self.out.len();
        self.write(stream);
        if self.out.is_empty() && self.closing && !self.shut {
            self.shut = true;
            if let Err(error) = shutdown(stream, Shutdown::Write) {
                tracing::debug!("cannot close the writing side: {error}");
            }
        }
        let wrote = self.out.len() < before;
        self.gathering = wrote || self.blocked;
        Turn {
            wrote,
            blocked: self.blocked,
            closing: self.closing,
        }
    }

    /// Writes as much as the socket takes.
    fn write(&mut self, stream: &UnixStream) {
        while !self.out.is_empty() && !self.blocked && !self.shut {
            match stream.try_write(&self.out) {
                Ok(written) => self.out.advance(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                // The server reads no more; what it has answered is still read.
                Err(_) => self.shut = true,
            }
        }
    }
}

async fn at(time: Option<Instant>) {
    match time {
        Some(time) => sleep_until(time).await,
        None => std::future::pending().await,
    }
}
