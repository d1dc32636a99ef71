//! Whether a queue file is what it should be: its pages, its schema, its counts, each of its rows.
//!
//! It only reads, and opens what no queue handle would: damaged files too.

use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode, OptionalExtension, Row};
use serde::Serialize;
use spoolway_proto::{Limits, validate_queue_message};

use crate::lock::side_file;
use crate::producer;
use crate::schema::{self, Found};
use crate::sql::{self, upkeep};
use crate::{ConsumerLock, QueueError, file, reader, row};

/// Damaged pages and rows that are named one by one.
const NAMED_MAX: usize = 20;

/// Rows of one read.
const PAGE_ROWS: i64 = 1_000;

/// A write-ahead log above this is worth a word.
const WAL_BYTES_LARGE: u64 = 256 << 20;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Worth knowing; nothing is wrong.
    Note,
    /// Something is not what it should be.
    Fault,
}

/// One thing that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// A stable word for it.
    pub code: &'static str,
    /// What was found.
    pub what: String,
    /// What to do next.
    pub help: &'static str,
}

/// What a check came to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Checked {
    /// The file.
    pub path: PathBuf,
    /// Its schema version, 1000 · major + minor, if it is a queue file.
    pub version: Option<i64>,
    /// Whether each row was looked at.
    pub full: bool,
    /// Rows that were looked at.
    pub rows: u64,
    /// What was found, in the order of the checks.
    pub findings: Vec<Finding>,
}

impl Checked {
    /// Whether there is no fault.
    pub fn is_ok(&self) -> bool {
        self.faults() == 0
    }

    /// How many findings are faults.
    pub fn faults(&self) -> usize {
        let faults = self.findings.iter();
        faults
            .filter(|finding| finding.severity == Severity::Fault)
            .count()
    }

    fn fault(&mut self, code: &'static str, what: impl Into<String>, help: &'static str) {
        self.find(Severity::Fault, code, what.into(), help);
    }

    fn note(&mut self, code: &'static str, what: impl Into<String>, help: &'static str) {
        self.find(Severity::Note, code, what.into(), help);
    }

    fn find(&mut self, severity: Severity, code: &'static str, what: String, help: &'static str) {
        self.findings.push(Finding {
            severity,
            code,
            what,
            help,
        });
    }
}

const RESTORE: &str = "stop its consumer, keep a copy of the file, and put a backup in its place; \
    `spoolway queue export` still writes what can be read";

/// Checks a queue file, also while it is in use. Quick: every page, the schema, the counts of
/// producers against their rows, claims. Full: the indexes too, and each row: its CRC, and that
/// payload and attributes are JSON; `progress` hears of the rows. Blocks.
///
/// ```
/// use spoolway_queue::{QueueOptions, SqliteQueue, check};
///
/// # let dir = tempfile::tempdir()?;
/// let path = dir.path().join("orders.db");
/// let _queue = SqliteQueue::open(&path, QueueOptions::default())?;
/// assert!(check(&path, true, |_| {})?.is_ok());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
///
/// # Errors
///
/// When the file cannot be read at all; damage is a finding, not an error.
pub fn check(
    path: impl AsRef<Path>,
    full: bool,
    mut progress: impl FnMut(u64),
) -> Result<Checked, QueueError> {
    let path = file::resolve(path.as_ref())?;
    let mut checked = Checked {
        path: path.clone(),
        version: None,
        full,
        rows: 0,
        findings: Vec::new(),
    };
    let all = |checked: &mut Checked, progress: &mut dyn FnMut(u64)| {
        let conn = reader::connect(&path)?;
        if !identify(&conn, checked)? {
            return Ok(());
        }
        for damage in pages(&conn, full)? {
            checked.fault("page_damage", damage, RESTORE);
        }
        schema_of(&conn, checked)?;
        if checked.is_ok() {
            counts(&conn, checked)?;
            claims(&conn, &path, checked)?;
        }
        if full {
            rows(&conn, checked, progress)?;
        }
        Ok::<_, rusqlite::Error>(())
    };
    match all(&mut checked, &mut progress) {
        Ok(()) => {}
        Err(error) => match error.sqlite_error_code() {
            Some(ErrorCode::NotADatabase) => checked.fault(
                "not_a_database",
                "it does not begin like a SQLite database",
                RESTORE,
            ),
            Some(ErrorCode::DatabaseCorrupt) => {
                checked.fault("page_damage", error.to_string(), RESTORE);
            }
            _ => return Err(QueueError::sql(&path, error)),
        },
    }
    let wal = file::sizes(&path).1;
    if wal > WAL_BYTES_LARGE {
        let what =
            format!("its write-ahead log has {wal} bytes: a reader keeps it from being emptied");
        checked.note(
            "wal_large",
            what,
            "end the reader that has been at it longest, then `spoolway queue compact`",
        );
    }
    Ok(checked)
}

/// Whether it is a queue file whose format is known.
fn identify(conn: &Connection, checked: &mut Checked) -> rusqlite::Result<bool> {
    let version = match schema::inspect(conn)? {
        Found::Ours(version) => version,
        Found::Empty => {
            checked.note(
                "empty",
                "it is empty",
                "whoever opens it first makes a queue of it",
            );
            return Ok(false);
        }
        Found::FlowTrace => {
            checked.note(
                "not_adopted",
                "it is a FlowTrace queue",
                "start a consumer on it once (`spoolway serve`), which adopts it",
            );
            return Ok(false);
        }
        Found::Damaged(what) => {
            checked.fault(
                "damaged",
                what,
                "start a consumer on it, which sets it aside and saves what can be read",
            );
            return Ok(false);
        }
        Found::Foreign(found) => {
            let help = "name another file";
            checked.fault("not_ours", format!("it holds {found}"), help);
            return Ok(false);
        }
    };
    checked.version = Some(version);
    let (known, major) = (schema::known(), schema::major(version));
    if major > schema::major(known) {
        let what = format!(
            "its format is {major}, this program knows {}",
            schema::major(known)
        );
        checked.fault("schema_too_new", what, "upgrade this program");
        return Ok(false);
    }
    if version < known {
        let what = format!("its schema is older than this program ({version} of {known})");
        checked.note(
            "schema_older",
            what,
            "start the consumer: it brings it up to date",
        );
    } else if version > known {
        let what = format!("its schema is newer than this program ({version}, not {known})");
        checked.note(
            "schema_newer",
            what,
            "nothing needs to be done; upgrade when it suits",
        );
    }
    Ok(true)
}

/// What SQLite finds wrong with the pages, and in full with the indexes.
pub(crate) fn pages(conn: &Connection, full: bool) -> rusqlite::Result<Vec<String>> {
    let pragma = match full {
        true => "integrity_check",
        false => "quick_check",
    };
    let mut check = conn.prepare(&format!("PRAGMA {pragma}({NAMED_MAX})"))?;
    let found: Vec<String> = check
        .query_map((), |row| row.get(0))?
        .collect::<Result<_, _>>()?;
    Ok(found.into_iter().filter(|line| line != "ok").collect())
}

/// Tables and indexes are those of the migrations, and the file has an identity.
fn schema_of(conn: &Connection, checked: &mut Checked) -> rusqlite::Result<()> {
    if schema::identity(conn).is_err() {
        let what = "it has no identity, so nobody can tell it from another file";
        checked.fault("identity_missing", what, RESTORE);
    }
    if checked.version != Some(schema::known()) {
        return Ok(());
    }
    let fresh = Connection::open_in_memory()?;
    schema::migrate(&fresh, 0)?;
    let found = objects(conn)?;
    for (name, made) in objects(&fresh)? {
        let differs = match found.iter().find(|(there, _)| *there == name) {
            None => "is missing",
            Some((_, there)) if *there != made => "is not as the migrations make it",
            Some(_) => continue,
        };
        checked.fault(
            "schema_differs",
            format!("{name} {differs}"),
            "make it again as migrations/0001_queue.sql has it, with no consumer running",
        );
    }
    Ok(())
}

/// Names and statements, without comments and white space.
fn objects(conn: &Connection) -> rusqlite::Result<Vec<(String, String)>> {
    let plain = |sql: String| {
        let lines = sql
            .lines()
            .map(|line| line.split("--").next().unwrap_or(""));
        lines.flat_map(str::split_whitespace).collect::<String>()
    };
    conn.prepare(upkeep::OBJECTS)?
        .query_map((), |row| Ok((row.get(1)?, plain(row.get(2)?))))?
        .collect()
}

/// The rows that were made = processed + dead + pending, for each producer.
fn counts(conn: &Connection, checked: &mut Checked) -> rusqlite::Result<()> {
    let snapshot = conn.unchecked_transaction()?;
    for (record, pending) in producer::with_pending(&snapshot)? {
        let rows = record.counts.rows;
        let (made, known) = (
            rows.by_queue + rows.stored,
            rows.processed + rows.dead + pending,
        );
        let of = format!("of {made} rows of producer {}", record.producer);
        if known < made {
            let missing = made - known;
            checked.fault(
                "rows_missing",
                format!("{of} {missing} are gone without an outcome"),
                "rows were deleted by other means than `cleanup`, `dead purge` and `import --move`; `spoolway audit` has the rest",
            );
        } else if known > made {
            checked.fault(
                "rows_surplus",
                format!("{of} {known} are accounted for"),
                "rows were changed by other means; `spoolway audit` has the rest",
            );
        }
    }
    let (unknown, first): (u64, Option<i64>) = match checked.full {
        true => snapshot.query_row(upkeep::UNKNOWN_STATES, (), |row| {
            Ok((row.get(0)?, row.get(1)?))
        })?,
        false => (0, None),
    };
    if unknown > 0 {
        let what = format!(
            "{unknown} rows have a state that is none (column `processed`), the first is seq {}",
            first.unwrap_or(0)
        );
        let help =
            "set it to 0 (pending), 1 (processed) or 2 (dead): nobody delivers them as they are";
        checked.fault("state_unknown", what, help);
    }
    Ok(())
}

/// Claims belong to the last owner, and to a consumer that lives.
fn claims(conn: &Connection, path: &Path, checked: &mut Checked) -> rusqlite::Result<()> {
    let snapshot = conn.unchecked_transaction()?;
    let owner: Option<String> = snapshot
        .prepare(sql::META)?
        .query_row([schema::META_OWNER], |row| row.get(0))
        .optional()?;
    let claims: Vec<(String, u64)> = snapshot
        .prepare(upkeep::CLAIMS)?
        .query_map((), |row| Ok((row.get(0)?, row.get(1)?)))?
        .collect::<Result<_, _>>()?;
    // Unknown where the side file cannot be read: then nothing is said.
    let consumed = ConsumerLock::is_held(&side_file(path, ".lock")).unwrap_or(true);
    for (instance, ranges) in claims {
        if Some(&instance) != owner.as_ref() {
            checked.fault(
                "claims_dangling",
                format!("{ranges} claims are of run {instance}, which does not own the file"),
                "restart the consumer: it takes them over",
            );
        } else if !consumed {
            checked.note(
                "claims_left",
                format!("{ranges} claims are left by a consumer that was killed"),
                "start the consumer: it runs what they cover one at a time, as suspects",
            );
        }
    }
    let empty: u64 = snapshot.query_row(upkeep::EMPTY_CLAIMS, (), |row| row.get(0))?;
    if empty > 0 {
        checked.note(
            "claims_empty",
            format!("{empty} claims cover no pending message: another program has settled them"),
            "nothing needs to be done; they end with their consumer",
        );
    }
    Ok(())
}

/// Each row, in pages, so that the write-ahead log can be emptied meanwhile.
fn rows(
    conn: &Connection,
    checked: &mut Checked,
    progress: &mut dyn FnMut(u64),
) -> rusqlite::Result<()> {
    let limits = Limits::default();
    let (mut after, mut buried, mut unnamed) = (i64::MIN, 0_u64, 0_u64);
    let mut named = 0;
    loop {
        let before = checked.rows;
        let mut page = conn.prepare_cached(upkeep::ROWS)?;
        let mut page = page.query([after, i64::MAX, PAGE_ROWS])?;
        while let Some(row) = page.next()? {
            after = row.get(0)?;
            checked.rows += 1;
            let Some((code, why)) = wrong(row, &limits)? else {
                continue;
            };
            let (state, reason): (Option<i64>, Option<String>) = (row.get(15)?, row.get(23)?);
            if state == Some(2) && matches!(reason.as_deref(), Some("corrupt" | "invalid")) {
                buried += 1;
            } else if named < NAMED_MAX {
                named += 1;
                let help = match state {
                    Some(0) => {
                        "its neighbours are delivered; it becomes a dead letter when its turn comes"
                    }
                    _ => "it is kept, but cannot be delivered again",
                };
                checked.fault(code, format!("seq {after}: {why}"), help);
            } else {
                unnamed += 1;
            }
        }
        progress(checked.rows);
        if checked.rows == before {
            break;
        }
    }
    if unnamed > 0 {
        checked.fault(
            "row_corrupt",
            format!("{unnamed} more rows are damaged"),
            RESTORE,
        );
    }
    if buried > 0 {
        checked.note(
            "rows_buried",
            format!("{buried} damaged rows are dead letters already"),
            "`spoolway dead ls --reason corrupt` (or `invalid`) shows them",
        );
    }
    Ok(())
}

fn wrong(row: &Row<'_>, limits: &Limits) -> rusqlite::Result<Option<(&'static str, String)>> {
    Ok(match row::whole(row)? {
        Err(why) => Some(("row_corrupt", why)),
        // Rows of other programs are delivered as they are.
        Ok(message) if row.get::<_, Option<u32>>(14)?.is_some() => {
            let invalid = validate_queue_message(&message, limits).err();
            invalid.map(|invalid| ("row_invalid", invalid.to_string()))
        }
        Ok(_) => None,
    })
}
