//! The names of sockets: `{channel}-{instance}.sock`, and which dash splits.
//!
//! A channel may have dashes and an instance has none, so the last dash splits: `market-data-1.sock` is instance `1` of
//! the channel `market-data`.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use crate::SOCKET_PATH_BYTES_MAX;
use crate::places::socket_directory;

const SUFFIX: &str = ".sock";

/// The name of a socket: a channel, and which of its consumers it is.
///
/// Both begin with an ASCII letter or digit and go on with letters, digits, `.` and `_`; a channel also with `-`.
///
/// ```
/// use spoolway_socket::SocketName;
///
/// let name = SocketName::new("market-data", "1")?;
/// assert_eq!(name.to_string(), "market-data-1.sock");
/// assert_eq!("market-data-1.sock".parse(), Ok(name.clone()));
/// assert_eq!(name.path_in("/run/spoolway")?.to_str(), Some("/run/spoolway/market-data-1.sock"));
/// # Ok::<(), spoolway_socket::NameError>(())
/// ```
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct SocketName {
    channel: String,
    instance: String,
}

/// Why a socket cannot be named so.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum NameError {
    /// No channel is called so.
    #[error(
        "no channel can be called {0:?}; begin it with an ASCII letter or digit and go on with these, `.`, `_` and `-`"
    )]
    Channel(String),
    /// It is no name of a socket.
    #[error("{0:?} is no name of a socket; write it as CHANNEL-INSTANCE.sock")]
    File(String),
    /// Nothing says where sockets are.
    #[error("there is no place for sockets, as HOME is not set; set SPOOLWAY_SOCKET_DIR")]
    Homeless,
    /// No instance is called so.
    #[error(
        "no instance can be called {0:?}; begin it with an ASCII letter or digit and go on with these, `.` and `_`"
    )]
    Instance(String),
    /// The path is longer than the system lets a socket's be.
    #[error(transparent)]
    TooLong(#[from] PathTooLong),
}

impl NameError {
    /// A stable word for logs and programs.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Channel(_) | Self::File(_) | Self::Instance(_) => "socket_name",
            Self::Homeless => "no_home",
            Self::TooLong(_) => PathTooLong::CODE,
        }
    }
}

/// A path that no socket can have.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error(
    "the path of the socket is {length} bytes long, at most {SOCKET_PATH_BYTES_MAX} are possible: {}; choose a shorter directory",
    .path.display()
)]
pub struct PathTooLong {
    /// The path.
    pub path: PathBuf,
    /// Its length in bytes.
    pub length: usize,
}

impl PathTooLong {
    /// The stable word for it.
    pub const CODE: &str = "socket_path";

    /// Refuses a path of more than [`SOCKET_PATH_BYTES_MAX`] bytes.
    ///
    /// # Errors
    ///
    /// Itself.
    pub fn check(path: &Path) -> Result<(), Self> {
        let length = path.as_os_str().len();
        match length > SOCKET_PATH_BYTES_MAX {
            true => Err(Self {
                path: path.to_owned(),
                length,
            }),
            false => Ok(()),
        }
    }
}

impl SocketName {
    /// The socket of that instance of the channel.
    ///
    /// # Errors
    ///
    /// [`NameError::Channel`], [`NameError::Instance`].
    pub fn new(channel: impl Into<String>, instance: impl Into<String>) -> Result<Self, NameError> {
        let (channel, instance) = (channel.into(), instance.into());
        if !is_word(&channel, "._-") {
            return Err(NameError::Channel(channel));
        }
        if !is_word(&instance, "._") {
            return Err(NameError::Instance(instance));
        }
        Ok(Self { channel, instance })
    }

    /// The channel.
    pub fn channel(&self) -> &str {
        &self.channel
    }

    /// Which of the channel's consumers it is.
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Where it is in the [socket directory](socket_directory()) of this process.
    ///
    /// # Errors
    ///
    /// [`NameError::Homeless`], [`NameError::TooLong`].
    pub fn path(&self) -> Result<PathBuf, NameError> {
        self.path_in(socket_directory().ok_or(NameError::Homeless)?)
    }

    /// Where it is in that directory.
    ///
    /// # Errors
    ///
    /// [`NameError::TooLong`].
    pub fn path_in(&self, directory: impl AsRef<Path>) -> Result<PathBuf, NameError> {
        let path = directory.as_ref().join(self.to_string());
        PathTooLong::check(&path)?;
        Ok(path)
    }
}

fn is_word(text: &str, others: &str) -> bool {
    text.starts_with(|first: char| first.is_ascii_alphanumeric())
        && text
            .chars()
            .all(|one| one.is_ascii_alphanumeric() || others.contains(one))
}

impl fmt::Display for SocketName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { channel, instance } = self;
        f.pad(&format!("{channel}-{instance}{SUFFIX}"))
    }
}

impl FromStr for SocketName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts = text
            .strip_suffix(SUFFIX)
            .and_then(|stem| stem.rsplit_once('-'));
        match parts {
            Some((channel, instance)) => Self::new(channel, instance),
            None => Err(NameError::File(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_dash_splits_channel_and_instance() {
        for (channel, instance) in [
            ("orders", "1"),
            ("market-data", "eu_2.b"),
            ("a--b-", "c"),
            ("7", "7"),
            ("x.y_z", "default"),
        ] {
            let name = SocketName::new(channel, instance).unwrap();
            assert_eq!(name.to_string(), format!("{channel}-{instance}.sock"));
            assert_eq!(name.to_string().parse(), Ok(name.clone()));
            assert_eq!((name.channel(), name.instance()), (channel, instance));
        }
    }

    #[test]
    fn a_name_that_would_leave_the_directory_hide_or_be_read_otherwise_is_refused() {
        for channel in [
            "", "../x", "a/b", ".sw1", "-a", "_a", "a b", "é", "a\n", "a\0",
        ] {
            let error = SocketName::new(channel, "1").unwrap_err();
            assert_eq!(error, NameError::Channel(channel.to_owned()));
            assert_eq!(error.code(), "socket_name");
        }
        for instance in ["", "1-2", "../1", ".", "a b"] {
            let error = SocketName::new("a", instance).unwrap_err();
            assert_eq!(error, NameError::Instance(instance.to_owned()));
        }
    }

    #[test]
    fn a_file_of_another_form_is_no_name_of_a_socket() {
        for file in ["orders.sock", "orders-1", "orders-1.sock.lock", ".sock", ""] {
            let parsed = file.parse::<SocketName>();
            assert_eq!(parsed, Err(NameError::File(file.to_owned())));
        }
        assert!("-1.sock".parse::<SocketName>().is_err());
        assert!("orders-.sock".parse::<SocketName>().is_err());
        assert!(".sw1-2.sock".parse::<SocketName>().is_err());
    }

    #[test]
    fn a_path_has_at_most_the_bytes_that_the_system_allows() {
        let name = SocketName::new("orders", "1").unwrap();
        let directory = |length: usize| format!("/{}", "d".repeat(length - 1));
        let room = SOCKET_PATH_BYTES_MAX - "/orders-1.sock".len();
        assert!(name.path_in(directory(room)).is_ok());
        let error = name.path_in(directory(room + 1)).unwrap_err();
        assert_eq!(error.code(), "socket_path");
        let said = error.to_string();
        let length = SOCKET_PATH_BYTES_MAX + 1;
        let expected =
            format!("is {length} bytes long, at most {SOCKET_PATH_BYTES_MAX} are possible");
        assert!(said.contains(&expected), "{said}");
    }
}
