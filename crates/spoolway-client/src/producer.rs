//! The handle that programs hold.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use spoolway_proto::{Message, MessageId};
use tokio::sync::oneshot;

use crate::core::Room;
use crate::receipt::{Sending, Waiter};
use crate::shared::Shared;
use crate::{Closed, OpenError, OtherQueueFile, ProducerBuilder, SendError, SendingBatch, Status};

/// Sends messages: over the socket, or into the queue file when that is not possible.
///
/// A handle: clones share the connection, the order and the bounds. When the last one is dropped,
/// what is unsettled is handed to the queue file, for which the drop waits at most 5 s; what could
/// not be written is logged by id. [`close`](Self::close) does the same and tells.
///
/// Messages enter in the order of the calls. At most 10,000 messages and 64 MiB are held unsettled
/// ([`RouteConfig`](crate::route::RouteConfig)); over that a send fails with
/// [`SendCode::Full`](crate::SendCode::Full).
#[derive(Clone, Debug)]
pub struct Producer {
    handle: Arc<Handle>,
}

#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Producer {
    /// Opens a producer with the defaults of [`Producer::builder`].
    ///
    /// # Errors
    ///
    /// As [`ProducerBuilder::open`].
    pub async fn open(
        socket: impl AsRef<Path>,
        database: impl AsRef<Path>,
    ) -> Result<Self, OpenError> {
        Self::builder(socket, database).open().await
    }

    /// Opens a producer that never uses the socket: all it sends goes to the queue file `database`, in the order of
    /// the calls.
    ///
    /// It is the one for sends from inside a handler. A handler that waited for an answer by the socket would wait
    /// for its own consumer, which may be waiting for the handler.
    ///
    /// # Errors
    ///
    /// [`OpenError`]: the queue file cannot be used.
    pub async fn spooling(database: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::builder("", database).spool_only().open().await
    }

    /// A producer for the consumer at `socket`, with the queue file `database` beside it.
    ///
    /// A socket that has a name is found by it, with the rule of the binary:
    ///
    /// ```no_run
    /// use spoolway_client::{NameError, Producer, SocketName};
    ///
    /// let socket = SocketName::new("orders", "1")?.path()?;
    /// let builder = Producer::builder(socket, "/var/lib/app/orders.db");
    /// # Ok::<(), NameError>(())
    /// ```
    pub fn builder(socket: impl AsRef<Path>, database: impl AsRef<Path>) -> ProducerBuilder {
        ProducerBuilder::new(socket.as_ref(), database.as_ref())
    }

    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let handle = Arc::new(Handle { shared });
        Self { handle }
    }

    /// Sends a message. It enters, and takes its place in the order, at this call; the future only
    /// waits for the answer, and dropping it drops the answer, not the message.
    ///
    /// `Ok` means processed, or on disk (or what the message's `ack` level asks for). On `Err` the
    /// message is given back, with the reasons of both paths.
    pub fn send(&self, message: Message) -> Sending {
        let (waiter, answer) = oneshot::channel();
        match self
            .handle
            .shared
            .enter(message, Some(Waiter::Alone(waiter)), Room::Awaited)
        {
            Ok(message) => Sending::waiting(message, answer),
            Err(error) => Sending::answered(error.message.id.clone(), Err(error)),
        }
    }

    /// Sends messages in this order, with nothing between them. They enter at this call; the future waits for all
    /// their answers, one a message in the same order, and dropping it drops the answers, not the messages.
    ///
    /// Each message has its own fate, as if it were sent alone: one that is refused stops none of the others. What can
    /// be written at once goes in frames of many messages, which costs both sides less than as many sends.
    pub fn send_batch<M>(&self, messages: M) -> SendingBatch
    where
        M: IntoIterator<Item = Message, IntoIter: ExactSizeIterator>,
    {
        self.handle.shared.enter_batch(messages.into_iter())
    }

    /// Sends a message if it need not wait for room in the window; else gives it back at once.
    ///
    /// It is taken, and the future waits for its answer, when it can be written behind what is on its way, when it
    /// goes to the queue file anyhow (there is no connection, or with [`OnFull::Spool`](crate::OnFull::Spool)), and
    /// while a connection is being made or resumed, which is a wait for the consumer, not for room.
    ///
    /// # Errors
    ///
    /// As [`send_later`](Self::send_later). Without room the code is [`SendCode::Full`](crate::SendCode::Full); the
    /// message took no place in the order, and nobody has it.
    pub fn try_send(&self, message: Message) -> Result<Sending, SendError> {
        let (waiter, answer) = oneshot::channel();
        let waiter = Some(Waiter::Alone(waiter));
        let message = self.handle.shared.enter(message, waiter, Room::Now)?;
        Ok(Sending::waiting(message, answer))
    }

    /// Sends a message whose answer nobody waits for. A later failure is logged by id and counted
    /// in [`Status::returned`]; [`flush`](Self::flush) and [`close`](Self::close) cover it.
    ///
    /// # Errors
    ///
    /// The message did not enter: it is invalid, the producer is full or closed.
    pub fn send_later(&self, message: Message) -> Result<MessageId, SendError> {
        let message = self.handle.shared.enter(message, None, Room::Awaited)?;
        Ok(message.id.clone())
    }

    /// Waits until every message that was sent before is settled, with whatever outcome, and confirms the answers:
    /// the consumer keeps nothing of them any more.
    ///
    /// A message that may have been taken while neither the consumer answers nor the file can be
    /// written stays unsettled until one of them does.
    pub async fn flush(&self) {
        self.handle.shared.flush().await;
    }

    /// Ends the producer, for all its handles, within `deadline`. Until shortly before it (a
    /// quarter, at most 1 s) the consumer's answers are waited for; what is unanswered then is
    /// spooled, and what could not be is given back. The answers are confirmed before the connection closes, also by
    /// the drop of the last handle.
    pub async fn close(&self, deadline: Duration) -> Closed {
        self.handle.shared.close(deadline).await
    }

    /// Where its messages stand.
    pub fn status(&self) -> Status {
        match self.handle.shared.is_forked() {
            true => Status::default(),
            false => self.handle.shared.with(|core, _| core.status()),
        }
    }

    pub(crate) fn other_queue(&self) -> Option<OtherQueueFile> {
        self.handle
            .shared
            .with(|core, _| core.other_queue().cloned())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        if self.shared.is_forked() {
            // Connection and database belong to the parent: not even closing them is safe here.
            std::mem::forget(Arc::clone(&self.shared));
        } else {
            self.shared.hand_over();
        }
    }
}
