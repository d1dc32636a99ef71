//! Taking connections: every one that reached the system.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use tokio::net::{UnixListener, UnixStream};

/// After an error of accept, such as too many open files, until it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A listening socket whose connections are taken. Made by [`SocketFile::listener`](crate::SocketFile::listener).
#[derive(Debug)]
pub struct Listener {
    listener: UnixListener,
    /// Someone else listens with it before and after.
    inherited: bool,
    failing: bool,
}

impl Listener {
    pub(crate) fn new(listener: StdListener, inherited: bool) -> io::Result<Self> {
        Ok(Self {
            listener: UnixListener::from_std(listener)?,
            inherited,
            failing: false,
        })
    }

    /// The next connection. Failures are logged, once in a row, and waited out. Nothing is lost when the future is dropped.
    pub async fn accept(&mut self) -> UnixStream {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    self.failing = false;
                    return stream;
                }
                Err(error) => {
                    if !self.failing {
                        self.failing = true;
                        tracing::error!("cannot accept connections: {error}");
                    }
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Ends it. The system refuses new connections from here on, and those that it had let in are given to `open`:
    /// one that wrote and closed before it was accepted loses nothing.
    ///
    /// An inherited socket is left as it is, and so are those that wait on it: they are its next owner's.
    pub fn close(self, mut open: impl FnMut(UnixStream)) {
        if self.inherited {
            return;
        }
        if let Err(error) = shutdown(&self.listener, Shutdown::Read) {
            tracing::debug!("cannot shut the listening socket down: {error}");
        }
        while let Ok(stream) = accept_waiting(&self.listener) {
            open(stream);
        }
    }
}

fn accept_waiting(listener: &UnixListener) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(rustix::net::accept(listener.as_fd())?);
    stream.set_nonblocking(true)?;
    rustix::io::fcntl_setfd(&stream, rustix::io::FdFlags::CLOEXEC)?;
    UnixStream::from_std(stream)
}
