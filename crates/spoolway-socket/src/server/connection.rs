//! One connection of a server: bytes in, messages to the handler, answers out.

use std::fmt::Display;
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use rustix::net::{Shutdown, shutdown};
use spoolway_proto::{
    Code, ConsumerOp, Dialect, FrameDecoder, Incoming, Invalid, Limits, Message, MessageId,
    Outcome, ProducerOp, Reply, decode_for_consumer,
};
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::stamp::stamp;

/// Room for a read: some hundred messages.
const READ_BYTES: usize = 64 * 1024;
/// A read into less room than this is not worth its call.
const READ_BYTES_MIN: usize = 8 * 1024;
/// Answers that the peer has not read, over which nothing more is read from it.
const UNWRITTEN_MAX: usize = 1 << 20;
/// How long a closing connection waits for its peer to read the last answers.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Connection {
    stream: UnixStream,
    buffer: BytesMut,
    decoder: FrameDecoder,
    limits: Limits,
    out: BytesMut,
    /// The first byte was seen, and it opens frames.
    opened: bool,
    /// The socket was full.
    blocked: bool,
    /// A write failed: answers are dropped, and what has arrived is read all the same.
    deaf: bool,
    /// What has arrived is read to its end.
    draining: bool,
    /// An invalid message without `requires_ack` was logged.
    logged: bool,
}

/// The connection can be read no further.
struct Over;

impl Connection {
    pub(crate) fn new(stream: UnixStream) -> Self {
        let limits = Limits::default();
        Self {
            stream,
            buffer: BytesMut::new(),
            decoder: FrameDecoder::new(limits.frame_bytes_max),
            limits,
            out: BytesMut::new(),
            opened: false,
            blocked: false,
            deaf: false,
            draining: false,
            logged: false,
        }
    }

    /// Serves the connection to its end, or what has arrived once `stop` says so.
    pub(crate) async fn run<F, Fut, E>(mut self, handler: &F, mut stop: watch::Receiver<bool>)
    where
        F: Fn(Message) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: Display,
    {
        loop {
            self.flush();
            // A peer that does not read its answers is asked for no more of them.
            let full = self.out.len() >= UNWRITTEN_MAX && !self.draining;
            tokio::select! {
                biased;
                _ = stop.changed(), if !self.draining => self.drain(),
                _ = self.stream.writable(), if self.blocked => self.blocked = false,
                _ = self.stream.readable(), if !full => {
                    if self.buffer.capacity() - self.buffer.len() < READ_BYTES_MIN {
                        self.buffer.reserve(READ_BYTES);
                    }
                    match self.stream.try_read_buf(&mut self.buffer) {
                        Ok(0) => break self.end_of_stream(),
                        Ok(_) => if self.take(handler).await.is_err() { break },
                        Err(error) if again(&error) => {}
                        // Its peer is gone; what it had written before was read before.
                        Err(_) => break,
                    }
                }
            }
        }
        let _ = timeout(LAST_WORDS_MAX, self.write_rest()).await;
    }

    /// Closing the reading side first makes the end exact: what the peer could write is read, and what it tries to
    /// write later fails, where it can see it.
    fn drain(&mut self) {
        self.draining = true;
        if let Err(error) = shutdown(&self.stream, Shutdown::Read) {
            tracing::debug!("cannot close the reading side: {error}");
        }
    }

    async fn take<F, Fut, E>(&mut self, handler: &F) -> Result<(), Over>
    where
        F: Fn(Message) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: Display,
    {
        if !self.opened {
            if self.buffer.first().copied().and_then(Dialect::of) != Some(Dialect::Frames) {
                return Err(self.refuse_dialect());
            }
            self.opened = true;
        }
        loop {
            let next = self.decoder.next(&mut self.buffer);
            let frame = match next {
                Ok(Some(frame)) => frame,
                Ok(None) => return Ok(()),
                Err(error) => return Err(self.break_off(error.into())),
            };
            match decode_for_consumer(&frame, &self.limits) {
                Ok(Incoming::Message(message)) => self.handle(message, handler).await,
                Ok(Incoming::Batch(batch)) => {
                    for message in batch {
                        self.handle(message, handler).await;
                    }
                }
                Ok(Incoming::Op(op)) => self.op(&op)?,
                Err(invalid) => return Err(self.break_off(invalid)),
            }
        }
    }

    async fn handle<F, Fut, E>(&mut self, message: Result<Message, Invalid>, handler: &F)
    where
        F: Fn(Message) -> Fut,
        Fut: Future<Output = Result<(), E>>,
        E: Display,
    {
        let mut message = match message {
            Ok(message) => message,
            Err(invalid) => return self.refuse(&invalid),
        };
        stamp(&mut message);
        let answered = message.requires_ack.then(|| message.id.clone());
        let mut handling = pin!(handler(message));
        let handled = match poll_fn(|context| Poll::Ready(handling.as_mut().poll(context))).await {
            Poll::Ready(handled) => handled,
            Poll::Pending => {
                // It takes its time, for which the answers before it do not wait.
                self.flush();
                handling.await
            }
        };
        match (answered, handled) {
            (Some(id), Ok(())) => Reply::taken(id, Outcome::Processed).put(&mut self.out),
            (Some(id), Err(error)) => {
                Reply::refused(id, Code::Unavailable, error.to_string()).put(&mut self.out);
            }
            (None, Ok(())) => {}
            (None, Err(error)) => tracing::warn!("a message was not handled: {error}"),
        }
    }

    fn refuse(&mut self, invalid: &Invalid) {
        if invalid.requires_ack {
            Reply::from(invalid).put(&mut self.out);
        }
        if !std::mem::replace(&mut self.logged, true) {
            tracing::warn!("message refused, the first of its connection: {invalid}");
        }
    }

    fn op(&mut self, op: &ProducerOp) -> Result<(), Over> {
        match op {
            ProducerOp::Ping => ConsumerOp::Pong.put(&mut self.out),
            ProducerOp::Pong => {}
            // There is nothing that could be saved.
            ProducerOp::Save => ConsumerOp::Saved { saved: false }.put(&mut self.out),
            ProducerOp::Hello(_) | ProducerOp::At { .. } | ProducerOp::Seen { .. } => {
                let allowed = "messages, without hello: this is no consumer";
                let invalid = Invalid::new(Code::BadOp, "an op of a producer", allowed);
                return Err(self.break_off(invalid));
            }
        }
        Ok(())
    }

    fn end_of_stream(&mut self) {
        if let Err(cut) = self.decoder.end(&self.buffer) {
            self.break_off(cut.into());
        }
    }

    fn break_off(&mut self, invalid: Invalid) -> Over {
        let (code, message) = (invalid.code, invalid.to_string());
        tracing::warn!(code = code.as_str(), "connection ended: {message}");
        let n = None;
        ConsumerOp::Error { code, message, n }.put(&mut self.out);
        Over
    }

    fn refuse_dialect(&mut self) -> Over {
        let code = Code::BadDialect;
        let text = format!("{code}: frames only; {}", code.next_step());
        tracing::warn!("connection refused: {text}");
        Reply::refused(MessageId::default(), code, text).put_line(&mut self.out);
        Over
    }

    /// Writes what the socket takes now.
    fn flush(&mut self) {
        while !self.out.is_empty() && !self.blocked {
            if self.deaf {
                return self.out.clear();
            }
            match self.stream.try_write(&self.out) {
                Ok(written) => self.out.advance(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.blocked = true,
                Err(_) => self.deaf = true,
            }
        }
    }

    async fn write_rest(&mut self) {
        self.flush();
        while self.blocked && self.stream.writable().await.is_ok() {
            self.blocked = false;
            self.flush();
        }
    }
}

fn again(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}
