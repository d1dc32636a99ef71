//! The machine and everything that is done for it: one lock, never held across an await or while foreign code runs.
//!
//! Connections, the clock and ends of handlers drive the machine where they are ([`Shared::drive`]). What happens
//! on threads outside the runtime (commits, reads, wake-ups, sinks) is put into the inbox, which one task empties.

mod act;
mod ear;
mod run;
mod stamp;
mod turn;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use spoolway_proto::{ConsumerOp, InstanceId, Limits, Reply, Timestamp};
use spoolway_queue::SqliteQueue;
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::AbortHandle;

use crate::handler::{Delivery, Handlers};
use crate::health::Health;
use crate::machine::{ConnId, Event, Finish, Machine, Now, Ticket};
use crate::outbox::Outbox;
use crate::reads::Read;
use crate::sink::SinkThread;
use crate::{ConsumerConfig, ConsumerError, Summary};

pub(crate) use ear::{Caller, Ear};
pub(crate) use turn::Turn;

/// The name of the cleanup's request to save; the others have the number of their connection.
pub(crate) const SAVE_FOR_CLEANUP: u64 = 0;

pub(crate) struct Shared {
    core: Mutex<Core>,
    pub(crate) queue: SqliteQueue,
    pub(crate) config: ConsumerConfig,
    pub(crate) limits: Limits,
    pub(crate) instance: InstanceId,
    pub(crate) lookup_rows_max: usize,
    handlers: Handlers,
    sink: Option<SinkThread>,
    inbox: mpsc::UnboundedSender<Event>,
    faults: mpsc::UnboundedSender<ConsumerError>,
    /// Handlers that did not end at once.
    handling: Mutex<HashMap<Ticket, AbortHandle>>,
    pub(crate) reads: Health,
    commits: Health,
    pub(crate) cleanups: Health,
    pub(crate) take_overs: Health,
    counts: Counts,
    full: AtomicBool,
    pending: AtomicUsize,
    /// Someone waits for an earlier deadline than the clock's task knows.
    pub(crate) timer: Notify,
    /// The path of the queue file may name another one.
    pub(crate) moved: Notify,
    /// Which file the machine knows the rows of.
    generation: AtomicU64,
    /// There is room again for connections without hello.
    room: Notify,
    /// What is known of producers was saved for the cleanup.
    pub(crate) saved: Notify,
    /// The machine was told something while the consumer shuts down.
    pub(crate) settled: Notify,
    /// How far the shutdown is, for those that wait for it.
    stage: watch::Sender<Life>,
    /// Held while the queue file is read for somebody who asks how it is.
    pub(crate) asking: Arc<tokio::sync::Mutex<()>>,
    started: Instant,
}

/// What the lock guards.
struct Core {
    machine: Machine,
    ears: HashMap<ConnId, Ear>,
    next_conn: ConnId,
    /// When the clock's task will wake by itself.
    armed: Option<Instant>,
    life: Life,
}

/// How far the shutdown is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, PartialOrd)]
pub(crate) enum Life {
    Open,
    /// Connections without hello are read to their end and closed.
    Draining,
    /// Nothing more is taken from connections.
    Halted,
    /// Nothing more is heard.
    Over,
}

/// What is left to do once the lock is free.
#[derive(Default)]
struct Work {
    runs: Vec<Run>,
    reads: Vec<Read>,
    /// Connections with something to be written; mostly one.
    told: Vec<(ConnId, Arc<Outbox>)>,
    /// What callers are to hear.
    replies: Vec<(Caller, Reply)>,
}

struct Run {
    ticket: Ticket,
    delivery: Delivery,
}

#[derive(Default)]
struct Counts {
    processed: AtomicU64,
    stored: AtomicU64,
    dead: AtomicU64,
    failed: AtomicU64,
}

pub(crate) struct Parts {
    pub(crate) machine: Machine,
    /// The file whose rows it knows.
    pub(crate) generation: u64,
    pub(crate) queue: SqliteQueue,
    pub(crate) config: ConsumerConfig,
    pub(crate) instance: InstanceId,
    pub(crate) handlers: Handlers,
    pub(crate) sink: Option<SinkThread>,
    pub(crate) inbox: mpsc::UnboundedSender<Event>,
    pub(crate) faults: mpsc::UnboundedSender<ConsumerError>,
}

impl Shared {
    pub(crate) fn new(parts: Parts) -> Arc<Self> {
        let Parts {
            machine,
            generation,
            queue,
            config,
            instance,
            handlers,
            sink,
            inbox,
            faults,
        } = parts;
        Arc::new(Self {
            core: Mutex::new(Core {
                machine,
                ears: HashMap::new(),
                next_conn: 1,
                armed: None,
                life: Life::Open,
            }),
            limits: config.limits(),
            // More rows of one key than can be in memory: whatever the rest are, some are not there.
            lookup_rows_max: config.machine.claimed_max + config.machine.slots + 1,
            config,
            instance,
            handlers,
            sink,
            inbox,
            faults,
            handling: Mutex::default(),
            reads: Health::new("reading the queue file"),
            commits: Health::new("writing the queue file"),
            cleanups: Health::new("cleaning the queue file up"),
            take_overs: Health::new("taking over the new queue file"),
            counts: Counts::default(),
            full: AtomicBool::new(false),
            pending: AtomicUsize::new(0),
            timer: Notify::new(),
            moved: Notify::new(),
            generation: AtomicU64::new(generation),
            room: Notify::new(),
            saved: Notify::new(),
            settled: Notify::new(),
            stage: watch::Sender::new(Life::Open),
            asking: Arc::default(),
            started: Instant::now(),
            queue,
        })
    }

    fn core(&self) -> MutexGuard<'_, Core> {
        // A machine that panicked is in no state to go on: every task that meets it ends, and the consumer with them.
        self.core.lock().expect("a task panicked in the machine")
    }

    // ---- events in

    /// From a thread outside the runtime.
    pub(crate) fn put(&self, event: Event) {
        // Without a receiver the consumer is gone, and nobody waits for this any more.
        let _ = self.inbox.send(event);
    }

    /// The queue file has something new, or is a new one.
    pub(crate) fn woken(&self) {
        if self.queue.generation() != self.generation.load(Ordering::Relaxed) {
            self.moved.notify_one();
        }
        self.put(Event::Woken);
    }

    /// The file of that generation was taken over.
    pub(crate) fn replaced(&self, generation: u64) {
        if self.generation.swap(generation, Ordering::Relaxed) != generation {
            tracing::error!("the queue file was moved or replaced; a new one is used from here on");
            self.put(Event::Replaced { generation });
        }
    }

    /// Tells the machine, and does what it asks for until it asks for nothing more.
    pub(crate) fn drive(self: &Arc<Self>, events: impl IntoIterator<Item = Event>) {
        let mut turn = self.turn();
        events.into_iter().for_each(|event| turn.tell(event));
        turn.end();
    }

    fn tell(self: &Arc<Self>, events: &mut Vec<Event>, work: &mut Work) {
        let mut core = self.core();
        let now = now();
        for event in events.drain(..) {
            let from_peer = matches!(
                event,
                Event::Hello { .. } | Event::At { .. } | Event::Arrived { .. } | Event::Seen { .. }
            );
            if core.life == Life::Over || (from_peer && core.life == Life::Halted) {
                continue;
            }
            if let Event::Finished { finish, .. } = &event {
                self.counts.count(finish);
            }
            core.machine.on(now, event);
        }
        while let Some(action) = core.machine.next_action() {
            self.act(&mut core, action, work);
        }
        let deadline = core.machine.next_deadline();
        if deadline.is_some_and(|at| core.armed.is_none_or(|armed| at < armed)) {
            core.armed = deadline;
            self.timer.notify_one();
        }
        self.pending
            .store(core.machine.pending(), Ordering::Relaxed);
        let full = core.machine.is_full();
        if self.full.swap(full, Ordering::SeqCst) && !full {
            self.room.notify_waiters();
        }
        if core.life != Life::Open {
            self.settled.notify_one();
        }
    }

    // ---- connections

    /// What the machine says to this number is heard by that ear.
    pub(crate) fn connect(&self, ear: Ear) -> ConnId {
        let mut core = self.core();
        let conn = core.next_conn;
        core.next_conn += 1;
        core.ears.insert(conn, ear);
        conn
    }

    pub(crate) fn disconnect(&self, conn: ConnId) {
        self.core().ears.remove(&conn);
    }

    pub(crate) fn connections(&self) -> usize {
        let core = self.core();
        core.ears.values().filter(|ear| !ear.is_caller()).count()
    }

    pub(crate) fn is_full(&self) -> bool {
        self.full.load(Ordering::SeqCst)
    }

    /// How many messages are in memory.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    pub(crate) async fn has_room(&self) {
        loop {
            let mut room = std::pin::pin!(self.room.notified());
            // Listening before looking, so that no change falls between.
            room.as_mut().enable();
            if !self.is_full() {
                return;
            }
            room.await;
        }
    }

    // ---- time and life

    /// When the clock's task must wake, which from now on it knows.
    pub(crate) fn arm(&self) -> Option<Instant> {
        let mut core = self.core();
        core.armed = core.machine.next_deadline();
        core.armed
    }

    pub(crate) fn life(&self) -> Life {
        self.core().life
    }

    /// Waits until the shutdown is that far.
    pub(crate) async fn reached(&self, life: Life) {
        let mut stage = self.stage.subscribe();
        // Its sender lives as long as this.
        let _ = stage.wait_for(|stage| *stage >= life).await;
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// Why it should be sent nothing now.
    pub(crate) fn troubles(&self) -> Vec<&'static str> {
        let troubles = [
            (self.life() != Life::Open, "the consumer is shutting down"),
            (
                self.commits.is_failing(),
                "the queue file cannot be written",
            ),
            (self.reads.is_failing(), "the queue file cannot be read"),
            (
                self.take_overs.is_failing(),
                "the new queue file cannot be taken over",
            ),
        ];
        let holds = troubles.into_iter().filter(|(holds, _)| *holds);
        holds.map(|(_, what)| what).collect()
    }

    /// Goes on to the next part of the shutdown, and tells every connection.
    pub(crate) fn enter(&self, life: Life) {
        let (outboxes, unheard): (Vec<_>, Vec<_>) = {
            let mut core = self.core();
            core.life = life;
            // Callers that are not answered by now never will be.
            let unheard = core
                .ears
                .extract_if(|_, ear| life == Life::Over && ear.is_caller());
            let unheard = unheard.collect();
            (
                core.ears.values().filter_map(Ear::outbox).collect(),
                unheard,
            )
        };
        drop(unheard);
        for outbox in outboxes {
            if life == Life::Draining {
                let ms = u64::try_from(self.config.goodbye.as_millis()).unwrap_or(u64::MAX);
                outbox.say_if_greeted(&ConsumerOp::Goodbye { ms });
                outbox.flush();
            }
            if life == Life::Over {
                outbox.end();
                outbox.flush();
            }
            outbox.wake.notify_one();
        }
        self.stage.send_replace(life);
        self.room.notify_waiters();
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.core().machine.is_idle()
    }

    /// Hears nothing more, if nothing is being committed.
    pub(crate) fn close_if_committed(&self) -> bool {
        let mut core = self.core();
        let committed = core.machine.is_committed();
        if committed {
            core.life = Life::Over;
        }
        committed
    }

    pub(crate) fn records(&self) -> Vec<spoolway_queue::ProducerRecord> {
        self.core().machine.records()
    }

    pub(crate) fn sink(&self) -> Option<&SinkThread> {
        self.sink.as_ref()
    }

    pub(crate) fn summary(&self) -> Summary {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Summary {
            processed: load(&self.counts.processed),
            stored: load(&self.counts.stored),
            dead: load(&self.counts.dead),
            failed: load(&self.counts.failed),
            ..Summary::default()
        }
    }

    /// Ends the consumer with an error.
    pub(crate) fn fail(&self, error: ConsumerError) {
        // Without a receiver it is ending already.
        let _ = self.faults.send(error);
    }
}

impl Counts {
    fn count(&self, finish: &Finish) {
        match finish {
            Finish::Done => self.processed.fetch_add(1, Ordering::Relaxed),
            Finish::Failed(_) | Finish::Unavailable(_) => {
                self.failed.fetch_add(1, Ordering::Relaxed)
            }
            Finish::Rejected { .. } => 0,
        };
    }
}

pub(crate) fn now() -> Now {
    Now {
        mono: Instant::now(),
        wall: wall(),
    }
}

/// The wall clock.
pub(crate) fn wall() -> Timestamp {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp(i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
