//! One connection: bytes in, events to the machine, answers out.
//!
//! Its first byte tells what it speaks. Frames and lines are cut here, and are the same from then on but for what is
//! answered without hello: a line always is. A connection that speaks HTTP is handed on.
//!
//! Everything that arrived before its end is taken, also when the peer wrote and was gone at once.

pub(crate) mod cut;
mod follow;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use rustix::net::{Shutdown, shutdown};
use spoolway_proto::{
    Code, ConsumerOp, Dialect, Incoming, Invalid, MessageId, Reply, decode_for_consumer,
};
use tokio::io::AsyncReadExt;
use tokio::net::UnixStream;
use tokio::net::unix::OwnedReadHalf;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use crate::http::{self, Caller};
use crate::machine::{ConnId, Event};
use crate::outbox::Outbox;
use crate::seat::Seat;
use crate::shared::{Ear, Life, Shared, Turn, wall};

use cut::{Cutter, Front};

/// Room for a read: some hundred messages.
const READ_BYTES: usize = 64 * 1024;
/// A read into less room than this is not worth its call.
const READ_BYTES_MIN: usize = 8 * 1024;
/// How long a closing connection waits for its peer to read the last answers.
pub(crate) const LAST_WORDS_MAX: Duration = Duration::from_secs(1);
/// How long a peer that gets a line for each of its own is waited for to read them, before it gets none any more.
const DEAF_AFTER: Duration = Duration::from_secs(5);

pub(crate) struct Connection {
    shared: Arc<Shared>,
    outbox: Arc<Outbox>,
    seat: Arc<Seat>,
    id: ConnId,
    reader: OwnedReadHalf,
    buffer: BytesMut,
    cutter: Cutter,
    /// What it speaks, once its first byte was seen.
    dialect: Option<Dialect>,
    /// It said hello: it has a window, and is never paused.
    greeted: bool,
    /// It sent a message without hello: it is not read while the consumer is full.
    plain: bool,
    /// What was read waits for room.
    parked: bool,
    /// When its peer, which must read first, is waited for no longer.
    deaf_at: Option<Instant>,
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
        let id = shared.connect(Ear::Outbox(Arc::clone(&outbox)));
        let cutter = Cutter::frames(&shared.limits);
        Self {
            shared,
            outbox,
            seat,
            id,
            reader,
            buffer: BytesMut::new(),
            cutter,
            dialect: None,
            greeted: false,
            plain: false,
            parked: false,
            deaf_at: None,
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
        if self.dialect == Some(Dialect::Http) {
            // It keeps its seat, and has times of its own.
            self.seat.leave_alone();
            let caller = Caller::new(self.shared, self.outbox, self.id, self.unread);
            return http::serve(caller, self.reader, self.buffer).await;
        }
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
            if self.outbox.has_ended() || self.dialect == Some(Dialect::Http) {
                return;
            }
            let held_up = (self.plain || self.parked) && self.is_held_up();
            if self.parked && !held_up {
                self.take();
                continue;
            }
            let deaf_at = self.deaf_at();
            let begun = self.seat.is_silent() || !self.buffer.is_empty();
            self.seat
                .await_peer(begun && !held_up && deaf_at.is_none() && !self.greeted);
            let blocked = self.outbox.is_blocked();
            self.make_room();
            tokio::select! {
                biased;
                () = self.outbox.wake.notified() => self.look(),
                _ = self.outbox.writable(), if blocked => {
                    // It has read something.
                    self.deaf_at = None;
                    self.outbox.flush();
                }
                () = self.shared.has_room(), if held_up => {}
                () = reached(deaf_at), if deaf_at.is_some() => self.outbox.give_up(),
                read = self.reader.read_buf(&mut self.buffer), if !held_up && deaf_at.is_none() => match read {
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

    /// When a peer counts as one that does not read, if it must read before it is read from again.
    fn deaf_at(&mut self) -> Option<Instant> {
        let crowded = self.dialect == Some(Dialect::Lines) && self.outbox.is_crowded();
        self.deaf_at = crowded.then(|| self.deaf_at.unwrap_or_else(|| Instant::now() + DEAF_AFTER));
        self.deaf_at
    }

    /// Takes what was read. While the consumer is full, a new connection is still let say hello.
    fn take(&mut self) {
        if self.dialect.is_none() {
            self.open();
        }
        if !matches!(self.dialect, Some(Dialect::Frames | Dialect::Lines)) {
            return;
        }
        self.parked = self.is_held_up() && self.opening() == Opening::Message;
        if self.parked {
            self.seat.heard();
            return;
        }
        let shared = Arc::clone(&self.shared);
        let mut turn = shared.turn();
        let broken = self.decode(&mut turn).err();
        turn.end();
        self.say(broken);
    }

    fn end_of_stream(&mut self) {
        let n = self.number();
        let broken = match self.cutter.end(&mut self.buffer) {
            Ok(None) => None,
            Ok(Some(last)) => {
                let shared = Arc::clone(&self.shared);
                let mut turn = shared.turn();
                let broken = self.follow(&last, wall(), &mut turn).err();
                turn.end();
                broken
            }
            // What is not whole is what it was waited for.
            Err(_) if self.dismissed => None,
            Err(invalid) => Some(Broken { invalid, n }),
        };
        self.say(broken);
        if self.dismissed && !self.outbox.is_awaited() {
            self.say_why_dismissed();
        }
    }

    fn say_why_dismissed(&self) {
        let (code, message) = (Code::Busy, self.seat.reason());
        tracing::info!(conn = self.id, peer = ?self.seat.peer(), "connection ended: {message}");
        if self.is_lines_only() {
            let refused = Reply::refused(MessageId::default(), code, message);
            self.outbox.say_last_line(&refused);
        } else {
            let n = None;
            self.outbox
                .say_last(&ConsumerOp::Error { code, message, n });
        }
        self.outbox.flush();
    }

    /// Says what is to be said past the machine, behind what it had to say.
    fn say(&mut self, broken: Option<Broken>) {
        if let Some(Broken { invalid, n }) = broken {
            self.break_off(&invalid, n);
        }
        if std::mem::take(&mut self.said) {
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
        if self.is_lines_only() {
            self.outbox.say_last_line(&Reply::from(invalid));
        } else {
            self.outbox
                .say_last(&ConsumerOp::Error { code, message, n });
        }
        self.said = true;
    }

    /// Looks at the first byte.
    fn open(&mut self) {
        let dialect = self.buffer.first().copied().and_then(Dialect::of);
        let Some(dialect) = dialect else {
            return self.refuse_dialect();
        };
        if dialect == Dialect::Lines {
            self.cutter = Cutter::lines(&self.shared.limits);
        }
        self.outbox.speak(dialect);
        self.dialect = Some(dialect);
    }

    /// Whether each line is a message of its own, with no number that could be lost.
    fn is_lines_only(&self) -> bool {
        self.dialect == Some(Dialect::Lines) && !self.greeted
    }

    /// The number that the next message takes.
    fn number(&self) -> Option<u64> {
        self.greeted.then_some(self.next)
    }

    fn decode(&mut self, turn: &mut Turn<'_>) -> Result<(), Broken> {
        let now = wall();
        let mut noted = self.greeted;
        loop {
            let next = self.cutter.next(&mut self.buffer);
            let next = next.map_err(|invalid| self.broken(invalid))?;
            let Some(body) = next else { return Ok(()) };
            if !std::mem::replace(&mut noted, true) {
                self.seat.heard();
            }
            self.follow(&body, now, turn)?;
        }
    }

    fn broken(&self, invalid: Invalid) -> Broken {
        let n = self.number();
        Broken { invalid, n }
    }

    /// What is at the front of the buffer, without taking it.
    fn opening(&self) -> Opening {
        match self.cutter.front(&self.buffer) {
            Front::Nothing => Opening::Unknown,
            Front::Long => Opening::Message,
            Front::Short(body) => {
                match decode_for_consumer(&Bytes::copy_from_slice(body), &self.shared.limits) {
                    Ok(Incoming::Message(_) | Incoming::Batch(_)) => Opening::Message,
                    Ok(Incoming::Op(_)) | Err(_) => Opening::Unknown,
                }
            }
        }
    }

    fn refuse_dialect(&mut self) {
        let code = Code::BadDialect;
        let first = self.buffer.first().copied().unwrap_or_default();
        let found = format!("the first byte 0x{first:02x}");
        let invalid = Invalid::new(code, found, "0x00, `{`, `[`, white space or a capital");
        let text = invalid.to_string();
        tracing::warn!(conn = self.id, "connection refused: {text}");
        self.outbox
            .say_last_line(&Reply::refused(MessageId::default(), code, text));
        self.outbox.flush();
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

/// Waits for that moment.
async fn reached(at: Option<Instant>) {
    match at {
        Some(at) => sleep_until(at).await,
        None => std::future::pending().await,
    }
}
