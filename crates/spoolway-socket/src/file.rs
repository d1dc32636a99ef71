//! The socket file: made so that it never exists unprotected or half-made, and removed by its owner only.
//!
//! Whether another owner lives is for its users to know, by a lock on the file beside the socket, never by the socket
//! itself: a socket whose lock is free is stale, unless something that does not know of locks listens on it.

use std::fs::{self, DirBuilder, Metadata};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, bind, connect, listen, socket};

use crate::listen::Listener;
use crate::name::PathTooLong;
use crate::{Access, Gate, ListenError, Room};

/// The longest path of a socket, in bytes: what `sockaddr_un` holds, without the byte that ends it.
pub const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };
/// Connections that wait to be accepted; the system may allow fewer.
const BACKLOG: i32 = 1_024;

/// A socket that listens under its path. The file is removed with this value, if it is ours.
#[derive(Debug)]
pub struct SocketFile {
    listener: UnixListener,
    path: PathBuf,
    /// Device and inode of the file that is ours; none if the listener was inherited.
    file: Option<(u64, u64)>,
}

impl SocketFile {
    /// Checks the length of the path, and makes its directory, 0755, when it is missing.
    ///
    /// # Errors
    ///
    /// [`ListenError::PathTooLong`], [`ListenError::OpenDirectory`], or what the system said.
    pub fn prepare(path: &Path) -> Result<(), ListenError> {
        PathTooLong::check(path)?;
        prepare_directory(directory(path))
    }

    /// Makes the socket under a temporary name, protected as `access` says (0600, or 0660) and listening, then gives it
    /// its own. A stale one is replaced. The caller holds the lock of the path, and has [prepared](Self::prepare) it.
    /// Blocks.
    ///
    /// # Errors
    ///
    /// [`ListenError::Occupied`] when something else is there, or what the system said.
    pub fn bind(path: &Path, access: &Access) -> Result<Self, ListenError> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        refuse_living(path)?;
        let number = MADE.fetch_add(1, Ordering::Relaxed);
        let name = format!(".sw{:x}.{number:x}", std::process::id());
        let temporary = directory(path).join(name);
        let made = make(&temporary, path, access);
        if made.is_err() {
            // The error that counts is the one that kept it from being made.
            let _ = fs::remove_file(&temporary);
        }
        let (listener, file) = made.map_err(failed("listen on", path))?;
        Ok(Self {
            listener,
            path: path.to_owned(),
            file: Some(file),
        })
    }

    /// Takes a socket that listens already, as a supervisor (systemd) hands over. Its file belongs to whoever made it
    /// and is never removed. `path` is what it is called when the system does not know.
    ///
    /// # Errors
    ///
    /// What the system said: it is no listening Unix socket.
    pub fn inherited(listener: UnixListener, path: &Path) -> Result<Self, ListenError> {
        let address = listener
            .set_nonblocking(true)
            .and_then(|()| listener.local_addr())
            .map_err(failed("listen on the inherited", path))?;
        Ok(Self {
            listener,
            path: address.as_pathname().unwrap_or(path).to_owned(),
            file: None,
        })
    }

    /// Where it listens.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Who comes in, of those that connect: by the `access` that it was [bound](Self::bind) with, and as far as there is
    /// `room`.
    pub fn gate(&self, access: Access, room: Room) -> Gate {
        Gate::new(&self.path, self.file.is_some(), access, room)
    }

    /// Takes its connections, inside a tokio runtime.
    ///
    /// # Errors
    ///
    /// What the system said.
    pub fn listener(&self) -> Result<Listener, ListenError> {
        self.listener
            .try_clone()
            .and_then(|listener| Listener::new(listener, self.file.is_none()))
            .map_err(failed("listen on", &self.path))
    }
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Someone who moved another file there keeps it.
        if self.file.is_some()
            && fs::symlink_metadata(&self.path)
                .map(|found| identity(&found))
                .ok()
                == self.file
            && let Err(error) = fs::remove_file(&self.path)
        {
            tracing::warn!("cannot remove {}: {error}", self.path.display());
        }
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    }
}

fn prepare_directory(path: &Path) -> Result<(), ListenError> {
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
        return Err(ListenError::OpenDirectory {
            path: path.to_owned(),
        });
    }
    Ok(())
}

/// Nothing but a socket on which nobody listens is ever replaced.
fn refuse_living(path: &Path) -> Result<(), ListenError> {
    let occupied = |found| ListenError::Occupied {
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
            Err(occupied("has a listener that holds no lock of ours"))
        }
        Err(_) => Err(occupied("is a socket that does not answer as a stale one")),
    }
}

fn make(temporary: &Path, path: &Path, access: &Access) -> io::Result<(UnixListener, (u64, u64))> {
    // Left by a process of the same id that died here: nobody else has the lock.
    match fs::remove_file(temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = stream_socket()?;
    bind_long(&listener, temporary)?;
    // Nobody can connect until it listens, so the mode it has between the two does not matter.
    access.apply(temporary)?;
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
    if path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX || !cfg!(target_os = "linux") {
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

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ListenError {
    let path = path.to_owned();
    move |source| ListenError::Io {
        action,
        path,
        source,
    }
}
