//! The ceiling of the queue file: the plain statements that a program would write by hand, as durable, in groups of
//! the size that the real one used. On a file of ours, so the indexes are the same.

use std::path::Path;
use std::time::{Duration, Instant};

use rusqlite::{Connection, params};
use spoolway::{MessageId, SqliteQueue, Timestamp};

use super::load::Messages;
use super::report::Figures;
use super::side::histogram;
use crate::args::Work;
use crate::failure::Failure;

const INSERT: &str = "INSERT INTO message_queue (message_id, type, payload, timestamp, crc) VALUES (?1, ?2, ?3, ?4, ?5)";
const SELECT: &str = "SELECT seq, message_id, type, payload, timestamp, attributes, key, crc FROM message_queue \
    WHERE processed = 0 AND seq > ?1 ORDER BY seq LIMIT ?2";
const MARK: &str =
    "UPDATE message_queue SET processed = 1, processed_at = ?2, attempts = 1 WHERE seq = ?1";
/// A group where the real one's are not known.
const GROUP: u64 = 500;

pub(super) fn measure(
    directory: &Path,
    work: Work,
    bytes: usize,
    messages: u64,
    group: Option<u64>,
) -> Result<Figures, Failure> {
    let path = directory.join("plain.db");
    SqliteQueue::open(&path, Default::default())?.close();
    let failed = |error: rusqlite::Error| {
        Failure::io(
            format!("cannot use {}", path.display()),
            &std::io::Error::other(error),
        )
    };
    let conn = Connection::open(&path).map_err(failed)?;
    conn.execute_batch("PRAGMA synchronous = FULL; PRAGMA cache_size = -16384;")
        .map_err(failed)?;
    let group = group.unwrap_or(GROUP).max(1);
    let mut plain = Plain {
        conn,
        messages: Messages::new(work, bytes, 0),
        last: 0,
    };
    let mut times = histogram();
    if work == Work::Drain {
        for _ in 0..messages.div_ceil(GROUP) {
            plain.insert(GROUP).map_err(failed)?;
        }
        plain.last = 0;
    }
    let start = Instant::now();
    let mut done = 0;
    while done < messages {
        let at = Instant::now();
        match work {
            Work::Drain => plain.drain(group),
            Work::Stored => plain.insert(group).and_then(|rows| plain.mark(&rows)),
            _ => plain.insert(group).map(drop),
        }
        .map_err(failed)?;
        times.saturating_record_n(nanos(at.elapsed()), group);
        done += group;
    }
    Ok(Figures::plain(done, start.elapsed(), group, times))
}

struct Plain {
    conn: Connection,
    messages: Messages,
    last: i64,
}

impl Plain {
    fn insert(&mut self, count: u64) -> rusqlite::Result<Vec<i64>> {
        let tx = self.conn.unchecked_transaction()?;
        let mut rows = Vec::new();
        let mut insert = tx.prepare_cached(INSERT)?;
        for _ in 0..count {
            let mut message = self.messages.next();
            let millis = super::side::monotonic() / 1_000_000;
            message.stamp(Timestamp(millis as i64), || {
                MessageId::v7(millis, rand::random())
            });
            let (id, kind) = (message.id.as_str(), &message.r#type);
            let (payload, at) = (message.payload.as_str(), millis as i64);
            rows.push(insert.insert(params![id, kind, payload, at, message.crc()])?);
        }
        drop(insert);
        tx.commit()?;
        Ok(rows)
    }

    fn mark(&mut self, rows: &[i64]) -> rusqlite::Result<()> {
        let tx = self.conn.unchecked_transaction()?;
        let mut mark = tx.prepare_cached(MARK)?;
        for row in rows {
            mark.execute(params![row, 1_700_000_000])?;
        }
        drop(mark);
        tx.commit()
    }

    fn drain(&mut self, count: u64) -> rusqlite::Result<()> {
        let mut rows = Vec::new();
        {
            let mut select = self.conn.prepare_cached(SELECT)?;
            let mut found = select.query(params![self.last, count as i64])?;
            while let Some(row) = found.next()? {
                let payload = row.get_ref(3)?.as_str()?.len();
                std::hint::black_box((row.get_ref(1)?, row.get_ref(2)?, payload));
                rows.push(row.get(0)?);
            }
        }
        self.last = rows.last().copied().unwrap_or(self.last);
        self.mark(&rows)
    }
}

fn nanos(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}
