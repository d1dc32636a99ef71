//! The statements on the inbox and the outbox: tables in the database of the program that uses
//! them, beside its own, under names of its choice.
//!
//! `user_version` is that program's, so the columns are the version. A later one only adds columns
//! that are nullable or have a default, `create` adds those that are missing, and every statement
//! names its columns, so that older programs go on. Nothing here needs a SQLite newer than 3.24
//! (no STRICT, no RETURNING): other programs may open that database with an older one.

/// The statement for the table of that name, which [`Table`](crate::table::Table) has checked.
pub(crate) fn on(table: &str, statement: &str) -> String {
    statement.replace("{table}", table)
}

/// Version 1. Two trees: by id, and by time for [`FORGET`].
pub(crate) const INBOX_CREATE: &str = "\
    CREATE TABLE IF NOT EXISTS \"{table}\" (
        message_id TEXT NOT NULL PRIMARY KEY,
        crc INTEGER NOT NULL,
        seen_at INTEGER NOT NULL -- ms since the Unix epoch
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS \"{table}_seen_at\" ON \"{table}\" (seen_at);";
pub(crate) const INBOX_COLUMNS: &[&str] = &["message_id", "crc", "seen_at"];

/// 0 rows changed: it was recorded before, see [`RECORDED`]. Either way the write lock is held.
pub(crate) const RECORD: &str = "INSERT INTO \"{table}\" (message_id, crc, seen_at) \
    VALUES (?1, ?2, ?3) ON CONFLICT (message_id) DO NOTHING";
pub(crate) const RECORDED: &str = "SELECT crc FROM \"{table}\" WHERE message_id = ?1";
pub(crate) const FORGET: &str = "DELETE FROM \"{table}\" WHERE message_id IN \
    (SELECT message_id FROM \"{table}\" WHERE seen_at <= ?1 ORDER BY seen_at LIMIT ?2)";

/// Version 1. The columns are those of `message_queue`; `failed_at` is when a message was refused
/// for good, and it waits while that is null.
pub(crate) const OUTBOX_CREATE: &str = "\
    CREATE TABLE IF NOT EXISTS \"{table}\" (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        message_id TEXT NOT NULL UNIQUE,
        type TEXT NOT NULL,
        payload TEXT NOT NULL,
        timestamp INTEGER NOT NULL, -- ms since the Unix epoch
        attributes TEXT,
        key TEXT,
        crc INTEGER NOT NULL,
        failed_at INTEGER, -- ms since the Unix epoch
        error TEXT
    );
    CREATE INDEX IF NOT EXISTS \"{table}_lane\" ON \"{table}\" (key, seq)
        WHERE failed_at IS NULL AND key IS NOT NULL;
    CREATE INDEX IF NOT EXISTS \"{table}_failed\" ON \"{table}\" (seq)
        WHERE failed_at IS NOT NULL;";
pub(crate) const OUTBOX_COLUMNS: &[&str] = &[
    "seq",
    "message_id",
    "type",
    "payload",
    "timestamp",
    "attributes",
    "key",
    "crc",
    "failed_at",
    "error",
];

/// 0 rows changed: its row is there, see [`ENQUEUED`].
pub(crate) const ENQUEUE: &str = "INSERT INTO \"{table}\" \
    (message_id, type, payload, timestamp, attributes, key, crc) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (message_id) DO NOTHING";
pub(crate) const ENQUEUED: &str = "SELECT crc FROM \"{table}\" WHERE message_id = ?1";

// The first columns of a message are where [`row::assemble`](crate::row::assemble) looks for them;
// the priority is among the attributes.
pub(crate) const WAITING: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, \
    NULL AS priority, crc FROM \"{table}\" WHERE failed_at IS NULL AND seq > ?1 ORDER BY seq";
pub(crate) const WAITING_AT: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, \
    NULL AS priority, crc FROM \"{table}\" WHERE failed_at IS NULL AND seq = ?1";
/// The next one of a key, among those that were passed over.
pub(crate) const WAITING_OF_KEY: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, \
    NULL AS priority, crc FROM \"{table}\" WHERE failed_at IS NULL AND key IS NOT NULL AND key = ?1 \
    AND seq > ?2 AND seq <= ?3 ORDER BY seq LIMIT 1";
pub(crate) const SENT: &str = "DELETE FROM \"{table}\" WHERE seq = ?1 AND message_id = ?2";
/// A damaged row may have no id that can be told.
pub(crate) const REFUSED: &str = "UPDATE \"{table}\" SET failed_at = ?3, error = ?4 \
    WHERE seq = ?1 AND (?2 IS NULL OR message_id = ?2) AND failed_at IS NULL";

pub(crate) const FAILED: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, \
    NULL AS priority, crc, failed_at, error FROM \"{table}\" WHERE failed_at IS NOT NULL ORDER BY seq LIMIT ?1";
/// The row goes and comes back with a new `seq`, behind what waits.
pub(crate) const RETRY: &str = "REPLACE INTO \"{table}\" \
    (message_id, type, payload, timestamp, attributes, key, crc) \
    SELECT message_id, type, payload, timestamp, attributes, key, crc FROM \"{table}\" \
    WHERE message_id = ?1 AND failed_at IS NOT NULL";
pub(crate) const DISCARD: &str =
    "DELETE FROM \"{table}\" WHERE message_id = ?1 AND failed_at IS NOT NULL";
pub(crate) const COUNT: &str = "SELECT count(*), count(failed_at) FROM \"{table}\"";

/// As [`upkeep::ROWS`](crate::sql::upkeep::ROWS), for an import, and what goes with `--move`.
pub(crate) const OUTBOX_ROWS: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, NULL, \
    0, 0, 0, NULL, NULL, NULL, crc, 0, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL FROM \"{table}\" \
    WHERE failed_at IS NULL AND seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
pub(crate) const OUTBOX_MOVED: &str = "DELETE FROM \"{table}\" \
    WHERE seq = ?1 AND message_id = ?2 AND ?3 = 0 AND failed_at IS NULL";
/// A queue of FlowTrace, of which only these columns are sure.
pub(crate) const FLOWTRACE_COLUMNS: &[&str] =
    &["message_id", "type", "payload", "timestamp", "processed"];
pub(crate) const FLOWTRACE_ROWS: &str = "SELECT rowid, message_id, type, payload, timestamp, NULL, NULL, NULL, \
    0, 0, 0, NULL, NULL, NULL, NULL, processed, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL \
    FROM \"{table}\" WHERE rowid > ?1 AND rowid <= ?2 ORDER BY rowid LIMIT ?3";
pub(crate) const FLOWTRACE_MOVED: &str = "DELETE FROM \"{table}\" \
    WHERE rowid = ?1 AND message_id = ?2 AND coalesce(processed, 0) = ?3";
pub(crate) const TABLES: &str = "SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name";

pub(crate) const COLUMNS: &str = "SELECT name FROM pragma_table_info(?1)";

#[cfg(test)]
mod tests {
    use rusqlite::Connection;

    use super::*;
    use crate::sql::tests::plan;

    fn fresh() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch(&on("inbox", INBOX_CREATE)).unwrap();
        conn.execute_batch(&on("outbox", OUTBOX_CREATE)).unwrap();
        conn
    }

    #[test]
    fn statements_go_by_an_index_and_sort_nothing() {
        let conn = fresh();
        for (table, statement, index) in [
            ("inbox", RECORDED, "PRIMARY KEY (message_id=?)"),
            ("inbox", FORGET, "COVERING INDEX inbox_seen_at (seen_at<?)"),
            ("outbox", ENQUEUED, "sqlite_autoindex_outbox_1"),
            ("outbox", WAITING, "INTEGER PRIMARY KEY (rowid>?)"),
            ("outbox", WAITING_AT, "INTEGER PRIMARY KEY (rowid=?)"),
            (
                "outbox",
                WAITING_OF_KEY,
                "INDEX outbox_lane (key=? AND seq>? AND seq<?)",
            ),
            ("outbox", SENT, "INTEGER PRIMARY KEY (rowid=?)"),
            ("outbox", REFUSED, "INTEGER PRIMARY KEY (rowid=?)"),
            ("outbox", FAILED, "INDEX outbox_failed"),
            ("outbox", RETRY, "sqlite_autoindex_outbox_1"),
            ("outbox", DISCARD, "sqlite_autoindex_outbox_1"),
        ] {
            let steps = plan(&conn, &on(table, statement)).join(" | ");
            assert!(steps.contains(index), "{statement}\n{steps}");
            assert!(!steps.contains("TEMP B-TREE"), "{statement}\n{steps}");
        }
        for (table, statement) in [("inbox", RECORD), ("outbox", ENQUEUE), ("outbox", COUNT)] {
            conn.prepare(&on(table, statement)).unwrap();
        }
    }

    #[test]
    fn the_columns_are_those_of_the_tables() {
        let conn = fresh();
        for (table, columns) in [("inbox", INBOX_COLUMNS), ("outbox", OUTBOX_COLUMNS)] {
            let found: Vec<String> = conn
                .prepare(COLUMNS)
                .unwrap()
                .query_map([table], |row| row.get(0))
                .unwrap()
                .collect::<Result<_, _>>()
                .unwrap();
            assert_eq!(found, columns);
        }
    }
}
