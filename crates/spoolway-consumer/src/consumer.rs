//! A consumer that holds its socket and queue file, and the tasks it runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use spoolway_proto::{InstanceId, MessageId, Outcome};
use spoolway_queue::{ConsumerLock, QueueError, SqliteQueue, Watch, Write, side_file};
use spoolway_socket::SocketFile;
use tokio::sync::{mpsc, oneshot};
use tokio::task::{JoinError, JoinSet, spawn_blocking};

use crate::accept::{Acceptor, Door};
use crate::directory::{SpoolDirectory, Taking};
use crate::handler::Handlers;
use crate::machine::{Event, Machine, Start};
use crate::shared::{Parts, Shared, now};
use crate::shutdown::{finish, leave};
use crate::sink::{OpenSink, SinkThread};
use crate::tasks::{clean_up, empty_inbox, follow_file, keep_time};
use crate::{Builder, ConsumerConfig, ConsumerError};

/// A consumer that listens. It owns its socket and its queue file until it ends or is dropped.
#[must_use = "a consumer does nothing until `run`"]
pub struct Consumer {
    // In this order: nobody else may make a socket there before this one is removed.
    socket: SocketFile,
    socket_lock: Option<ConsumerLock>,
    queue_lock: ConsumerLock,
    queue: SqliteQueue,
    config: ConsumerConfig,
    instance: InstanceId,
    start: Start,
    handlers: Handlers,
    sink: Option<OpenSink>,
    directory: Option<SpoolDirectory>,
}

/// What a consumer did from its start to its shutdown.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
#[non_exhaustive]
pub struct Summary {
    /// Handlers that succeeded.
    pub processed: u64,
    /// Messages from the socket that were written to the queue file, to be processed later.
    pub stored: u64,
    /// Messages that became dead letters.
    pub dead: u64,
    /// Attempts that failed.
    pub failed: u64,
    /// Handlers that were still running when time was up; their messages are stored.
    pub aborted: u64,
}

/// Settlements in one transaction at the start.
const SETTLE_MAX: usize = 1_000;

impl Consumer {
    /// A consumer of that socket and that queue file, which are made when missing.
    pub fn builder(socket: impl Into<PathBuf>, queue: impl Into<PathBuf>) -> Builder {
        Builder::new(socket.into(), queue.into())
    }

    pub(crate) async fn open(builder: Builder) -> Result<Self, ConsumerError> {
        builder.config.check()?;
        unblocked(move || {
            let Builder {
                socket,
                queue,
                config,
                handlers,
                sink,
                standby,
                listener,
                spool_directory,
            } = builder;
            // An inherited socket is its giver's, who gives it to one consumer after the other.
            let socket_lock = match &listener {
                Some(_) => None,
                None => {
                    SocketFile::prepare(&socket)?;
                    Some(lock(&side_file(&socket, ".lock"), standby)?)
                }
            };
            let directory = spool_directory
                .map(|root| SpoolDirectory::open(&root, |path| lock(path, standby)))
                .transpose()?;
            // Before the file is opened, which may bring it up to date.
            let queue_lock = lock(&side_file(&queue, ".lock"), standby)?;
            let queue = SqliteQueue::open(&queue, config.queue_options())?;
            let instance = InstanceId::from_u128(uuid::Uuid::new_v4().as_u128());
            let taken = queue.take_over(instance, &queue_lock)?;
            let mut sink = sink.map(|sink| sink.open()).transpose()?;
            if let Some(sink) = &mut sink {
                settle(&queue, std::mem::take(&mut sink.recovered))?;
            }
            let held = queue.held_keys()?;
            let start = Start {
                instance,
                last: taken.last_owner.filter(|_| taken.clean),
                held: held.into_iter().map(|held| held.key).collect(),
                generation: queue.generation(),
            };
            // Last, so that who connects finds a consumer that is ready.
            let socket = match listener {
                Some(listener) => SocketFile::inherited(listener, &socket)?,
                None => SocketFile::bind(&socket, &config.access)?,
            };
            tracing::info!(%instance, "listening on {}", socket.path().display());
            Ok(Self {
                socket,
                socket_lock,
                queue_lock,
                queue,
                config,
                instance,
                start,
                handlers,
                sink,
                directory,
            })
        })
        .await?
    }

    /// Where it listens.
    pub fn socket_path(&self) -> &Path {
        self.socket.path()
    }

    /// This run of the consumer, as producers are told in `hello`.
    pub fn instance(&self) -> InstanceId {
        self.instance
    }

    /// The queue file it polls.
    pub fn queue(&self) -> &SqliteQueue {
        &self.queue
    }

    /// Accepts and processes until `shutdown` is ready, then finishes: producers are told to hold new messages,
    /// what has arrived is read, handlers have [`ConsumerConfig::shutdown_max`] to end, and the rest is stored.
    ///
    /// Dropping the returned future ends the consumer like a kill does, but for the socket file, which is removed.
    ///
    /// # Errors
    ///
    /// When the queue file was replaced under the consumer, or could not be written at the end; when a task
    /// panicked. What was answered is safe in each case.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<Summary, ConsumerError> {
        let Self {
            socket,
            socket_lock,
            queue_lock,
            queue,
            config,
            instance,
            start,
            handlers,
            sink,
            directory,
        } = self;
        let (inbox, events) = mpsc::unbounded_channel();
        let (faults, mut faulty) = mpsc::unbounded_channel();
        let listener = socket.listener()?;
        let gate = socket.gate(config.access.clone(), config.room());
        let sink = sink.map(|sink| start_sink(sink, &inbox)).transpose()?;
        let generation = start.generation;
        let machine = Machine::new(now(), config.machine.clone(), start);
        let parts = Parts {
            machine,
            generation,
            queue,
            config,
            instance,
            handlers,
            sink,
            inbox,
            faults,
        };
        let shared = Shared::new(parts);
        let _aborting = Aborting(Arc::clone(&shared));
        let queue_lock = Arc::new(queue_lock);
        let watch = watch(&shared).await?;
        let (stop, stopped) = oneshot::channel();
        let (unread, read) = mpsc::channel(1);
        let mut tasks = JoinSet::new();
        tasks.spawn(empty_inbox(Arc::clone(&shared), events));
        tasks.spawn(keep_time(Arc::clone(&shared)));
        tasks.spawn(clean_up(Arc::clone(&shared)));
        tasks.spawn(follow_file(Arc::clone(&shared), Arc::clone(&queue_lock)));
        let directory = directory.map(|directory| directory.start(&shared, unread.clone()));
        let acceptor = Acceptor {
            shared: Arc::clone(&shared),
            listener,
            door: Door::new(gate, unread),
            stop: stopped,
        };
        let mut accepting = JoinSet::new();
        accepting.spawn(acceptor.run());
        shared.drive([]);
        let leaving = async {
            shutdown.await;
            let directory = directory.map(Taking::stop);
            leave(&shared, stop, read).await;
            while accepting.join_next().await.is_some() {}
            if let Some(directory) = directory {
                directory.finish().await;
            }
        };
        tokio::select! {
            () = leaving => {}
            Some(fault) = faulty.recv() => return Err(fault),
            Some(ended) = tasks.join_next() => return Err(panicked(ended)),
        }
        tasks.shutdown().await;
        drop(watch);
        let aborted = shared.abort_handlers() as u64;
        finish(&shared).await?;
        drop(socket);
        drop((socket_lock, queue_lock));
        let summary = Summary {
            aborted,
            ..shared.summary()
        };
        tracing::info!(?summary, "stopped");
        Ok(summary)
    }
}

/// Takes a lock, or waits until its owner is gone.
fn lock(side_file: &Path, standby: bool) -> Result<ConsumerLock, QueueError> {
    if standby {
        ConsumerLock::wait(side_file)
    } else {
        ConsumerLock::acquire(side_file)
    }
}

/// Ends the handlers with the consumer, however that ends.
struct Aborting(Arc<Shared>);

impl Drop for Aborting {
    fn drop(&mut self) {
        self.0.abort_handlers();
    }
}

fn start_sink(
    sink: OpenSink,
    inbox: &mpsc::UnboundedSender<Event>,
) -> Result<SinkThread, ConsumerError> {
    let inbox = inbox.clone();
    // Without a receiver the consumer is gone, and nobody waits for the end of the handler.
    let ended = move |ticket, finish| drop(inbox.send(Event::Finished { ticket, finish }));
    sink.start(ended).map_err(ConsumerError::Thread)
}

async fn watch(shared: &Arc<Shared>) -> Result<Watch, ConsumerError> {
    let shared = Arc::clone(shared);
    unblocked(move || {
        let told = Arc::clone(&shared);
        Ok(Watch::start(&shared.queue, move || told.woken())?)
    })
    .await?
}

/// Settles the rows of messages that are in the sink already, before any of them is delivered again.
fn settle(queue: &SqliteQueue, lines: Vec<(MessageId, u32)>) -> Result<(), QueueError> {
    let write = |(id, crc): &(MessageId, u32)| Write::SettleById {
        id: id.clone(),
        crc: *crc,
        outcome: Outcome::Processed,
        reason: None,
    };
    for some in lines.chunks(SETTLE_MAX) {
        queue.write(some.iter().map(write).collect())?;
    }
    Ok(())
}

fn panicked(ended: Result<(), JoinError>) -> ConsumerError {
    match ended.map_err(JoinError::try_into_panic) {
        Err(Ok(panic)) => {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            ConsumerError::Panicked(text.unwrap_or("no text").to_owned())
        }
        Err(Err(error)) => ConsumerError::Panicked(error.to_string()),
        Ok(()) => ConsumerError::Panicked("it ended by itself".to_owned()),
    }
}

/// Runs what blocks on a thread that may.
pub(crate) async fn unblocked<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ConsumerError> {
    spawn_blocking(work)
        .await
        .map_err(|error| panicked(Err(error)))
}
