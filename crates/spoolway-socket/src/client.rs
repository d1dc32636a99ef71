//! The plain client: messages out, answers in, no queue behind it.
//!
//! The caller's task writes the first message itself. What is sent before the client's own task has come by is gathered
//! there and written at once, up to 64 KiB a call: nothing waits for a timer, and a stream costs a call for many messages.

mod link;

use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use spoolway_proto::{Limits, Message, Reply, validate_queue_message};
use tokio::time::{Instant, timeout_at};

use crate::stamp::{is_stamped, stamp};
use crate::{Absence, ClientError, dial};
use link::{Awaited, Link};

/// Sends messages over a connection without hello.
///
/// A handle: clones share the connection, and the order of what they send. Dropping the last one ends the connection
/// when what was sent is written; [`disconnect`](Self::disconnect) does the same and tells. It needs the tokio runtime in
/// which it was connected.
#[derive(Clone, Debug)]
pub struct UnixSocketClient {
    handle: Arc<Handle>,
    timeout: Duration,
}

/// The last one to go ends the connection.
#[derive(Debug)]
struct Handle(Arc<Link>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.close();
    }
}

impl UnixSocketClient {
    /// How long a call may take where nobody says: 5 s.
    pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

    /// Connects, with [`REQUEST_TIMEOUT`](Self::REQUEST_TIMEOUT).
    ///
    /// # Errors
    ///
    /// As [`connect`](Self::connect).
    pub async fn open(path: impl AsRef<Path>) -> Result<Self, ClientError> {
        Self::connect(path, Self::REQUEST_TIMEOUT).await
    }

    /// Connects, within `timeout`, which is also how long each later call may take.
    ///
    /// # Errors
    ///
    /// [`ClientError::Connect`]: nobody listens there, or not for this user.
    pub async fn connect(path: impl AsRef<Path>, timeout: Duration) -> Result<Self, ClientError> {
        let path = path.as_ref();
        let stream = dial(path, timeout)
            .await
            .map_err(|error| ClientError::Connect {
                path: path.to_owned(),
                reason: Absence::of(path, &error),
            })?;
        let link = Arc::new(Link::new(stream));
        tokio::spawn(Arc::clone(&link).run(timeout));
        Ok(Self {
            handle: Arc::new(Handle(link)),
            timeout,
        })
    }

    /// Sends a message. Id and time are filled in where they are missing.
    ///
    /// Without `requires_ack` it returns as soon as the message is on its way, which says nothing of its arrival: `Ok(None)`. With
    /// it the answer is waited for, and is `Ok(Some)` when the message was taken. Sends of several tasks at once, each
    /// with an answer of its own, share the connection well.
    ///
    /// A future that is dropped drops the answer, not the message.
    ///
    /// # Errors
    ///
    /// [`ClientError`]; only after [`Invalid`](ClientError::Invalid) and [`Refused`](ClientError::Refused) is it certain
    /// that the message was not taken.
    pub async fn send(&self, message: &Message) -> Result<Option<Reply>, ClientError> {
        // A loop of sends that never waits lets the task of the connection run now and then.
        tokio::task::coop::consume_budget().await;
        let stamped;
        let message = if is_stamped(message) {
            message
        } else {
            let mut copy = message.clone();
            stamp(&mut copy);
            stamped = copy;
            &stamped
        };
        validate_queue_message(message, &Limits::default()).map_err(ClientError::Invalid)?;
        let link = &self.handle.0;
        if !message.requires_ack {
            if !link.send(message)? {
                let end = Instant::now() + self.timeout;
                self.send_in_time(message, end).await?;
            }
            return Ok(None);
        }
        let end = Instant::now() + self.timeout;
        let (_awaited, answer) = Awaited::new(link, &message.id);
        self.send_in_time(message, end).await?;
        match timeout_at(end, answer).await {
            Ok(Ok(Ok(reply))) if reply.success => Ok(Some(reply)),
            Ok(Ok(Ok(reply))) => Err(ClientError::Refused(reply)),
            Ok(Ok(Err(error))) => Err(error),
            // The task of the connection went with its runtime.
            Ok(Err(_)) => Err(ClientError::Closed),
            Err(_) => Err(ClientError::TimedOut(self.timeout)),
        }
    }

    /// Sends it once there is room.
    async fn send_in_time(&self, message: &Message, end: Instant) -> Result<(), ClientError> {
        let link = &self.handle.0;
        loop {
            let mut room = pin!(link.room.notified());
            room.as_mut().enable();
            if link.send(message)? {
                return Ok(());
            }
            if timeout_at(end, room).await.is_err() {
                return Err(ClientError::TimedOut(self.timeout));
            }
        }
    }

    /// Ends the connection for all its handles: what was sent is written, what is asked is answered, and the server has
    /// read everything and closed its end.
    ///
    /// # Errors
    ///
    /// [`ClientError::TimedOut`], or why the connection ended before.
    pub async fn disconnect(&self) -> Result<(), ClientError> {
        let link = &self.handle.0;
        link.close();
        let end = Instant::now() + self.timeout;
        loop {
            let mut over = pin!(link.over.notified());
            over.as_mut().enable();
            if let Some(result) = link.result() {
                return result;
            }
            if timeout_at(end, over).await.is_err() {
                return Err(ClientError::TimedOut(self.timeout));
            }
        }
    }
}
