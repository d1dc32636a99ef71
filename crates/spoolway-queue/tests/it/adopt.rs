//! A queue file that FlowTrace's own library made (`tests/flowtrace`, `make`): adopted once, used by both from then on.

use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use spoolway_queue::{QueueOptions, SqliteQueue};
use tempfile::TempDir;

use crate::support::{DEADLINE, consumer, message, wait_until};

const INSERT: &str = "INSERT OR IGNORE INTO message_queue (message_id, type, payload, timestamp) VALUES (?, ?, ?, ?)";
const READ: &str =
    "SELECT message_id FROM message_queue WHERE processed = 0 ORDER BY timestamp LIMIT 50";
const MARK: &str = "UPDATE message_queue SET processed = 1, processed_at = strftime('%s','now') WHERE message_id = ?";

fn fixture() -> (TempDir, PathBuf) {
    let made = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/flowtrace/queue.sqlite");
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.db");
    fs::copy(made, &path).unwrap();
    (dir, path)
}

/// A program of FlowTrace's, which has its connection open all the time.
fn flowtrace(path: &Path) -> Connection {
    let conn = Connection::open(path).unwrap();
    conn.busy_timeout(DEADLINE).unwrap();
    conn
}

fn read(conn: &Connection) -> Vec<String> {
    conn.prepare_cached(READ)
        .unwrap()
        .query_map((), |row| row.get(0))
        .unwrap()
        .collect::<Result<_, _>>()
        .unwrap()
}

fn ids(queue: &SqliteQueue) -> Vec<String> {
    let rows = queue.peek(100).unwrap();
    rows.iter().map(|row| row.message.id.to_string()).collect()
}

#[test]
fn the_consumer_adopts_it_with_its_order_and_states_and_its_programs_go_on() {
    let (_dir, path) = fixture();
    let theirs = flowtrace(&path);
    let mut insert = theirs.prepare(INSERT).unwrap();
    insert.execute(("before", "t", "{}", 1)).unwrap();
    let states = "SELECT group_concat(message_id || processed || coalesce(processed_at, '-') || created_at) \
                  FROM (SELECT * FROM message_queue ORDER BY rowid)";
    let states = || -> String { theirs.query_row(states, (), |row| row.get(0)).unwrap() };
    let before = states();
    let waiting = read(&theirs);

    let queue = SqliteQueue::open(&path, consumer()).unwrap();
    assert_eq!(states(), before);
    let stats = queue.stats().unwrap();
    assert_eq!((stats.pending, stats.processed), (29, 9));
    // Their own connection and statements, as they were.
    insert.execute(("after", "t", "{}", 2)).unwrap();
    insert.execute(("after", "t", "{}", 2)).unwrap();
    assert_eq!(read(&theirs).len(), waiting.len() + 1);
    assert_eq!(ids(&queue).last().unwrap(), "after");
    theirs.execute(MARK, ["after"]).unwrap();
    assert_eq!(ids(&queue).len(), waiting.len());
    for claimed in queue.dequeue(100).unwrap() {
        queue.mark_processed(&claimed.message.id).unwrap();
    }
    assert_eq!(read(&theirs), [""; 0]);

    // Once: the next consumer finds a file of ours, with the same identity.
    let identity = queue.identity();
    queue.close();
    assert_eq!(
        SqliteQueue::open(&path, consumer()).unwrap().identity(),
        identity
    );
    let check: String = theirs
        .query_row("PRAGMA integrity_check", (), |row| row.get(0))
        .unwrap();
    assert_eq!(check, "ok");
}

#[test]
fn a_producer_refuses_it_untouched_and_says_who_adopts_it() {
    let (_dir, path) = fixture();
    let before = fs::read(&path).unwrap();
    let error = SqliteQueue::open(&path, QueueOptions::default()).unwrap_err();
    assert_eq!(error.code(), "queue_not_adopted");
    assert!(error.to_string().contains("spoolway serve"), "{error}");
    assert_eq!(fs::read(&path).unwrap(), before);
    SqliteQueue::open(&path, consumer()).unwrap().close();
    let queue = SqliteQueue::open(&path, QueueOptions::default()).unwrap();
    queue.enqueue(&message("ours")).unwrap();
}

#[test]
fn it_is_adopted_while_a_program_of_flowtrace_s_inserts_and_loses_nothing() {
    let (_dir, path) = fixture();
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let (said, heard) = std::sync::mpsc::channel();
    let writer = {
        let theirs = flowtrace(&path);
        std::thread::spawn(move || {
            let mut n = 0;
            while let Err(std::sync::mpsc::TryRecvError::Empty) = stopped.try_recv() {
                let id = format!("n{n}");
                theirs.execute(INSERT, (&id, "t", "{}", n)).unwrap();
                said.send(id).unwrap();
                n += 1;
            }
        })
    };
    for _ in 0..20 {
        heard.recv().unwrap();
    }
    let queue = SqliteQueue::open(&path, consumer()).unwrap();
    for _ in 0..20 {
        heard.recv().unwrap();
    }
    drop(stop);
    writer.join().unwrap();
    let inserted = 40 + heard.iter().count() as u64;
    let stats = queue.stats().unwrap();
    assert_eq!(stats.pending, 28 + inserted);
}

#[test]
fn cleaning_up_an_adopted_file_ends_and_its_space_is_used_again() {
    let (_dir, path) = fixture();
    let queue = SqliteQueue::open(&path, consumer()).unwrap();
    let large = "x".repeat(4_000);
    let fill = || {
        for n in 0..2_000 {
            let id = format!("m{n}");
            let message = spoolway_proto::Message::new("t", &large).unwrap().id(&id);
            queue.enqueue(&message).unwrap();
            queue.mark_processed(&id.parse().unwrap()).unwrap();
        }
        queue.cleanup(std::time::Duration::ZERO).unwrap();
    };
    fill();
    let stats = queue.stats().unwrap();
    assert_eq!(stats.processed, 0);
    wait_until("the log is copied", || {
        queue.stats().unwrap().file_bytes > 6 << 20
    });
    let before = queue.stats().unwrap().file_bytes;
    fill();
    assert!(queue.stats().unwrap().file_bytes < before + (1 << 20));
}
