//! What is adopted, what is refused, and a kill in the middle.

use std::fs;
use std::path::PathBuf;

use tempfile::TempDir;

use super::*;
use crate::{QueueOptions, Role, SqliteQueue, killed};

const FLOWTRACE: &str = "CREATE TABLE message_queue (message_id TEXT PRIMARY KEY, type TEXT NOT NULL, \
    payload TEXT NOT NULL, timestamp INTEGER NOT NULL, processed INTEGER DEFAULT 0, processed_at INTEGER, \
    created_at INTEGER DEFAULT (strftime('%s','now'))); CREATE INDEX message_ready ON message_queue(processed);";

fn made(statements: &str) -> (TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.db");
    Connection::open(&path)
        .unwrap()
        .execute_batch(statements)
        .unwrap();
    (dir, path)
}

fn consumer() -> QueueOptions {
    QueueOptions {
        role: Role::Consumer,
        ..QueueOptions::default()
    }
}

#[test]
fn what_is_not_exactly_flowtrace_s_is_refused_untouched() {
    for (more, said) in [
        ("CREATE TABLE users (id)", "users"),
        (
            "CREATE VIEW v AS SELECT 1",
            "a view of another program, \"v\"",
        ),
        (
            "CREATE TRIGGER t AFTER INSERT ON message_queue BEGIN SELECT 1; END",
            "a trigger of another program, \"t\"",
        ),
        (
            "ALTER TABLE message_queue ADD COLUMN shard",
            "with a column \"shard\"",
        ),
        (
            "ALTER TABLE message_queue DROP COLUMN created_at",
            "without a column \"created_at\"",
        ),
        ("PRAGMA user_version = 3", "with user_version 3"),
    ] {
        let (_dir, path) = made(&format!("{FLOWTRACE} {more}"));
        let before = fs::read(&path).unwrap();
        let error = SqliteQueue::open(&path, consumer()).unwrap_err();
        assert_eq!(error.code(), "queue_not_ours");
        assert!(error.to_string().contains(said), "{error}");
        assert_eq!(fs::read(&path).unwrap(), before);
    }
}

#[test]
fn a_row_without_an_id_gets_one() {
    let row =
        "INSERT INTO message_queue (type, payload, timestamp) VALUES ('t', '1', 1), ('t', '2', 2)";
    let (_dir, path) = made(&format!("{FLOWTRACE} {row}"));
    let queue = SqliteQueue::open(&path, consumer()).unwrap();
    let rows = queue.peek(9).unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows[0].message.id.as_str().starts_with("flowtrace-"));
}

#[test]
fn killed_in_the_middle_nothing_has_changed() {
    // More than the page cache holds, so that the file has been written to when the kill comes.
    let rows = "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 20000) \
        INSERT INTO message_queue (message_id, type, payload, timestamp) \
        SELECT 'm' || (30000 - i), 't', hex(randomblob(100)), i FROM n";
    let (_dir, path) = made(&format!("{FLOWTRACE} {rows}"));
    let content = || -> (String, i64, String) {
        let conn = Connection::open(&path).unwrap();
        let schema = "SELECT group_concat(sql, ';') FROM sqlite_schema";
        let ids = "SELECT count(*), group_concat(message_id) FROM \
                   (SELECT message_id FROM message_queue ORDER BY rowid)";
        let text = conn.query_row(schema, (), |row| row.get(0)).unwrap();
        let (count, ids) = conn
            .query_row(ids, (), |row| Ok((row.get(0)?, row.get(1)?)))
            .unwrap();
        (text, count, ids)
    };
    let before = content();
    let size = fs::metadata(&path).unwrap().len();
    killed::child("adopt::tests::part", "copied", &path);
    assert!(
        fs::metadata(&path).unwrap().len() > size,
        "it had begun to write"
    );
    assert_eq!(content(), before);

    let queue = SqliteQueue::open(&path, consumer()).unwrap();
    assert_eq!(queue.stats().unwrap().pending, 20_000);
    assert_eq!(content().2, before.2, "in the order of their row numbers");
}

#[test]
#[ignore = "a part of another test"]
fn part() {
    if let Some(path) = killed::file() {
        SqliteQueue::open(path, consumer()).unwrap();
    }
}
