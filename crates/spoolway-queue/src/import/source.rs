//! Where messages are imported from: a table in another database, how to read it, and how to delete
//! from it.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, params};

use super::{BATCH_BYTES_MAX, BATCH_ROWS, Fate, ImportEvent, Imported, Take};
use crate::clock::Now;
use crate::lock::side_file;
use crate::parcel::{Parcel, State, parcel};
use crate::schema::{self, Found};
use crate::sql::{self, upkeep, user};
use crate::table::Table;
use crate::{ConsumerLock, QueueError, SqliteQueue, file};

/// How long a page waits for another writer of the file it comes from.
const BUSY_WAIT: Duration = Duration::from_secs(10);

/// Where messages come from: a table, how to read it, and how to delete from it.
pub(super) struct Source {
    path: PathBuf,
    conn: Connection,
    take: Take,
    rows: String,
    moved: String,
    /// It counts its rows by producer, as our files do.
    counts: bool,
    // Held: nobody else settles what is moved.
    _lock: Option<ConsumerLock>,
}

impl Source {
    /// What there is to import in a database.
    pub(super) fn find(path: &Path, take: Take) -> Result<Vec<Self>, QueueError> {
        let conn = connect(path, take)?;
        let failed = |error| QueueError::sql(path, error);
        match schema::inspect(&conn).map_err(failed)? {
            Found::Ours(version) => {
                schema::check_version(path, version)?;
                return Ok(vec![Self::ours(path, conn, take)?]);
            }
            Found::Empty => return Ok(Vec::new()),
            Found::Foreign(_) | Found::FlowTrace | Found::Damaged(_) => {}
        }
        let names: Vec<String> = conn
            .prepare(user::TABLES)
            .and_then(|mut tables| tables.query_map((), |row| row.get(0))?.collect())
            .map_err(failed)?;
        let mut sources = Vec::new();
        for name in names {
            let Ok(table) = Table::new(&name) else {
                continue;
            };
            let shape = if table.check(&conn, user::OUTBOX_COLUMNS).is_ok() {
                (user::OUTBOX_ROWS, user::OUTBOX_MOVED)
            } else if name == "message_queue" && table.check(&conn, user::FLOWTRACE_COLUMNS).is_ok()
            {
                (user::FLOWTRACE_ROWS, user::FLOWTRACE_MOVED)
            } else {
                continue;
            };
            let lock = match take {
                Take::Copy => None,
                Take::Move => {
                    let lock = side_file(path, &format!(".{name}.lock"));
                    Some(ConsumerLock::acquire(&lock)?)
                }
            };
            sources.push(Self {
                path: path.into(),
                conn: connect(path, take)?,
                take,
                rows: table.sql(shape.0),
                moved: table.sql(shape.1),
                counts: false,
                _lock: lock,
            });
        }
        if sources.is_empty() {
            return Err(QueueError::NotOurs {
                path: path.into(),
                found: "neither messages nor an outbox".into(),
            });
        }
        Ok(sources)
    }

    fn ours(path: &Path, conn: Connection, take: Take) -> Result<Self, QueueError> {
        let lock = match take {
            Take::Copy => None,
            Take::Move => Some(ConsumerLock::acquire(&side_file(path, ".lock"))?),
        };
        let source = Self {
            path: path.into(),
            conn,
            take,
            rows: upkeep::ROWS.into(),
            moved: upkeep::MOVED.into(),
            counts: true,
            _lock: lock,
        };
        if take == Take::Move {
            source
                .take_claims()
                .map_err(|error| QueueError::sql(path, error))?;
        }
        Ok(source)
    }

    /// What a consumer held that is gone are suspects, as for its successor.
    fn take_claims(&self) -> rusqlite::Result<()> {
        self.conn.execute_batch(sql::BEGIN)?;
        let claims: Vec<(i64, i64, i64)> = self
            .conn
            .prepare(sql::CLAIMS_FOREIGN)?
            .query_map([""], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?
            .collect::<Result<_, _>>()?;
        for (id, first, last) in claims {
            self.conn.execute(sql::SUSPECT_RANGE, [first, last])?;
            self.conn.execute(sql::CLAIM_END, [id])?;
        }
        self.conn.execute_batch(sql::COMMIT)
    }

    /// Imports all of it, page by page.
    pub(super) fn drain(
        &self,
        into: &SqliteQueue,
        imported: &mut Imported,
        on: &mut dyn FnMut(ImportEvent),
    ) -> Result<(), QueueError> {
        let failed = |error| QueueError::sql(&self.path, error);
        let mut after = i64::MIN;
        loop {
            let moves = self.take == Take::Move;
            if moves {
                self.conn.execute_batch(sql::BEGIN).map_err(failed)?;
            }
            let (batch, next) = self.page(into, after, imported, on).map_err(failed)?;
            let batch: Arc<[_]> = batch.into();
            let fates = into.put(Arc::clone(&batch), imported, on)?;
            if moves {
                imported.moved += self.delete(&batch, &fates).map_err(failed)?;
                self.conn.execute_batch(sql::COMMIT).map_err(failed)?;
            }
            match next {
                None => return Ok(()),
                Some(seq) => after = seq,
            }
        }
    }

    #[expect(
        clippy::type_complexity,
        reason = "a batch, and where the next one starts"
    )]
    fn page(
        &self,
        into: &SqliteQueue,
        after: i64,
        imported: &mut Imported,
        on: &mut dyn FnMut(ImportEvent),
    ) -> rusqlite::Result<(Vec<(u64, Parcel)>, Option<i64>)> {
        let limits = &into.options().limits;
        let mut statement = self.conn.prepare_cached(&self.rows)?;
        let limit = i64::try_from(BATCH_ROWS).unwrap_or(i64::MAX);
        let mut rows = statement.query(params![after, i64::MAX, limit])?;
        let (mut batch, mut next, mut bytes) = (Vec::new(), None, 0);
        while let Some(row) = rows.next()? {
            let seq: i64 = row.get(0)?;
            next = Some(seq);
            match parcel(row, limits)? {
                Ok(parcel) => {
                    bytes += parcel.message.size();
                    batch.push((seq.unsigned_abs(), parcel));
                }
                Err(why) => {
                    imported.refused += 1;
                    let at = seq.unsigned_abs();
                    on(ImportEvent::Refused { at, why });
                }
            }
            if bytes > BATCH_BYTES_MAX {
                break;
            }
        }
        Ok((batch, next))
    }

    /// Deletes what is safe over there; what it has become here since is not what was read.
    fn delete(&self, batch: &[(u64, Parcel)], fates: &[Fate]) -> rusqlite::Result<u64> {
        let mut statement = self.conn.prepare_cached(&self.moved)?;
        let mut moved = 0;
        for ((seq, parcel), fate) in batch.iter().zip(fates) {
            if *fate == Fate::Conflict {
                continue;
            }
            let id = parcel.message.id.as_str();
            let values = params![seq.cast_signed(), id, parcel.state.number()];
            let gone = statement.execute(values)? as u64;
            moved += gone;
            let counted = self.counts && gone > 0 && parcel.state == State::Pending;
            if let (true, Some(producer)) = (counted, &parcel.columns.producer) {
                let values = params![producer, 1, Now::read().wall_ms];
                self.conn
                    .prepare_cached(upkeep::COUNT_MOVED)?
                    .execute(values)?;
            }
        }
        Ok(moved)
    }
}

fn connect(path: &Path, take: Take) -> Result<Connection, QueueError> {
    let flags = match take {
        Take::Copy => OpenFlags::SQLITE_OPEN_READ_ONLY,
        Take::Move => OpenFlags::SQLITE_OPEN_READ_WRITE,
    };
    let open = || {
        let conn = Connection::open_with_flags(path, flags | file::COMMON_FLAGS)?;
        conn.busy_timeout(BUSY_WAIT)?;
        conn.execute_batch("PRAGMA trusted_schema = OFF; PRAGMA mmap_size = 0;")?;
        Ok(conn)
    };
    open().map_err(|error| QueueError::sql(path, error))
}
