//! Takes connections: as many as may be, from peers that may.

use std::sync::Arc;

use spoolway_socket::{Listener, admit};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::ConsumerError;
use crate::connection::Connection;
use crate::shared::Shared;

pub(crate) struct Acceptor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) listener: Listener,
    /// Held by everyone who may have unread messages of connections without hello.
    pub(crate) unread: mpsc::Sender<()>,
    pub(crate) stop: oneshot::Receiver<()>,
}

impl Acceptor {
    /// Accepts until told to stop, then serves what is open to its end.
    pub(crate) async fn run(mut self) {
        let shared = self.shared;
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                biased;
                _ = &mut self.stop => break,
                Some(ended) = connections.join_next() => note_panic(&shared, ended),
                stream = self.listener.accept() => {
                    open(&shared, &mut connections, stream, &self.unread);
                }
            }
        }
        self.listener
            .close(|stream| open(&shared, &mut connections, stream, &self.unread));
        drop(self.unread);
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

fn open(
    shared: &Arc<Shared>,
    connections: &mut JoinSet<()>,
    stream: UnixStream,
    unread: &mpsc::Sender<()>,
) {
    let max = shared.config.connections_max;
    if let Err(refusal) = admit(&stream, connections.len(), max, "connections_max") {
        return refusal.tell(&stream);
    }
    let connection = Connection::new(Arc::clone(shared), stream, unread.clone());
    connections.spawn(connection.run());
}
