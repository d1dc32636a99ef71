//! A directory with the two databases of a shop and its office, and what is between them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rusqlite::{Connection, Transaction, TransactionBehavior};
use spoolway::{Inbox, Message, Outbox};
use tempfile::TempDir;

/// How long anything may take before a test gives up.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) struct Place {
    root: PathBuf,
    // Removed with the value; a part of a test has only the path.
    _dir: Option<TempDir>,
}

impl Place {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let place = Self {
            root: dir.path().into(),
            _dir: Some(dir),
        };
        let (shop, office) = (place.shop(), place.office());
        for (conn, table) in [(&shop, "orders"), (&office, "bills")] {
            conn.execute_batch(&format!(
                "PRAGMA journal_mode = WAL; \
                 CREATE TABLE {table} (at INTEGER PRIMARY KEY, number INTEGER NOT NULL);"
            ))
            .unwrap();
        }
        Outbox::default().create(&shop).unwrap();
        Inbox::default().create(&office).unwrap();
        place
    }

    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        let root = root.into();
        Self { root, _dir: None }
    }

    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("s.sock")
    }

    pub(crate) fn queue(&self) -> PathBuf {
        self.root.join("queue.db")
    }

    pub(crate) fn shop_path(&self) -> PathBuf {
        self.root.join("shop.db")
    }

    pub(crate) fn shop(&self) -> Connection {
        open(&self.shop_path())
    }

    pub(crate) fn office(&self) -> Connection {
        open(&self.root.join("office.db"))
    }
}

fn open(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(DEADLINE).unwrap();
    // What is tested is the end of processes, not of the machine.
    conn.pragma_update(None, "synchronous", "NORMAL").unwrap();
    conn
}

pub(crate) fn begin(conn: &mut Connection) -> Transaction<'_> {
    conn.transaction_with_behavior(TransactionBehavior::Immediate)
        .unwrap()
}

pub(crate) fn number(conn: &Connection, statement: &str) -> i64 {
    conn.query_row(statement, (), |row| row.get(0)).unwrap()
}

/// An order of that number: orders of the same last digit have a key in common.
pub(crate) fn take_order(tx: &Transaction<'_>, number: i64) {
    tx.execute("INSERT INTO orders (number) VALUES (?1)", [number])
        .unwrap();
    let message = Message::new("order", &number).unwrap();
    let message = message.key((number % 10).to_string());
    Outbox::default().enqueue(tx, message).unwrap();
}

/// Bills the order of a message, unless that was done.
pub(crate) fn bill(office: &mut Connection, message: &Message) {
    let tx = begin(office);
    if Inbox::default().first_time(&tx, message).unwrap() {
        let number: i64 = message.payload.as_str().parse().unwrap();
        tx.execute("INSERT INTO bills (number) VALUES (?1)", [number])
            .unwrap();
    }
    tx.commit().unwrap();
}

pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let started = Instant::now();
    while !holds() {
        assert!(started.elapsed() < DEADLINE, "never came: {what}");
        std::thread::sleep(Duration::from_millis(1));
    }
}
