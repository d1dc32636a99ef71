//! Statements that bring rows from one file or table into another: adoption of FlowTrace's, salvage of a damaged one's.

/// Whatever is not FlowTrace's table, an index of it, or SQLite's own.
pub(crate) const BESIDE_FLOWTRACE: &str = "SELECT type, name FROM sqlite_schema \
    WHERE name NOT LIKE 'sqlite\\_%' ESCAPE '\\' AND NOT (type = 'table' AND name = 'message_queue') \
    AND NOT (type = 'index' AND tbl_name = 'message_queue') LIMIT 1";
/// Name, and place in the primary key.
pub(crate) const COLUMNS: &str = "SELECT name, pk FROM pragma_table_xinfo('message_queue')";
pub(crate) const IS_WITHOUT_ROWID: &str =
    "SELECT wr FROM pragma_table_list('message_queue') WHERE schema = 'main'";
pub(crate) const INDEXES: &str = "SELECT name FROM sqlite_schema \
    WHERE type = 'index' AND tbl_name = 'message_queue' AND sql IS NOT NULL";
pub(crate) const SET_ASIDE: &str = "ALTER TABLE message_queue RENAME TO flowtrace_queue";
pub(crate) const TAKE_OVER: &str = "INSERT INTO message_queue \
    (message_id, type, payload, timestamp, processed, processed_at, created_at) \
    SELECT coalesce(message_id, 'flowtrace-' || lower(hex(randomblob(16)))), type, payload, timestamp, \
    coalesce(processed, 0), processed_at, created_at FROM flowtrace_queue ORDER BY rowid";
pub(crate) const DROP_OLD: &str = "DROP TABLE flowtrace_queue";

/// What a file knows beside its messages, and its order.
pub(crate) const SIDE_TABLES: [(&str, &str); 5] = [
    ("meta", "name"),
    ("claim", "id"),
    ("producer", "producer"),
    ("outcome", "producer"),
    ("held_key", "key"),
];
/// The highest number that was ever given, in places that are read one by one.
pub(crate) const NEWEST: [&str; 3] = [
    "SELECT seq FROM sqlite_sequence WHERE name = 'message_queue'",
    "SELECT max(seq) FROM message_queue",
    "SELECT max(last_seq) FROM claim",
];
pub(crate) const START_AT: &str =
    "INSERT INTO sqlite_sequence (name, seq) VALUES ('message_queue', ?1)";
/// Of a row that misses what every row must have.
pub(crate) const BURY: &str = "INSERT OR IGNORE INTO message_queue \
    (message_id, type, payload, timestamp, processed, processed_at, dead_reason, last_error) \
    VALUES (?1, coalesce(?2, ''), coalesce(?3, ''), 1000 * ?4, 2, ?4, 'corrupt', \
    'columns that every message has were empty')";

/// The rows between two numbers, with these columns.
pub(crate) fn select(columns: &[String], from_the_back: bool) -> String {
    let direction = if from_the_back { "DESC" } else { "ASC" };
    format!(
        "SELECT seq, {} FROM message_queue NOT INDEXED WHERE seq > ?1 AND seq < ?2 \
         ORDER BY seq {direction} LIMIT ?3",
        columns.join(", ")
    )
}

/// Inserts a message with its number, or nothing.
pub(crate) fn insert(columns: &[String]) -> String {
    let mut all = vec!["seq".to_owned()];
    all.extend_from_slice(columns);
    insert_into("message_queue", &all)
}

/// Inserts a row with these columns, or nothing.
pub(crate) fn insert_into(table: &str, columns: &[String]) -> String {
    let values = vec!["?"; columns.len()].join(", ");
    let columns = columns.join(", ");
    format!("INSERT OR IGNORE INTO {table} ({columns}) VALUES ({values})")
}
