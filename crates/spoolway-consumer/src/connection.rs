//! One connection: bytes in, events to the machine, answers out.
//!
//! Everything that arrived before its end is taken, also when the peer wrote and was gone at once.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::net::{Shutdown, shutdown};
use spoolway_proto::{
    Code, ConsumerOp, Dialect, FrameDecoder, Incoming, Invalid, Message, MessageId, ProducerOp,
    Reply, Timestamp, decode_for_consumer,
};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::machine::{ConnId, Event};
use crate::outbox::Outbox;
use crate::seat::Seat;
use crate::shared::{Life, Shared, Turn, wall};

/// Room for a read: some hundred messages.
const READ_BYTES: usize = 64 * 1024;
/// A read into less room than this is not worth its call.
const READ_BYTES_MIN: usize = 8 * 1024;
/// With more messages in memory they are staying, and each is copied out of the read buffer, which it would keep.
const SHARING_MAX: usize = 1_000;
/// A hello is shorter.
const HELLO_BYTES_MAX: usize = 4 * 1024;
/// How long a closing connection waits for its peer to read the last answers.
const LAST_WORDS_MAX: Duration = Duration::from_secs(1);

pub(crate) struct Connection {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    seat: Arc<Seat>,
    id: ConnId,
    reader: OwnedReadHalf,
    buffer: BytesMut,
    decoder: FrameDecoder,
    /// The first byte was seen, and it opens frames.
    opened: bool,
    /// It said hello: it has a window, and is never paused.
    greeted: bool,
    /// It sent a message without hello: it is not read while the consumer is full.
    plain: bool,
    /// What was read waits for room.
    parked: bool,
    /// The number of the next message, to name the frame at fault.
    next: u64,
    /// Dropped once nothing that a shutdown waits for can come from here.
    unread: Option<mpsc::Sender<()>>,
    /// Whether the consumer is going away, and what has arrived is read to its end.
    draining: bool,
    /// The consumer has had enough of it: as above, and it is told why.
    dismissed: bool,
    /// Something was said here, past the machine.
    said: bool,
    /// An invalid message without `requires_ack` was logged.
    logged: bool,
}

/// What a connection begins with.
#[derive(Eq, PartialEq)]
enum Opening {
    /// A message, so it says no hello.
    Message,
    /// An op, nothing whole yet, or nothing that can be read.
    Unknown,
}

/// Why a stream cannot be read on, and the number of the frame at fault.
struct Broken {
    invalid: Invalid,
    n: Option<u64>,
}

impl Connection {
    pub(crate) fn new(
        shared: Arc<Shared>,
        stream: UnixStream,
        unread: mpsc::Sender<()>,
        seat: Arc<Seat>,
    ) -> Self {
        let (reader, writer) = stream.into_split();
        let outbox = Arc::new(Outbox::new(writer));
        let id = shared.connect(Arc::clone(&outbox));
        let decoder = FrameDecoder::new(shared.limits.frame_bytes_max);
        Self {
            shared,
            outbox,
            seat,
            id,
            reader,
            buffer: BytesMut::new(),
            decoder,
            opened: false,
            greeted: false,
            plain: false,
            parked: false,
            next: 0,
            unread: Some(unread),
            draining: false,
            dismissed: false,
            said: false,
            logged: false,
        }
    }

    /// Serves the connection to its end.
    pub(crate) async fn run(mut self) {
        self.read().await;
        self.unread = None;
        if self.greeted {
            // Its producer may be back already: the sooner this one is over, the better.
            self.shared.drive([Event::Closed { conn: self.id }]);
        }
        while self.outbox.is_awaited() {
            let blocked = self.outbox.is_blocked();
            tokio::select! {
                () = self.outbox.wake.notified() => {}
                _ = self.outbox.writable(), if blocked => self.outbox.flush(),
            }
        }
        // A peer that does not read its last answers is not waited for longer.
        let _ = timeout(LAST_WORDS_MAX, self.write_rest()).await;
        self.shared.disconnect(self.id);
        if !self.greeted {
            self.shared.drive([Event::Closed { conn: self.id }]);
        }
    }

    async fn read(&mut self) {
        self.look();
        loop {
            if self.outbox.has_ended() {
                return;
            }
            let paused = (self.plain || self.parked) && self.is_held_up();
            if self.parked && !paused {
                self.take();
                continue;
            }
            let begun = self.seat.is_silent() || !self.buffer.is_empty();
            self.seat.await_peer(begun && !paused && !self.greeted);
            let blocked = self.outbox.is_blocked();
            self.make_room();
            tokio::select! {
                biased;
                () = self.outbox.wake.notified() => self.look(),
                _ = self.outbox.writable(), if blocked => self.outbox.flush(),
                () = self.shared.has_room(), if paused => {}
                read = self.reader.read_buf(&mut self.buffer), if !paused => match read {
                    Ok(0) => return self.end_of_stream(),
                    Ok(_) => self.take(),
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    // Its peer is gone; what it had written before was read before.
                    Err(_) => return,
                },
                // Last: what has arrived meanwhile counts.
                () = self.seat.over(), if !self.draining && !self.greeted => self.dismiss(),
            }
        }
    }

    /// Takes the room of messages that are gone, else new one when there is too little.
    fn make_room(&mut self) {
        let held = self.buffer.len();
        let wanted = READ_BYTES.saturating_sub(held).max(READ_BYTES_MIN);
        if !self.buffer.try_reclaim(wanted) && self.buffer.capacity() - held < READ_BYTES_MIN {
            self.buffer.reserve(READ_BYTES);
        }
    }

    /// Looks whether the consumer is going away.
    ///
    /// A producer that said hello holds new messages, and needs its pings answered meanwhile.
    fn look(&mut self) {
        if self.draining || self.greeted || self.shared.life() == Life::Open {
            return;
        }
        self.read_to_the_end();
    }

    /// It has said nothing for too long, or something that does not end.
    fn dismiss(&mut self) {
        self.dismissed = true;
        self.read_to_the_end();
    }

    /// Closing the reading side first makes the end exact: what the peer could write is read, and what it tries to
    /// write later fails, where it can see it.
    fn read_to_the_end(&mut self) {
        self.draining = true;
        if let Err(error) = shutdown(self.reader.as_ref(), Shutdown::Read) {
            tracing::debug!(conn = self.id, "cannot close the reading side: {error}");
        }
    }

    /// Whether the consumer is full, and this connection has no window that counts for it.
    fn is_held_up(&self) -> bool {
        !self.greeted && !self.draining && self.shared.is_full()
    }

    /// Takes what was read. While the consumer is full, a new connection is still let say hello.
    fn take(&mut self) {
        self.parked = self.is_held_up() && self.opening() == Opening::Message;
        if self.parked {
            self.seat.heard();
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut turn = shared.turn();
        let broken = self.decode(&mut turn).err();
        turn.end();
        if let Some(Broken { invalid, n }) = broken {
            self.break_off(&invalid, n);
        }
        if std::mem::take(&mut self.said) {
            self.outbox.flush();
        }
    }

    fn end_of_stream(&mut self) {
        if self.dismissed && !self.outbox.is_awaited() {
            let message = self.seat.reason();
            tracing::info!(conn = self.id, peer = ?self.seat.peer(), "connection ended: {message}");
            let (code, n) = (Code::Busy, None);
            self.outbox
                .say_last(&ConsumerOp::Error { code, message, n });
            self.outbox.flush();
        } else if !self.dismissed
            && let Err(cut) = self.decoder.end(&self.buffer)
        {
            let n = self.number();
            self.break_off(&cut.into(), n);
            self.outbox.flush();
        }
    }

    fn break_off(&mut self, invalid: &Invalid, n: Option<u64>) {
        let (code, message) = (invalid.code, invalid.to_string());
        tracing::warn!(
            conn = self.id,
            code = code.as_str(),
            "connection ended: {message}"
        );
        self.outbox
            .say_last(&ConsumerOp::Error { code, message, n });
        self.said = true;
    }

    /// The number that the next message takes.
    fn number(&self) -> Option<u64> {
        self.greeted.then_some(self.next)
    }

    fn decode(&mut self, turn: &mut Turn<'_>) -> Result<(), Broken> {
        if !self.opened {
            if self.buffer.first().copied().and_then(Dialect::of) != Some(Dialect::Frames) {
                self.refuse_dialect();
                return Ok(());
            }
            self.opened = true;
        }
        let now = wall();
        let mut noted = self.greeted;
        loop {
            let n = self.number();
            let next = self.decoder.next(&mut self.buffer);
            let next = next.map_err(|error| Broken {
                invalid: error.into(),
                n,
            })?;
            let Some(frame) = next else { return Ok(()) };
            if !std::mem::replace(&mut noted, true) {
                self.seat.heard();
            }
            match decode_for_consumer(&frame, &self.shared.limits) {
                Ok(Incoming::Message(message)) => self.arrived(message, now, turn),
                Ok(Incoming::Batch(batch)) => {
                    batch
                        .into_iter()
                        .for_each(|message| self.arrived(message, now, turn));
                }
                Ok(Incoming::Op(op)) => self.op(op, turn),
                Err(invalid) => return Err(Broken { invalid, n }),
            }
        }
    }

    /// What is at the front of the buffer, without taking it.
    fn opening(&self) -> Opening {
        let Some(header) = self.buffer.first_chunk::<4>() else {
            return Opening::Unknown;
        };
        let end = 4 + u32::from_be_bytes(*header) as usize;
        if end > HELLO_BYTES_MAX && header[0] == 0 {
            return Opening::Message;
        }
        match self.buffer.get(4..end) {
            None => Opening::Unknown,
            Some(body) => {
                match decode_for_consumer(&Bytes::copy_from_slice(body), &self.shared.limits) {
                    Ok(Incoming::Message(_) | Incoming::Batch(_)) => Opening::Message,
                    Ok(Incoming::Op(_)) | Err(_) => Opening::Unknown,
                }
            }
        }
    }

    fn refuse_dialect(&mut self) {
        let code = Code::BadDialect;
        let text = format!(
            "{code}: this version speaks frames only; {}",
            code.next_step()
        );
        tracing::warn!(conn = self.id, "connection refused: {text}");
        self.outbox
            .say_last_line(&Reply::refused(MessageId::default(), code, text));
        self.said = true;
    }

    fn arrived(&mut self, message: Result<Message, Invalid>, now: Timestamp, turn: &mut Turn<'_>) {
        self.next = self.next.wrapping_add(1);
        self.plain |= !self.greeted;
        let conn = self.id;
        let message = match message {
            Ok(mut message) => {
                message.stamp(now, || new_id(now));
                if self.shared.pending() > SHARING_MAX {
                    message.detach();
                }
                Ok(Arc::new(message))
            }
            Err(invalid) if !self.greeted => return self.refuse(&invalid),
            Err(invalid) => Err(Box::new(invalid)),
        };
        let answer = !self.greeted && message.as_ref().is_ok_and(|message| message.requires_ack);
        if answer {
            self.outbox.owe();
        }
        turn.tell(Event::Arrived {
            conn,
            message,
            answer,
        });
    }

    /// An invalid message of a connection without hello, which hears of it only if it asked for an answer.
    fn refuse(&mut self, invalid: &Invalid) {
        if invalid.requires_ack {
            self.outbox.owe();
            self.outbox.reply(&Reply::from(invalid));
            self.said = true;
        }
        if !self.logged {
            self.logged = true;
            tracing::warn!(
                conn = self.id,
                "message refused, the first of its connection: {invalid}"
            );
        }
    }

    fn op(&mut self, op: ProducerOp, turn: &mut Turn<'_>) {
        let conn = self.id;
        match op {
            ProducerOp::Hello(hello) => {
                self.greeted = true;
                self.seat.greet();
                self.unread = None;
                self.next = hello.first;
                tracing::debug!(conn, producer = %hello.producer, client = hello.client, "hello");
                let hello = Box::new(hello);
                turn.tell(Event::Hello { conn, hello });
            }
            ProducerOp::At { n } => {
                self.next = n;
                turn.tell(Event::At { conn, n });
            }
            ProducerOp::Seen { ranges, queue, err } => {
                turn.tell(Event::Seen {
                    conn,
                    ranges,
                    queue,
                    err,
                });
            }
            ProducerOp::Ping => {
                self.outbox.say(&ConsumerOp::Pong);
                self.said = true;
            }
            ProducerOp::Pong => {}
            ProducerOp::Save => turn.tell(Event::Save { save: conn }),
        }
    }

    async fn write_rest(&self) {
        self.outbox.flush();
        while self.outbox.is_blocked() {
            if self.outbox.writable().await.is_err() {
                return;
            }
            self.outbox.flush();
        }
    }
}

/// A UUIDv7: its last ten bytes are a counter within the millisecond, and chance.
fn new_id(now: Timestamp) -> MessageId {
    let bytes = uuid::Uuid::now_v7().into_bytes();
    let mut random = [0; 10];
    random.copy_from_slice(&bytes[6..]);
    MessageId::v7(u64::try_from(now.0).unwrap_or(0), random)
}
