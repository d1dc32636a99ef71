//! Messages in the user's own database, committed with the data they speak of, until they are sent.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use spoolway_proto::{Key, Limits, Message, MessageId, Timestamp, validate_queue_message};

use crate::QueueError;
use crate::clock::Now;
use crate::dequeue::new_id;
use crate::row;
use crate::sql::user;
use crate::table::{self, Table};

/// How long one try of a relay waits for the write lock; answers that could not be written are kept.
const BUSY_WAIT: Duration = Duration::from_millis(1_000);

/// Messages to be sent: a table in the user's database, written in the transaction of the data
/// they speak of, so that both are there or neither is. A [`Relay`](crate::Relay) sends what is
/// committed, and deletes it then.
///
/// ```
/// use rusqlite::Connection;
/// use spoolway_proto::Message;
/// use spoolway_queue::Outbox;
///
/// let mut db = Connection::open_in_memory()?;
/// db.execute_batch("CREATE TABLE orders (id INTEGER PRIMARY KEY, item TEXT)")?;
/// let outbox = Outbox::default();
/// outbox.create(&db)?;
///
/// let tx = db.transaction()?;
/// tx.execute("INSERT INTO orders (item) VALUES ('tea')", ())?;
/// outbox.enqueue(&tx, Message::new("order", "tea")?)?;
/// tx.commit()?;
/// assert_eq!(outbox.waiting(&db)?, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outbox {
    pub(crate) table: Table,
    limits: Limits,
}

/// A message that was refused for good, and is kept aside.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Its id.
    pub id: MessageId,
    /// The message; `None` when its row was damaged.
    pub message: Option<Message>,
    /// When it was refused.
    pub at: Timestamp,
    /// Why.
    pub error: String,
}

/// The outbox in the table `spoolway_outbox`, with the default limits.
impl Default for Outbox {
    fn default() -> Self {
        Self {
            table: Table::trusted("spoolway_outbox"),
            limits: Limits::default(),
        }
    }
}

impl Outbox {
    /// The outbox in a table of that name: 1 to 48 ASCII letters, digits and `_`.
    ///
    /// # Errors
    ///
    /// [`QueueError::Misuse`] for another name.
    pub fn named(table: &str) -> Result<Self, QueueError> {
        let table = Table::new(table)?;
        Ok(Self {
            table,
            ..Self::default()
        })
    }

    /// What a message must keep within; those of whoever it is sent to.
    #[must_use]
    pub fn limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self
    }

    /// Makes the table if it is not there; at every start, in a transaction or not.
    ///
    /// # Errors
    ///
    /// [`QueueError::Misuse`] when a table of that name has other columns, else why it could not
    /// be made.
    pub fn create(&self, conn: &Connection) -> Result<(), QueueError> {
        self.table
            .create(conn, user::OUTBOX_CREATE, user::OUTBOX_COLUMNS)
    }

    /// Puts a message into the transaction that is open on `tx`; id and timestamp are filled in
    /// when absent, and it is sent under that id however often it has to be. The same message
    /// again, while it is there, is no error and changes nothing.
    ///
    /// # Errors
    ///
    /// [`QueueError::Invalid`]; [`QueueError::Conflict`] when a message of that id is there with
    /// another type or payload; [`QueueError::Misuse`] outside of a transaction or without a
    /// table; or why it was not written. Roll back then.
    pub fn enqueue(&self, tx: &Connection, mut message: Message) -> Result<MessageId, QueueError> {
        self.table.within_transaction(tx)?;
        let now = Timestamp(Now::read().wall_ms);
        message.stamp(now, new_id);
        validate_queue_message(&message, &self.limits)
            .map_err(|invalid| QueueError::invalid(&table::path(tx), invalid))?;
        let (id, crc) = (message.id.as_str(), message.crc());
        let enqueued = || {
            let inserted = tx
                .prepare_cached(&self.table.sql(user::ENQUEUE))?
                .execute(params![
                    id,
                    message.r#type,
                    message.payload.as_str(),
                    message.timestamp.unwrap_or(now).0,
                    message.encode_attributes(),
                    message.key.as_ref().map(Key::as_str),
                    crc,
                ])?;
            if inserted == 1 {
                return Ok(crc);
            }
            tx.prepare_cached(&self.table.sql(user::ENQUEUED))?
                .query_row([id], |row| row.get(0))
        };
        let there: u32 = enqueued().map_err(|error| self.table.failed(tx, error))?;
        if there != crc {
            return Err(QueueError::Conflict {
                path: table::path(tx),
                id: message.id,
            });
        }
        Ok(message.id)
    }

    /// How many messages wait to be sent. Takes longer the more there are.
    ///
    /// # Errors
    ///
    /// What reading ran into.
    pub fn waiting(&self, conn: &Connection) -> Result<u64, QueueError> {
        let count = || {
            conn.prepare_cached(&self.table.sql(user::COUNT))?
                .query_row((), |row| Ok(row.get::<_, u64>(0)? - row.get::<_, u64>(1)?))
        };
        count().map_err(|error| self.table.failed(conn, error))
    }

    /// The first `limit` messages that were refused for good, oldest first.
    ///
    /// # Errors
    ///
    /// What reading ran into.
    pub fn failed(&self, conn: &Connection, limit: usize) -> Result<Vec<Refused>, QueueError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let failed = || {
            conn.prepare_cached(&self.table.sql(user::FAILED))?
                .query_map([limit], refused)?
                .collect::<Result<_, _>>()
        };
        failed().map_err(|error| self.table.failed(conn, error))
    }

    /// Lets a refused message be sent once more, behind what waits now: its place in the order of
    /// its key is gone. Whether there was one of that id.
    ///
    /// # Errors
    ///
    /// Why it was not written.
    pub fn retry(&self, conn: &Connection, id: &MessageId) -> Result<bool, QueueError> {
        self.change_refused(conn, user::RETRY, id)
    }

    /// Deletes a refused message. Whether there was one of that id.
    ///
    /// # Errors
    ///
    /// Why it was not written.
    pub fn discard(&self, conn: &Connection, id: &MessageId) -> Result<bool, QueueError> {
        self.change_refused(conn, user::DISCARD, id)
    }

    fn change_refused(
        &self,
        conn: &Connection,
        statement: &str,
        id: &MessageId,
    ) -> Result<bool, QueueError> {
        let change = || {
            conn.prepare_cached(&self.table.sql(statement))?
                .execute([id.as_str()])
        };
        let changed = change().map_err(|error| self.table.failed(conn, error))?;
        Ok(changed > 0)
    }

    /// A connection for its relay, of which other programs notice as little as possible.
    pub(crate) fn connect(&self, path: &Path) -> Result<Connection, QueueError> {
        let failed = |error| QueueError::sql(path, error);
        let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
            | OpenFlags::SQLITE_OPEN_NO_MUTEX
            | OpenFlags::SQLITE_OPEN_EXRESCODE;
        let conn = Connection::open_with_flags(path, flags).map_err(failed)?;
        conn.busy_timeout(BUSY_WAIT).map_err(failed)?;
        let mode: String = conn
            .pragma_query_value(None, "journal_mode", |row| row.get(0))
            .map_err(failed)?;
        if mode == "wal" {
            // A deletion that a power loss undoes is a message sent again. In other modes a sync
            // that is left out can damage the database, which is not ours.
            conn.pragma_update(None, "synchronous", "NORMAL")
                .map_err(failed)?;
        }
        self.table.check(&conn, user::OUTBOX_COLUMNS)?;
        Ok(conn)
    }

    /// What waits after `seq`, in order, as far as `take` goes on.
    pub(crate) fn read(
        &self,
        conn: &Connection,
        after: i64,
        mut take: impl FnMut(&Row<'_>) -> rusqlite::Result<bool>,
    ) -> rusqlite::Result<()> {
        let mut waiting = conn.prepare_cached(&self.table.sql(user::WAITING))?;
        let mut rows = waiting.query([after])?;
        while let Some(row) = rows.next()? {
            if !take(row)? {
                break;
            }
        }
        Ok(())
    }

    /// The one that waits at `seq`.
    pub(crate) fn read_at(&self, conn: &Connection, seq: i64) -> rusqlite::Result<Option<Found>> {
        conn.prepare_cached(&self.table.sql(user::WAITING_AT))?
            .query_row([seq], found)
            .optional()
    }

    /// The first of a key that waits after one `seq` and up to another.
    pub(crate) fn read_key(
        &self,
        conn: &Connection,
        key: &Key,
        after: i64,
        to: i64,
    ) -> rusqlite::Result<Option<Found>> {
        conn.prepare_cached(&self.table.sql(user::WAITING_OF_KEY))?
            .query_row(params![key.as_str(), after, to], found)
            .optional()
    }
}

/// A row that waits: its number, and the message or what is wrong with it.
pub(crate) type Found = (i64, Result<Message, String>);

/// The row of a waiting message.
pub(crate) fn found(row: &Row<'_>) -> rusqlite::Result<Found> {
    let message = row::assemble(row, true)?.and_then(|message| {
        let (crc, found) = (row.get::<_, u32>(8), message.crc());
        match crc {
            Ok(crc) if crc == found => Ok(message),
            Ok(crc) => Err(format!(
                "damaged: its CRC is {crc:08x}, that of its content {found:08x}"
            )),
            Err(error) => Err(format!("damaged: {error}")),
        }
    });
    Ok((row.get(0)?, message))
}

fn refused(row: &Row<'_>) -> rusqlite::Result<Refused> {
    let (_, message) = found(row)?;
    Ok(Refused {
        id: row::parse(row, 1)?,
        message: message.ok(),
        at: Timestamp(row.get(9)?),
        error: row.get::<_, Option<String>>(10)?.unwrap_or_default(),
    })
}
