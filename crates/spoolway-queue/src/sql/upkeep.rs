//! The statements of an operator: count, list and requeue dead letters, check, export, import.

/// Which settled rows are meant: the parameters 1 to 6 of every statement that takes a filter. Ids and types are
/// arrays of JSON; a row that another program settled without saying when is as old as it is in the file.
macro_rules! matches_filter {
    () => {
        "(?1 IS NULL OR message_id IN (SELECT value FROM json_each(?1))) \
         AND (?2 IS NULL OR EXISTS (SELECT 1 FROM json_each(?2) AS glob WHERE message_queue.type GLOB glob.value)) \
         AND (?3 IS NULL OR key = ?3) AND (?4 IS NULL OR dead_reason = ?4) \
         AND (?5 IS NULL OR coalesce(processed_at, CAST(created_at AS INTEGER)) >= ?5) \
         AND (?6 IS NULL OR coalesce(processed_at, CAST(created_at AS INTEGER)) <= ?6)"
    };
}

pub(crate) const COUNT_PENDING: &str =
    "SELECT count(*), min(seq) FROM message_queue WHERE processed = 0";
/// All that wait for their time, and of those the ones that are to be tried again.
pub(crate) const COUNT_DELAYED: &str = "SELECT count(*), count(due_boot) FROM message_queue \
    WHERE processed = 0 AND due_at IS NOT NULL \
    AND CASE WHEN due_boot IS NULL THEN due_at > ?1 WHEN due_boot = ?2 THEN due_at > ?3 ELSE 0 END";
pub(crate) const COUNT_PROCESSED: &str = "SELECT count(*) FROM message_queue WHERE processed = 1";
pub(crate) const COUNT_DEAD: &str = "SELECT count(*) FROM message_queue WHERE processed = 2";
pub(crate) const COUNT_DEAD_BY_REASON: &str = "SELECT coalesce(dead_reason, 'unknown') AS reason, count(*) AS letters \
    FROM message_queue WHERE processed = 2 GROUP BY dead_reason ORDER BY letters DESC, reason LIMIT ?1";
/// Told how to join: the planner would make an index over all rows for it.
pub(crate) const COUNT_CLAIMED: &str = "SELECT count(*) FROM claim CROSS JOIN message_queue AS m NOT INDEXED \
    ON m.seq BETWEEN claim.first_seq AND claim.last_seq WHERE m.processed = 0";
/// The lanes of stopped keys.
pub(crate) const COUNT_HELD: &str = "SELECT coalesce(sum((SELECT count(*) FROM message_queue AS m \
    WHERE m.processed = 0 AND m.delivery = 0 AND m.key IS NOT NULL AND m.key = held_key.key)), 0) FROM held_key";
/// Of those, the ones that are counted as claimed or as delayed.
pub(crate) const COUNT_HELD_CLAIMED: &str = "SELECT count(*) FROM claim CROSS JOIN message_queue AS m NOT INDEXED \
    ON m.seq BETWEEN claim.first_seq AND claim.last_seq JOIN held_key ON held_key.key = m.key \
    WHERE m.processed = 0 AND m.delivery = 0";
pub(crate) const COUNT_HELD_DELAYED: &str = "SELECT \
    (SELECT count(*) FROM message_queue AS m JOIN held_key ON held_key.key = m.key \
    WHERE m.processed = 0 AND m.due_at IS NOT NULL AND m.due_boot IS NULL AND m.due_at > ?1 AND m.delivery = 0) + \
    (SELECT count(*) FROM message_queue AS m JOIN held_key ON held_key.key = m.key \
    WHERE m.processed = 0 AND m.due_at IS NOT NULL AND m.due_boot = ?2 AND m.due_at > ?3 AND m.delivery = 0)";
/// Suspects that are not counted as anything else.
pub(crate) const COUNT_SUSPECT: &str = "SELECT count(*) FROM message_queue AS m WHERE m.processed = 0 AND m.suspect = 1 \
    AND NOT (m.due_at IS NOT NULL AND \
      CASE WHEN m.due_boot IS NULL THEN m.due_at > ?1 WHEN m.due_boot = ?2 THEN m.due_at > ?3 ELSE 0 END) \
    AND NOT (m.delivery = 0 AND m.key IS NOT NULL AND m.key IN (SELECT key FROM held_key)) \
    AND NOT EXISTS (SELECT 1 FROM claim WHERE m.seq BETWEEN first_seq AND last_seq)";
/// The most frequent among the first rows of the backlog: all of it would mean a look at each row.
pub(crate) const TOP_TYPES: &str = "SELECT type, count(*) AS messages FROM \
    (SELECT type FROM message_queue WHERE processed = 0 LIMIT ?1) GROUP BY type ORDER BY messages DESC, type LIMIT ?2";
pub(crate) const TOP_KEYS: &str = "SELECT key, count(*) AS messages FROM \
    (SELECT key FROM message_queue WHERE processed = 0 LIMIT ?1) WHERE key IS NOT NULL \
    GROUP BY key ORDER BY messages DESC, key LIMIT ?2";
/// Whether there are so many.
pub(crate) const COUNT_PENDING_UP_TO: &str = "SELECT count(*) FROM \
    (SELECT 1 FROM message_queue WHERE processed = 0 LIMIT ?1)";
pub(crate) const OLDEST_PENDING: &str = "SELECT created_at FROM message_queue WHERE seq = ?1";

/// Those that died last, first: sorted within the index, and only what is shown is read.
pub(crate) const DEAD_LETTERS: &str = concat!(
    "SELECT seq, message_id, type, key, dead_reason, last_error, attempts, delivery, timestamp, \
     first_attempt_at, last_attempt_at, processed_at, NULL, NULL FROM message_queue WHERE seq IN \
     (SELECT seq FROM message_queue INDEXED BY message_dead WHERE processed = 2 AND ",
    matches_filter!(),
    " ORDER BY processed_at DESC, seq DESC LIMIT ?7) ORDER BY processed_at DESC, seq DESC"
);
pub(crate) const COUNT_DEAD_LIKE: &str = concat!(
    "SELECT count(*) FROM message_queue INDEXED BY message_dead WHERE processed = 2 AND ",
    matches_filter!()
);
pub(crate) const DEAD_LETTER: &str = "SELECT seq, message_id, type, key, dead_reason, last_error, attempts, \
    delivery, timestamp, first_attempt_at, last_attempt_at, processed_at, payload, attributes \
    FROM message_queue WHERE message_id = ?1 AND processed = 2";
/// Each row once, whatever becomes of it meanwhile: the order is that of `seq`, which never changes. Rows that are
/// not meant are in it, so that a walk can be left anywhere.
pub(crate) const WALK_DEAD: &str = concat!(
    "SELECT seq, type, (",
    matches_filter!(),
    ") FROM message_queue INDEXED BY message_dead \
     WHERE processed = 2 AND seq > ?7 AND seq <= ?8 ORDER BY seq LIMIT ?9"
);
pub(crate) const WALK_PROCESSED: &str = concat!(
    "SELECT seq, type, (",
    matches_filter!(),
    ") FROM message_queue WHERE processed = 1 AND seq > ?7 AND seq <= ?8 ORDER BY seq LIMIT ?9"
);
/// The same where ids are named: nothing but their rows is looked at.
pub(crate) const WALK_IDS: &str = concat!(
    "SELECT seq, type, (",
    matches_filter!(),
    ") FROM message_queue WHERE message_id IN (SELECT value FROM json_each(?1)) \
     AND processed = ?10 AND +seq > ?7 AND +seq <= ?8 ORDER BY +seq LIMIT ?9"
);
/// Before it nothing was processed at that time or later.
pub(crate) const FIRST_PROCESSED_SINCE: &str = "SELECT min(seq) FROM \
    (SELECT seq FROM message_queue WHERE processed = 1 AND processed_at >= ?1 \
     UNION ALL SELECT seq FROM message_queue WHERE processed = 1 AND processed_at IS NULL)";
pub(crate) const STATE_OF: &str = "SELECT processed FROM message_queue WHERE seq = ?1";
/// Those that died first.
pub(crate) const OLDEST_DEAD: &str = "SELECT seq, coalesce(dead_reason, 'unknown') FROM message_queue INDEXED BY message_dead \
    WHERE processed = 2 ORDER BY processed_at, seq LIMIT ?1";
/// The row runs again, outside the lanes; what it has been through stays, for people.
pub(crate) const REQUEUE: &str = "UPDATE message_queue SET processed = 0, processed_at = NULL, attempts = 0, \
    delivery = delivery + 1, suspect = 0, due_at = NULL, due_boot = NULL, dead_reason = NULL \
    WHERE seq = ?1 AND processed = ?2 RETURNING producer";
/// Lets the key run that this letter has stopped.
pub(crate) const FREE_KEY_OF: &str = "DELETE FROM held_key WHERE key = (SELECT key FROM message_queue WHERE seq = ?1) \
    AND message_id = (SELECT message_id FROM message_queue WHERE seq = ?1)";
/// A producer that was forgotten meanwhile has made these rows all the same; and another program may have
/// settled rows without counting them.
pub(crate) const UNCOUNT_DEAD: &str = "INSERT INTO producer (producer, by_queue, since, updated_at) VALUES (?1, ?2, ?3, ?3) \
    ON CONFLICT (producer) DO UPDATE SET dead = max(dead - ?2, 0), updated_at = ?3";
pub(crate) const UNCOUNT_PROCESSED: &str = "INSERT INTO producer (producer, by_queue, since, updated_at) VALUES (?1, ?2, ?3, ?3) \
    ON CONFLICT (producer) DO UPDATE SET processed = max(processed - ?2, 0), updated_at = ?3";
pub(crate) const PURGE: &str = "DELETE FROM message_queue WHERE seq = ?1 AND processed = 2";

/// Where [`row::assemble`](crate::row::assemble) and its like look for them, then the rest.
pub(crate) const ROWS: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, priority, \
    attempts, delivery, suspect, producer, epoch, sequence, crc, processed, processed_at, created_at, due_at, \
    due_boot, first_attempt_at, last_attempt_at, last_error, dead_reason FROM message_queue \
    WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3";
pub(crate) const IMPORT: &str = "INSERT INTO message_queue \
    (message_id, type, payload, timestamp, attributes, key, priority, attempts, delivery, suspect, producer, \
     epoch, sequence, crc, processed, processed_at, created_at, due_at, due_boot, first_attempt_at, \
     last_attempt_at, last_error, dead_reason, expires_at) \
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ?15, ?16, \
     coalesce(?17, strftime('%s', 'now')), ?18, ?19, ?20, ?21, ?22, ?23, ?24) \
    ON CONFLICT (message_id) DO NOTHING";
/// What was moved away is gone from here only if it is still what was read.
pub(crate) const MOVED: &str =
    "DELETE FROM message_queue WHERE seq = ?1 AND message_id = ?2 AND processed = ?3";
pub(crate) const COUNT_MOVED: &str = "UPDATE producer SET processed = processed + ?2, updated_at = ?3 \
    WHERE producer = ?1";

pub(crate) const CLAIMS: &str =
    "SELECT instance, count(*), min(first_seq) FROM claim GROUP BY instance";
pub(crate) const EMPTY_CLAIMS: &str = "SELECT count(*) FROM claim WHERE NOT EXISTS \
    (SELECT 1 FROM message_queue NOT INDEXED WHERE seq BETWEEN first_seq AND last_seq AND processed = 0)";
pub(crate) const UNKNOWN_STATES: &str = "SELECT count(*), min(seq) FROM message_queue \
    WHERE processed IS NULL OR processed NOT IN (0, 1, 2)";
pub(crate) const OBJECTS: &str = "SELECT type, name, sql FROM sqlite_schema \
    WHERE type IN ('table', 'index') AND sql IS NOT NULL ORDER BY name";

/// All of the above.
pub(crate) const ALL: &[&str] = &[
    COUNT_PENDING,
    COUNT_DELAYED,
    COUNT_PROCESSED,
    COUNT_DEAD,
    COUNT_DEAD_BY_REASON,
    COUNT_CLAIMED,
    COUNT_HELD,
    COUNT_HELD_CLAIMED,
    COUNT_HELD_DELAYED,
    COUNT_SUSPECT,
    TOP_TYPES,
    TOP_KEYS,
    COUNT_PENDING_UP_TO,
    OLDEST_PENDING,
    DEAD_LETTERS,
    COUNT_DEAD_LIKE,
    DEAD_LETTER,
    WALK_DEAD,
    WALK_PROCESSED,
    WALK_IDS,
    FIRST_PROCESSED_SINCE,
    STATE_OF,
    OLDEST_DEAD,
    REQUEUE,
    FREE_KEY_OF,
    UNCOUNT_DEAD,
    UNCOUNT_PROCESSED,
    PURGE,
    ROWS,
    IMPORT,
    MOVED,
    COUNT_MOVED,
    CLAIMS,
    EMPTY_CLAIMS,
    UNKNOWN_STATES,
    OBJECTS,
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::tests::{fresh, plan};

    #[test]
    fn no_count_looks_at_every_row() {
        let conn = fresh();
        for (statement, index) in [
            (COUNT_PENDING, "COVERING INDEX message_ready"),
            (COUNT_DELAYED, "COVERING INDEX message_due"),
            (COUNT_PROCESSED, "COVERING INDEX message_processed"),
            (COUNT_DEAD, "COVERING INDEX message_dead"),
            (COUNT_DEAD_BY_REASON, "COVERING INDEX message_dead"),
            (COUNT_CLAIMED, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
            (COUNT_HELD, "INDEX message_lane (key=?)"),
            (
                COUNT_HELD_CLAIMED,
                "INTEGER PRIMARY KEY (rowid>? AND rowid<?)",
            ),
            (
                COUNT_HELD_DELAYED,
                "INDEX message_due (due_boot=? AND due_at>?)",
            ),
            (COUNT_SUSPECT, "INDEX message_suspect"),
            (TOP_TYPES, "INDEX message_ready"),
            (COUNT_PENDING_UP_TO, "COVERING INDEX message_"),
            (DEAD_LETTERS, "INDEX message_dead"),
            (DEAD_LETTER, "sqlite_autoindex_message_queue_1"),
            (WALK_DEAD, "INDEX message_dead (seq>? AND seq<?)"),
            (WALK_PROCESSED, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
            (WALK_IDS, "sqlite_autoindex_message_queue_1 (message_id=?)"),
            (
                FIRST_PROCESSED_SINCE,
                "COVERING INDEX message_processed (processed_at>?)",
            ),
            (STATE_OF, "INTEGER PRIMARY KEY (rowid=?)"),
            (OLDEST_DEAD, "COVERING INDEX message_dead"),
            (REQUEUE, "INTEGER PRIMARY KEY (rowid=?)"),
            (FREE_KEY_OF, "held_key USING PRIMARY KEY (key=?)"),
            (PURGE, "INTEGER PRIMARY KEY (rowid=?)"),
            (ROWS, "INTEGER PRIMARY KEY (rowid>? AND rowid<?)"),
            (MOVED, "INTEGER PRIMARY KEY (rowid=?)"),
        ] {
            let steps = plan(&conn, statement).join(" | ");
            assert!(steps.contains(index), "{statement}\n{steps}");
        }
    }

    #[test]
    fn a_walk_sorts_nothing() {
        let conn = fresh();
        for statement in [WALK_DEAD, WALK_PROCESSED, ROWS] {
            let steps = plan(&conn, statement).join(" | ");
            assert!(!steps.contains("TEMP B-TREE"), "{statement}\n{steps}");
        }
    }
}
