//! The thread of a relay: read, hand out, listen, settle.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rusqlite::types::ValueRef;
use rusqlite::{Connection, Transaction, TransactionBehavior, params};
use spoolway_proto::{Key, Message};

use super::ticket::{Answered, Event, Verdict};
use super::window::Window;
use super::{RelayStatus, Ticket, lock};
use crate::clock::Now;
use crate::outbox::{self, Found};
use crate::sql::user;
use crate::wake::data_version;
use crate::{Outbox, QueueError, ffi};

/// How often the database is asked whether it changed.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// How often the path is asked whether it still names the open file, and how long a database that
/// cannot be used is left alone.
const CHECK_EVERY: Duration = Duration::from_millis(1_000);

/// Messages of one read: a sender that blocks holds up deletions for no more than these.
const PAGE_MESSAGES: usize = 256;

/// Rows that one read passes over, because an earlier one of their key is out.
const PASSED_ROWS_MAX: usize = 10_000;

/// Whether there is something to read.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// There may be more.
    More,
    /// There is, for which the window has no room.
    Full,
    /// Not before somebody commits.
    End,
}

/// What the thread works with.
///
/// Every row up to `cursor` is in the window, or behind the one of its key that is, or settled: so
/// going back to 0 is always right, and only costs reading.
pub(crate) struct Runner<S> {
    path: PathBuf,
    outbox: Outbox,
    send: S,
    db: Option<Connection>,
    window: Window,
    /// Answers whose rows are still to be settled.
    answered: Vec<Answered>,
    cursor: i64,
    reading: Reading,
    data_version: i64,
    /// How often the path came to name another file.
    generation: u64,
    checked: Instant,
    events: Sender<Event>,
    inlet: Receiver<Event>,
    stop: Arc<AtomicBool>,
    status: Arc<Mutex<RelayStatus>>,
}

impl<S: FnMut(Message, Ticket)> Runner<S> {
    pub(crate) fn new(
        path: &Path,
        outbox: &Outbox,
        send: S,
        (events, inlet): (Sender<Event>, Receiver<Event>),
        stop: &Arc<AtomicBool>,
        status: &Arc<Mutex<RelayStatus>>,
    ) -> Result<Self, QueueError> {
        Ok(Self {
            path: path.into(),
            outbox: outbox.clone(),
            send,
            db: Some(outbox.connect(path)?),
            window: Window::default(),
            answered: Vec::new(),
            cursor: 0,
            reading: Reading::More,
            data_version: -1,
            generation: 0,
            checked: Instant::now(),
            events,
            inlet,
            stop: Arc::clone(stop),
            status: Arc::clone(status),
        })
    }

    pub(crate) fn run(&mut self) {
        let mut end: Option<Instant> = None;
        loop {
            let wait = match self.turn() {
                Ok(()) => self.wait(),
                Err(error) => self.fail(&error),
            };
            let now = Instant::now();
            if end.is_some_and(|end| !self.window.is_out() || now >= end) {
                return;
            }
            let until_end = end.map_or(wait, |end| end - now);
            end = self.listen(wait.min(until_end)).or(end);
        }
    }

    fn turn(&mut self) -> Result<(), QueueError> {
        let conn = self.connection()?;
        let turned = self
            .settle(&conn)
            .and_then(|()| self.send_again(&conn))
            .and_then(|()| self.read_on(&conn));
        self.db = Some(conn);
        lock(&self.status).out = self.window.len();
        turned
    }

    /// How long nothing will be to do unless somebody says something.
    fn wait(&self) -> Duration {
        if self.stopping() {
            return LOOK_EVERY;
        }
        if self.reading == Reading::More {
            return Duration::ZERO;
        }
        let due = self.window.next_due();
        due.map_or(LOOK_EVERY, |due| {
            LOOK_EVERY.min(due.saturating_duration_since(Instant::now()))
        })
    }

    /// How long to wait after an error.
    fn fail(&mut self, error: &QueueError) -> Duration {
        self.rewind();
        self.trouble(&error.to_string());
        // The lock of another is no fault of the connection.
        if matches!(error, QueueError::Busy { .. }) {
            return LOOK_EVERY;
        }
        self.db = None;
        CHECK_EVERY
    }

    /// Takes what the sender and the handle say, after waiting for the first of it.
    fn listen(&mut self, wait: Duration) -> Option<Instant> {
        let mut end = None;
        let first = self.inlet.recv_timeout(wait).ok();
        for event in first.into_iter().chain(self.inlet.try_iter()) {
            match event {
                Event::Answered(answered) if answered.generation == self.generation => {
                    self.answered.push(answered);
                }
                // Of a file that is gone.
                Event::Answered(_) => {}
                Event::Stop(at) => end = Some(at),
            }
        }
        end
    }

    fn stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn rewind(&mut self) {
        self.cursor = 0;
        self.reading = Reading::More;
    }

    /// Remembers what went wrong; the log gets the first of a row of failures.
    fn trouble(&self, error: &str) {
        let database = self.path.display();
        if lock(&self.status).error.replace(error.into()).is_none() {
            tracing::warn!(%database, error, "an outbox is not relayed for now");
        } else {
            tracing::debug!(%database, error, "an outbox is still not relayed");
        }
    }
}

/// The database.
impl<S: FnMut(Message, Ticket)> Runner<S> {
    /// The connection, to the file that the path names.
    fn connection(&mut self) -> Result<Connection, QueueError> {
        if self.checked.elapsed() >= CHECK_EVERY {
            self.checked = Instant::now();
            if self.db.as_ref().is_some_and(ffi::has_moved) {
                let database = self.path.display();
                tracing::warn!(%database, "replaced by another file, whose outbox is relayed now");
                self.db = None;
                self.generation += 1;
                self.window = Window::default();
                self.answered.clear();
                self.rewind();
            }
        }
        match self.db.take() {
            Some(conn) => Ok(conn),
            None => self.outbox.connect(&self.path),
        }
    }

    /// Settles the rows of what was answered, in one transaction, and goes on with their keys.
    fn settle(&mut self, conn: &Connection) -> Result<(), QueueError> {
        self.put_off();
        if self.answered.is_empty() {
            return Ok(());
        }
        self.write(conn)
            .map_err(|error| self.outbox.table.failed(conn, error))?;
        let mut freed = Vec::new();
        for Answered { seq, verdict, .. } in std::mem::take(&mut self.answered) {
            self.count(&verdict);
            match self.window.remove(seq) {
                Some(entry) => freed.extend(entry.key.map(|key| (seq, key))),
                // A damaged one, whose key cannot be told.
                None => self.rewind(),
            }
        }
        if self.reading == Reading::Full {
            self.reading = Reading::More;
        }
        for (seq, key) in freed {
            let next = self.outbox.read_key(conn, &key, seq, self.cursor);
            match next.map_err(|error| self.outbox.table.failed(conn, error))? {
                Some((seq, Ok(message))) if self.window.hand_out(seq, &message) => {
                    self.send(seq, message);
                }
                // There is no room, or it is damaged: it is read again in its turn.
                Some(_) => self.rewind(),
                None => {}
            }
        }
        Ok(())
    }

    /// What the sender could not send now needs no write.
    fn put_off(&mut self) {
        let now = Instant::now();
        for answered in std::mem::take(&mut self.answered) {
            match answered.verdict {
                Verdict::Later(error) => {
                    self.window.put_off(answered.seq, now);
                    if !self.stopping() {
                        self.trouble(&error);
                    }
                }
                Verdict::Sent | Verdict::Refused(_) => self.answered.push(answered),
            }
        }
    }

    fn write(&self, conn: &Connection) -> rusqlite::Result<()> {
        let table = &self.outbox.table;
        let tx = Transaction::new_unchecked(conn, TransactionBehavior::Immediate)?;
        for Answered { seq, verdict, .. } in &self.answered {
            let id = self.window.get(*seq).map(|entry| entry.id.as_str());
            if let Verdict::Refused(error) = verdict {
                let now = Now::read().wall_ms;
                tx.prepare_cached(&table.sql(user::REFUSED))?
                    .execute(params![seq, id, now, error])?;
            } else {
                tx.prepare_cached(&table.sql(user::SENT))?
                    .execute(params![seq, id])?;
            }
        }
        tx.commit()
    }

    fn count(&self, verdict: &Verdict) {
        let mut status = lock(&self.status);
        match verdict {
            Verdict::Refused(error) => {
                status.refused += 1;
                drop(status);
                let database = self.path.display();
                tracing::error!(%database, error, "a message was refused: kept in its outbox");
            }
            _ => {
                status.sent += 1;
                status.error = None;
            }
        }
    }

    /// Reads a page behind the cursor and hands it out.
    fn read_on(&mut self, conn: &Connection) -> Result<(), QueueError> {
        let failed = |error| self.outbox.table.failed(conn, error);
        let data_version = data_version(conn).map_err(failed)?;
        if data_version != self.data_version {
            self.data_version = data_version;
            if self.reading == Reading::End {
                self.reading = Reading::More;
            }
        }
        if self.reading != Reading::More || self.stopping() {
            return Ok(());
        }
        if self.window.is_empty() {
            self.cursor = 0;
        }
        let mut page = Vec::new();
        let read = self.read_page(conn, &mut page);
        // What is in the window by now has to reach the sender, whatever came after it.
        for (seq, message) in page {
            match message {
                Ok(message) => self.send(seq, message),
                Err(error) => self.ticket(seq).refused(error),
            }
        }
        self.reading = read.map_err(|error| self.outbox.table.failed(conn, error))?;
        Ok(())
    }

    fn read_page(&mut self, conn: &Connection, page: &mut Vec<Found>) -> rusqlite::Result<Reading> {
        let (window, cursor) = (&mut self.window, &mut self.cursor);
        let mut passed = 0;
        let mut reading = Reading::End;
        self.outbox.read(conn, *cursor, |row| {
            let seq = row.get(0)?;
            let key = match row.get_ref(6)? {
                ValueRef::Text(key) => std::str::from_utf8(key).ok().map(Key::new),
                _ => None,
            };
            if window.holds(seq, key.and_then(Result::ok).as_ref()) {
                *cursor = seq;
                passed += 1;
            } else {
                let found = outbox::found(row)?;
                if let (_, Ok(message)) = &found
                    && !(window.has_room() && window.hand_out(seq, message))
                {
                    reading = Reading::Full;
                    return Ok(false);
                }
                *cursor = seq;
                page.push(found);
            }
            let enough = page.len() == PAGE_MESSAGES || passed == PASSED_ROWS_MAX;
            if enough {
                reading = Reading::More;
            }
            Ok(!enough)
        })?;
        Ok(reading)
    }

    /// Sends what was put off for long enough.
    fn send_again(&mut self, conn: &Connection) -> Result<(), QueueError> {
        if self.stopping() {
            return Ok(());
        }
        let mut result = Ok(());
        for seq in self.window.take_due(Instant::now()) {
            match self.outbox.read_at(conn, seq) {
                Ok(Some((seq, Ok(message)))) => self.send(seq, message),
                Ok(Some((seq, Err(error)))) => self.ticket(seq).refused(error),
                // Somebody else deleted it, so nothing is left to send.
                Ok(None) => self.ticket(seq).sent(),
                Err(error) => {
                    self.ticket(seq).later(&error);
                    result = Err(self.outbox.table.failed(conn, error));
                }
            }
        }
        result
    }

    /// Gives a message that is in the window to the sender.
    fn send(&mut self, seq: i64, message: Message) {
        let ticket = self.ticket(seq);
        if self.stopping() {
            return ticket.later("the relay is closing");
        }
        let send = AssertUnwindSafe(|| (self.send)(message, ticket));
        if catch_unwind(send).is_err() {
            // The ticket went with it, so it is tried again.
            tracing::error!(database = %self.path.display(), "the sender of an outbox panicked");
        }
    }

    fn ticket(&self, seq: i64) -> Ticket {
        Ticket::new(seq, self.generation, self.events.clone())
    }
}
