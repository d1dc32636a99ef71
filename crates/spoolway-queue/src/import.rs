//! Messages into a queue file: from lines of JSON, from another queue file, from an outbox.
//!
//! ```text
//!  read a page ─► insert or ignore by id ─► COMMIT here ─┬─► copy: next page
//!                                                        └─► move: delete there ─► COMMIT there
//! ```
//!
//! Killed between the two commits, the messages are in both files, and the next import finds them
//! here. The other file is locked for writing from the read of a page to its deletion.

mod source;

use std::fs;
use std::io::BufRead;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use spoolway_proto::{MessageId, Timestamp};

use crate::apply::{Fault, Tx};
use crate::clock::Now;
use crate::dequeue::new_id;
use crate::line::{Lines, read_line};
use crate::parcel::{self, Parcel, State};
use crate::producer::RowCounts;
use crate::queue::Durability;
use crate::sql::upkeep;
use crate::{QueueError, SqliteQueue};
use source::Source;

/// Messages and bytes of one commit.
const BATCH_ROWS: usize = 500;
const BATCH_BYTES_MAX: usize = 1 << 20;

/// What an import has done so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Imported {
    /// New here.
    pub inserted: u64,
    /// Here before, the same id and content; the row that was here stays as it is.
    pub duplicate: u64,
    /// Not taken: the id is here with another content.
    pub conflict: u64,
    /// Not taken: no message, or not a valid one.
    pub refused: u64,
    /// Deleted there.
    pub moved: u64,
}

/// What an import has to tell while it runs.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ImportEvent {
    /// So much is committed here, and not yet deleted there.
    Committed(Imported),
    /// One was not taken: the id is here with another content.
    Conflict {
        /// The line, or the row.
        at: u64,
        /// Its id.
        id: MessageId,
    },
    /// One was not taken for what it is.
    Refused {
        /// The line, or the row.
        at: u64,
        /// What is wrong with it.
        why: String,
    },
}

/// What becomes of messages in the file they are imported from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Take {
    /// They stay.
    #[default]
    Copy,
    /// Those that are here are deleted there. No consumer and no relay may run on that file.
    Move,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Inserted,
    Duplicate,
    Conflict,
}

impl SqliteQueue {
    /// Takes messages from lines of JSON: those of [`export`](Self::export), and plain messages,
    /// which become pending. Behind what is here, in their order; an id that is here is left as it
    /// is. Lines that cannot be taken are told and passed over. Blocks.
    ///
    /// # Errors
    ///
    /// What reading the lines or writing the file ran into; what was told as committed stays.
    pub fn import(
        &self,
        lines: impl BufRead,
        mut on: impl FnMut(ImportEvent),
    ) -> Result<Imported, QueueError> {
        let limits = &self.options().limits;
        let mut lines = Lines::new(lines, limits);
        let mut imported = Imported::default();
        let mut batch = Vec::new();
        let mut bytes = 0;
        loop {
            let line = lines
                .next()
                .map_err(|error| QueueError::io("the lines to import".as_ref(), error))?;
            let end = line.is_none();
            if let Some((at, text)) = line {
                let now = Timestamp(Now::read().wall_ms);
                match text.and_then(|text| read_line(&text, limits, now, new_id)) {
                    Ok(parcel) => {
                        bytes += parcel.message.size();
                        batch.push((at, parcel));
                    }
                    Err(why) => {
                        imported.refused += 1;
                        on(ImportEvent::Refused { at, why });
                    }
                }
            }
            if end || batch.len() >= BATCH_ROWS || bytes > BATCH_BYTES_MAX {
                self.put(std::mem::take(&mut batch).into(), &mut imported, &mut on)?;
                bytes = 0;
            }
            if end {
                return Ok(imported);
            }
        }
    }

    /// Takes messages from another database: a queue file of ours, with their states; one of
    /// FlowTrace; or every [`Outbox`](crate::Outbox) in it, without what was refused there. Blocks.
    ///
    /// ```
    /// use spoolway_proto::Message;
    /// use spoolway_queue::{QueueOptions, SqliteQueue, Take};
    ///
    /// # let dir = tempfile::tempdir()?;
    /// let stray = dir.path().join("stray.db");
    /// SqliteQueue::open(&stray, QueueOptions::default())?.enqueue(&Message::new("order", "tea")?)?;
    ///
    /// let queue = SqliteQueue::open(dir.path().join("orders.db"), QueueOptions::default())?;
    /// let imported = queue.import_database(&stray, Take::Move, |_| {})?;
    /// assert_eq!((imported.inserted, imported.moved), (1, 1));
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    ///
    /// # Errors
    ///
    /// [`QueueError::NotOurs`] when it holds none of these, [`QueueError::Owned`] when its messages
    /// are to be moved and a consumer or relay runs on it, [`QueueError::Misuse`] when it is this
    /// very file or this one is not durable enough to move into; or what reading or writing either
    /// ran into.
    pub fn import_database(
        &self,
        path: impl AsRef<Path>,
        take: Take,
        mut on: impl FnMut(ImportEvent),
    ) -> Result<Imported, QueueError> {
        let path = path.as_ref();
        let path = path
            .canonicalize()
            .map_err(|error| QueueError::io(path, error))?;
        if is_same_file(&path, self.path()) {
            return Err(QueueError::misuse(&path, "it is the file to import into"));
        }
        if take == Take::Move && self.options().durability != Durability::Full {
            let what = "moving deletes what must be safe here first; open it with full durability";
            return Err(QueueError::misuse(self.path(), what));
        }
        let mut imported = Imported::default();
        for source in Source::find(&path, take)? {
            source.drain(self, &mut imported, &mut on)?;
        }
        Ok(imported)
    }

    /// Commits a batch and tells what came of it.
    fn put(
        &self,
        batch: Arc<[(u64, Parcel)]>,
        imported: &mut Imported,
        on: &mut dyn FnMut(ImportEvent),
    ) -> Result<Vec<Fate>, QueueError> {
        if batch.is_empty() {
            return Ok(Vec::new());
        }
        let rows = Arc::clone(&batch);
        let fates = self.run(move |tx| rows.iter().map(|(_, parcel)| put(tx, parcel)).collect())?;
        let fates: Vec<Fate> = fates;
        for ((at, parcel), fate) in batch.iter().zip(&fates) {
            match fate {
                Fate::Inserted => imported.inserted += 1,
                Fate::Duplicate => imported.duplicate += 1,
                Fate::Conflict => {
                    imported.conflict += 1;
                    let (at, id) = (*at, parcel.message.id.clone());
                    on(ImportEvent::Conflict { at, id });
                }
            }
        }
        on(ImportEvent::Committed(*imported));
        Ok(fates)
    }
}

fn put(tx: &mut Tx<'_>, parcel: &Parcel) -> Result<Fate, Fault> {
    let message = &parcel.message;
    let inserted = parcel::insert(&mut tx.prepare(upkeep::IMPORT)?, parcel, tx.now.wall_ms)?;
    if inserted == 0 {
        let (_, _, stored) = tx.existing(&message.id)?;
        return Ok(match stored == message.crc() {
            true => Fate::Duplicate,
            false => Fate::Conflict,
        });
    }
    tx.news.runnable |= parcel.state == State::Pending;
    if let Some(producer) = &parcel.columns.producer {
        tx.tally.of(producer.clone()).add(&RowCounts {
            by_queue: 1,
            stored: 0,
            processed: u64::from(parcel.state == State::Processed),
            dead: u64::from(parcel.state == State::Dead),
        });
    }
    Ok(Fate::Inserted)
}

fn is_same_file(one: &Path, other: &Path) -> bool {
    match (fs::metadata(one), fs::metadata(other)) {
        (Ok(one), Ok(other)) => (one.dev(), one.ino()) == (other.dev(), other.ino()),
        _ => false,
    }
}
