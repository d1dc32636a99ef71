//! Takes connections: as many as may be, from peers that may.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{Shutdown, shutdown};
use spoolway_proto::{Code, ConsumerOp};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::ConsumerError;
use crate::connection::Connection;
use crate::outbox::Outbox;
use crate::shared::Shared;

/// After an error of accept, such as too many open files, until it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(crate) struct Acceptor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) listener: StdListener,
    /// Held by everyone who may have unread messages of connections without hello.
    pub(crate) unread: mpsc::Sender<()>,
    pub(crate) stop: oneshot::Receiver<()>,
}

impl Acceptor {
    /// Accepts until told to stop, then serves what is open to its end.
    pub(crate) async fn run(mut self) {
        let listener = match UnixListener::from_std(self.listener) {
            Ok(listener) => listener,
            Err(source) => {
                let (action, path) = ("accept on", "the socket".into());
                return self.shared.fail(ConsumerError::Socket {
                    action,
                    path,
                    source,
                });
            }
        };
        let shared = self.shared;
        let mut connections = JoinSet::new();
        let mut failing = false;
        loop {
            tokio::select! {
                biased;
                _ = &mut self.stop => break,
                Some(ended) = connections.join_next() => note_panic(&shared, ended),
                accepted = listener.accept() => match accepted {
                    Ok((stream, _)) => {
                        failing = false;
                        open(&shared, &mut connections, stream, &self.unread);
                    }
                    Err(error) => {
                        if !failing {
                            failing = true;
                            tracing::error!("cannot accept connections: {error}");
                        }
                        tokio::time::sleep(ACCEPT_PAUSE).await;
                    }
                },
            }
        }
        // From here on the system refuses new connections, while those in the backlog can still be taken: one
        // that wrote and closed before it was accepted loses nothing.
        if let Err(error) = shutdown(&listener, Shutdown::Read) {
            tracing::debug!("cannot shut the listening socket down: {error}");
        }
        while let Ok(stream) = accept_waiting(&listener) {
            open(&shared, &mut connections, stream, &self.unread);
        }
        drop((listener, self.unread));
        while let Some(ended) = connections.join_next().await {
            note_panic(&shared, ended);
        }
    }
}

fn note_panic(shared: &Shared, ended: Result<(), tokio::task::JoinError>) {
    if ended.is_err_and(|error| error.is_panic()) {
        shared.fail(ConsumerError::Panicked("a connection".into()));
    }
}

fn accept_waiting(listener: &UnixListener) -> io::Result<UnixStream> {
    let stream = std::os::unix::net::UnixStream::from(rustix::net::accept(listener.as_fd())?);
    stream.set_nonblocking(true)?;
    rustix::io::fcntl_setfd(&stream, rustix::io::FdFlags::CLOEXEC)?;
    UnixStream::from_std(stream)
}

fn open(
    shared: &Arc<Shared>,
    connections: &mut JoinSet<()>,
    stream: UnixStream,
    unread: &mpsc::Sender<()>,
) {
    if let Err((code, message)) = admit(&stream, connections.len(), shared.config.connections_max) {
        tracing::warn!(code = code.as_str(), "connection refused: {message}");
        let (_, write) = stream.into_split();
        let outbox = Outbox::new(write);
        outbox.say_last(&ConsumerOp::Error {
            code,
            message,
            n: None,
        });
        // A socket nobody has written to has room for this.
        outbox.flush();
        return;
    }
    let connection = Connection::new(Arc::clone(shared), stream, unread.clone());
    connections.spawn(connection.run());
}

fn admit(stream: &UnixStream, open: usize, max: usize) -> Result<(), (Code, String)> {
    let peer = stream.peer_cred().map_err(|error| {
        (
            Code::Forbidden,
            format!("the peer cannot be identified: {error}"),
        )
    })?;
    let own = rustix::process::geteuid().as_raw();
    if peer.uid() != own && peer.uid() != 0 {
        let found = format!(
            "user {} may not connect, only user {own} and root may",
            peer.uid()
        );
        return Err((Code::Forbidden, found));
    }
    if open >= max {
        let text = format!("{open} connections are open, {max} are allowed (`connections_max`)");
        return Err((Code::Busy, text));
    }
    Ok(())
}
