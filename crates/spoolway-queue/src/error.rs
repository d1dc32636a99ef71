//! What can go wrong with a queue file, or with the inbox and the outbox in a user's own database,
//! by what the caller can do about it.

use std::error::Error;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rusqlite::ErrorCode;
use spoolway_proto::{Invalid, MessageId};

type Source = Arc<dyn Error + Send + Sync>;

/// Why the queue did not do what was asked. Cloned freely: the error of a group of writes goes to
/// each of its callers.
///
/// Unless [`is_unknown`](Self::is_unknown) says otherwise, nothing of the call was committed.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum QueueError {
    /// Another connection held the write lock all the time. Trying again is safe.
    #[error("{path} stayed locked by another{}; try again", for_so_long(*waited))]
    Busy {
        /// The queue file.
        path: PathBuf,
        /// How long the writer tried.
        waited: Duration,
    },
    /// The handle was closed, or the last one dropped, before the write was committed.
    #[error("queue {path} is closed")]
    Closed {
        /// The queue file.
        path: PathBuf,
    },
    /// The id was used before, for another content. Nothing was written.
    #[error("message {id} is in {path} with another content; give this one its own id")]
    Conflict {
        /// The queue file.
        path: PathBuf,
        /// The id that is taken.
        id: MessageId,
    },
    /// The file is not a healthy database. Its consumer sets it aside and goes on with a new one; for anyone else it is
    /// left as it is.
    #[error(
        "{path} is damaged or not a database, and was left as it is; start its consumer, which sets it aside and saves what can be read"
    )]
    Corrupt {
        /// The queue file.
        path: PathBuf,
        /// What SQLite said.
        source: Source,
    },
    /// The file, its directory or a side file may not be used by this user.
    #[error("no permission for {path}: check its owner and mode, and those of its directory")]
    Denied {
        /// The file that was refused.
        path: PathBuf,
        /// What the system said.
        source: Source,
    },
    /// There is something under that name, and nothing is ever overwritten.
    #[error("{path} is there already; choose another name, or move it away")]
    Exists {
        /// What is there.
        path: PathBuf,
    },
    /// No room on the device or under its quota. Writes succeed again once there is.
    #[error("no space left for {path}: free some, and writes go on by themselves")]
    Full {
        /// The queue file.
        path: PathBuf,
        /// What SQLite said.
        source: Source,
        /// Whether some of it may have been committed all the same.
        unknown: bool,
    },
    /// The handle was opened before a fork, in the parent. Nothing was touched.
    #[error("queue {path} was opened before this process was forked; open it again in the child")]
    Forked {
        /// The queue file.
        path: PathBuf,
    },
    /// The message is wrong. Nothing was written.
    #[error("the message cannot be stored in {path}")]
    Invalid {
        /// The queue file.
        path: PathBuf,
        /// Which member is wrong, what was found, what is allowed.
        source: Source,
    },
    /// Reading, writing or syncing failed. The writer reopens the file by itself.
    #[error("reading or writing {path} failed")]
    Io {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: Source,
        /// Whether some of it may have been committed all the same.
        unknown: bool,
    },
    /// The file holds as much as it may, and nothing that is processed could go. Nothing was written.
    #[error(
        "{path} is full: its limit {limit} is reached; start a consumer that empties it, or raise the limit"
    )]
    Limit {
        /// The queue file.
        path: PathBuf,
        /// The name of the limit, `queue_bytes_max` or `queue_messages_max`.
        limit: &'static str,
    },
    /// The call does not make sense: an argument has to be changed.
    #[error("misuse of {path}: {what}")]
    Misuse {
        /// The queue file.
        path: PathBuf,
        /// What was wrong with the call.
        what: String,
    },
    /// The path names another file now, in which the row numbers of this call mean nothing: forget
    /// every claim and row number, then take the new file over.
    #[error(
        "queue file {path} was moved, deleted or replaced; row numbers of the old one are void"
    )]
    Moved {
        /// The queue file.
        path: PathBuf,
    },
    /// FlowTrace made the file, and no consumer has adopted it yet. It was left as it is.
    #[error(
        "{path} is a FlowTrace queue; start a consumer on it once (`spoolway serve`), which adopts it"
    )]
    NotAdopted {
        /// The queue file.
        path: PathBuf,
    },
    /// The locks of this process on the file are not safe: it reaches the file by more than one SQLite library, or
    /// opened and closed it by itself; or its log was deleted under it. Nothing more is written.
    #[error(
        "queue file {path} is not safe in this process: {found}; let one SQLite library of it alone touch the file, and start the program again"
    )]
    NotAlone {
        /// The queue file.
        path: PathBuf,
        /// What was found.
        found: &'static str,
        /// Whether some of it may have been committed all the same.
        unknown: bool,
    },
    /// The file holds something else. It was left as it is.
    #[error("{path} is not a queue file: it holds {found}; choose another path")]
    NotOurs {
        /// The file.
        path: PathBuf,
        /// What was found in it.
        found: String,
    },
    /// Too much is waiting for the writer. Trying again later is safe.
    #[error("too much is waiting to be written to queue file {path}; try again later")]
    Overloaded {
        /// The queue file.
        path: PathBuf,
    },
    /// Another process owns what this lock stands for.
    #[error("{path} is locked by {}; stop it, or stand by", owner(*.pid))]
    Owned {
        /// The lock file.
        path: PathBuf,
        /// The owner's process id, when it could be read.
        pid: Option<u32>,
    },
    /// The SQLite library lacks the WAL-reset fix and can damage files.
    #[error("SQLite {found} can damage queue files: {needed} or later is needed")]
    SqliteTooOld {
        /// The version that is linked.
        found: String,
        /// The lowest that will do.
        needed: &'static str,
    },
    /// SQLite refused a statement for a reason that should not occur: report it.
    #[error("SQLite refused a statement on {path}")]
    Statement {
        /// The queue file.
        path: PathBuf,
        /// What SQLite said.
        source: Source,
    },
    /// A newer version of this program wrote the file.
    #[error("queue file {path} has format {found}, this program knows up to {known}; upgrade it")]
    TooNew {
        /// The queue file.
        path: PathBuf,
        /// The major version of the file.
        found: i64,
        /// The highest major version that is known.
        known: i64,
    },
}

/// Nothing where it is not known, as for a connection of the caller.
fn for_so_long(waited: Duration) -> String {
    match waited.is_zero() {
        true => String::new(),
        false => format!(" for {waited:?}"),
    }
}

fn owner(pid: Option<u32>) -> String {
    pid.map_or_else(|| "another process".into(), |pid| format!("process {pid}"))
}

impl QueueError {
    /// A stable word for logs, metrics and replies.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Busy { .. } => "queue_busy",
            Self::Closed { .. } => "queue_closed",
            Self::Conflict { .. } => "conflict",
            Self::Corrupt { .. } => "queue_corrupt",
            Self::Denied { .. } => "queue_denied",
            Self::Exists { .. } => "exists",
            Self::Forked { .. } => "queue_forked",
            Self::Full { .. } => "queue_full",
            Self::Invalid { .. } => "invalid",
            Self::Io { .. } => "queue_io",
            Self::Limit { .. } => "queue_limit",
            Self::Misuse { .. } => "queue_misuse",
            Self::Moved { .. } => "queue_moved",
            Self::NotAdopted { .. } => "queue_not_adopted",
            Self::NotAlone { .. } => "queue_not_alone",
            Self::NotOurs { .. } => "queue_not_ours",
            Self::Overloaded { .. } => "queue_overloaded",
            Self::Owned { .. } => "owned",
            Self::SqliteTooOld { .. } => "sqlite_too_old",
            Self::Statement { .. } => "queue_statement",
            Self::TooNew { .. } => "queue_too_new",
        }
    }

    /// Whether what was asked may have been committed all the same. Asking for it again with the
    /// same ids is safe.
    pub fn is_unknown(&self) -> bool {
        match self {
            Self::Full { unknown, .. }
            | Self::Io { unknown, .. }
            | Self::NotAlone { unknown, .. } => *unknown,
            _ => false,
        }
    }

    /// Whether the same call can succeed later without anyone changing it.
    pub fn is_retryable(&self) -> bool {
        matches!(
            self,
            Self::Busy { .. }
                | Self::Full { .. }
                | Self::Io { .. }
                | Self::Limit { .. }
                | Self::Overloaded { .. }
        )
    }

    /// The same error, of a commit whose fate is not known.
    pub(crate) fn into_unknown(mut self) -> Self {
        match &mut self {
            Self::Full { unknown, .. }
            | Self::Io { unknown, .. }
            | Self::NotAlone { unknown, .. } => *unknown = true,
            Self::Corrupt { path, source } | Self::Statement { path, source } => {
                self = Self::Io {
                    path: std::mem::take(path),
                    source: source.clone(),
                    unknown: true,
                };
            }
            _ => {}
        }
        self
    }

    pub(crate) fn misuse(path: &Path, what: impl Into<String>) -> Self {
        Self::Misuse {
            path: path.into(),
            what: what.into(),
        }
    }

    pub(crate) fn invalid(path: &Path, source: Invalid) -> Self {
        Self::Invalid {
            path: path.into(),
            source: Arc::new(source),
        }
    }

    pub(crate) fn io(path: &Path, error: io::Error) -> Self {
        let path = path.to_path_buf();
        let kind = error.kind();
        let source: Source = Arc::new(error);
        match kind {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Denied { path, source }
            }
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
                let unknown = false;
                Self::Full {
                    path,
                    source,
                    unknown,
                }
            }
            _ => {
                let unknown = false;
                Self::Io {
                    path,
                    source,
                    unknown,
                }
            }
        }
    }

    pub(crate) fn sql(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_path_buf();
        let code = error.sqlite_error_code();
        // A value that none of ours writes.
        let foreign = matches!(
            error,
            rusqlite::Error::FromSqlConversionFailure(..)
                | rusqlite::Error::IntegralValueOutOfRange(..)
                | rusqlite::Error::InvalidColumnType(..)
                | rusqlite::Error::Utf8Error(..)
        );
        let source: Source = Arc::new(error);
        let unknown = false;
        match code {
            _ if foreign => Self::Corrupt { path, source },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy {
                path,
                waited: Duration::ZERO,
            },
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Corrupt { path, source }
            }
            Some(ErrorCode::DiskFull) => Self::Full {
                path,
                source,
                unknown,
            },
            Some(ErrorCode::PermissionDenied | ErrorCode::ReadOnly) => {
                Self::Denied { path, source }
            }
            Some(
                ErrorCode::SystemIoFailure
                | ErrorCode::CannotOpen
                | ErrorCode::FileLockingProtocolFailed
                | ErrorCode::OutOfMemory,
            ) => Self::Io {
                path,
                source,
                unknown,
            },
            _ => Self::Statement { path, source },
        }
    }

    pub(crate) fn pool(path: &Path, error: r2d2::Error) -> Self {
        Self::Io {
            path: path.into(),
            source: Arc::new(error),
            unknown: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sqlite_codes_become_what_the_caller_can_do() {
        for (code, expected) in [
            (rusqlite::ffi::SQLITE_BUSY, "queue_busy"),
            (rusqlite::ffi::SQLITE_CORRUPT, "queue_corrupt"),
            (rusqlite::ffi::SQLITE_NOTADB, "queue_corrupt"),
            (rusqlite::ffi::SQLITE_FULL, "queue_full"),
            (rusqlite::ffi::SQLITE_READONLY, "queue_denied"),
            (rusqlite::ffi::SQLITE_IOERR_FSYNC, "queue_io"),
            (rusqlite::ffi::SQLITE_CONSTRAINT, "queue_statement"),
        ] {
            let error = rusqlite::Error::SqliteFailure(rusqlite::ffi::Error::new(code), None);
            let error = QueueError::sql(Path::new("/q.db"), error);
            assert_eq!(error.code(), expected);
            assert!(!error.is_unknown());
        }
    }

    #[test]
    fn the_text_names_the_file_and_leaves_the_cause_to_source() {
        let cause = io::Error::from(io::ErrorKind::StorageFull);
        let error = QueueError::io(Path::new("/q.db"), cause).into_unknown();
        let text = error.to_string();
        assert!(
            text.contains("/q.db") && !text.contains("os error"),
            "{text}"
        );
        assert!(error.source().is_some() && error.is_unknown() && error.is_retryable());
        let owned = QueueError::Owned {
            path: "/q.db.lock".into(),
            pid: Some(7),
        };
        assert!(owned.to_string().contains("process 7"));
    }
}
