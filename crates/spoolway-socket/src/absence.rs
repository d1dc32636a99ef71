//! Why a consumer cannot be reached: the sentences, each in one place, with a stable code.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::name::PathTooLong;

/// Why a consumer cannot be reached. The text and the code of each are stable.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Absence {
    /// The consumer's queue of connections stayed full.
    #[error("not responding (its backlog of connections is full)")]
    Busy,
    /// The consumer closed the connection.
    #[error("consumer not running (connection closed)")]
    Closed,
    /// This user may not connect.
    #[error(transparent)]
    Denied(Denial),
    /// The operating system said something else.
    #[error("connection failed ({0})")]
    Io(String),
    /// There is no socket file.
    #[error("consumer not running (socket not found)")]
    NotFound,
    /// There is a socket file and nobody listens.
    #[error("consumer not running (connection refused)")]
    Refused,
    /// The consumer was silent for too long.
    #[error("not responding (timeout)")]
    Silent,
}

impl Absence {
    /// What a failed connect means.
    pub fn of(socket: &Path, error: &io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => Self::NotFound,
            io::ErrorKind::ConnectionRefused => Self::Refused,
            io::ErrorKind::PermissionDenied => {
                Self::Denied(Denial::of(socket, rustix::process::geteuid().as_raw()))
            }
            io::ErrorKind::TimedOut => Self::Silent,
            io::ErrorKind::WouldBlock => Self::Busy,
            _ => match PathTooLong::check(socket) {
                Err(too_long) => Self::Io(too_long.to_string()),
                Ok(()) => Self::Io(error.to_string()),
            },
        }
    }

    /// A stable word for logs and programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Busy => "backlog_full",
            Self::Closed => "connection_closed",
            Self::Denied(_) => Denial::CODE,
            Self::Io(_) => "connection_failed",
            Self::NotFound => "socket_not_found",
            Self::Refused => "connection_refused",
            Self::Silent => "timeout",
        }
    }
}

/// That somebody may not connect, with what decides it.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("permission denied ({})", self.facts())]
pub struct Denial {
    /// Mode and owner of the socket, where they may be seen.
    pub found: Option<(u32, u32)>,
    /// Who may not.
    pub uid: u32,
}

impl Denial {
    /// The stable word for it.
    pub const CODE: &str = "permission_denied";

    /// That this user may not connect to that socket.
    pub fn of(socket: &Path, uid: u32) -> Self {
        let found = std::fs::metadata(socket).ok();
        Self {
            found: found.map(|found| (found.mode() & 0o7777, found.uid())),
            uid,
        }
    }

    fn facts(&self) -> String {
        let uid = self.uid;
        match self.found {
            Some((mode, owner)) => {
                format!("socket mode {mode:04o}, owner uid {owner}, you are uid {uid}")
            }
            None => format!("a directory above the socket may not be searched, you are uid {uid}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_absence_has_its_sentence_and_its_code() {
        let denied = |found| Absence::Denied(Denial { found, uid: 1001 });
        let table = [
            (
                Absence::NotFound,
                "socket_not_found",
                "consumer not running (socket not found)",
            ),
            (
                Absence::Refused,
                "connection_refused",
                "consumer not running (connection refused)",
            ),
            (
                Absence::Closed,
                "connection_closed",
                "consumer not running (connection closed)",
            ),
            (Absence::Silent, "timeout", "not responding (timeout)"),
            (
                Absence::Busy,
                "backlog_full",
                "not responding (its backlog of connections is full)",
            ),
            (
                denied(Some((0o600, 1000))),
                "permission_denied",
                "permission denied (socket mode 0600, owner uid 1000, you are uid 1001)",
            ),
            (
                denied(None),
                "permission_denied",
                "permission denied (a directory above the socket may not be searched, you are uid 1001)",
            ),
            (
                Absence::Io("odd".into()),
                "connection_failed",
                "connection failed (odd)",
            ),
        ];
        for (absence, code, sentence) in table {
            assert_eq!(
                (absence.code(), absence.to_string().as_str()),
                (code, sentence)
            );
        }
    }

    #[test]
    fn what_the_system_says_is_one_of_them() {
        let of = |kind: io::ErrorKind| Absence::of(Path::new("/nowhere/s.sock"), &kind.into());
        assert_eq!(of(io::ErrorKind::NotFound), Absence::NotFound);
        assert_eq!(of(io::ErrorKind::NotADirectory), Absence::NotFound);
        assert_eq!(of(io::ErrorKind::ConnectionRefused), Absence::Refused);
        assert_eq!(of(io::ErrorKind::WouldBlock), Absence::Busy);
        assert_eq!(of(io::ErrorKind::TimedOut), Absence::Silent);
        let uid = rustix::process::geteuid().as_raw();
        let denied = Absence::Denied(Denial { found: None, uid });
        assert_eq!(of(io::ErrorKind::PermissionDenied), denied);
    }
}
