//! A queue file that FlowTrace made: recognised by its one table, rebuilt into ours in one transaction.
//!
//! Its programs go on with the file, also while it is rebuilt: they name the columns that they insert and read, and
//! ours has each of them with the same meaning. Nothing is adopted that is not exactly theirs.

use std::path::Path;

use rusqlite::Connection;

use crate::sql::{self, rebuild};
use crate::{QueueError, schema};

/// The columns of FlowTrace's table, in its order.
const COLUMNS: [&str; 7] = [
    "message_id",
    "type",
    "payload",
    "timestamp",
    "processed",
    "processed_at",
    "created_at",
];

/// Whether a `message_queue` that is not ours is FlowTrace's; else what keeps it from being adopted.
pub(crate) fn recognise(conn: &Connection) -> rusqlite::Result<Result<(), String>> {
    let mut others = conn.prepare(rebuild::BESIDE_FLOWTRACE)?;
    let mut others = others.query(())?;
    if let Some(other) = others.next()? {
        let (kind, name): (String, String) = (other.get(0)?, other.get(1)?);
        let what = format!("a FlowTrace queue and a {kind} of another program, {name:?}");
        return Ok(Err(what));
    }
    let mut keys = Vec::new();
    let mut found = Vec::new();
    let mut columns = conn.prepare(rebuild::COLUMNS)?;
    let mut columns = columns.query(())?;
    while let Some(column) = columns.next()? {
        let name: String = column.get(0)?;
        if column.get::<_, i64>(1)? > 0 {
            keys.push(name.clone());
        }
        found.push(name);
    }
    let odd = found
        .iter()
        .find(|name| !COLUMNS.contains(&name.as_str()))
        .map(|name| format!("with a column {name:?}"));
    let missing = COLUMNS
        .iter()
        .find(|name| !found.iter().any(|found| found == *name))
        .map(|name| format!("without a column {name:?}"));
    let version: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let without_rowid: bool = conn.query_row(rebuild::IS_WITHOUT_ROWID, (), |row| row.get(0))?;
    let wrong = odd
        .or(missing)
        .or_else(|| (keys != ["message_id"]).then(|| "with another primary key".into()))
        .or_else(|| without_rowid.then(|| "without row numbers".into()))
        .or_else(|| (version != 0).then(|| format!("with user_version {version}")));
    Ok(match wrong {
        Some(wrong) => Err(format!(
            "a table message_queue that is not FlowTrace's: {wrong}"
        )),
        None => Ok(()),
    })
}

/// Rebuilds the table, in one transaction: killed at any moment, the file is as it was or adopted.
///
/// The order is that of `rowid`. FlowTrace's indexes go: ours serve its statements too. Ids that are NULL, which its
/// primary key allows, get one.
pub(crate) fn adopt(conn: &Connection, path: &Path) -> Result<(), QueueError> {
    let failed = |error| QueueError::sql(path, error);
    conn.execute_batch(sql::BEGIN).map_err(failed)?;
    match rebuild(conn) {
        Ok(rows) => {
            conn.execute_batch(sql::COMMIT).map_err(failed)?;
            let Some(rows) = rows else { return Ok(()) };
            tracing::info!(
                queue = %path.display(), rows,
                "adopted a FlowTrace queue; its programs can go on with it, and its file keeps the space of deleted \
                 rows for new ones (auto_vacuum is none)"
            );
            Ok(())
        }
        Err(error) => {
            // Where this fails too, closing the connection does it.
            let _ = conn.execute_batch(sql::ROLLBACK);
            Err(failed(error))
        }
    }
}

/// How many rows were taken over; `None`: another process has done it.
fn rebuild(conn: &Connection) -> rusqlite::Result<Option<usize>> {
    // Another process may have done it, or changed it, while this one waited for the lock.
    match schema::inspect(conn)? {
        schema::Found::FlowTrace => {}
        _ => return Ok(None),
    }
    let indexes: Vec<String> = conn
        .prepare(rebuild::INDEXES)?
        .query_map((), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    for index in indexes {
        let quoted = index.replace('"', "\"\"");
        conn.execute_batch(&format!("DROP INDEX \"{quoted}\""))?;
    }
    conn.execute_batch(rebuild::SET_ASIDE)?;
    schema::build(conn)?;
    let rows = conn.execute(rebuild::TAKE_OVER, ())?;
    reached("copied");
    conn.execute_batch(rebuild::DROP_OLD)?;
    Ok(Some(rows))
}

/// A step at which tests kill the process.
fn reached(_step: &str) {
    #[cfg(test)]
    crate::killed::at(_step);
}

#[cfg(test)]
mod tests;
