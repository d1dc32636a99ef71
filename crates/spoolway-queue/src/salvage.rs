//! What can still be read of a file that was set aside, copied into the one in its place.
//!
//! By `seq` from both ends: `SELECT` walks from the first row up to the first page it cannot read, then from the last
//! one down, and what lies between is cut in halves and tried again, a bounded number of times. Rows keep their number
//! and their state. A row that is not what its CRC says becomes a dead letter `corrupt`.
//!
//! How far it came is committed with the rows, so that a kill repeats nothing. The consumer reads nothing of the new
//! file before it is done, so the order of a key is kept; only where the rows find no room does it go on without them.

use std::collections::VecDeque;
use std::fs;
use std::path::{Path, PathBuf};

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{Connection, ErrorCode, OptionalExtension, Row, ToSql, params, params_from_iter};
use serde::{Deserialize, Serialize};
use spoolway_proto::{Message, MessageId, Payload};

use crate::QueueError;
use crate::clock::Now;
use crate::lock::side_file;
use crate::quarantine::{linked, reached, source};
use crate::sql::{self, rebuild};

/// The link that is there until everything is copied.
pub(crate) const LINK: &str = ".salvage";

/// The name under which the progress is remembered in the new file.
const META: &str = "salvage";

/// Rows in one transaction: other writers wait for it.
const ROWS_MAX: usize = 1_000;

/// Reads that may fail before the rest is given up: each costs some tens of microseconds.
const FAILURES_MAX: u32 = 4_096;

/// The larger half of a range that is longer than twice this waits.
const PART_MAX: i64 = 1 << 20;

/// Numbers of rows to come start here where nothing is known of the old ones.
const SEQ_UNKNOWN: i64 = 1 << 40;

/// What was done, and what is left to do: the rows between these numbers.
#[derive(Debug, Default, Deserialize, Serialize)]
struct Progress {
    /// The name of the file.
    file: String,
    ranges: VecDeque<(i64, i64)>,
    pending: u64,
    processed: u64,
    dead: u64,
    /// Of the dead ones: those that were damaged.
    corrupt: u64,
    /// Reads that failed.
    failures: u32,
}

/// A file that was set aside and not copied to its end.
pub(crate) struct Salvage {
    target: PathBuf,
    link: PathBuf,
}

impl Salvage {
    /// The one that waits beside the queue file at `path`.
    pub(crate) fn waiting(path: &Path) -> Option<Self> {
        linked(path, LINK).map(|target| Self {
            target,
            link: side_file(path, LINK),
        })
    }

    /// Copies what can be read. After an error it goes on where it was.
    pub(crate) fn run(&self, conn: &Connection, path: &Path) -> Result<(), QueueError> {
        let progress = self
            .copy(conn)
            .map_err(|error| QueueError::sql(path, error))?;
        reached("copied");
        fs::remove_file(&self.link).map_err(|error| QueueError::io(&self.link, error))?;
        let Progress {
            pending,
            processed,
            dead,
            corrupt,
            failures,
            ..
        } = progress;
        tracing::warn!(
            queue = %path.display(), file = %self.target.display(),
            pending, processed, dead, corrupt, failed_reads = failures,
            "saved {} messages of the damaged queue file, which stays where it is",
            pending + processed + dead
        );
        Ok(())
    }

    fn copy(&self, conn: &Connection) -> rusqlite::Result<Progress> {
        let mut progress = self.progress(conn)?;
        let Ok(old) = source(&self.target) else {
            progress.failures += 1;
            return Ok(progress);
        };
        let Some(columns) = Columns::shared(conn, &old)? else {
            progress.failures += 1;
            return Ok(progress);
        };
        while let Some(&(low, high)) = progress.ranges.front() {
            let left = columns.copy(conn, &old, (low, high), &mut progress)?;
            progress.ranges.pop_front();
            progress.ranges.extend(left);
            save(conn, &progress)?;
        }
        Ok(progress)
    }

    fn name(&self) -> String {
        let name = self.target.file_name().unwrap_or_default();
        name.to_string_lossy().into_owned()
    }

    fn progress(&self, conn: &Connection) -> rusqlite::Result<Progress> {
        let text: Option<String> = conn
            .query_row(sql::META, [META], |row| row.get(0))
            .optional()?;
        let known: Option<Progress> = text.and_then(|text| serde_json::from_str(&text).ok());
        Ok(known
            .filter(|known| known.file == self.name())
            .unwrap_or_else(|| Progress {
                file: self.name(),
                ranges: [(0, i64::MAX)].into(),
                ..Progress::default()
            }))
    }
}

fn save(conn: &Connection, progress: &Progress) -> rusqlite::Result<()> {
    let text = serde_json::to_string(progress).unwrap_or_default();
    conn.execute(sql::META_SET, [META, &text]).map(drop)
}

/// The columns that both files have.
struct Columns {
    names: Vec<String>,
    at: At,
    insert: String,
}

/// Where the columns are that decide something.
struct At {
    id: usize,
    kind: usize,
    payload: usize,
    processed: usize,
    processed_at: usize,
    crc: Option<usize>,
    reason: Option<usize>,
    error: Option<usize>,
    producer: Option<usize>,
}

#[derive(Clone, Copy)]
enum From {
    Front,
    Back,
}

/// How a walk through the rows ended.
enum Walked {
    ToTheEnd,
    /// At a page that cannot be read, after this number.
    Stuck(i64),
}

impl Columns {
    /// `None`: the old file does not even say what it holds.
    fn shared(conn: &Connection, old: &Connection) -> rusqlite::Result<Option<Self>> {
        let Ok(theirs) = names(old) else {
            return Ok(None);
        };
        let names: Vec<String> = names(conn)?
            .into_iter()
            .filter(|name| name != "seq" && theirs.contains(name))
            .collect();
        let at = |name: &str| names.iter().position(|found| found == name);
        let (Some(id), Some(kind), Some(payload), Some(processed), Some(processed_at)) = (
            at("message_id"),
            at("type"),
            at("payload"),
            at("processed"),
            at("processed_at"),
        ) else {
            return Ok(None);
        };
        let at = At {
            id,
            kind,
            payload,
            processed,
            processed_at,
            crc: at("crc"),
            reason: at("dead_reason"),
            error: at("last_error"),
            producer: at("producer"),
        };
        let insert = rebuild::insert(&names);
        Ok(Some(Self { names, at, insert }))
    }

    /// Copies what can be read between two numbers; what is left to be tried again.
    fn copy(
        &self,
        conn: &Connection,
        old: &Connection,
        (low, high): (i64, i64),
        progress: &mut Progress,
    ) -> rusqlite::Result<Vec<(i64, i64)>> {
        let low = match self.walk(conn, old, From::Front, (low, high), progress)? {
            Walked::ToTheEnd => return Ok(Vec::new()),
            Walked::Stuck(low) => low,
        };
        let high = match self.walk(conn, old, From::Back, (low, high), progress)? {
            Walked::ToTheEnd => return Ok(Vec::new()),
            Walked::Stuck(high) => high,
        };
        // Nothing is above what was ever given.
        let high = high.min(newest(conn)?.saturating_add(1));
        if high <= low.saturating_add(2) || progress.failures >= FAILURES_MAX {
            return Ok(Vec::new());
        }
        let half = ((high - low) / 2).min(PART_MAX);
        let middle = low + half;
        Ok(vec![(low, middle + 1), (middle, high)])
    }

    /// Copies from one end of a range to the other, or to the first place that cannot be read.
    fn walk(
        &self,
        conn: &Connection,
        old: &Connection,
        from: From,
        (mut low, mut high): (i64, i64),
        progress: &mut Progress,
    ) -> rusqlite::Result<Walked> {
        loop {
            let write = conn.unchecked_transaction()?;
            let mut read = 0;
            let ended = self.page(old, from, (low, high), |row| {
                let seq: i64 = row.get(0)?;
                self.insert(&write, row, seq, progress)?;
                match from {
                    From::Front => low = seq,
                    From::Back => high = seq,
                }
                read += 1;
                Ok(())
            })?;
            if let Some(range) = progress.ranges.front_mut() {
                *range = (low, high);
            }
            if !ended {
                progress.failures += 1;
            }
            save(&write, progress)?;
            write.commit()?;
            reached("some copied");
            if !ended {
                return Ok(Walked::Stuck(match from {
                    From::Front => low,
                    From::Back => high,
                }));
            }
            if read < ROWS_MAX {
                return Ok(Walked::ToTheEnd);
            }
        }
    }

    /// Whether all rows of the page could be read.
    fn page(
        &self,
        old: &Connection,
        from: From,
        (low, high): (i64, i64),
        mut each: impl FnMut(&Row<'_>) -> rusqlite::Result<()>,
    ) -> rusqlite::Result<bool> {
        let select = rebuild::select(&self.names, matches!(from, From::Back));
        let mut statement = match old.prepare_cached(&select) {
            Err(error) if is_damage(&error) => return Ok(false),
            other => other?,
        };
        let limit = i64::try_from(ROWS_MAX).unwrap_or(i64::MAX);
        let mut rows = statement.query([low, high, limit])?;
        loop {
            match rows.next() {
                Ok(Some(row)) => each(row)?,
                Ok(None) => return Ok(true),
                Err(error) if is_damage(&error) => return Ok(false),
                Err(error) => return Err(error),
            }
        }
    }

    /// Inserts a row of the old file, unless its id is there: it was copied, or written again, already.
    fn insert(
        &self,
        conn: &Connection,
        row: &Row<'_>,
        seq: i64,
        progress: &mut Progress,
    ) -> rusqlite::Result<()> {
        let now = Now::read();
        let mut values = Vec::with_capacity(self.names.len() + 1);
        values.push(ToSqlOutput::Borrowed(ValueRef::Integer(seq)));
        for index in 1..=self.names.len() {
            values.push(ToSqlOutput::Borrowed(row.get_ref(index)?));
        }
        let wrong = self.wrong(row)?;
        let processed = row.get_ref(1 + self.at.processed)?;
        let state = match (processed, &wrong) {
            (ValueRef::Integer(1), _) => 1,
            (ValueRef::Integer(2), _) | (_, Some(_)) => 2,
            _ => 0,
        };
        let buried = state == 2 && !matches!(processed, ValueRef::Integer(2));
        if let (true, Some(wrong)) = (buried, &wrong) {
            values[1 + self.at.processed] = 2.into();
            values[1 + self.at.processed_at] = now.wall_s().into();
            if let Some(index) = self.at.reason {
                values[1 + index] = "corrupt".into();
            }
            if let Some(index) = self.at.error {
                values[1 + index] = wrong.as_str().into();
            }
        }
        let mut insert = conn.prepare_cached(&self.insert)?;
        if insert.execute(params_from_iter(&values))? == 0 {
            if self.is_there(conn, &values[1 + self.at.id])? {
                return Ok(());
            }
            // The number is taken: the new file was made by another program.
            values[0] = ToSqlOutput::Borrowed(ValueRef::Null);
            if insert.execute(params_from_iter(&values))? == 0 {
                // Not even the columns that every row needs: nothing of it can run.
                let kept = params![
                    format!("corrupt-{seq}"),
                    values[1 + self.at.kind],
                    values[1 + self.at.payload],
                    now.wall_s(),
                ];
                conn.execute(rebuild::BURY, kept)?;
                progress.dead += 1;
                progress.corrupt += 1;
                return Ok(());
            }
        }
        if let (true, Some(Ok(producer))) = (
            buried,
            self.at
                .producer
                .map(|index| row.get::<_, String>(1 + index)),
        ) {
            let dead = params![producer, 0, 0, 0, 1, now.wall_ms];
            conn.execute(sql::COUNT_ROWS, dead)?;
        }
        progress.corrupt += u64::from(buried);
        match state {
            0 => progress.pending += 1,
            1 => progress.processed += 1,
            _ => progress.dead += 1,
        }
        Ok(())
    }

    fn is_there(&self, conn: &Connection, id: &dyn ToSql) -> rusqlite::Result<bool> {
        conn.prepare_cached(sql::EXISTING)?.exists([id])
    }

    /// What is wrong with a row, if anything can be seen to be.
    fn wrong(&self, row: &Row<'_>) -> rusqlite::Result<Option<String>> {
        let crc = match self.at.crc.map(|index| row.get_ref(1 + index)) {
            Some(Ok(ValueRef::Integer(crc))) => crc,
            Some(Ok(ValueRef::Null)) | None => return Ok(None),
            Some(other) => return Ok(Some(format!("its CRC is {}", other?.data_type()))),
        };
        let text = |index: usize| row.get::<_, String>(1 + index).ok();
        let found = || {
            let id = MessageId::new(text(self.at.id)?).ok()?;
            let payload = Payload::from_trusted_json(text(self.at.payload)?);
            let message = Message::with_payload(text(self.at.kind)?, payload).id(&id);
            Some(message.crc())
        };
        Ok(match found() {
            Some(found) if i64::from(found) == crc => None,
            Some(found) => Some(format!(
                "its CRC is {crc:08x}, that of its content {found:08x}"
            )),
            None => Some("its id, type or payload is not text".into()),
        })
    }
}

fn names(conn: &Connection) -> rusqlite::Result<Vec<String>> {
    conn.prepare(rebuild::COLUMNS)?
        .query_map((), |row| row.get(0))?
        .collect()
}

fn newest(conn: &Connection) -> rusqlite::Result<i64> {
    let newest = conn
        .query_row(sql::NEWEST_SEQ, (), |row| row.get(0))
        .optional()?;
    Ok(newest.unwrap_or(SEQ_UNKNOWN))
}

/// Whether there is something that this part of the file cannot be read for. Bad sectors are I/O errors.
fn is_damage(error: &rusqlite::Error) -> bool {
    matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::SystemIoFailure)
    )
}

/// Prepares the new file: what the old one knew beside its messages, as far as that can be read, and numbers that
/// start after those it has given.
pub(crate) fn begin(conn: &Connection, old: &Connection) -> rusqlite::Result<()> {
    let mut whole = true;
    for (table, key) in rebuild::SIDE_TABLES {
        whole &= copy_table(conn, old, table, key)?;
    }
    if !whole {
        // What is not remembered must not be taken for what never was.
        conn.execute(sql::META_CLEAR, [crate::schema::META_CLEAN])?;
    }
    let newest = rebuild::NEWEST
        .iter()
        .filter_map(|statement| {
            old.query_row(statement, (), |row| row.get::<_, Option<i64>>(0))
                .ok()
        })
        .flatten()
        .max();
    conn.execute(rebuild::START_AT, [newest.unwrap_or(SEQ_UNKNOWN)])?;
    Ok(())
}

/// Copies a small table from both ends; whether all of it could be read.
fn copy_table(
    conn: &Connection,
    old: &Connection,
    table: &str,
    key: &str,
) -> rusqlite::Result<bool> {
    for direction in ["ASC", "DESC"] {
        let select = format!("SELECT * FROM {table} ORDER BY {key} {direction}");
        let Ok(mut statement) = old.prepare(&select) else {
            return Ok(false);
        };
        let names: Vec<String> = statement
            .column_names()
            .into_iter()
            .map(str::to_owned)
            .collect();
        let insert = rebuild::insert_into(table, &names);
        let Ok(mut insert) = conn.prepare(&insert) else {
            return Ok(false);
        };
        let mut rows = statement.query(())?;
        loop {
            match rows.next() {
                Ok(Some(row)) => {
                    let values: rusqlite::Result<Vec<_>> =
                        (0..names.len()).map(|index| row.get_ref(index)).collect();
                    let values = values?.into_iter().map(ToSqlOutput::Borrowed);
                    insert.execute(params_from_iter(values))?;
                }
                Ok(None) => return Ok(true),
                Err(_) => break,
            }
        }
    }
    Ok(false)
}
