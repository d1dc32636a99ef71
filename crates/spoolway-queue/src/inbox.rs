//! Remembers in the user's own database which messages had their effect there.

use std::time::Duration;

use rusqlite::{Connection, params};
use spoolway_proto::Message;

use crate::QueueError;
use crate::clock::{self, Now};
use crate::sql::user;
use crate::table::{self, Table};

/// The messages that had their effect: a table in the user's database, written in the transaction
/// of that effect, so that both are there or neither is.
///
/// ```
/// use rusqlite::Connection;
/// use spoolway_proto::Message;
/// use spoolway_queue::Inbox;
///
/// fn handle(db: &mut Connection, inbox: &Inbox, message: &Message) -> Result<(), Box<dyn std::error::Error>> {
///     let tx = db.transaction()?;
///     if inbox.first_time(&tx, message)? {
///         tx.execute("INSERT INTO orders (body) VALUES (?1)", [message.payload.as_str()])?;
///     }
///     tx.commit()?; // only now may the message be answered `processed`
///     Ok(())
/// }
///
/// let mut db = Connection::open_in_memory()?;
/// db.execute_batch("CREATE TABLE orders (body TEXT)")?;
/// let inbox = Inbox::default();
/// inbox.create(&db)?;
///
/// let message = Message::new("order", &7)?.id("order-7");
/// handle(&mut db, &inbox, &message)?;
/// handle(&mut db, &inbox, &message)?; // a copy
/// let orders: i64 = db.query_row("SELECT count(*) FROM orders", (), |row| row.get(0))?;
/// assert_eq!(orders, 1);
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbox {
    table: Table,
}

/// The inbox in the table `spoolway_inbox`.
impl Default for Inbox {
    fn default() -> Self {
        Self {
            table: Table::trusted("spoolway_inbox"),
        }
    }
}

impl Inbox {
    /// How many records one [`forget`](Self::forget) deletes at most: some milliseconds.
    pub const FORGET_MAX: u64 = 1_000;

    /// The inbox in a table of that name: 1 to 48 ASCII letters, digits and `_`. Two handlers with
    /// effects of their own for the same messages need one each.
    ///
    /// # Errors
    ///
    /// [`QueueError::Misuse`] for another name.
    pub fn named(table: &str) -> Result<Self, QueueError> {
        let table = Table::new(table)?;
        Ok(Self { table })
    }

    /// Makes the table if it is not there; at every start, in a transaction or not.
    ///
    /// # Errors
    ///
    /// [`QueueError::Misuse`] when a table of that name has other columns, else why it could not
    /// be made.
    pub fn create(&self, conn: &Connection) -> Result<(), QueueError> {
        self.table
            .create(conn, user::INBOX_CREATE, user::INBOX_COLUMNS)
    }

    /// Whether this message comes for the first time, which is recorded in the transaction that is
    /// open on `tx`: when that is rolled back, the next time is the first again.
    ///
    /// Copies that come over two connections at once wait for each other as `busy_timeout` of
    /// `tx` says, and only one of them is the first, in transactions of every behaviour. A message
    /// that is replayed by request is not the first either: do not ask when it is to take effect
    /// again.
    ///
    /// # Errors
    ///
    /// [`QueueError::Conflict`] when the id was recorded with another type or payload;
    /// [`QueueError::Misuse`] outside of a transaction, without a table or for a message without
    /// an id; [`QueueError::Busy`] when another connection holds the write lock or, in a deferred
    /// transaction that has read, has written since. After an error roll back, and fail the
    /// message so that it comes again.
    pub fn first_time(&self, tx: &Connection, message: &Message) -> Result<bool, QueueError> {
        self.table.within_transaction(tx)?;
        if message.id.is_empty() {
            let what = "a message without an id is like no other; take it as it was delivered";
            return Err(QueueError::misuse(&table::path(tx), what));
        }
        let (id, crc) = (message.id.as_str(), message.crc());
        let recorded = || {
            let inserted = tx
                .prepare_cached(&self.table.sql(user::RECORD))?
                .execute(params![id, crc, Now::read().wall_ms])?;
            if inserted == 1 {
                return Ok(None);
            }
            tx.prepare_cached(&self.table.sql(user::RECORDED))?
                .query_row([id], |row| row.get(0).map(Some))
        };
        let before: Option<u32> = recorded().map_err(|error| self.table.failed(tx, error))?;
        match before {
            None => Ok(true),
            Some(before) if before == crc => Ok(false),
            Some(_) => Err(QueueError::Conflict {
                path: table::path(tx),
                id: message.id.clone(),
            }),
        }
    }

    /// Deletes records that are older than `older_than` by the wall clock, oldest first and at
    /// most [`FORGET_MAX`](Self::FORGET_MAX) of them, and returns how many; when it is that many,
    /// call it again.
    ///
    /// `older_than` has to be longer than the time within which a copy can still come: the
    /// retention of the queue (24 h by default) plus the longest outage of whatever sends again,
    /// such as the relay of an outbox. A copy that comes later runs again.
    ///
    /// # Errors
    ///
    /// Why nothing was deleted.
    pub fn forget(&self, conn: &Connection, older_than: Duration) -> Result<u64, QueueError> {
        let before = Now::read()
            .wall_ms
            .saturating_sub(clock::millis(older_than));
        let forget = || {
            conn.prepare_cached(&self.table.sql(user::FORGET))?
                .execute(params![before, Self::FORGET_MAX])
        };
        let forgotten = forget().map_err(|error| self.table.failed(conn, error))?;
        Ok(forgotten as u64)
    }
}
