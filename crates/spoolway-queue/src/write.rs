//! What can be written to the queue file, and what comes of it.

use std::sync::Arc;
use std::time::Duration;

use spoolway_proto::{Epoch, Key, Message, MessageId, Outcome, ProducerId, Ranges, Timestamp};

use crate::producer::{Kept, ProducerRecord};

/// Who sent a message: the same pair of producer and sequence travels on both paths.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// The producer.
    pub producer: ProducerId,
    /// Which connection of it.
    pub epoch: Epoch,
    /// Which message of it.
    pub sequence: u64,
}

/// When a row may run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Due {
    /// At once; on insertion, at the message's own `deliver_at` if it has one.
    #[default]
    Now,
    /// After that much time since boot, whatever happens to the wall clock; a reboot ends the
    /// wait. For retries.
    In(Duration),
    /// At that moment of the wall clock.
    At(Timestamp),
}

/// One change. All of a call are committed together and in order, or none is.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Write {
    /// Stores a message, or updates the row that its id already has.
    Insert(NewRow),
    /// Takes rows, by `seq`. What is not settled or released when its owner ends becomes suspect.
    Claim(Vec<i64>),
    /// Gives claimed rows back; no attempt is counted.
    Release(Vec<i64>),
    /// Counts an attempt at a suspect, before its handler starts.
    Begin {
        /// The row.
        seq: i64,
    },
    /// Settles a row: processed.
    Processed {
        /// The row.
        seq: i64,
        /// Handler starts so far.
        attempts: u32,
    },
    /// Ends the claim on a row, which stays pending and is no longer suspect.
    Retry {
        /// The row.
        seq: i64,
        /// Handler starts so far.
        attempts: u32,
        /// When to try again.
        due: Due,
        /// What went wrong.
        error: String,
    },
    /// Settles a row: a dead letter.
    Dead {
        /// The row.
        seq: i64,
        /// Handler starts so far.
        attempts: u32,
        /// Why, as a code: `expired`, `corrupt`, `attempts`, …
        reason: String,
        /// What went wrong last, in words.
        error: Option<String>,
    },
    /// Settles the pending row of that id, if there is one with the same content that was never
    /// requeued or replayed; else does nothing.
    SettleById {
        /// The message.
        id: MessageId,
        /// CRC of the message that the outcome belongs to.
        crc: u32,
        /// [`Outcome::Processed`] or [`Outcome::Dead`]; any other does nothing.
        outcome: Outcome,
        /// Why it is dead.
        reason: Option<String>,
    },
    /// Records what is known of a producer, and these outcomes in place of those recorded before. What is
    /// counted with its rows stays as it is.
    SaveProducer(ProducerRecord),
    /// The same, but the outcomes recorded before stay.
    SaveCounts(ProducerRecord),
    /// Records the outcome of a message that has no row.
    Keep {
        /// Whose message.
        producer: ProducerId,
        /// Its outcome.
        kept: Kept,
    },
    /// Forgets the outcomes of these numbers: their producer has seen them.
    Drop {
        /// Whose messages.
        producer: ProducerId,
        /// Which.
        ranges: Ranges,
    },
    /// Stops a key; where it is stopped already, the first reason stays.
    HoldKey(HeldKey),
    /// Lets a key run again.
    FreeKey(Key),
    /// Remembers a text under a name that is not one of the queue's own; `None` forgets it.
    SaveMeta {
        /// The name.
        name: String,
        /// The text.
        value: Option<String>,
    },
}

impl Write {
    /// Whether it names rows by number, which mean nothing in another file.
    pub fn names_rows(&self) -> bool {
        match self {
            Self::Claim(_)
            | Self::Release(_)
            | Self::Begin { .. }
            | Self::Processed { .. }
            | Self::Retry { .. }
            | Self::Dead { .. } => true,
            Self::Insert(_)
            | Self::SettleById { .. }
            | Self::SaveProducer(_)
            | Self::SaveCounts(_)
            | Self::Keep { .. }
            | Self::Drop { .. }
            | Self::HoldKey(_)
            | Self::FreeKey(_)
            | Self::SaveMeta { .. } => false,
        }
    }

    /// Rows it touches and bytes it brings, for the bounds of a group.
    pub(crate) fn weight(&self) -> (usize, usize) {
        match self {
            Self::Insert(row) => (1, row.message.size()),
            Self::Claim(rows) | Self::Release(rows) => (rows.len(), 8 * rows.len()),
            Self::Retry { error, .. } => (1, error.len()),
            Self::SaveProducer(record) => (1, 64 * (record.kept.len() + 2)),
            Self::Begin { .. }
            | Self::Processed { .. }
            | Self::Dead { .. }
            | Self::SettleById { .. }
            | Self::SaveCounts(_)
            | Self::Keep { .. }
            | Self::Drop { .. }
            | Self::HoldKey(_)
            | Self::FreeKey(_)
            | Self::SaveMeta { .. } => (1, 64),
        }
    }
}

/// A message to store, and the state to store it in.
#[derive(Clone, Debug)]
pub struct NewRow {
    /// The message, with id and timestamp filled in.
    pub message: Arc<Message>,
    /// Who sent it, if it said.
    pub origin: Option<Origin>,
    /// The state of its row.
    pub state: RowState,
}

impl NewRow {
    /// A message that has not been tried.
    pub fn pending(message: Arc<Message>, origin: Option<Origin>) -> Self {
        let state = RowState::default();
        Self {
            message,
            origin,
            state,
        }
    }
}

/// The state in which a row is stored.
#[derive(Clone, Debug)]
pub enum RowState {
    /// To be processed.
    Pending {
        /// Handler starts so far.
        attempts: u32,
        /// When it may run.
        due: Due,
        /// What went wrong last.
        error: Option<String>,
        /// It may be what killed its consumer: runs from the file, beside the normal flow.
        suspect: bool,
        /// Claimed by the one who stores it.
        claimed: bool,
    },
    /// A dead letter.
    Dead {
        /// Handler starts so far.
        attempts: u32,
        /// Why, as a code.
        reason: String,
        /// What went wrong last, in words.
        error: Option<String>,
    },
}

impl Default for RowState {
    fn default() -> Self {
        Self::Pending {
            attempts: 0,
            due: Due::Now,
            error: None,
            suspect: false,
            claimed: false,
        }
    }
}

impl RowState {
    pub(crate) fn due(&self) -> Due {
        match self {
            Self::Pending { due, .. } => *due,
            Self::Dead { .. } => Due::Now,
        }
    }

    pub(crate) fn attempts(&self) -> (u32, Option<&str>) {
        match self {
            Self::Pending {
                attempts, error, ..
            }
            | Self::Dead {
                attempts, error, ..
            } => (*attempts, error.as_deref()),
        }
    }

    pub(crate) fn dead_reason(&self) -> Option<&str> {
        match self {
            Self::Pending { .. } => None,
            Self::Dead { reason, .. } => Some(reason),
        }
    }

    /// Whether its columns are at their defaults.
    pub(crate) fn is_untried(&self) -> bool {
        matches!(
            self,
            Self::Pending {
                attempts: 0,
                due: Due::Now,
                error: None,
                suspect: false,
                claimed: _,
            }
        )
    }

    pub(crate) fn is_suspect(&self) -> bool {
        matches!(self, Self::Pending { suspect: true, .. })
    }

    pub(crate) fn is_claimed(&self) -> bool {
        matches!(self, Self::Pending { claimed: true, .. })
    }
}

/// What came of one [`Write`], once it is committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// The message has a new row.
    Inserted {
        /// Its number.
        seq: i64,
    },
    /// The message was there already, the same id and content.
    Exists {
        /// The number of its row.
        seq: i64,
        /// The state its row was in.
        state: Existing,
    },
    /// The id lives on a row with other content; nothing was written.
    Conflict,
    /// Done; there is nothing to tell.
    Done,
    /// The attempt is counted; 0: the row is no longer pending.
    Began {
        /// Handler starts, this one included.
        attempts: u32,
    },
    /// `Some`: that row was pending and is settled or put off. `None`: there was none to settle.
    Settled {
        /// The number of the row.
        seq: Option<i64>,
    },
}

/// The state of a row that was there before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// To be processed.
    Pending,
    /// Processed.
    Processed,
    /// A dead letter.
    Dead,
}

impl Existing {
    /// By the column `processed`.
    pub(crate) fn of(processed: i64) -> Self {
        match processed {
            0 => Self::Pending,
            1 => Self::Processed,
            _ => Self::Dead,
        }
    }
}

/// A key that is stopped by a dead letter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldKey {
    /// The key.
    pub key: Key,
    /// Since when.
    pub since: Timestamp,
    /// The message that stopped it.
    pub message_id: MessageId,
    /// Why that one is dead.
    pub reason: String,
}
