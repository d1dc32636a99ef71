//! Where the socket and the queue file are when nobody says.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use crate::failure::{Failure, exit};

/// `{channel}-{instance}.sock`.
const SOCKET_NAME: &str = "spoolway-default.sock";
const DATABASE_NAME: &str = "queue.db";

/// The two paths that every command needs.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) socket: PathBuf,
    pub(crate) database: PathBuf,
    /// Directories of ours, to be made when missing: those of defaults, never of what was given.
    socket_directory: Option<PathBuf>,
    database_directory: Option<PathBuf>,
}

impl Places {
    /// What was given, else the defaults.
    pub(crate) fn find(
        socket: Option<PathBuf>,
        database: Option<PathBuf>,
    ) -> Result<Self, Failure> {
        let around = Surroundings::read();
        let socket_directory = match socket {
            Some(_) => None,
            None => Some(around.socket_directory(&is_usable).ok_or_else(homeless)?),
        };
        let database_directory = match database {
            Some(_) => None,
            None => Some(around.state_directory().ok_or_else(homeless)?),
        };
        let in_directory = |given: Option<PathBuf>, directory: &Option<PathBuf>, name| {
            given.unwrap_or_else(|| directory.as_deref().unwrap_or(Path::new("")).join(name))
        };
        Ok(Self {
            socket: in_directory(socket, &socket_directory, SOCKET_NAME),
            database: in_directory(database, &database_directory, DATABASE_NAME),
            socket_directory,
            database_directory,
        })
    }

    /// The options that name what was given, whole, so that they mean the same anywhere.
    pub(crate) fn given(&self) -> Vec<(&'static str, PathBuf)> {
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
        let database = ("--database", &self.database, &self.database_directory);
        let socket = ("--socket", &self.socket, &self.socket_directory);
        [database, socket]
            .into_iter()
            .filter(|(_, _, default)| default.is_none())
            .map(|(option, path, _)| (option, whole(path)))
            .collect()
    }

    /// Makes the default directory of the queue file, for its owner only. One that was named has
    /// to exist: it may be a slip.
    pub(crate) fn make_database_directory(&self) -> Result<(), Failure> {
        make(self.database_directory.as_deref(), 0o700)?;
        match self.database.parent() {
            Some(parent) if !parent.as_os_str().is_empty() && !parent.is_dir() => {
                let what = format!("there is no directory {}", parent.display());
                Err(Failure::new(exit::CONFIG, "no_directory", what)
                    .because(format!(
                        "the queue file is to be {}",
                        self.database.display()
                    ))
                    .help("make it, or name another with --database"))
            }
            _ => Ok(()),
        }
    }

    /// Makes the default directory of the socket. Others may look into it: the socket has a mode.
    pub(crate) fn make_socket_directory(&self) -> Result<(), Failure> {
        make(self.socket_directory.as_deref(), 0o755)
    }

    /// The queue file, or an error: for commands that only make sense with one.
    pub(crate) fn existing_database(&self) -> Result<&Path, Failure> {
        let path = &self.database;
        match path.try_exists() {
            Ok(true) => Ok(path),
            Ok(false) => Err(Failure::new(
                exit::NOT_FOUND,
                "queue_not_found",
                format!("there is no queue file {}", path.display()),
            )
            .because("nothing was spooled and no consumer has run with this path")
            .help("name another with --database, or start `spoolway serve`")),
            Err(error) => Err(Failure::io(
                format!("cannot look at {}", path.display()),
                &error,
            )),
        }
    }
}

fn make(directory: Option<&Path>, mode: u32) -> Result<(), Failure> {
    let Some(directory) = directory else {
        return Ok(());
    };
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(directory)
        .map_err(|error| {
            Failure::io(format!("cannot make {}", directory.display()), &error)
                .help("name other paths with --socket and --database")
        })
}

fn homeless() -> Failure {
    Failure::new(
        exit::CONFIG,
        "no_home",
        "there is no place for the socket or the queue file",
    )
    .because("HOME is not set")
    .help("name them with --socket and --database")
}

/// Whether this user could make a socket there: it is writable, or could be made.
fn is_usable(directory: &Path) -> bool {
    let writable = |path: &Path| access(path, Access::WRITE_OK | Access::EXEC_OK);
    match writable(directory) {
        Ok(()) => true,
        Err(error) if io::Error::from(error).kind() == io::ErrorKind::NotFound => directory
            .parent()
            .is_some_and(|parent| writable(parent).is_ok()),
        Err(_) => false,
    }
}

/// What the defaults depend on.
#[derive(Debug, Default)]
struct Surroundings {
    socket_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    state_home: Option<PathBuf>,
    home: Option<PathBuf>,
    root: bool,
}

impl Surroundings {
    fn read() -> Self {
        // A relative path in these variables is to be ignored, says the XDG specification.
        let absolute = |name| {
            let path = PathBuf::from(std::env::var_os(name)?);
            path.is_absolute().then_some(path)
        };
        Self {
            socket_dir: std::env::var_os("SPOOLWAY_SOCKET_DIR")
                .filter(|text| !text.is_empty())
                .map(PathBuf::from),
            runtime_dir: absolute("XDG_RUNTIME_DIR"),
            state_home: absolute("XDG_STATE_HOME"),
            home: absolute("HOME"),
            root: rustix::process::geteuid().is_root(),
        }
    }

    /// The first that this user can use, so that a consumer and its producers find the same.
    fn socket_directory(&self, is_usable: &dyn Fn(&Path) -> bool) -> Option<PathBuf> {
        if let Some(directory) = &self.socket_dir {
            return Some(directory.clone());
        }
        let runtime = self.runtime_dir.as_ref().map(|path| path.join("spoolway"));
        [runtime, Some("/run/spoolway".into())]
            .into_iter()
            .flatten()
            .find(|directory| is_usable(directory))
            .or_else(|| self.state_directory())
    }

    fn state_directory(&self) -> Option<PathBuf> {
        let user = || Some(self.home.as_ref()?.join(".local/state/spoolway"));
        match &self.state_home {
            Some(path) => Some(path.join("spoolway")),
            None if self.root => Some("/var/lib/spoolway".into()),
            None => user(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_usable_directory_has_the_socket() {
        let mut around = Surroundings {
            runtime_dir: Some("/run/user/7".into()),
            home: Some("/home/a".into()),
            ..Surroundings::default()
        };
        let found = |around: &Surroundings, usable: &[&str]| {
            let usable: Vec<PathBuf> = usable.iter().map(PathBuf::from).collect();
            around
                .socket_directory(&|path| usable.iter().any(|one| one == path))
                .map(|path| path.display().to_string())
        };
        let all = ["/run/user/7/spoolway", "/run/spoolway"];
        assert_eq!(
            found(&around, &all).as_deref(),
            Some("/run/user/7/spoolway")
        );
        assert_eq!(found(&around, &all[1..]).as_deref(), Some("/run/spoolway"));
        assert_eq!(
            found(&around, &[]).as_deref(),
            Some("/home/a/.local/state/spoolway")
        );
        around.socket_dir = Some("/mine".into());
        assert_eq!(found(&around, &all).as_deref(), Some("/mine"));
        assert_eq!(found(&Surroundings::default(), &[]), None);
    }

    #[test]
    fn the_queue_file_is_in_the_state_directory() {
        let mut around = Surroundings {
            home: Some("/root".into()),
            root: true,
            ..Surroundings::default()
        };
        assert_eq!(around.state_directory(), Some("/var/lib/spoolway".into()));
        around.root = false;
        assert_eq!(
            around.state_directory(),
            Some("/root/.local/state/spoolway".into())
        );
        around.state_home = Some("/state".into());
        assert_eq!(around.state_directory(), Some("/state/spoolway".into()));
    }
}
