//! Every statement, in the order a message lives: enqueue, read, claim, settle, clean up. Those of
//! an operator are in [`upkeep`], those on the tables in a user's own database in [`user`], those
//! that bring rows from elsewhere in [`rebuild`].

pub(crate) mod rebuild;
pub(crate) mod upkeep;
pub(crate) mod user;

/// Where the id is new. 0 rows changed: its row lives, see [`EXISTING`].
macro_rules! insert {
    ($columns:literal, $values:literal) => {
        concat!(
            "INSERT INTO message_queue (message_id, type, payload, timestamp, crc, producer, epoch, sequence",
            $columns,
            ") VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8",
            $values,
            ") ON CONFLICT (message_id) DO NOTHING"
        )
    };
}

pub(crate) const INSERT: &str = insert!(
    ", attributes, key, priority, due_at, due_boot, expires_at, attempts, suspect, last_error, last_attempt_at, \
     first_attempt_at, processed, processed_at, dead_reason",
    ", ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, ?17, ?18, ?18, ?19, ?20, ?21"
);
/// Of a message that has nothing else and was not tried: the other columns are at their defaults.
pub(crate) const INSERT_PLAIN: &str = insert!("", "");
pub(crate) const EXISTING: &str =
    "SELECT seq, processed, crc, type, payload FROM message_queue WHERE message_id = ?1";
/// Storing for retry updates the row that is there.
pub(crate) const UPDATE_EXISTING: &str = "UPDATE message_queue SET attempts = max(attempts, ?2), \
    due_at = ?3, due_boot = ?4, last_error = coalesce(?5, last_error), suspect = ?6, \
    first_attempt_at = coalesce(first_attempt_at, ?7), last_attempt_at = coalesce(?7, last_attempt_at) \
    WHERE seq = ?1 AND processed = 0";
pub(crate) const FILL_ORIGIN: &str = "UPDATE message_queue SET producer = ?2, epoch = ?3, sequence = ?4 \
    WHERE seq = ?1 AND producer IS NULL";

/// The rows of one priority after a `seq`, whose time has come.
pub(crate) const CANDIDATES: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, \
    priority, attempts, delivery, suspect, producer, epoch, sequence, crc, processed_at FROM message_queue \
    WHERE processed = 0 AND priority = ?1 AND seq > ?2 \
    AND (due_at IS NULL OR CASE WHEN due_boot IS NULL THEN due_at <= ?3 WHEN due_boot = ?4 THEN due_at <= ?5 ELSE 1 END) \
    ORDER BY seq LIMIT ?6";
pub(crate) const CANDIDATES_OF_KEY: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, \
    priority, attempts, delivery, suspect, producer, epoch, sequence, crc, processed_at FROM message_queue \
    WHERE processed = 0 AND delivery = 0 AND key IS NOT NULL AND key = ?1 \
    AND (due_at IS NULL OR CASE WHEN due_boot IS NULL THEN due_at <= ?2 WHEN due_boot = ?3 THEN due_at <= ?4 ELSE 1 END) \
    ORDER BY seq LIMIT ?5";
/// By its number: no index of unprocessed rows speaks for it.
pub(crate) const IS_SETTLED: &str = "SELECT processed <> 0 FROM message_queue WHERE seq = ?1";
pub(crate) const NEXT_PRIORITY: &str = "SELECT priority FROM message_queue \
    WHERE processed = 0 AND priority < ?1 ORDER BY priority DESC LIMIT 1";
pub(crate) const SUSPECTS: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, \
    priority, attempts, delivery, suspect, producer, epoch, sequence, crc, processed_at FROM message_queue \
    WHERE processed = 0 AND suspect = 1 AND seq > ?1 \
    AND (due_at IS NULL OR CASE WHEN due_boot IS NULL THEN due_at <= ?2 WHEN due_boot = ?3 THEN due_at <= ?4 ELSE 1 END) \
    ORDER BY seq LIMIT ?5";
pub(crate) const ROWS_BEFORE: &str = "SELECT seq FROM message_queue \
    WHERE processed = 0 AND delivery = 0 AND key IS NOT NULL AND key = ?1 AND seq < ?2 ORDER BY seq LIMIT ?3";
pub(crate) const HAS_KEYED: &str = "SELECT EXISTS (SELECT 1 FROM message_queue \
    WHERE processed = 0 AND delivery = 0 AND key IS NOT NULL)";
pub(crate) const NEXT_DUE_WALL: &str = "SELECT min(due_at) FROM message_queue \
    WHERE processed = 0 AND due_at IS NOT NULL AND due_boot IS NULL AND due_at > ?1";
pub(crate) const NEXT_DUE_BOOT: &str = "SELECT min(due_at) FROM message_queue \
    WHERE processed = 0 AND due_at IS NOT NULL AND due_boot = ?1 AND due_at > ?2";
pub(crate) const SEQ_OF_ID: &str = "SELECT seq, attempts FROM message_queue WHERE message_id = ?1";
pub(crate) const NEWEST_SEQ: &str = "SELECT seq FROM sqlite_sequence WHERE name = 'message_queue'";
pub(crate) const DATA_VERSION: &str = "PRAGMA data_version";

pub(crate) const CLAIM: &str =
    "INSERT INTO claim (first_seq, last_seq, instance, claimed_at) VALUES (?1, ?2, ?3, ?4)";
pub(crate) const CLAIM_SHRINK: &str =
    "UPDATE claim SET first_seq = ?2, last_seq = ?3 WHERE id = ?1";
pub(crate) const CLAIM_END: &str = "DELETE FROM claim WHERE id = ?1";
pub(crate) const CLAIMS_OF: &str = "DELETE FROM claim WHERE instance = ?1";
pub(crate) const CLAIMS_FOREIGN: &str =
    "SELECT id, first_seq, last_seq FROM claim WHERE instance <> ?1";
pub(crate) const SUSPECT_RANGE: &str = "UPDATE message_queue SET suspect = 1 \
    WHERE seq BETWEEN ?1 AND ?2 AND processed = 0";

pub(crate) const BEGIN_ATTEMPT: &str = "UPDATE message_queue SET attempts = attempts + 1, \
    first_attempt_at = coalesce(first_attempt_at, ?2), last_attempt_at = ?2 \
    WHERE seq = ?1 AND processed = 0 RETURNING attempts";
/// Asked before a row is settled: `RETURNING` costs twice as much as the update itself.
pub(crate) const PRODUCER_OF: &str =
    "SELECT producer FROM message_queue WHERE seq = ?1 AND processed = 0";
pub(crate) const PROCESSED: &str = "UPDATE message_queue SET processed = 1, processed_at = ?2, \
    attempts = max(attempts, ?3), suspect = 0 WHERE seq = ?1 AND processed = 0";
pub(crate) const RETRY: &str = "UPDATE message_queue SET attempts = max(attempts, ?2), due_at = ?3, \
    due_boot = ?4, last_error = ?5, suspect = 0, first_attempt_at = coalesce(first_attempt_at, ?6), \
    last_attempt_at = ?6 WHERE seq = ?1 AND processed = 0";
pub(crate) const DEAD: &str = "UPDATE message_queue SET processed = 2, processed_at = ?2, \
    attempts = max(attempts, ?3), dead_reason = ?4, last_error = coalesce(?5, last_error), suspect = 0 \
    WHERE seq = ?1 AND processed = 0";
/// The row of an id that a kept outcome may settle: never one that was requeued or replayed.
pub(crate) const PENDING_BY_ID: &str = "SELECT seq, attempts, crc, type, payload FROM message_queue \
    WHERE message_id = ?1 AND processed = 0 AND delivery = 0";

/// Everything but what is counted with the rows.
pub(crate) const SAVE_PRODUCER: &str = "INSERT INTO producer (producer, epoch, instance, sent, by_socket, \
    answered, by_word, err, unheard, missing, since, updated_at) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?11) \
    ON CONFLICT (producer) DO UPDATE SET epoch = excluded.epoch, instance = excluded.instance, \
    sent = max(sent, excluded.sent), by_socket = excluded.by_socket, answered = excluded.answered, \
    by_word = excluded.by_word, err = excluded.err, unheard = excluded.unheard, \
    missing = excluded.missing, updated_at = excluded.updated_at";
pub(crate) const COUNT_ROWS: &str = "INSERT INTO producer (producer, by_queue, stored, processed, dead, \
    since, updated_at) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?6) \
    ON CONFLICT (producer) DO UPDATE SET by_queue = by_queue + excluded.by_queue, \
    stored = stored + excluded.stored, processed = processed + excluded.processed, \
    dead = dead + excluded.dead, updated_at = excluded.updated_at";
pub(crate) const PRODUCER: &str = "SELECT producer, epoch, instance, sent, by_socket, answered, by_word, err, \
    unheard, missing, by_queue, stored, processed, dead, since, updated_at FROM producer WHERE producer = ?1";
pub(crate) const PRODUCERS: &str = "SELECT producer, epoch, instance, sent, by_socket, answered, by_word, err, \
    unheard, missing, by_queue, stored, processed, dead, since, updated_at FROM producer ORDER BY since, producer";
pub(crate) const PENDING_OF_PRODUCERS: &str = "SELECT producer, count(*) FROM message_queue \
    WHERE processed = 0 AND producer IS NOT NULL GROUP BY producer";
/// Those that nothing is known of that anyone could miss.
pub(crate) const TRIM_PRODUCERS: &str = "DELETE FROM producer WHERE producer IN (SELECT producer FROM producer \
    WHERE updated_at <= ?1 AND missing = 0 AND by_queue + stored <= processed + dead LIMIT ?2)";
pub(crate) const TRIM_OUTCOMES: &str = "DELETE FROM outcome WHERE (producer, sequence) IN \
    (SELECT outcome.producer, sequence FROM outcome JOIN producer USING (producer) WHERE updated_at <= ?1 LIMIT ?2)";

pub(crate) const KEEP_OUTCOME: &str = "INSERT INTO outcome (producer, sequence, message_id, crc, outcome, reason, counted) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7) ON CONFLICT (producer, sequence) DO UPDATE SET \
    message_id = excluded.message_id, crc = excluded.crc, outcome = excluded.outcome, reason = excluded.reason, \
    counted = excluded.counted";
pub(crate) const DROP_OUTCOMES: &str =
    "DELETE FROM outcome WHERE producer = ?1 AND sequence BETWEEN ?2 AND ?3";
pub(crate) const OUTCOMES: &str = "SELECT sequence, message_id, crc, outcome, reason, counted FROM outcome \
    WHERE producer = ?1 ORDER BY sequence";
pub(crate) const OUTCOME: &str = "SELECT sequence, message_id, crc, outcome, reason, counted FROM outcome \
    WHERE producer = ?1 AND sequence = ?2";
pub(crate) const ANY_OUTCOME: &str = "SELECT EXISTS (SELECT 1 FROM outcome)";
pub(crate) const HOLD_KEY: &str = "INSERT INTO held_key (key, since, message_id, reason) \
    VALUES (?1, ?2, ?3, ?4) ON CONFLICT (key) DO NOTHING";
pub(crate) const FREE_KEY: &str = "DELETE FROM held_key WHERE key = ?1";
pub(crate) const HELD_KEYS: &str =
    "SELECT key, since, message_id, reason FROM held_key ORDER BY key";
pub(crate) const META: &str = "SELECT value FROM meta WHERE name = ?1";
pub(crate) const META_SET: &str = "INSERT INTO meta (name, value) VALUES (?1, ?2) \
    ON CONFLICT (name) DO UPDATE SET value = excluded.value";
pub(crate) const META_CLEAR: &str = "DELETE FROM meta WHERE name = ?1";

pub(crate) const TRIM_PROCESSED: &str = "DELETE FROM message_queue WHERE seq IN (SELECT seq FROM message_queue \
    WHERE processed = 1 AND processed_at <= ?1 ORDER BY processed_at LIMIT ?2)";
/// A foreign reader may mark rows without saying when.
pub(crate) const TRIM_UNDATED: &str = "DELETE FROM message_queue WHERE seq IN (SELECT seq FROM message_queue \
    WHERE processed = 1 AND processed_at IS NULL AND CAST(created_at AS INTEGER) <= ?1 LIMIT ?2)";
/// To make room: whatever their age.
pub(crate) const FREE_OLDEST: &str = "DELETE FROM message_queue WHERE seq IN (SELECT seq FROM message_queue \
    WHERE processed = 1 ORDER BY processed_at LIMIT ?1)";
pub(crate) const COUNT_ALL: &str = "SELECT count(*) FROM message_queue";
pub(crate) const USED_BYTES: &str = "SELECT (page_count - freelist_count) * page_size \
    FROM pragma_page_count, pragma_freelist_count, pragma_page_size";
pub(crate) const FREE_BYTES: &str =
    "SELECT freelist_count * page_size FROM pragma_freelist_count, pragma_page_size";
pub(crate) const PAGE_SIZE: &str = "SELECT page_size FROM pragma_page_size";
pub(crate) const AUTO_VACUUM: &str = "SELECT auto_vacuum FROM pragma_auto_vacuum";
pub(crate) const FREE_PAGES: &str = "SELECT freelist_count, page_count \
    FROM pragma_freelist_count, pragma_page_count";

/// All of the above: what a connection keeps prepared beside the words of a transaction.
pub(crate) const ALL: &[&str] = &[
    INSERT,
    INSERT_PLAIN,
    EXISTING,
    UPDATE_EXISTING,
    FILL_ORIGIN,
    CANDIDATES,
    CANDIDATES_OF_KEY,
    IS_SETTLED,
    NEXT_PRIORITY,
    SUSPECTS,
    ROWS_BEFORE,
    HAS_KEYED,
    NEXT_DUE_WALL,
    NEXT_DUE_BOOT,
    SEQ_OF_ID,
    NEWEST_SEQ,
    DATA_VERSION,
    CLAIM,
    CLAIM_SHRINK,
    CLAIM_END,
    CLAIMS_OF,
    CLAIMS_FOREIGN,
    SUSPECT_RANGE,
    BEGIN_ATTEMPT,
    PRODUCER_OF,
    PROCESSED,
    RETRY,
    DEAD,
    PENDING_BY_ID,
    SAVE_PRODUCER,
    PRODUCER,
    PRODUCERS,
    COUNT_ROWS,
    PENDING_OF_PRODUCERS,
    TRIM_PRODUCERS,
    TRIM_OUTCOMES,
    KEEP_OUTCOME,
    DROP_OUTCOMES,
    OUTCOMES,
    OUTCOME,
    ANY_OUTCOME,
    HOLD_KEY,
    FREE_KEY,
    HELD_KEYS,
    META,
    META_SET,
    META_CLEAR,
    TRIM_PROCESSED,
    TRIM_UNDATED,
    FREE_OLDEST,
    COUNT_ALL,
    USED_BYTES,
    FREE_BYTES,
    PAGE_SIZE,
    AUTO_VACUUM,
    FREE_PAGES,
];

pub(crate) const SYNC_COMMITS: &str = "PRAGMA synchronous = FULL";
pub(crate) const SYNC_LATER: &str = "PRAGMA synchronous = NORMAL";
pub(crate) const BEGIN: &str = "BEGIN IMMEDIATE";
pub(crate) const COMMIT: &str = "COMMIT";
pub(crate) const ROLLBACK: &str = "ROLLBACK";
pub(crate) const SAVEPOINT: &str = "SAVEPOINT request";
pub(crate) const RELEASE: &str = "RELEASE request";
pub(crate) const ROLLBACK_TO: &str = "ROLLBACK TO request";

/// Statements a connection keeps prepared: all of them, and the words of a transaction.
pub(crate) const CACHE_CAPACITY: usize = ALL.len() + upkeep::ALL.len() + WORDS.len();

const WORDS: &[&str] = &[BEGIN, COMMIT, ROLLBACK, SAVEPOINT, RELEASE, ROLLBACK_TO];

#[cfg(test)]
pub(crate) mod tests {
    use rusqlite::{Connection, params_from_iter};

    use super::*;

    pub(crate) fn fresh() -> Connection {
        let conn = Connection::open_in_memory().unwrap();
        crate::file::keep_statements(&conn).unwrap();
        crate::schema::migrate(&conn, 0).unwrap();
        conn
    }

    pub(crate) fn plan(conn: &Connection, statement: &str) -> Vec<String> {
        let mut explain = conn
            .prepare(&format!("EXPLAIN QUERY PLAN {statement}"))
            .unwrap();
        for index in 1..=explain.parameter_count() {
            explain.raw_bind_parameter(index, 1).unwrap();
        }
        let mut rows = explain.raw_query();
        let mut steps = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            steps.push(row.get("detail").unwrap());
        }
        steps
    }

    #[test]
    fn every_statement_prepares_on_a_fresh_file() {
        let conn = fresh();
        for statement in ALL.iter().chain(upkeep::ALL) {
            conn.prepare(statement)
                .unwrap_or_else(|error| panic!("{statement}: {error}"));
        }
        const { assert!(CACHE_CAPACITY >= ALL.len()) };
    }

    #[test]
    fn a_plain_row_is_the_one_that_has_every_column_at_its_default() {
        let conn = fresh();
        let own = ["t", "1", "7", "9", "p", "2", "3"];
        let plain: Vec<_> = ["plain"].into_iter().chain(own).map(Some).collect();
        let defaults = [
            None,
            None,
            Some("50"),
            None,
            None,
            None,
            Some("0"),
            Some("0"),
            None,
            None,
            Some("0"),
            None,
            None,
        ];
        let whole = ["whole"].into_iter().chain(own).map(Some).chain(defaults);
        conn.execute(INSERT_PLAIN, params_from_iter(plain)).unwrap();
        conn.execute(INSERT, params_from_iter(whole)).unwrap();
        let columns = conn.prepare("SELECT * FROM message_queue LIMIT 0").unwrap();
        let columns = columns.column_names().into_iter().map(str::to_owned);
        for column in
            columns.filter(|name| !["seq", "message_id", "created_at"].contains(&name.as_str()))
        {
            let values =
                format!("SELECT count(DISTINCT coalesce({column}, 'none')) FROM message_queue");
            let values: i64 = conn.query_row(&values, (), |row| row.get(0)).unwrap();
            assert_eq!(values, 1, "{column}");
        }
    }

    #[test]
    fn hot_statements_go_by_an_index_and_sort_nothing() {
        let conn = fresh();
        for (statement, index) in [
            (EXISTING, "sqlite_autoindex_message_queue_1"),
            (CANDIDATES, "INDEX message_ready (priority=? AND seq>?)"),
            (CANDIDATES_OF_KEY, "INDEX message_lane (key=?)"),
            (NEXT_PRIORITY, "INDEX message_ready (priority<?)"),
            (SUSPECTS, "INDEX message_suspect (seq>?)"),
            (ROWS_BEFORE, "INDEX message_lane (key=? AND seq<?)"),
            (HAS_KEYED, "INDEX message_lane"),
            (NEXT_DUE_WALL, "INDEX message_due (due_boot=? AND due_at>?)"),
            (NEXT_DUE_BOOT, "INDEX message_due (due_boot=? AND due_at>?)"),
            (SEQ_OF_ID, "sqlite_autoindex_message_queue_1"),
            (IS_SETTLED, "INTEGER PRIMARY KEY"),
            (BEGIN_ATTEMPT, "INTEGER PRIMARY KEY"),
            (PRODUCER_OF, "INTEGER PRIMARY KEY"),
            (PROCESSED, "INTEGER PRIMARY KEY"),
            (RETRY, "INTEGER PRIMARY KEY"),
            (DEAD, "INTEGER PRIMARY KEY"),
            (PENDING_BY_ID, "sqlite_autoindex_message_queue_1"),
            (OUTCOME, "PRIMARY KEY (producer=? AND sequence=?)"),
            (OUTCOMES, "PRIMARY KEY (producer=?)"),
            (
                DROP_OUTCOMES,
                "PRIMARY KEY (producer=? AND sequence>? AND sequence<?)",
            ),
            (TRIM_PROCESSED, "INDEX message_processed (processed_at<?)"),
            (FREE_OLDEST, "COVERING INDEX message_processed"),
            (TRIM_UNDATED, "INDEX message_processed (processed_at=?)"),
        ] {
            let steps = plan(&conn, statement).join(" | ");
            assert!(steps.contains(index), "{statement}\n{steps}");
            assert!(!steps.contains("TEMP B-TREE"), "{statement}\n{steps}");
        }
    }
}
