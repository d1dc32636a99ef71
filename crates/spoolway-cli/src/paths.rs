//! Which socket and which queue file are meant.

use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use spoolway::SocketName;
use spoolway::socket::{socket_directory, state_directory};

use crate::failure::{Failure, exit};

/// The socket of who names none: `spoolway-default.sock`.
const CHANNEL: &str = "spoolway";
const INSTANCE: &str = "default";
/// The queue file of who names no channel; that of a channel is called like its socket.
const DATABASE_NAME: &str = "queue.db";

/// What the command line and the environment say of places.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Named {
    /// The consumer's socket
    ///
    /// Default: `spoolway-default.sock` in the socket directory. That is $SPOOLWAY_SOCKET_DIR, else $XDG_RUNTIME_DIR/spoolway, else
    /// /run/spoolway: the first that is there or that this user can make; else the directory of the queue file's default.
    #[arg(long, global = true, env = SOCKET_VARIABLE, value_name = "PATH")]
    #[arg(hide_env_values = true, help_heading = "Global options")]
    pub(crate) socket: Option<PathBuf>,
    /// The queue file
    ///
    /// Default: `queue.db`, with --channel `CHANNEL-INSTANCE.db`, in $XDG_STATE_HOME/spoolway, else in ~/.local/state/spoolway,
    /// for root in /var/lib/spoolway.
    #[arg(long, global = true, env = "SPOOLWAY_DATABASE", value_name = "PATH")]
    #[arg(hide_env_values = true, help_heading = "Global options")]
    pub(crate) database: Option<PathBuf>,
    /// The socket by its name, in place of --socket: `CHANNEL-INSTANCE.sock` in the socket directory
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) channel: Option<String>,
    /// Which of the channel's consumers [default: default]
    #[arg(long, global = true, help_heading = "Global options")]
    pub(crate) instance: Option<String>,
}

const SOCKET_VARIABLE: &str = "SPOOLWAY_SOCKET";

impl Named {
    fn name(&self) -> Result<Option<SocketName>, Failure> {
        let in_environment = std::env::var_os(SOCKET_VARIABLE).map(PathBuf::from);
        match (&self.channel, &self.socket, &self.instance) {
            (Some(_), Some(socket), _) if Some(socket) != in_environment.as_ref() => {
                Err(Failure::new(
                    exit::USAGE,
                    "usage",
                    "a socket has a --channel or a --socket",
                )
                .help("give one of them"))
            }
            (Some(channel), _, instance) => {
                let instance = instance.as_deref().unwrap_or(INSTANCE);
                Ok(Some(SocketName::new(channel, instance)?))
            }
            (None, _, Some(_)) => Err(Failure::new(
                exit::USAGE,
                "usage",
                "an --instance needs its --channel",
            )),
            (None, _, None) => Ok(None),
        }
    }
}

/// The two paths that every command needs.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    pub(crate) socket: PathBuf,
    pub(crate) database: PathBuf,
    /// The name that was given in place of a path.
    name: Option<SocketName>,
    /// Directories of ours, to be made when missing: those of defaults, never of what was given.
    socket_directory: Option<PathBuf>,
    database_directory: Option<PathBuf>,
}

impl Places {
    /// What was given, else the defaults.
    pub(crate) fn find(named: Named) -> Result<Self, Failure> {
        let name = named.name()?;
        // A path in the environment gives way to a name on the command line.
        let socket = named.socket.filter(|_| name.is_none());
        let socket_directory = match socket {
            Some(_) => None,
            None => Some(socket_directory().ok_or_else(homeless)?),
        };
        let database_directory = match named.database {
            Some(_) => None,
            None => Some(state_directory().ok_or_else(homeless)?),
        };
        let socket = match (socket, &socket_directory) {
            (None, Some(directory)) => {
                let default = SocketName::new(CHANNEL, INSTANCE);
                name.clone().map_or(default, Ok)?.path_in(directory)?
            }
            (given, _) => given.unwrap_or_default(),
        };
        let database = match (named.database, &database_directory) {
            (None, Some(directory)) => directory.join(match &name {
                Some(name) => format!("{}-{}.db", name.channel(), name.instance()),
                None => DATABASE_NAME.to_owned(),
            }),
            (given, _) => given.unwrap_or_default(),
        };
        Ok(Self {
            socket,
            database,
            name,
            socket_directory,
            database_directory,
        })
    }

    /// The options that name what was given, whole, so that they mean the same anywhere.
    pub(crate) fn given(&self) -> Vec<(&'static str, PathBuf)> {
        let whole = |path: &Path| std::path::absolute(path).unwrap_or_else(|_| path.into());
        let database = ("--database", &self.database, &self.database_directory);
        let socket = ("--socket", &self.socket, &self.socket_directory);
        let paths = [database, socket]
            .into_iter()
            .filter(|(_, _, default)| default.is_none())
            .map(|(option, path, _)| (option, whole(path)));
        let name = self.name.iter().flat_map(|name| {
            [
                ("--channel", name.channel().into()),
                ("--instance", name.instance().into()),
            ]
        });
        paths.chain(name).collect()
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

pub(crate) fn homeless() -> Failure {
    Failure::new(
        exit::CONFIG,
        "no_home",
        "there is no place for the socket or the queue file",
    )
    .because("HOME is not set")
    .help("name them with --socket and --database")
}
