//! What can keep a consumer from starting, or end it.

use std::io;
use std::path::PathBuf;

use spoolway_queue::QueueError;
use spoolway_socket::ListenError;

use crate::SinkError;

/// What can keep a consumer from starting, or end it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// A value of the configuration makes no sense.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// Another consumer has the socket or the queue file.
    #[error(
        "another consumer{} holds {path}; stop it, or give this one a socket and queue file of its own",
        .pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default()
    )]
    Owned {
        /// The lock file.
        path: PathBuf,
        /// The owner's process id, where it is known.
        pid: Option<u32>,
    },
    /// A task of the consumer panicked: a bug. What was answered is safe; the next consumer goes on.
    #[error("a task of the consumer panicked: {0}; please report it")]
    Panicked(String),
    /// The queue file cannot be used.
    #[error("the queue file cannot be used")]
    Queue(#[source] QueueError),
    /// The sink cannot be used.
    #[error("the sink cannot be used")]
    Sink(#[from] SinkError),
    /// Nothing can listen at the socket's path.
    #[error(transparent)]
    Socket(#[from] ListenError),
    /// The spool directory cannot be used.
    #[error(
        "cannot {action} {path}, of the spool directory; see its mode and owner, and the room on its disk"
    )]
    SpoolDirectory {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The system gives no thread.
    #[error("cannot start the thread of the sink")]
    Thread(#[source] io::Error),
}

impl From<QueueError> for ConsumerError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::Owned { path, pid } => Self::Owned { path, pid },
            error => Self::Queue(error),
        }
    }
}

impl ConsumerError {
    /// A stable word for logs and exit codes.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Config(_) => "config",
            Self::Owned { .. } => "owned",
            Self::Panicked(_) => "panicked",
            Self::Queue(error) => error.code(),
            Self::Sink(_) => "sink",
            Self::Socket(error) => error.code(),
            Self::SpoolDirectory { .. } => "spool_directory",
            Self::Thread(_) => "thread",
        }
    }
}
