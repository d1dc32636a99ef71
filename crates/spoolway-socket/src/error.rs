//! What can go wrong on either end of a socket.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use spoolway_proto::{Code, Invalid, Reply};

use crate::absence::Absence;
use crate::name::PathTooLong;

/// Why nothing can listen at a path.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ListenError {
    /// Something about the socket failed.
    #[error("cannot {action} {path}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A call that makes no sense: a mistake of the program.
    #[error("the server of {path} {what}")]
    Misuse {
        /// The socket's path.
        path: PathBuf,
        /// What is wrong, and what to do.
        what: &'static str,
    },
    /// Something that is not a socket, or a live one, is at the socket's path.
    #[error("{path} {found}; remove it or choose another path")]
    Occupied {
        /// The socket's path.
        path: PathBuf,
        /// What is there.
        found: &'static str,
    },
    /// The directory of the socket could be tampered with by others.
    #[error("others may write to {path}: run `chmod o-w` on it, or set its sticky bit")]
    OpenDirectory {
        /// The directory.
        path: PathBuf,
    },
    /// The path is longer than the system lets a socket's be.
    #[error(transparent)]
    PathTooLong(#[from] PathTooLong),
}

impl ListenError {
    /// A stable word for logs and exit codes.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Io { .. } => "socket",
            Self::Misuse { .. } => "misuse",
            Self::Occupied { .. } => "socket_occupied",
            Self::OpenDirectory { .. } => "socket_directory",
            Self::PathTooLong(_) => PathTooLong::CODE,
        }
    }
}

/// Why a client could not connect, or cannot vouch for a message.
///
/// After [`Invalid`](Self::Invalid) and [`Refused`](Self::Refused) the connection goes on; all others end it, but for
/// [`TimedOut`](Self::TimedOut), after which the answer may still come and is not waited for.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClientError {
    /// The connection is over. What was not answered may have been taken, or not.
    #[error("the connection is closed; connect again")]
    Closed,
    /// Nobody could be connected to.
    #[error("cannot connect to {path}: {reason}; see whether its server runs, and may be used")]
    Connect {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        reason: Absence,
    },
    /// The message is wrong, and was not sent.
    #[error("{0}")]
    Invalid(Invalid),
    /// The server answered that it did not take the message, or that it is dead.
    #[error("refused by the server: {}", .0.error.as_deref().unwrap_or("no reason given"))]
    Refused(Reply),
    /// The server ended the connection with an error.
    #[error("ended by the server ({code}: {message})")]
    Said {
        /// Its code.
        code: Code,
        /// Its sentence.
        message: String,
    },
    /// The server takes nothing, or has not answered.
    #[error("{silent}: nothing within {0:?}; it may have been taken, or still be", silent = Absence::Silent)]
    TimedOut(Duration),
}

impl ClientError {
    /// A stable word for logs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Connect { reason, .. } => reason.code(),
            Self::Invalid(invalid) => invalid.code.as_str(),
            Self::Refused(Reply {
                code: Some(code), ..
            })
            | Self::Said { code, .. } => code.as_str(),
            Self::Refused(_) => "dead",
            Self::TimedOut(_) => Absence::Silent.code(),
        }
    }
}
