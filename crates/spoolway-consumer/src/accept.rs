//! Takes connections: as many as may be, from peers that may. Who says nothing gives way.

use std::sync::Arc;

use spoolway_socket::{Gate, Listener, Peer};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::ConsumerError;
use crate::connection::Connection;
use crate::seat::{Seat, Seats};
use crate::shared::Shared;

pub(crate) struct Acceptor {
    pub(crate) shared: Arc<Shared>,
    pub(crate) listener: Listener,
    pub(crate) door: Door,
    pub(crate) stop: oneshot::Receiver<()>,
}

/// Lets connections in.
pub(crate) struct Door {
    gate: Gate,
    seats: Seats,
    /// Held by everyone who may have unread messages of connections without hello.
    unread: mpsc::Sender<()>,
    connections: JoinSet<()>,
}

impl Acceptor {
    /// Accepts until told to stop, then serves what is open to its end.
    pub(crate) async fn run(mut self) {
        let (shared, mut door) = (self.shared, self.door);
        loop {
            tokio::select! {
                biased;
                _ = &mut self.stop => break,
                Some(ended) = door.connections.join_next() => note_panic(&shared, ended),
                stream = self.listener.accept() => door.open(&shared, stream),
            }
        }
        self.listener.close(|stream| door.open(&shared, stream));
        let Door {
            mut connections,
            unread,
            ..
        } = door;
        drop(unread);
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

impl Door {
    pub(crate) fn new(gate: Gate, unread: mpsc::Sender<()>) -> Self {
        Self {
            gate,
            seats: Seats::default(),
            unread,
            connections: JoinSet::new(),
        }
    }

    fn open(&mut self, shared: &Arc<Shared>, stream: UnixStream) {
        let config = &shared.config;
        let makes_room = |lack| self.seats.make_room(lack, config.idle_max);
        let pass = match self.gate.admit(&stream) {
            Err(refusal) if refusal.lack.is_some_and(makes_room) => self.gate.admit(&stream),
            admitted => admitted,
        };
        let pass = match pass {
            Ok(pass) => pass,
            Err(refusal) => return self.gate.refuse(refusal, &stream),
        };
        let Peer {
            uid,
            pid,
            may_administer,
            ..
        } = *pass.peer();
        match may_administer {
            true => tracing::debug!(uid, pid, "connected"),
            false => tracing::info!(uid, pid, "connected, a user that is there by `access`"),
        }
        let seat = Arc::new(Seat::new(pass, config.arrival_max));
        self.seats.add(&seat);
        let connection = Connection::new(Arc::clone(shared), stream, self.unread.clone(), seat);
        self.connections.spawn(connection.run());
    }
}
