//! The writer: one connection, many requests in one commit. Whoever sits at the [desk](crate::desk) moves it.
//!
//! ```text
//!          ┌────────────── moved: open what the path names now, write again ◄─┐
//!          ▼                                                                  │
//!  take ─► ready ─► BEGIN IMMEDIATE ─► each request ─► COMMIT ─► has it moved?┴─► answer, wake
//!          │  ▲                            │             │
//!          │  └── unknown: reopen, ────────┼─────────────┘ failed
//!          ▼      checkpoint, once more    ▼
//!        answer Err                     answer Err, nothing was committed
//! ```
//!
//! Invariant: nothing is answered `Ok` before a commit into the file that the path names, and
//! after a failed commit nothing newer is written before the file was opened anew and its WAL
//! emptied into it; writing the group again then looks up every id.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::apply::{Hot, News, Owner, Tx};
use crate::claims::ClaimBook;
use crate::clock::Now;
use crate::file::{self, OpenFile};
use crate::group::{apply_one, execute, merge};
use crate::limits::{Limits, LogAlarm, Room};
use crate::lock::Turn;
use crate::producer::Tally;
use crate::queue::{Durability, Role};
use crate::shared::Shared;
use crate::tray::{Answer, Request};
use crate::{QueueError, quarantine, sql, wake};

/// How often a group follows its file to another place before it gives up.
const MOVES_MAX: usize = 8;

/// How long a writer waits to be next, and how long it does not try when that was in vain: whoever is next may be
/// stopped, and its turn is a courtesy.
const TURN_WAIT_MAX: Duration = Duration::from_millis(100);
const TURN_REST: Duration = Duration::from_secs(1);

/// A WAL above this is not only copied, but begun anew.
const WAL_BYTES_FULL: u64 = 24 << 20;

/// How long the emptying of a WAL after a failed commit waits for readers.
const RECOVERY_WAIT_MAX: Duration = Duration::from_secs(5);

pub(crate) struct Writer {
    shared: Arc<Shared>,
    file: Option<OpenFile>,
    /// The file that the path named before, until its side files are cleared away.
    old: Option<OpenFile>,
    book: ClaimBook,
    owner: Owner,
    /// `old`, or what became of it, is another file than the path names.
    lost: bool,
    /// A commit failed, and nothing may be written before its traces are gone.
    unsettled: bool,
    /// The claim rows of the file may differ from the book.
    resync: bool,
    /// Something was committed since the last checkpoint.
    uncopied: bool,
    /// From when on rows of a damaged file may wait to be saved.
    salvage_at: Option<Instant>,
    log: LogAlarm,
    room: Room,
    waker: Option<UnixDatagram>,
    wake_path: PathBuf,
    turn: Turn,
    /// The turn was waited for in vain.
    no_turn_until: Option<Instant>,
    jitter: Jitter,
}

/// Why a group was not committed.
enum Failure {
    /// For certain nothing of it was.
    Rejected(QueueError),
    /// The commit failed half way; these would have been the answers.
    Unknown(QueueError, Vec<Answer>),
    /// It was, into a file that the path does not name any more.
    Moved,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, file: OpenFile, owner: Owner) -> Self {
        let wake_path = wake::socket_path(&shared.path);
        let limits = Limits {
            bytes_max: shared.options.queue_bytes_max,
            messages_max: shared.options.queue_messages_max,
            disk_bytes_kept: shared.options.disk_bytes_kept,
        };
        let log = LogAlarm::new(shared.options.wal_bytes_alarm);
        Self {
            turn: Turn::new(&shared.path),
            no_turn_until: None,
            shared,
            file: Some(file),
            old: None,
            book: ClaimBook::default(),
            owner,
            lost: false,
            unsettled: false,
            resync: false,
            uncopied: true,
            salvage_at: Some(Instant::now()),
            log,
            room: Room::new(limits),
            waker: wake::sender(),
            wake_path,
            jitter: Jitter::new(),
        }
    }

    /// Serves a group of what waits in the tray; false if nothing does.
    pub(crate) fn serve_next(&mut self) -> bool {
        let Some(group) = self.shared.tray.take() else {
            return false;
        };
        self.serve(group);
        true
    }

    fn serve(&mut self, mut group: Vec<Request>) {
        match self.commit(&mut group) {
            Ok(answers) => {
                for (request, answer) in group.into_iter().zip(answers) {
                    request.answer(answer);
                }
            }
            Err(error) => {
                tracing::debug!(queue = %self.shared.path.display(), %error, "a group failed");
                for request in group {
                    request.answer(Err(error.clone()));
                }
            }
        }
        if self.log.is_due() {
            if self.shared.options.role == Role::Producer {
                self.copy_wal();
            }
            self.watch_log();
        }
    }

    /// Commits a group, wherever its file goes meanwhile.
    fn commit(&mut self, group: &mut Vec<Request>) -> Result<Vec<Answer>, QueueError> {
        let mut unknown: Option<Vec<Answer>> = None;
        let mut moves = 0;
        loop {
            match self.attempt(group) {
                Ok(answers) => return Ok(merge(unknown, answers)),
                Err(Failure::Moved) => {
                    moves += 1;
                    unknown = None;
                    if moves == MOVES_MAX {
                        return Err(QueueError::Moved {
                            path: self.shared.path.to_path_buf(),
                        });
                    }
                }
                Err(Failure::Rejected(error)) => {
                    let error = match self.heal(&error) {
                        Ok(true) if moves < MOVES_MAX => {
                            moves += 1;
                            continue;
                        }
                        Ok(_) => error,
                        Err(other) => other,
                    };
                    return Err(match unknown {
                        Some(_) => error.into_unknown(),
                        None => error,
                    });
                }
                Err(Failure::Unknown(error, _)) if unknown.is_some() => {
                    return Err(error.into_unknown());
                }
                Err(Failure::Unknown(error, answers)) => {
                    tracing::warn!(queue = %self.shared.path.display(), %error, "a commit failed");
                    unknown = Some(answers);
                }
            }
        }
    }

    fn attempt(&mut self, group: &mut Vec<Request>) -> Result<Vec<Answer>, Failure> {
        self.ready().map_err(Failure::Rejected)?;
        self.salvage();
        if let Some(file) = &self.file {
            let bytes = group.iter().map(Request::bytes).sum();
            self.room.look(&file.conn, &self.shared.path, bytes);
        }
        let syncs = !group.iter().all(|request| request.job.may_be_undone());
        self.sync_commits(syncs).map_err(Failure::Rejected)?;
        if self.begin().map_err(Failure::Rejected)? && syncs {
            self.shared.tray.top_up(group);
        }
        let owner = self.owner;
        let applied = self.apply_all(group);
        let (answers, news) = match applied {
            Ok(applied) => applied,
            Err(error) => {
                self.roll_back(owner);
                return Err(Failure::Rejected(error));
            }
        };
        if let Err(error) = self.end() {
            self.roll_back(owner);
            // Busy: not begun. Full: SQLite writes the frame that makes a commit last and reports
            // it as full only if that was not written whole; a failed sync is another error.
            if matches!(error, QueueError::Busy { .. } | QueueError::Full { .. }) {
                return Err(Failure::Rejected(error));
            }
            self.unsettled = true;
            return Err(Failure::Unknown(error, answers));
        }
        self.uncopied = true;
        if self.file.as_ref().is_some_and(OpenFile::has_moved) {
            self.book.undo_all();
            self.owner = owner;
            self.lose_file();
            return Err(Failure::Moved);
        }
        self.book.commit();
        self.resync = false;
        self.publish(news);
        Ok(answers)
    }

    /// A file is open, and nothing of a failed commit is left in its WAL.
    fn ready(&mut self) -> Result<(), QueueError> {
        let shared = Arc::clone(&self.shared);
        if shared.is_damaged() && quarantine::may(&shared.path, &shared.options) {
            self.set_aside(&shared.read_damage())?;
        }
        if self.unsettled {
            if self.file.as_ref().is_some_and(OpenFile::has_moved) {
                self.lose_file();
            }
            // Closed first: what this connection believes of the WAL is not to be trusted.
            self.file = None;
        }
        if self.file.is_none() {
            let file = file::open(&shared.path, &shared.options, &mut self.old)?;
            if self.lost || file.identity != shared.identity() {
                self.lost = true;
                self.owner.rows_valid = false;
                self.book.forget();
            }
            shared.opened(&file, self.lost)?;
            self.lost = false;
            self.resync = true;
            self.salvage_at = Some(Instant::now());
            self.room.forget();
            self.file = Some(file);
        }
        if self.unsettled {
            self.empty_wal()?;
            self.unsettled = false;
        }
        self.file
            .as_mut()
            .map_or(Ok(()), |file| file.look(&shared.path))
    }

    fn empty_wal(&self) -> Result<(), QueueError> {
        let path = &self.shared.path;
        let failed = |error| QueueError::sql(path, error);
        let Some(file) = &self.file else {
            return Ok(());
        };
        file.conn.busy_timeout(RECOVERY_WAIT_MAX).map_err(failed)?;
        let emptied = file::checkpoint(&file.conn, "TRUNCATE").map_err(failed)?;
        file.conn.busy_timeout(Duration::ZERO).map_err(failed)?;
        if emptied {
            return Ok(());
        }
        let (path, waited) = (path.to_path_buf(), RECOVERY_WAIT_MAX);
        Err(QueueError::Busy { path, waited })
    }

    /// The path names another file, or none: numbers of rows are void until it is taken over.
    fn lose_file(&mut self) {
        tracing::warn!(
            queue = %self.shared.path.display(),
            "the queue file was moved, deleted or replaced; opening what is at its path"
        );
        self.old = self.file.take();
        self.lost = true;
        self.owner.rows_valid = false;
        self.book.forget();
    }

    /// Whether the next commit survives a power loss, as far as the durability of the file asks for it. One that does
    /// not is in the log before every later commit, which syncs it too.
    fn sync_commits(&mut self, syncs: bool) -> Result<(), QueueError> {
        let Some(file) = &mut self.file else {
            return Ok(());
        };
        if file.syncs != syncs && self.shared.options.durability == Durability::Full {
            file.sync_commits(syncs)
                .map_err(|error| QueueError::sql(&self.shared.path, error))?;
        }
        Ok(())
    }

    /// Takes the write lock; whether that took any waiting.
    ///
    /// Not by SQLite's own busy handler: its sleeps grow, so whoever waits longest asks least
    /// often, and one of four writers waited 1.7 s.
    fn begin(&mut self) -> Result<bool, QueueError> {
        let started = Instant::now();
        let limit = self.shared.options.busy_wait_max;
        let in_turn = self.wait_for_turn(started, limit.min(TURN_WAIT_MAX));
        let begun = self.wait_for_lock(started, limit);
        if in_turn {
            self.turn.end();
        }
        begun.map(|()| started.elapsed() > Duration::from_millis(1))
    }

    /// Whether it came in time.
    fn wait_for_turn(&mut self, started: Instant, limit: Duration) -> bool {
        if self.no_turn_until.is_some_and(|until| started < until) {
            return false;
        }
        while !self.turn.try_take() {
            if started.elapsed() >= limit {
                self.no_turn_until = Some(started + TURN_REST);
                return false;
            }
            thread::sleep(self.jitter.next());
        }
        true
    }

    fn wait_for_lock(&mut self, started: Instant, limit: Duration) -> Result<(), QueueError> {
        loop {
            let waited = started.elapsed();
            match self.execute(sql::BEGIN) {
                Err(QueueError::Busy { path, .. }) if waited >= limit => {
                    return Err(QueueError::Busy { path, waited });
                }
                Err(QueueError::Busy { .. }) => thread::sleep(self.jitter.next() / 4),
                begun => return begun,
            }
        }
    }

    fn end(&self) -> Result<(), QueueError> {
        #[cfg(test)]
        if let Some(fault) = self.shared.next_fault() {
            self.execute(fault)?;
            let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_IOERR_FSYNC);
            let error = rusqlite::Error::SqliteFailure(code, None);
            return Err(QueueError::sql(&self.shared.path, error));
        }
        self.execute(sql::COMMIT)
    }

    fn execute(&self, statement: &str) -> Result<(), QueueError> {
        let path = &self.shared.path;
        let Some(file) = &self.file else {
            return Err(QueueError::Closed {
                path: path.to_path_buf(),
            });
        };
        execute(&file.conn, statement).map_err(|error| QueueError::sql(path, error))
    }

    /// Applies each request; the error of one that fails alone is its own answer.
    fn apply_all(&mut self, group: &mut [Request]) -> Result<(Vec<Answer>, News), QueueError> {
        let path = &self.shared.path;
        let Some(file) = &self.file else {
            return Err(QueueError::Closed {
                path: path.to_path_buf(),
            });
        };
        let mut tx = Tx {
            conn: &file.conn,
            hot: Hot::default(),
            path,
            book: &mut self.book,
            owner: &mut self.owner,
            room: &mut self.room,
            now: Now::read(),
            news: News::default(),
            tally: Tally::default(),
            generation: self.shared.generation(),
            stores: self.shared.options.role == Role::Consumer,
        };
        if self.resync {
            tx.resync_claims()
                .map_err(|error| QueueError::sql(path, error))?;
        }
        let mut answers = Vec::with_capacity(group.len());
        let alone = group.len() == 1;
        for request in group {
            answers.push(apply_one(&mut tx, &mut request.job, alone)?);
        }
        let tally = std::mem::take(&mut tx.tally);
        tx.count(tally)
            .map_err(|error| QueueError::sql(path, error))?;
        Ok((answers, tx.news))
    }

    fn roll_back(&mut self, owner: Owner) {
        if self
            .file
            .as_ref()
            .is_some_and(|file| !file.conn.is_autocommit())
        {
            // Where even this fails, the connection is not used again: see `ready`.
            if self.execute(sql::ROLLBACK).is_err() {
                self.unsettled = true;
            }
        }
        self.book.undo_all();
        self.room.forget();
        self.owner = owner;
    }

    /// Tells others what was committed.
    fn publish(&self, news: News) {
        self.shared.count_commit();
        if news.runnable
            && let Some(waker) = &self.waker
        {
            wake::send(waker, &self.wake_path);
        }
    }

    pub(crate) fn tick(&mut self) {
        if self.file.as_ref().is_some_and(OpenFile::has_moved) {
            self.lose_file();
        }
        self.salvage_at = Some(Instant::now());
        let ready = self.examine_if_told().and_then(|()| self.ready());
        match ready {
            Ok(()) => self.salvage(),
            Err(error) => {
                tracing::debug!(queue = %self.shared.path.display(), %error, "the file stays closed");
            }
        }
        self.watch_log();
        if self.shared.options.role == Role::Producer {
            self.copy_wal();
        }
    }

    fn watch_log(&mut self) {
        if let Some(file) = &self.file {
            self.log.look(&file.conn, &self.shared.path);
        }
    }

    /// Copies a large WAL into the file, as far as readers allow: there may be no consumer for a long time.
    fn copy_wal(&mut self) {
        let bytes = file::sizes(&self.shared.path).1;
        if !self.uncopied || bytes <= file::WAL_BYTES_KEPT {
            return;
        }
        self.uncopied = false;
        self.checkpoint("PASSIVE");
        if bytes > WAL_BYTES_FULL {
            self.restart_wal();
        }
    }

    /// Makes the next write begin at the start of the WAL. Several writers that never rest leave no moment in which all
    /// of it is copied, so it is made: this one takes its turn, and the others wait for it.
    fn restart_wal(&mut self) {
        let started = Instant::now();
        let in_turn = self.wait_for_turn(started, TURN_WAIT_MAX);
        while !self.checkpoint("RESTART") && started.elapsed() < TURN_WAIT_MAX {
            thread::sleep(self.jitter.next() / 4);
        }
        if in_turn {
            self.turn.end();
        }
    }

    /// Whether all of the WAL is in the file.
    fn checkpoint(&self, mode: &str) -> bool {
        let Some(file) = &self.file else { return true };
        let copied = file::checkpoint(&file.conn, mode);
        if let Err(error) = &copied {
            tracing::debug!(queue = %self.shared.path.display(), %error, "no checkpoint");
        }
        copied.unwrap_or(false)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        // Also when it panicked: nobody must wait for it then.
        self.shared.tray.abandon();
    }
}

/// Random waits of 0.1 to 1 ms.
struct Jitter(u64);

impl Jitter {
    fn new() -> Self {
        use std::hash::{BuildHasher, RandomState};
        Self(RandomState::new().hash_one(0) | 1)
    }

    fn next(&mut self) -> Duration {
        // Xorshift: nothing but spread is wanted of it.
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        Duration::from_micros(100 + self.0 % 900)
    }
}

mod heal;

#[cfg(test)]
mod tests;
