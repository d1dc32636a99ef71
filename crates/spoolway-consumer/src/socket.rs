//! The socket file: made so that it never exists unprotected or half-made, and removed by its owner only.
//!
//! Whether another consumer lives is told by a lock on the file beside the socket, never by the socket itself: a
//! socket whose lock is free is stale, unless something that does not know of locks listens on it.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};
use spoolway_queue::ConsumerLock;

use crate::ConsumerError;
use crate::consumer::lock;

/// What `sockaddr_un` holds, without the byte that ends it.
const PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// Connections that wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 1_024;

/// The right to a socket's path.
pub(crate) struct SocketLock {
    path: PathBuf,
    _lock: ConsumerLock,
}

/// A socket that listens under its path, until this value is dropped.
pub(crate) struct BoundSocket {
    listener: UnixListener,
    lock: SocketLock,
    /// Device and inode of the file that is ours.
    file: (u64, u64),
}

impl SocketLock {
    /// Takes it, or as a standby waits until its owner is gone.
    pub(crate) fn acquire(path: &Path, standby: bool) -> Result<Self, ConsumerError> {
        check_length(path)?;
        prepare_directory(directory(path))?;
        let mut side = path.as_os_str().to_owned();
        side.push(".lock");
        let lock = lock(Path::new(&side), standby)?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    /// Makes the socket under a temporary name, protected and listening, then gives it its own.
    pub(crate) fn bind(self) -> Result<BoundSocket, ConsumerError> {
        refuse_living(&self.path)?;
        let temporary = directory(&self.path).join(format!(".sw{:x}", std::process::id()));
        let made = make(&temporary, &self.path);
        if made.is_err() {
            // The error that counts is the one that kept it from being made.
            let _ = fs::remove_file(&temporary);
        }
        let (listener, file) = made.map_err(failed("listen on", &self.path))?;
        Ok(BoundSocket {
            listener,
            lock: self,
            file,
        })
    }
}

impl BoundSocket {
    pub(crate) fn path(&self) -> &Path {
        &self.lock.path
    }

    /// Another descriptor of the listening socket, which does not block.
    pub(crate) fn listener(&self) -> Result<UnixListener, ConsumerError> {
        self.listener
            .try_clone()
            .map_err(failed("listen on", self.path()))
    }
}

impl Drop for BoundSocket {
    fn drop(&mut self) {
        // Someone who moved another file there keeps it.
        if fs::symlink_metadata(self.path()).is_ok_and(|found| identity(&found) == self.file)
            && let Err(error) = fs::remove_file(self.path())
        {
            tracing::warn!("cannot remove {}: {error}", self.path().display());
        }
    }
}

fn check_length(path: &Path) -> Result<(), ConsumerError> {
    let length = path.as_os_str().len();
    if length > PATH_BYTES_MAX {
        return Err(ConsumerError::PathTooLong {
            path: path.to_owned(),
            length,
            max: PATH_BYTES_MAX,
        });
    }
    Ok(())
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn prepare_directory(path: &Path) -> Result<(), ConsumerError> {
    let found = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => DirBuilder::new()
            .recursive(true)
            .mode(0o755)
            .create(path)
            .and_then(|()| fs::metadata(path)),
        found => found,
    };
    let mode = found.map_err(failed("use the directory", path))?.mode();
    if mode & 0o002 != 0 && mode & 0o1000 == 0 {
        return Err(ConsumerError::OpenDirectory {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Nothing but a socket on which nobody listens is ever replaced.
fn refuse_living(path: &Path) -> Result<(), ConsumerError> {
    let occupied = |found| ConsumerError::Occupied {
        path: path.to_owned(),
        found,
    };
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(failed("look at", path)(error)),
        Ok(found) if !found.file_type().is_socket() => return Err(occupied("is not a socket")),
        Ok(_) => {}
    }
    let answer =
        stream_socket().and_then(|probe| Ok(connect(&probe, &SocketAddrUnix::new(path)?)?));
    match answer.map_err(|error| Errno::from_io_error(&error)) {
        Err(Some(Errno::CONNREFUSED | Errno::NOENT)) => Ok(()),
        Ok(()) | Err(Some(Errno::AGAIN | Errno::INPROGRESS)) => {
            Err(occupied("has a listener that is no consumer of ours"))
        }
        Err(_) => Err(occupied("is a socket that does not answer as a stale one")),
    }
}

fn make(temporary: &Path, path: &Path) -> io::Result<(UnixListener, (u64, u64))> {
    // Left by a process of the same id that died here: nobody else has the lock.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = stream_socket()?;
    bind_long(&listener, temporary)?;
    // Nobody can connect until it listens, so the mode it has between the two does not matter.
    fs::set_permissions(temporary, fs::Permissions::from_mode(0o600))?;
    listen(&listener, BACKLOG)?;
    let file = identity(&fs::symlink_metadata(temporary)?);
    fs::rename(temporary, path)?;
    Ok((listener.into(), file))
}

fn stream_socket() -> io::Result<OwnedFd> {
    let made = socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&made, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&made, true)?;
    Ok(made)
}

/// The temporary name may be longer than the socket's own, and need not fit where that does.
fn bind_long(socket: &OwnedFd, path: &Path) -> io::Result<()> {
    if path.as_os_str().len() <= PATH_BYTES_MAX || !cfg!(target_os = "linux") {
        return Ok(bind(socket, &SocketAddrUnix::new(path)?)?);
    }
    use rustix::fs::{Mode, OFlags, open};
    use std::os::fd::AsRawFd;
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let parent = open(directory(path), flags, Mode::empty())?;
    let name = path.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd")
        .join(parent.as_raw_fd().to_string())
        .join(name);
    Ok(bind(socket, &SocketAddrUnix::new(&short)?)?)
}

fn identity(found: &Metadata) -> (u64, u64) {
    (found.dev(), found.ino())
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConsumerError {
    let path = path.to_owned();
    move |source| ConsumerError::Socket {
        action,
        path,
        source,
    }
}
