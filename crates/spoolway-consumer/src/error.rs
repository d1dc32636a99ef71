//! What can keep a consumer from starting, or end it.

use std::io;
use std::path::PathBuf;

use spoolway_queue::QueueError;

use crate::SinkError;

/// What can keep a consumer from starting, or end it.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConsumerError {
    /// A value of the configuration makes no sense.
    #[error("configuration: {0}")]
    Config(&'static str),
    /// Something that is not a socket, or a live one, is at the socket's path.
    #[error("{path} {found}; remove it or choose another path")]
    Occupied {
        /// The socket's path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
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
    /// The directory of the socket could be tampered with by others.
    #[error("others may write to {path}: run `chmod o-w` on it, or set its sticky bit")]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// A task of the consumer panicked: a bug. What was answered is safe; the next consumer goes on.
    #[error("a task of the consumer panicked: {0}; please report it")]
    Panicked(String),
    /// The path is longer than the system lets a socket's be.
    #[error(
        "socket path {path} has {length} bytes, at most {max} are allowed; choose a shorter one"
    )]
    PathTooLong {
        /// The path.
        path: PathBuf,
        /// Its length in bytes.
        length: usize,
        /// The longest the system allows.
        max: usize,
    },
    /// The queue file cannot be used.
    #[error("the queue file cannot be used")]
    Queue(#[source] QueueError),
    /// The sink cannot be used.
    #[error("the sink cannot be used")]
    Sink(#[from] SinkError),
    /// Something about the socket failed.
    #[error("cannot {action} {path}")]
    Socket {
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
            Self::Occupied { .. } => "socket_occupied",
            Self::Owned { .. } => "owned",
            Self::OpenDirectory { .. } => "socket_directory",
            Self::Panicked(_) => "panicked",
            Self::PathTooLong { .. } => "socket_path",
            Self::Queue(error) => error.code(),
            Self::Sink(_) => "sink",
            Self::Socket { .. } => "socket",
            Self::Thread(_) => "thread",
        }
    }
}
