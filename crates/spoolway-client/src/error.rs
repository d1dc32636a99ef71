//! What can go wrong, in words that say what happened, to what, and what to do next.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use spoolway_proto::{Code, Message, QueueId};
use spoolway_queue::QueueError;
use spoolway_socket::{Absence, PathTooLong};

/// What is known of a message that `send` could not vouch for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// Nobody has it: it can be sent again, by any way.
    NotTaken,
    /// It may have been taken. Sending the same id again from the same `Producer` is safe.
    Unknown,
}

impl fmt::Display for Fate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::NotTaken => "not taken",
            Self::Unknown => "fate unknown",
        })
    }
}

/// Why a `send` failed, for programs. The text of each is stable.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum SendCode {
    /// The producer was closed.
    Closed,
    /// The process was forked; a producer belongs to the process that opened it.
    Forked,
    /// The producer holds as many unsettled messages, or bytes of them, as it may; or `try_send` found no room in the
    /// window.
    Full,
    /// The window gave a keyed message no turn within `send_timeout`, or any message none at once, with
    /// [`OnFull::Error`](crate::OnFull::Error).
    NoRoom,
    /// The consumer reads another queue file than this producer writes.
    OtherQueue,
    /// The message was refused for what it is; the code says why.
    Refused(Code),
    /// No answer within `send_timeout`, or before the producer ended.
    Unanswered,
    /// Neither the socket nor the queue file took it.
    Unavailable,
}

impl SendCode {
    /// The stable text.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Forked => "forked",
            Self::Full => "full",
            Self::NoRoom => "no_room",
            Self::OtherQueue => "other_queue",
            Self::Refused(code) => code.as_str(),
            Self::Unanswered => "unanswered",
            Self::Unavailable => "unavailable",
        }
    }

    /// What the caller should do.
    pub const fn next_step(self) -> &'static str {
        match self {
            Self::Closed => "open another producer",
            Self::Forked => "open a producer in this process",
            Self::Full => "wait for earlier messages, then send it again",
            Self::NoRoom => "send it again later, or give the consumer more room",
            Self::OtherQueue => "give producer and consumer the same queue file",
            Self::Refused(code) => code.next_step(),
            Self::Unanswered => "send the same id again from the same producer to learn its fate",
            Self::Unavailable => {
                "start the consumer or make the queue file writable, then send it again"
            }
        }
    }
}

impl fmt::Display for SendCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// A message that `send` cannot vouch for. It is given back, with the reasons of both paths.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{}", self.sentence())]
pub struct SendError {
    /// Whether somebody may have it.
    pub fate: Fate,
    /// The stable reason.
    pub code: SendCode,
    /// Why the socket did not take it, if it was asked.
    pub socket: Option<Box<SocketReason>>,
    /// Why the queue file did not take it, if it was asked.
    pub queue: Option<Box<QueueReason>>,
    /// The message.
    pub message: Box<Message>,
}

impl SendError {
    pub(crate) fn new(fate: Fate, code: SendCode, message: Message) -> Self {
        Self {
            fate,
            code,
            socket: None,
            queue: None,
            message: Box::new(message),
        }
    }

    pub(crate) fn by_socket(mut self, reason: Option<SocketReason>) -> Self {
        self.socket = reason.map(Box::new);
        self
    }

    pub(crate) fn by_queue(mut self, reason: Option<QueueReason>) -> Self {
        self.queue = reason.map(Box::new);
        self
    }

    fn sentence(&self) -> String {
        let Self { fate, code, .. } = self;
        let mut reasons = Vec::new();
        reasons.extend(self.socket.as_ref().map(ToString::to_string));
        reasons.extend(self.queue.as_ref().map(ToString::to_string));
        if reasons.is_empty() {
            reasons.push(
                match code {
                    SendCode::Closed => "the producer is closed",
                    SendCode::Forked => "the producer belongs to the parent process",
                    SendCode::Full => "too many messages are unsettled",
                    _ => code.as_str(),
                }
                .to_owned(),
            );
        }
        let reasons = reasons.join("; ");
        match self.socket.as_deref() {
            // That sentence ends with the next step.
            Some(SocketReason::Invalid(_)) => format!("{fate}: {reasons}"),
            _ => format!("{fate}: {reasons}; {}", code.next_step()),
        }
    }
}

/// Why the socket did not take a message.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SocketReason {
    /// No connection has been tried yet, or none is meant to be.
    #[error("the socket was not tried")]
    NotTried,
    /// The consumer cannot be reached, or is silent.
    #[error(transparent)]
    Absent(#[from] Absence),
    /// The consumer said that it is going away.
    #[error("consumer not running (it said goodbye)")]
    Leaving,
    /// The producer is being closed.
    #[error("the producer is closing")]
    Closing,
    /// The consumer is connected and had no room in time.
    #[error("the consumer has no room (window full)")]
    NoRoom,
    /// The consumer is connected and has not answered in time.
    #[error("not answered within {0:?}")]
    Unanswered(Duration),
    /// The consumer refused the message, or ended the connection with an error.
    #[error("refused by the consumer ({code}: {message})")]
    Said {
        /// Its code.
        code: Code,
        /// Its sentence.
        message: String,
    },
    /// The message is wrong, so it was not even offered.
    #[error("{0}")]
    Invalid(String),
    /// The consumer said something that cannot be understood.
    #[error("not understood ({0})")]
    Garbled(String),
    /// The consumer reads another queue file.
    #[error("{0}")]
    OtherQueue(OtherQueueFile),
}

impl SocketReason {
    /// A stable word for logs and programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Absent(absence) => absence.code(),
            Self::Closing => "closing",
            Self::Garbled(_) => "not_understood",
            Self::Invalid(_) => "invalid",
            Self::Leaving => "goodbye",
            Self::NoRoom => SendCode::NoRoom.as_str(),
            Self::NotTried => "not_tried",
            Self::OtherQueue(_) => SendCode::OtherQueue.as_str(),
            Self::Said { code, .. } => code.as_str(),
            Self::Unanswered(_) => SendCode::Unanswered.as_str(),
        }
    }
}

/// The consumer reads another queue file than this producer writes.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the consumer at {} reads queue file {theirs}, but {} is {ours}: what is spooled there would not be read",
    .socket.display(), .database.display()
)]
pub struct OtherQueueFile {
    /// The socket.
    pub socket: PathBuf,
    /// The queue file of this producer.
    pub database: PathBuf,
    /// Its identity.
    pub ours: QueueId,
    /// The identity of the file that the consumer reads.
    pub theirs: QueueId,
}

/// Why the queue file did not take a message.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueReason {
    /// It has a row of this id with other content.
    #[error("the queue file has a message of this id with other content")]
    Conflict,
    /// It could not be written.
    #[error("{0}")]
    Failed(QueueError),
}

/// A producer that could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// No socket can have a path this long.
    #[error(transparent)]
    SocketPath(#[from] PathTooLong),
    /// The directory of the queue file does not exist.
    #[error("the directory of the queue file does not exist: {}; create it first", .0.display())]
    NoDirectory(PathBuf),
    /// The queue file could not be opened.
    #[error(transparent)]
    Queue(#[from] QueueError),
    /// The consumer reads another queue file.
    #[error("{0}; give both the same file, or allow it with `on_other_queue`")]
    OtherQueue(OtherQueueFile),
    /// The process ran out of what a thread needs, or the runtime is ending.
    #[error("the runtime is shutting down")]
    Runtime,
}

impl OpenError {
    /// The stable text of the reason.
    pub fn code(&self) -> &'static str {
        match self {
            Self::SocketPath(_) => PathTooLong::CODE,
            Self::NoDirectory(_) => "no_directory",
            Self::Queue(error) => error.code(),
            Self::OtherQueue(_) => "other_queue",
            Self::Runtime => "runtime",
        }
    }
}
