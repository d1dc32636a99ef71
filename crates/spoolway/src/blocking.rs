//! The producer for programs without an async runtime.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use spoolway_client::{Closed, OpenError, ProducerBuilder, Receipt, SendError};
use spoolway_proto::Message;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;

/// A [`Producer`](crate::Producer) whose calls wait on the calling thread. A thread of its own serves the connection.
///
/// A handle: clones share the producer. Calls of several threads at once go on together. It may not be called inside an
/// async task, which it would block: its calls panic there.
///
/// ```no_run
/// use spoolway::{Message, blocking::Producer};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let producer = Producer::open("/run/app/orders.sock", "/var/lib/app/orders.db")?;
/// let receipt = producer.send(Message::new("order", "tea")?)?;
/// println!("{} by {}", receipt.id, receipt.path); // 0199… by socket
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Producer {
    // Dropped before the runtime, which it needs to hand over what is unsettled.
    producer: spoolway_client::Producer,
    runtime: Arc<Runtime>,
}

/// A thread that runs until this value is dropped.
#[derive(Debug)]
struct Runtime {
    handle: Handle,
    thread: Option<JoinHandle<()>>,
    /// Dropped to end the thread.
    alive: Option<oneshot::Sender<()>>,
}

impl Producer {
    /// Opens a producer with the defaults of [`Producer::builder`](crate::Producer::builder).
    ///
    /// # Errors
    ///
    /// As [`open_with`](Self::open_with).
    pub fn open(socket: impl AsRef<Path>, database: impl AsRef<Path>) -> Result<Self, OpenError> {
        Self::open_with(spoolway_client::Producer::builder(socket, database))
    }

    /// Opens a producer as the builder says.
    ///
    /// # Errors
    ///
    /// As [`ProducerBuilder::open`]; [`OpenError::Runtime`] when the system gives no thread.
    pub fn open_with(builder: ProducerBuilder) -> Result<Self, OpenError> {
        let runtime = Runtime::start().map_err(|_| OpenError::Runtime)?;
        Ok(Self {
            producer: runtime.handle.block_on(builder.open())?,
            runtime: Arc::new(runtime),
        })
    }

    /// Sends a message and waits for its answer. `Ok` means processed, or on disk.
    ///
    /// # Errors
    ///
    /// As [`Producer::send`](crate::Producer::send): the message is given back.
    pub fn send(&self, message: Message) -> Result<Receipt, SendError> {
        self.producer.send(message).wait()
    }

    /// Sends messages in this order, with nothing between them, and waits for the answers to all, in the same order.
    pub fn send_batch<M>(&self, messages: M) -> Vec<Result<Receipt, SendError>>
    where
        M: IntoIterator<Item = Message, IntoIter: ExactSizeIterator>,
    {
        self.producer.send_batch(messages).wait()
    }

    /// The producer itself, for what has no method here: its `send_later` never waits, and its `send` returns at once
    /// with a value to wait on, so that one thread can have many messages on their way.
    pub fn as_async(&self) -> &spoolway_client::Producer {
        &self.producer
    }

    /// Waits until every message that was sent before is settled, and confirms the answers.
    pub fn flush(&self) {
        self.runtime.handle.block_on(self.producer.flush());
    }

    /// Ends the producer, for all its handles, within `deadline`, and says what became of what was unsettled.
    pub fn close(&self, deadline: Duration) -> Closed {
        self.runtime.handle.block_on(self.producer.close(deadline))
    }
}

impl Runtime {
    fn start() -> io::Result<Self> {
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let handle = runtime.handle().clone();
        let (alive, over) = oneshot::channel::<()>();
        let thread = thread::Builder::new()
            .name("spoolway".into())
            .spawn(move || {
                // It ends by being dropped.
                let _ = runtime.block_on(over);
            })?;
        Ok(Self {
            handle,
            thread: Some(thread),
            alive: Some(alive),
        })
    }
}

impl Drop for Runtime {
    fn drop(&mut self) {
        drop(self.alive.take());
        if let Some(thread) = self.thread.take() {
            // A panic there was printed there.
            let _ = thread.join();
        }
    }
}
