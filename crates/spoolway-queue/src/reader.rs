//! Connections that only read.

use std::path::Path;
use std::time::Duration;

use r2d2_sqlite::SqliteConnectionManager;
use rusqlite::{Connection, OpenFlags};

use crate::file::COMMON_FLAGS;

/// Readers kept by the pool: a poll, a lookup, statistics and one to spare.
const READERS_MAX: u32 = 4;

/// How a reader leaves the file.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reader {
    /// As it is.
    BesideWriter,
    /// As the writer left it, without the log that reading needs.
    Alone,
}

/// A pool of connections that only read, opened when first needed.
pub(crate) fn pool(path: &Path, reader: Reader) -> r2d2::Pool<SqliteConnectionManager> {
    let access = match reader {
        Reader::BesideWriter => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Reader::Alone => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    let manager = SqliteConnectionManager::file(path)
        .with_flags(access | COMMON_FLAGS)
        .with_init(init);
    r2d2::Pool::builder()
        .max_size(READERS_MAX)
        .min_idle(Some(0))
        .test_on_check_out(false)
        // Nothing to look after, so nothing that keeps the threads of a pool that is gone.
        .idle_timeout(None)
        .max_lifetime(None)
        .connection_timeout(Duration::from_secs(10))
        .error_handler(Box::new(r2d2::NopErrorHandler))
        .build_unchecked(manager)
}

/// A connection that only reads.
pub(crate) fn connect(path: &Path) -> rusqlite::Result<Connection> {
    let mut conn =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | COMMON_FLAGS)?;
    init(&mut conn)?;
    Ok(conn)
}

fn init(conn: &mut Connection) -> rusqlite::Result<()> {
    // Readers meet a lock only while a WAL is recovered or started again.
    conn.busy_timeout(Duration::from_secs(5))?;
    conn.execute_batch(
        "PRAGMA query_only = ON; PRAGMA mmap_size = 0; PRAGMA trusted_schema = OFF; \
         PRAGMA temp_store = MEMORY;",
    )?;
    crate::file::keep_statements(conn)
}
