//! A durable local message queue in one SQLite file.
//!
//! [`SqliteQueue`] is the handle. One writer groups what is submitted into few commits, on a thread
//! of its own or on that of a call that waits; a pool of readers reads beside it, and an `Ok` means:
//! committed to the file that the path names.
//! Any program that can insert into a table can be a producer; the consumer is whoever holds the
//! [`ConsumerLock`]: a program that wants only a queue starts a [`SqliteQueuePoller`], or calls
//! [`SqliteQueue::dequeue`] itself.
//!
//! Beside the file `q.db` lie `q.db-wal` and `q.db-shm` of SQLite, `q.db.lock` (who consumes it),
//! `q.db.guard` (held while it is opened), `q.db.turn` (which writer is next) and `q.db.wake`
//! (where its consumer is woken). A damaged file is kept as `q.db.corrupt-<time>`; `q.db.damaged`, `q.db.quarantine` and `q.db.salvage` are
//! there while its consumer has not finished with it.
//!
//! For its operator there are [`stats`](SqliteQueue::stats), dead letters
//! ([`requeue`](SqliteQueue::requeue), [`purge`](SqliteQueue::purge)), [`replay`](SqliteQueue::replay), [`check`],
//! [`backup`](SqliteQueue::backup), [`compact`](SqliteQueue::compact),
//! [`export`](SqliteQueue::export) and [`import`](SqliteQueue::import): all beside a consumer that runs.
//!
//! Beside the queue stand two tables for the user's own database, each written in the user's own
//! transaction: an [`Outbox`], whose messages a [`Relay`] sends once they are committed, and an
//! [`Inbox`], which says whether a message had its effect already.
//!
//! Limits: a commit takes up to 1,000 rows or 4 MiB, 100,000 rows or 64 MiB may wait for it; a
//! process opens a file once, and never with another copy of SQLite (closing any descriptor of it
//! would drop the locks of both).

#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;

mod error;
mod producer;
mod write;

mod queue;

mod dequeue;
mod desk;
mod poller;
mod read;

mod backup;
mod check;
mod dead;
mod export;
mod filter;
mod import;
mod replay;
mod stats;
mod upkeep;

mod adopt;
mod lock;
mod wake;

mod inbox;
mod outbox;
mod relay;
mod table;

mod apply;
mod claims;
mod group;
mod insert;
mod limits;
mod line;
mod parcel;
mod row;
mod shared;
mod tray;
mod writer;

mod alone;
mod clock;
mod ffi;
mod file;
mod quarantine;
mod reader;
mod salvage;
mod schema;
mod sql;

#[cfg(test)]
mod killed;

pub use backup::{BackedUp, Compacted};
pub use check::{Checked, Finding, Severity, check};
pub use dead::DeadLetter;
pub use dequeue::{Claimed, Enqueued, Settlement};
pub use error::QueueError;
pub use export::Exported;
pub use filter::Filter;
pub use import::{ImportEvent, Imported, Take};
pub use inbox::Inbox;
pub use lock::{ConsumerLock, side_file};
pub use outbox::{Outbox, Refused};
pub use poller::{IntoSettlement, PollerOptions, SqliteQueuePoller};
pub use producer::{Audit, Kept, ProducerCounts, ProducerRecord, RowCounts};
pub use queue::{Durability, QueueOptions, Role, SqliteQueue, TakenOver};
pub use read::{BEFORE_MAX, Before, Candidate, Cursor, Damaged, KeyRows, Page};
pub use relay::{Relay, RelayStatus, Ticket};
pub use replay::{Replay, Replayed, Requeued, Settled};
pub use schema::{MigrationStatus, migration_status};
pub use stats::{Stats, TOP_ROWS_MAX, Top};
pub use wake::Watch;
pub use write::{Due, Existing, HeldKey, NewRow, Origin, RowState, Write, Written};
