//! What `send` answers.

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use spoolway_proto::{Message, MessageId, Outcome};
use tokio::sync::oneshot;

use crate::batch::Gathering;
use crate::{Fate, SendCode, SendError, SocketReason};

/// Which way a message went.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Path {
    /// Over the socket, to the consumer.
    Socket,
    /// Into the queue file.
    Queue,
}

impl Path {
    /// The word in logs and output.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Socket => "socket",
            Self::Queue => "queue",
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// The message is processed, or it is on disk, or whatever less its `ack` level asked for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Receipt {
    /// The id of the message.
    pub id: MessageId,
    /// Which way it went.
    pub path: Path,
    /// What became of it.
    pub outcome: Outcome,
    /// Whether a message of this id and content had been taken before.
    pub duplicate: bool,
    /// Why it became a dead letter, if it did and the consumer said so.
    pub reason: Option<String>,
}

/// What [`Producer::close`](crate::Producer::close) leaves behind.
#[derive(Clone, Debug, Default)]
pub struct Closed {
    /// What was spooled because the producer ended before the consumer answered.
    pub spooled: Vec<MessageId>,
    /// What nobody is known to have, given back.
    pub returned: Vec<SendError>,
}

/// Numbers of a producer at one moment.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Status {
    /// Messages that were settled by the consumer's answer.
    pub by_socket: u64,
    /// Messages that were settled by a commit to the queue file.
    pub by_queue: u64,
    /// Messages that were refused or given back after they had entered.
    pub returned: u64,
    /// Messages that entered and are not settled.
    pub unsettled: u64,
    /// Whether messages go by the socket now.
    pub connected: bool,
    /// Why they do not, as far as it is known.
    pub socket: Option<SocketReason>,
}

pub(crate) type Answer = Result<Receipt, SendError>;

/// Who waits for the answer of a message.
#[derive(Debug)]
pub(crate) enum Waiter {
    Alone(oneshot::Sender<Answer>),
    /// Its place in a batch.
    InBatch(Arc<Gathering>, usize),
}

impl Waiter {
    /// Tells the answer. It is given back when nobody waits for it.
    pub(crate) fn answer(self, answer: Answer) -> Result<(), Answer> {
        match self {
            Self::Alone(waiter) => waiter.send(answer),
            Self::InBatch(gathering, place) => gathering.answer(place, answer),
        }
    }
}

/// A message on its way. Dropping it drops the answer, not the message.
#[derive(Debug)]
#[must_use = "the message is on its way; wait for its answer, or use `send_later`"]
pub struct Sending {
    id: MessageId,
    state: State,
}

#[derive(Debug)]
enum State {
    Answered(Option<Box<Answer>>),
    Waiting(oneshot::Receiver<Answer>, Arc<Message>),
}

impl Sending {
    pub(crate) fn answered(id: MessageId, answer: Answer) -> Self {
        let state = State::Answered(Some(Box::new(answer)));
        Self { id, state }
    }

    pub(crate) fn waiting(message: Arc<Message>, answer: oneshot::Receiver<Answer>) -> Self {
        let id = message.id.clone();
        let state = State::Waiting(answer, message);
        Self { id, state }
    }

    /// The id of the message.
    pub fn id(&self) -> &MessageId {
        &self.id
    }

    /// Waits on this thread, for programs without a runtime of their own.
    ///
    /// # Errors
    ///
    /// As the future.
    ///
    /// # Panics
    ///
    /// Inside an async task, which it would block.
    pub fn wait(self) -> Result<Receipt, SendError> {
        match self.state {
            State::Answered(answer) => *answer.expect("a future that is not finished"),
            State::Waiting(answer, message) => answer
                .blocking_recv()
                .unwrap_or_else(|_| Err(lost(&message))),
        }
    }
}

impl Future for Sending {
    type Output = Result<Receipt, SendError>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Answered(answer) => {
                Poll::Ready(*answer.take().expect("a future is not polled after its end"))
            }
            State::Waiting(answer, message) => Pin::new(answer)
                .poll(context)
                .map(|answer| answer.unwrap_or_else(|_| Err(lost(message)))),
        }
    }
}

/// Every waiter is answered before it is dropped, but for those of a producer that was leaked.
pub(crate) fn lost(message: &Message) -> SendError {
    SendError::new(Fate::Unknown, SendCode::Unanswered, message.clone())
}
