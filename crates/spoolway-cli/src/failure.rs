//! What a command can fail with: text for a person, a code for a program, a number for the shell.

use std::error::Error;
use std::fmt;
use std::io;

use spoolway::ConsumerError;
use spoolway::client::{OpenError, QueueReason, SendCode, SendError};
use spoolway::consumer::{ListenError, SinkError};
use spoolway::queue::QueueError;
use spoolway::socket::NameError;

/// Exit codes, after `sysexits.h`.
pub(crate) mod exit {
    pub(crate) const OK: u8 = 0;
    pub(crate) const FAILED: u8 = 1;
    pub(crate) const USAGE: u8 = 2;
    pub(crate) const BAD_DATA: u8 = 65;
    pub(crate) const NOT_FOUND: u8 = 66;
    pub(crate) const UNAVAILABLE: u8 = 69;
    /// `torture`, `audit` or `check` found what must not be: `EX_SOFTWARE`.
    pub(crate) const BROKEN: u8 = 70;
    /// What should be made is there already.
    pub(crate) const CANNOT_CREATE: u8 = 73;
    pub(crate) const IO: u8 = 74;
    pub(crate) const TRY_AGAIN: u8 = 75;
    pub(crate) const PERMISSION: u8 = 77;
    pub(crate) const CONFIG: u8 = 78;
}

/// Displays as `error[code]: what`, with a line each for cause and help.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: u8,
    code: &'static str,
    what: String,
    cause: Option<String>,
    help: Option<String>,
}

impl Failure {
    pub(crate) fn new(exit: u8, code: &'static str, what: impl Into<String>) -> Self {
        let what = what.into();
        Self {
            exit,
            code,
            what,
            cause: None,
            help: None,
        }
    }

    /// Something that the system refused.
    pub(crate) fn io(what: impl Into<String>, error: &io::Error) -> Self {
        let (exit, code) = match error.kind() {
            io::ErrorKind::NotFound => (exit::NOT_FOUND, "not_found"),
            io::ErrorKind::PermissionDenied => (exit::PERMISSION, "permission"),
            io::ErrorKind::AlreadyExists => (exit::CANNOT_CREATE, "exists"),
            _ => (exit::IO, "io"),
        };
        Self::new(exit, code, what).because(error.to_string())
    }

    pub(crate) fn because(mut self, cause: impl Into<String>) -> Self {
        self.cause = Some(cause.into());
        self
    }

    pub(crate) fn help(mut self, help: impl Into<String>) -> Self {
        self.help = Some(help.into());
        self
    }

    /// From an error of a library: its text ends with the next step, its sources are the cause.
    fn of(exit: u8, code: &'static str, error: &dyn Error) -> Self {
        let text = error.to_string();
        let failure = match text.rsplit_once("; ") {
            Some((what, help)) => Self::new(exit, code, what).help(help),
            None => Self::new(exit, code, text),
        };
        match error.source() {
            Some(source) => failure.because(chain(source)),
            None => failure,
        }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "error[{}]: {}", self.code, self.what)?;
        if let Some(cause) = &self.cause {
            write!(f, "\n  cause: {cause}")?;
        }
        if let Some(help) = &self.help {
            write!(f, "\n  help:  {help}")?;
        }
        Ok(())
    }
}

/// An error and its sources in one line.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let source_text = source.to_string();
        // Some errors repeat their source.
        if !text.ends_with(&source_text) {
            text = format!("{text}: {source_text}");
        }
        next = source.source();
    }
    text
}

impl From<QueueError> for Failure {
    fn from(error: QueueError) -> Self {
        Self::of(queue_exit(&error), error.code(), &error)
    }
}

fn queue_exit(error: &QueueError) -> u8 {
    match error {
        QueueError::Conflict { .. } | QueueError::Invalid { .. } => exit::BAD_DATA,
        QueueError::Busy { .. }
        | QueueError::Limit { .. }
        | QueueError::Overloaded { .. }
        | QueueError::Owned { .. } => exit::TRY_AGAIN,
        QueueError::Denied { .. } => exit::PERMISSION,
        QueueError::NotAdopted { .. } | QueueError::NotOurs { .. } | QueueError::TooNew { .. } => {
            exit::CONFIG
        }
        QueueError::Exists { .. } => exit::CANNOT_CREATE,
        QueueError::Corrupt { .. } | QueueError::Full { .. } | QueueError::Io { .. } => exit::IO,
        _ => exit::FAILED,
    }
}

impl From<NameError> for Failure {
    fn from(error: NameError) -> Self {
        let exit = match error {
            NameError::Channel(_) | NameError::Instance(_) => exit::USAGE,
            _ => exit::CONFIG,
        };
        Self::of(exit, error.code(), &error)
    }
}

impl From<OpenError> for Failure {
    fn from(error: OpenError) -> Self {
        let code = error.code();
        match error {
            OpenError::Queue(error) => error.into(),
            OpenError::OtherQueue(other) => Self::new(exit::CONFIG, code, other.to_string())
                .help("give both the same file with --database"),
            OpenError::Runtime => Self::of(exit::FAILED, code, &error),
            error => Self::of(exit::CONFIG, code, &error),
        }
    }
}

impl From<ConsumerError> for Failure {
    fn from(error: ConsumerError) -> Self {
        let code = error.code();
        let of_io = |source: &io::Error| Self::io("", source).exit;
        let exit = match &error {
            ConsumerError::Config(_)
            | ConsumerError::Socket(ListenError::Occupied { .. } | ListenError::PathTooLong(_)) => {
                exit::CONFIG
            }
            ConsumerError::Socket(ListenError::OpenDirectory { .. }) => exit::PERMISSION,
            ConsumerError::Owned { .. } => exit::TRY_AGAIN,
            ConsumerError::Queue(error) => return error.clone().into(),
            ConsumerError::Sink(SinkError::File { source, .. })
            | ConsumerError::Socket(ListenError::Io { source, .. })
            | ConsumerError::SpoolDirectory { source, .. } => of_io(source),
            _ => exit::FAILED,
        };
        if let ConsumerError::Sink(error) = &error {
            return Self::of(exit, code, error);
        }
        Self::of(exit, code, &error)
    }
}

impl From<SendError> for Failure {
    fn from(error: SendError) -> Self {
        let what = format!("message {}: {}", error.message.id, error.fate);
        let failure = match error.queue.as_deref() {
            // Of all reasons the one that somebody has set.
            Some(QueueReason::Failed(full @ QueueError::Limit { .. })) => Self {
                what,
                ..Self::from(full.clone())
            },
            _ => {
                Self::new(send_exit(&error), error.code.as_str(), what).help(error.code.next_step())
            }
        };
        match reasons(&error) {
            Some(reasons) => failure.because(reasons),
            None => failure,
        }
    }
}

/// Why neither path took it, in one line.
pub(crate) fn reasons(error: &SendError) -> Option<String> {
    let socket = error.socket.as_ref().map(|reason| reason.to_string());
    let queue = error.queue.as_deref().map(|reason| match reason {
        QueueReason::Failed(error) => chain(error),
        other => other.to_string(),
    });
    let reasons: Vec<String> = [socket, queue].into_iter().flatten().collect();
    (!reasons.is_empty()).then(|| reasons.join("; "))
}

pub(crate) fn send_exit(error: &SendError) -> u8 {
    match (error.code, error.queue.as_deref()) {
        (SendCode::Refused(_), _) | (_, Some(QueueReason::Conflict)) => exit::BAD_DATA,
        (SendCode::OtherQueue, _) => exit::CONFIG,
        (SendCode::Full | SendCode::NoRoom | SendCode::Unanswered, _) => exit::TRY_AGAIN,
        (_, Some(QueueReason::Failed(error))) => queue_exit(error),
        _ => exit::UNAVAILABLE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_what_cause_and_help() {
        let error = QueueError::Owned {
            path: "/q.db.lock".into(),
            pid: Some(7),
        };
        let failure = Failure::from(error).because("it runs");
        assert_eq!(failure.exit, exit::TRY_AGAIN);
        assert_eq!(
            failure.to_string(),
            "error[owned]: /q.db.lock is locked by process 7\n  cause: it runs\n  \
             help:  stop it, or stand by"
        );
    }

    #[test]
    fn the_system_s_refusals_have_exit_codes() {
        let exit = |kind: io::ErrorKind| Failure::io("x", &kind.into()).exit;
        assert_eq!(exit(io::ErrorKind::NotFound), 66);
        assert_eq!(exit(io::ErrorKind::PermissionDenied), 77);
        assert_eq!(exit(io::ErrorKind::StorageFull), 74);
    }
}
