//! A queue in a directory of its own, and waiting for a condition.

use std::ops::Deref;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rusqlite::Connection;
use spoolway_proto::{InstanceId, Message, Timestamp};
use spoolway_queue::{
    ConsumerLock, Cursor, Inbox, NewRow, Outbox, QueueOptions, Role, SqliteQueue, TakenOver, Write,
};
use tempfile::TempDir;

/// How long anything may take before a test gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(20);

pub(crate) struct Fixture {
    pub(crate) queue: SqliteQueue,
    pub(crate) dir: TempDir,
}

impl Deref for Fixture {
    type Target = SqliteQueue;

    fn deref(&self) -> &SqliteQueue {
        &self.queue
    }
}

impl Fixture {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let queue = SqliteQueue::open(dir.path().join("q.db"), consumer()).unwrap();
        Self { queue, dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("q.db")
    }

    /// Another handle on the same file, as another process would have.
    pub(crate) fn again(&self) -> SqliteQueue {
        SqliteQueue::open(self.path(), consumer()).unwrap()
    }

    /// A program that is not ours.
    pub(crate) fn foreign(&self) -> Connection {
        let conn = Connection::open(self.path()).unwrap();
        conn.busy_timeout(DEADLINE).unwrap();
        conn
    }

    /// One number that a statement finds.
    pub(crate) fn number(&self, statement: &str) -> i64 {
        self.foreign()
            .query_row(statement, (), |row| row.get(0))
            .unwrap()
    }

    pub(crate) fn insert(&self, message: Message) -> i64 {
        let written = self.queue.write(vec![row(message)]).unwrap();
        match written[..] {
            [spoolway_queue::Written::Inserted { seq }] => seq,
            ref other => panic!("{other:?}"),
        }
    }

    /// The ids of everything that could run, in order.
    pub(crate) fn candidate_ids(&self) -> Vec<String> {
        let page = self.queue.candidates(Cursor::default(), 1_000).unwrap();
        assert!(page.end);
        let ids = page
            .candidates
            .iter()
            .map(|candidate| candidate.message.id.to_string());
        ids.collect()
    }
}

/// The database of a program that uses the inbox and the outbox, with a table of its own.
pub(crate) struct Database {
    path: PathBuf,
    // Removed with the value; a part of a test has only the path.
    _dir: Option<TempDir>,
}

impl Database {
    pub(crate) fn new() -> Self {
        Self::in_mode("wal")
    }

    pub(crate) fn in_mode(mode: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let db = Self {
            path: dir.path().join("app.db"),
            _dir: Some(dir),
        };
        let conn = db.open();
        let setup = format!("PRAGMA journal_mode = {mode}; CREATE TABLE effect (message_id TEXT);");
        conn.execute_batch(&setup).unwrap();
        Inbox::default().create(&conn).unwrap();
        Outbox::default().create(&conn).unwrap();
        db
    }

    pub(crate) fn at(path: impl Into<PathBuf>) -> Self {
        Self {
            path: path.into(),
            _dir: None,
        }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.path.clone()
    }

    pub(crate) fn open(&self) -> Connection {
        let conn = Connection::open(&self.path).unwrap();
        conn.busy_timeout(DEADLINE).unwrap();
        conn
    }

    pub(crate) fn number(&self, statement: &str) -> i64 {
        self.open()
            .query_row(statement, (), |row| row.get(0))
            .unwrap()
    }
}

pub(crate) fn consumer() -> QueueOptions {
    QueueOptions {
        role: Role::Consumer,
        ..QueueOptions::default()
    }
}

pub(crate) fn message(id: &str) -> Message {
    Message::new("task", &id)
        .unwrap()
        .id(id)
        .timestamp(Timestamp(1_700_000_000_000))
}

pub(crate) fn row(message: Message) -> Write {
    Write::Insert(NewRow::pending(Arc::new(message), None))
}

pub(crate) fn instance() -> InstanceId {
    static NEXT: AtomicU64 = AtomicU64::new(1);
    InstanceId::from_u128(u128::from(NEXT.fetch_add(1, Ordering::Relaxed)))
}

pub(crate) fn take_over(queue: &SqliteQueue) -> (TakenOver, ConsumerLock) {
    let lock = ConsumerLock::acquire(&queue.lock_path()).unwrap();
    (queue.take_over(instance(), &lock).unwrap(), lock)
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
