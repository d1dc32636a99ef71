//! Taking connections: as many as may be, from peers that may, and every one that reached the system.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;
use std::time::Duration;

use bytes::BytesMut;
use rustix::net::{SendFlags, Shutdown, send, shutdown};
use spoolway_proto::{Code, ConsumerOp};
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

/// Why a connection is refused: an `error` for its peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// [`Code::Forbidden`] or [`Code::Busy`].
    pub code: Code,
    /// Why, for people.
    pub message: String,
}

impl Refusal {
    /// Says it to a connection to which nothing has been written.
    pub fn tell(self, stream: &UnixStream) {
        let Self { code, message } = self;
        tracing::warn!(code = code.as_str(), "connection refused: {message}");
        let mut out = BytesMut::new();
        let n = None;
        ConsumerOp::Error { code, message, n }.put(&mut out);
        // It has room for this, which the runtime may not know yet; who is gone need not hear it.
        let _ = send(stream, &out, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
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

/// Says whether a connection may stay: it is of the same user or root, and at most `max` are open, `open` so far.
///
/// # Errors
///
/// Why not. `name` is what the limit is called where it is set.
pub fn admit(stream: &UnixStream, open: usize, max: usize, name: &str) -> Result<(), Refusal> {
    let forbidden = |message| Refusal {
        code: Code::Forbidden,
        message,
    };
    let peer = stream
        .peer_cred()
        .map_err(|error| forbidden(format!("the peer cannot be identified: {error}")))?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid() != own && peer.uid() != 0 {
        return Err(forbidden(format!(
            "user {} may not connect, only user {own} and root may",
            peer.uid()
        )));
    }
    if open >= max {
        return Err(Refusal {
            code: Code::Busy,
            message: format!("{open} connections are open, {max} are allowed (`{name}`)"),
        });
    }
    Ok(())
}
