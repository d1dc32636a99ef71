//! Is it ours, which version is it, and the migrations that bring it up to date.
//!
//! `PRAGMA user_version` is 1000 · major + minor. A minor version adds columns with defaults, and
//! older programs go on with such a file; only a higher major version is refused.

use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use rusqlite::{Connection, OptionalExtension};
use serde::Serialize;
use spoolway_proto::QueueId;
use uuid::Uuid;

use crate::{QueueError, adopt, file, reader, sql};

/// The lowest SQLite with the fix for the WAL-reset bug (3.7.0 to 3.51.2): two connections that
/// write and checkpoint at once could damage the file.
pub(crate) const SQLITE_VERSION_MIN: (i32, &str) = (3_051_003, "3.51.3");

/// What `PRAGMA application_id` holds in our files: "Spoo".
pub(crate) const APPLICATION_ID: i64 = 0x5370_6f6f;

pub(crate) const META_IDENTITY: &str = "identity";
pub(crate) const META_OWNER: &str = "owner";
pub(crate) const META_CLEAN: &str = "clean_shutdown";

/// Only an empty file takes these, and they must come before anything is written.
pub(crate) const PAGES: &str =
    "PRAGMA page_size = 4096; PRAGMA auto_vacuum = INCREMENTAL; PRAGMA journal_mode = WAL;";

/// The version a migration brings the file to, its name, and its statements.
const MIGRATIONS: &[(i64, &str, &str)] = &[(
    1_000,
    "0001_queue",
    include_str!("../migrations/0001_queue.sql"),
)];

const MAJOR: i64 = 1_000;

/// Refuses a SQLite without the WAL-reset fix.
pub(crate) fn check_sqlite(number: i32, text: &str) -> Result<(), QueueError> {
    let (needed, needed_text) = SQLITE_VERSION_MIN;
    if number < needed {
        return Err(QueueError::SqliteTooOld {
            found: text.into(),
            needed: needed_text,
        });
    }
    Ok(())
}

/// What a database file turned out to hold.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing yet.
    Empty,
    /// A queue of ours, of that version.
    Ours(i64),
    /// A queue of ours of which this is wrong.
    Damaged(&'static str),
    /// A queue of FlowTrace's, to be adopted.
    FlowTrace,
    /// Something else, in words.
    Foreign(String),
}

/// Tables that only our files have together.
const OURS: [&str; 4] = ["claim", "message_queue", "meta", "producer"];

/// Looks without touching anything.
pub(crate) fn inspect(conn: &Connection) -> rusqlite::Result<Found> {
    let number = |pragma| conn.pragma_query_value(None, pragma, |row| row.get::<_, i64>(0));
    let version = number("user_version")?;
    let tables = tables(conn)?;
    if number("application_id")? == APPLICATION_ID {
        let whole = tables.iter().any(|name| name == "message_queue");
        return Ok(if whole && version > 0 {
            Found::Ours(version)
        } else {
            Found::Damaged("its tables or its version are gone")
        });
    }
    if OURS
        .iter()
        .all(|ours| tables.iter().any(|name| name == ours))
    {
        return Ok(Found::Damaged("its application_id is gone"));
    }
    if tables.is_empty() && version == 0 {
        return Ok(Found::Empty);
    }
    if tables.iter().any(|name| name == "message_queue") {
        return Ok(match adopt::recognise(conn)? {
            Ok(()) => Found::FlowTrace,
            Err(other) => Found::Foreign(other),
        });
    }
    let named = match tables.first() {
        Some(first) => format!("tables of another program, such as {first:?}"),
        None => format!("a database of another program (user_version {version})"),
    };
    Ok(Found::Foreign(named))
}

fn tables(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    conn.prepare(
        "SELECT name FROM sqlite_schema WHERE type IN ('table', 'view') \
         AND name NOT LIKE 'sqlite\\_%' ESCAPE '\\' ORDER BY name",
    )?
    .query_map((), |row| row.get(0))?
    .collect()
}

/// Makes the tables of an empty file, or brings those of ours up to date if `migrates`. What is
/// not ours or too new is refused untouched.
pub(crate) fn prepare(conn: &Connection, path: &Path, migrates: bool) -> Result<(), QueueError> {
    let failed = |error| QueueError::sql(path, error);
    let version = match inspect(conn).map_err(|error| unreadable(path, error))? {
        Found::Foreign(found) => {
            return Err(QueueError::NotOurs {
                path: path.into(),
                found,
            });
        }
        Found::Damaged(what) => {
            return Err(damaged(path, what));
        }
        Found::FlowTrace if migrates => {
            adopt::adopt(conn, path)?;
            return prepare(conn, path, migrates);
        }
        Found::FlowTrace => return Err(QueueError::NotAdopted { path: path.into() }),
        Found::Empty => {
            conn.execute_batch(PAGES).map_err(failed)?;
            0
        }
        Found::Ours(version) => version,
    };
    check_version(path, version)?;
    if version == 0 || (migrates && version < known()) {
        migrate(conn, version).map_err(failed)?;
    }
    Ok(())
}

/// The version that this program brings a file to.
pub(crate) fn known() -> i64 {
    MIGRATIONS.last().map_or(0, |&(version, ..)| version)
}

/// The major version: what decides whether a program can use a file.
pub(crate) fn major(version: i64) -> i64 {
    version / MAJOR
}

/// Which migrations a queue file has, and which it would get.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MigrationStatus {
    /// The version of the file, 1000 · major + minor; `None`: it is empty.
    pub file: Option<i64>,
    /// The version that this program brings a file to.
    pub program: i64,
    /// What the next consumer of this version would apply, in order; for an empty file whoever
    /// opens it.
    pub pending: Vec<&'static str>,
    /// Whether this program can use the file: its major version is not higher.
    pub usable: bool,
}

/// Says which migrations a queue file has. Reads only. Blocks.
///
/// # Errors
///
/// [`QueueError::NotOurs`], [`QueueError::NotAdopted`], [`QueueError::Corrupt`], or what reading the
/// file ran into.
pub fn migration_status(path: impl AsRef<Path>) -> Result<MigrationStatus, QueueError> {
    let path = file::resolve(path.as_ref())?;
    let found = reader::connect(&path).and_then(|conn| inspect(&conn));
    let version = match found.map_err(|error| QueueError::sql(&path, error))? {
        Found::Empty => None,
        Found::Ours(version) => Some(version),
        Found::Foreign(found) => return Err(QueueError::NotOurs { path, found }),
        Found::FlowTrace => return Err(QueueError::NotAdopted { path }),
        Found::Damaged(what) => return Err(damaged(&path, what)),
    };
    let newer = |&&(to, ..): &&(i64, &str, &str)| to > version.unwrap_or(0);
    Ok(MigrationStatus {
        file: version,
        program: known(),
        pending: MIGRATIONS
            .iter()
            .filter(newer)
            .map(|&(_, name, _)| name)
            .collect(),
        usable: major(version.unwrap_or(0)) <= major(known()),
    })
}

/// Refuses a higher major version.
pub(crate) fn check_version(path: &Path, version: i64) -> Result<(), QueueError> {
    match major(version) > major(known()) {
        true => Err(QueueError::TooNew {
            path: path.into(),
            found: major(version),
            known: major(known()),
        }),
        false => Ok(()),
    }
}

fn damaged(path: &Path, what: &'static str) -> QueueError {
    QueueError::Corrupt {
        path: path.into(),
        source: Arc::new(io::Error::other(what)),
    }
}

/// A file that cannot even be looked at is refused for what it is, whatever SQLite calls that.
pub(crate) fn unreadable(path: &Path, error: rusqlite::Error) -> QueueError {
    match QueueError::sql(path, error) {
        QueueError::Statement { path, source } => QueueError::Corrupt { path, source },
        other => other,
    }
}

/// Applies what is newer than `version`, each migration in a transaction of its own.
pub(crate) fn migrate(conn: &Connection, version: i64) -> rusqlite::Result<()> {
    for &(to, _, statements) in MIGRATIONS.iter().filter(|&&(to, ..)| to > version) {
        conn.execute_batch("BEGIN IMMEDIATE")?;
        // Another process may have done it while this one waited for the lock.
        let now: i64 = conn.pragma_query_value(None, "user_version", |row| row.get(0))?;
        let applied = if now >= to {
            Ok(())
        } else {
            apply(conn, to, statements)
        };
        let end = if applied.is_ok() {
            "COMMIT"
        } else {
            "ROLLBACK"
        };
        let ended = conn.execute_batch(end);
        applied.and(ended)?;
    }
    Ok(())
}

/// Makes all tables, inside a transaction of the caller.
pub(crate) fn build(conn: &Connection) -> rusqlite::Result<()> {
    MIGRATIONS
        .iter()
        .try_for_each(|&(to, _, statements)| apply(conn, to, statements))
}

fn apply(conn: &Connection, to: i64, statements: &str) -> rusqlite::Result<()> {
    conn.execute_batch(statements)?;
    conn.execute(
        "INSERT INTO meta (name, value) VALUES (?1, ?2) ON CONFLICT (name) DO NOTHING",
        (META_IDENTITY, Uuid::new_v4().to_string()),
    )?;
    conn.pragma_update(None, "user_version", to)
}

/// Gives a new file the identity of the one it replaces.
pub(crate) fn set_identity(conn: &Connection, identity: QueueId) -> rusqlite::Result<()> {
    let text = identity.to_string();
    conn.execute(sql::META_SET, [META_IDENTITY, &text])
        .map(drop)
}

/// The identity of the file.
pub(crate) fn identity(conn: &Connection) -> rusqlite::Result<QueueId> {
    let text: Option<String> = conn
        .prepare_cached(sql::META)?
        .query_row([META_IDENTITY], |row| row.get(0))
        .optional()?;
    text.and_then(|text| QueueId::from_str(&text).ok())
        .ok_or(rusqlite::Error::QueryReturnedNoRows)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path() -> &'static Path {
        Path::new("/q.db")
    }

    #[test]
    fn the_bundled_sqlite_has_the_fix_and_an_older_one_is_refused() {
        check_sqlite(rusqlite::version_number(), rusqlite::version()).unwrap();
        check_sqlite(3_051_003, "3.51.3").unwrap();
        let refused = check_sqlite(3_051_002, "3.51.2").unwrap_err();
        assert_eq!(refused.code(), "sqlite_too_old");
    }

    #[test]
    fn an_empty_file_becomes_ours_once() {
        let conn = Connection::open_in_memory().unwrap();
        assert_eq!(inspect(&conn).unwrap(), Found::Empty);
        prepare(&conn, path(), false).unwrap();
        assert_eq!(inspect(&conn).unwrap(), Found::Ours(1_000));
        let id = identity(&conn).unwrap();
        prepare(&conn, path(), true).unwrap();
        assert_eq!(identity(&conn).unwrap(), id);
    }

    #[test]
    fn a_higher_minor_is_fine_and_a_higher_major_is_refused() {
        let conn = Connection::open_in_memory().unwrap();
        prepare(&conn, path(), true).unwrap();
        conn.pragma_update(None, "user_version", 1_999).unwrap();
        prepare(&conn, path(), true).unwrap();
        conn.pragma_update(None, "user_version", 2_000).unwrap();
        match prepare(&conn, path(), true) {
            Err(QueueError::TooNew {
                found: 2, known: 1, ..
            }) => {}
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_not_ours_is_named_and_left_alone() {
        for (made, named) in [
            ("CREATE TABLE users (id)", "users"),
            ("CREATE VIEW v AS SELECT 1", "\"v\""),
            ("PRAGMA user_version = 7", "user_version 7"),
            (
                "CREATE TABLE message_queue (message_id TEXT PRIMARY KEY, type TEXT)",
                "FlowTrace",
            ),
            (
                "CREATE TABLE message_queue (id TEXT PRIMARY KEY)",
                "FlowTrace",
            ),
        ] {
            let conn = Connection::open_in_memory().unwrap();
            conn.execute_batch(made).unwrap();
            let before = tables(&conn).unwrap();
            match prepare(&conn, path(), true) {
                Err(QueueError::NotOurs { found, .. }) => {
                    assert!(found.contains(named), "{made}: {found}");
                }
                other => panic!("{made}: {other:?}"),
            }
            assert_eq!(tables(&conn).unwrap(), before);
        }
    }

    #[test]
    fn a_migration_that_fails_leaves_nothing_behind() {
        let conn = Connection::open_in_memory().unwrap();
        conn.execute_batch("CREATE TABLE claim (other)").unwrap();
        assert!(migrate(&conn, 0).is_err());
        assert_eq!(tables(&conn).unwrap(), ["claim"]);
        assert!(conn.is_autocommit());
    }
}
