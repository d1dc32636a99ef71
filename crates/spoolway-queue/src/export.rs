//! A queue file as lines of JSON: one message a line, with its state.
//!
//! Claims do not travel: what is claimed is written as pending. The counts of producers, their
//! unconfirmed outcomes and stopped keys are not messages: a backup has them.

use std::io::Write;

use rusqlite::OptionalExtension;
use serde::Serialize;

use crate::line::put_line;
use crate::sql::{self, upkeep};
use crate::{QueueError, SqliteQueue};

/// Rows of one read, and bytes after which it ends early.
const PAGE_ROWS: i64 = 1_000;
const PAGE_BYTES_MAX: usize = 4 << 20;

/// What [`SqliteQueue::export`] has written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Exported {
    /// Messages.
    pub messages: u64,
    /// Rows that hold no message: their lines say why, and [`import`](SqliteQueue::import) refuses
    /// them.
    pub damaged: u64,
}

impl SqliteQueue {
    /// Writes every message of the file as a line of JSON, in order, up to the newest of now;
    /// `progress` hears of each page. Reads page by page, so that the write-ahead log can be
    /// emptied meanwhile: a message is written in the state it has when its page is read. Blocks.
    ///
    /// ```
    /// use spoolway_proto::Message;
    /// use spoolway_queue::{QueueOptions, SqliteQueue};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let queue = SqliteQueue::open(dir.path().join("orders.db"), QueueOptions::default())?;
    /// queue.enqueue(&Message::new("order", "tea")?)?;
    /// let mut lines = Vec::new();
    /// queue.export(&mut lines, |_| {})?;
    ///
    /// let other = SqliteQueue::open(dir.path().join("other.db"), QueueOptions::default())?;
    /// let imported = other.import(&lines[..], |_| {})?;
    /// assert_eq!((imported.inserted, other.stats()?.pending), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// What reading the file or writing to `out` ran into.
    pub fn export(
        &self,
        out: &mut dyn Write,
        mut progress: impl FnMut(&Exported),
    ) -> Result<Exported, QueueError> {
        let shared = self.shared();
        let newest: i64 = shared.read(|conn| {
            let newest = conn
                .prepare_cached(sql::NEWEST_SEQ)?
                .query_row((), |row| row.get(0));
            Ok(newest.optional()?.unwrap_or(0))
        })?;
        let (mut exported, mut after) = (Exported::default(), 0);
        while after < newest {
            let mut page = Vec::new();
            let before = after;
            shared.read(|conn| {
                let mut rows = conn.prepare_cached(upkeep::ROWS)?;
                let mut rows = rows.query([after, newest, PAGE_ROWS])?;
                while let Some(row) = rows.next()? {
                    after = row.get(0)?;
                    let whole = put_line(row, &mut page)?;
                    exported.messages += u64::from(whole);
                    exported.damaged += u64::from(!whole);
                    if page.len() > PAGE_BYTES_MAX {
                        break;
                    }
                }
                Ok(())
            })?;
            out.write_all(&page)
                .map_err(|error| QueueError::io("the export".as_ref(), error))?;
            progress(&exported);
            if after == before {
                break;
            }
        }
        out.flush()
            .map_err(|error| QueueError::io("the export".as_ref(), error))?;
        Ok(exported)
    }
}
