//! The plain server: a handler for every message that comes, no queue behind it.

mod connection;

use std::fmt::Display;
use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use spoolway_proto::Message;
use tokio::net::UnixStream;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};

use crate::{Access, Gate, ListenError, Listener, Room, SocketFile};
use connection::Connection;

/// Where a [`UnixSocketServer`] listens, and to how many.
#[derive(Clone, Debug)]
pub struct UnixSocketServerConfig {
    /// The path of the socket, at most [`SOCKET_PATH_BYTES_MAX`](crate::SOCKET_PATH_BYTES_MAX) bytes. Its directory is made
    /// when it is missing. Beside it is a file with `.lock` added, which is left there.
    pub socket_path: PathBuf,
    /// Connections at a time; more are told `busy` and closed. Default 100.
    pub max_connections: usize,
    /// Who may connect beside the user of the process and root. Default: nobody.
    pub access: Access,
    /// Connections at a time of one user that is there by `access`. Default: half of `max_connections`.
    pub max_connections_per_uid: Option<usize>,
}

impl UnixSocketServerConfig {
    /// The defaults at that path.
    pub fn new(socket_path: impl Into<PathBuf>) -> Self {
        Self {
            socket_path: socket_path.into(),
            max_connections: 100,
            access: Access::default(),
            max_connections_per_uid: None,
        }
    }
}

/// Takes messages from connections without hello and hands each to a handler.
///
/// The messages of a connection are handled one after the other, in the task that reads it, so a slow handler holds its
/// sender up; those of several connections run beside each other. A message with `requires_ack` is answered: `processed`
/// after `Ok`, `unavailable` with its text after `Err`. A handler that panics ends its connection. One that says nothing
/// stays, and takes a place, for as long as it likes; a consumer ends such connections.
///
/// A `Producer` needs a consumer, and is refused.
pub struct UnixSocketServer {
    config: UnixSocketServerConfig,
    serve: Option<Serve>,
    running: Option<Running>,
}

/// Serves one connection to its end, or to the end of what has arrived when told to stop.
type Serve = Arc<dyn Fn(UnixStream, watch::Receiver<bool>) -> Serving + Send + Sync>;
type Serving = Pin<Box<dyn Future<Output = ()> + Send>>;

struct Running {
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
    // In this order: nobody else may make a socket there before this one is removed.
    _socket: SocketFile,
    _lock: File,
}

impl UnixSocketServer {
    /// A server that does not listen yet.
    pub fn new(config: UnixSocketServerConfig) -> Self {
        Self {
            config,
            serve: None,
            running: None,
        }
    }

    /// Sets what is done with each message, from the next [`start`](Self::start) on.
    ///
    /// A message shares memory with the others of its read: one that is kept for long should be
    /// [detached](Message::detach).
    pub fn set_message_handler<F, Fut, E>(&mut self, handler: F)
    where
        F: Fn(Message) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), E>> + Send + 'static,
        E: Display + Send + 'static,
    {
        let handler = Arc::new(handler);
        self.serve = Some(Arc::new(move |stream, stop| {
            let handler = Arc::clone(&handler);
            Box::pin(async move { Connection::new(stream).run(&*handler, stop).await })
        }));
    }

    /// Listens, and takes connections until [`stop`](Self::stop) or until it is dropped.
    ///
    /// # Errors
    ///
    /// [`ListenError`]; [`ListenError::Misuse`] without a handler, or when it has been started.
    pub async fn start(&mut self) -> Result<(), ListenError> {
        let misuse = |what| ListenError::Misuse {
            path: self.config.socket_path.clone(),
            what,
        };
        let Some(serve) = self.serve.clone() else {
            return Err(misuse("has no handler: call `set_message_handler` first"));
        };
        if self.running.is_some() {
            return Err(misuse("is running: call `stop` first"));
        }
        let UnixSocketServerConfig {
            socket_path,
            max_connections,
            access,
            max_connections_per_uid,
        } = self.config.clone();
        let room = Room {
            max: max_connections,
            share: max_connections_per_uid.unwrap_or(max_connections / 2),
            max_is: "max_connections",
            share_is: "max_connections_per_uid",
        };
        let list = access.clone();
        let listening = spawn_blocking(move || listen(&socket_path, &list)).await;
        let (socket, lock) =
            listening.map_err(|_| misuse("was started while its runtime ends"))??;
        let (gate, listener) = (socket.gate(access, room), socket.listener()?);
        let (stop, stopped) = watch::channel(false);
        let task = tokio::spawn(accept(listener, serve, gate, stopped));
        self.running = Some(Running {
            stop,
            task,
            _socket: socket,
            _lock: lock,
        });
        Ok(())
    }

    /// Takes no more connections, handles what has arrived, and removes the socket. It waits for handlers however long
    /// they take; dropping the future ends them.
    pub async fn stop(&mut self) {
        if let Some(mut running) = self.running.take() {
            // Its task may have panicked, and listens to nothing then.
            let _ = running.stop.send(true);
            if let Err(error) = (&mut running.task).await {
                tracing::error!("the server ended by itself: {error}");
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl std::fmt::Debug for UnixSocketServer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UnixSocketServer")
            .field("config", &self.config)
            .field("running", &self.running.is_some())
            .finish_non_exhaustive()
    }
}

/// The socket, and the lock that says it is alive: the same one that a consumer takes.
fn listen(path: &Path, access: &Access) -> Result<(SocketFile, File), ListenError> {
    SocketFile::prepare(path)?;
    let mut side = path.as_os_str().to_owned();
    side.push(".lock");
    let side = PathBuf::from(side);
    let failed = |source: io::Error| ListenError::Io {
        action: "lock",
        path: side.clone(),
        source,
    };
    let mut options = OpenOptions::new();
    let options = options.read(true).write(true).create(true).truncate(false);
    let lock = options.mode(0o600).open(&side).map_err(failed)?;
    match lock.try_lock() {
        Ok(()) => Ok((SocketFile::bind(path, access)?, lock)),
        Err(TryLockError::WouldBlock) => Err(ListenError::Occupied {
            path: path.to_owned(),
            found: "has another server or consumer",
        }),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

async fn accept(
    mut listener: Listener,
    serve: Serve,
    gate: Gate,
    mut stopped: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    let stop = stopped.clone();
    let open = |connections: &mut JoinSet<()>, stream: UnixStream| match gate.admit(&stream) {
        Ok(pass) => {
            let serving = serve(stream, stop.clone());
            connections.spawn(async move {
                serving.await;
                drop(pass);
            });
        }
        Err(refusal) => gate.refuse(refusal, &stream),
    };
    loop {
        tokio::select! {
            biased;
            _ = stopped.changed() => break,
            Some(ended) = connections.join_next() => note_panic(ended),
            stream = listener.accept() => open(&mut connections, stream),
        }
    }
    listener.close(|stream| open(&mut connections, stream));
    while let Some(ended) = connections.join_next().await {
        note_panic(ended);
    }
}

fn note_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended {
        tracing::error!("a handler ended its connection: {error}");
    }
}
