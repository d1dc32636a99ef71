//! The core behind its lock, and what is done when the lock is released.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use spoolway_proto::{Message, MessageId, Timestamp, validate_queue_message};
use spoolway_queue::SqliteQueue;
use tokio::sync::{Notify, oneshot};

use crate::batch::{Gathering, SendingBatch};
use crate::builder::Options;
use crate::core::{Core, Effects, Room, Spool};
use crate::receipt::{Answer, Waiter};
use crate::route::RouteConfig;
use crate::{Closed, Fate, SendCode, SendError, SocketReason, driver};

#[derive(Debug)]
pub(crate) struct Shared {
    /// Not tokio's: it is held for moments, never over an await, and outside any runtime too.
    core: Mutex<Core>,
    /// The driver looks at the core.
    pub(crate) wake: Notify,
    /// Something changed while somebody waits for the end on a thread.
    changed: Condvar,
    pub(crate) options: Arc<Options>,
    queue: SqliteQueue,
    /// Knows the process that opened it.
    origin: forkguard::atfork::Guard,
}

impl Shared {
    /// Starts the driver on this runtime. The receiver hears when the first dial came to something.
    pub(crate) fn start(
        options: Options,
        queue: SqliteQueue,
        route: RouteConfig,
    ) -> (Arc<Self>, oneshot::Receiver<()>) {
        let options = Arc::new(options);
        let (opening, opened) = oneshot::channel();
        let core = Core::new(
            Arc::clone(&options),
            queue.clone(),
            route,
            Instant::now(),
            opening,
        );
        let shared = Arc::new(Self {
            core: Mutex::new(core),
            wake: Notify::new(),
            changed: Condvar::new(),
            options,
            queue,
            origin: forkguard::atfork::Guard::default(),
        });
        // What the core asked for before there was anything to do it.
        shared.with(|_, _| ());
        tokio::spawn(driver::run(Arc::clone(&shared)));
        (shared, opened)
    }

    /// Runs `change` on the core, then does what follows from it without the lock.
    pub(crate) fn with<R>(self: &Arc<Self>, change: impl FnOnce(&mut Core, Instant) -> R) -> R {
        let now = Instant::now();
        let mut core = self.lock();
        let result = change(&mut core, now);
        let effects = core.finish(now);
        drop(core);
        self.carry_out(effects);
        result
    }

    fn lock(&self) -> MutexGuard<'_, Core> {
        // A panic inside is a bug of ours; the messages of others still have a right to their way.
        self.core.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn carry_out(self: &Arc<Self>, effects: Effects) {
        let Effects {
            spool,
            answers,
            flushed,
            wake,
            notify,
        } = effects;
        for (waiter, answer) in answers {
            give(waiter, answer);
        }
        for flushed in flushed {
            // Who stopped waiting needs no answer.
            let _ = flushed.send(());
        }
        if let Some(Spool { group, writes }) = spool {
            let shared = Arc::clone(self);
            self.queue.submit(writes, move |result| {
                shared.with(|core, now| core.spooled(now, group, result));
            });
        }
        if wake {
            self.wake.notify_one();
        }
        if notify {
            self.changed.notify_all();
        }
    }

    /// Whether this process is not the one that opened the producer.
    ///
    /// Asked at every send: a counter that the C library's `fork` raises costs nothing, where `getpid` is a system call.
    pub(crate) fn is_forked(&self) -> bool {
        self.origin.clone().detected_fork()
    }

    /// Stamps and checks a message, and starts it on its way.
    pub(crate) fn enter(
        self: &Arc<Self>,
        message: Message,
        waiter: Option<Waiter>,
        room: Room,
    ) -> Result<Arc<Message>, SendError> {
        if self.is_forked() {
            return Err(forked(message));
        }
        let message = self.check(message, unix_millis())?;
        self.with(|core, now| core.enter(now, Arc::clone(&message), waiter, room))?;
        Ok(message)
    }

    /// Stamps and checks messages, and starts them on their way with nothing between them.
    pub(crate) fn enter_batch(
        self: &Arc<Self>,
        messages: impl ExactSizeIterator<Item = Message>,
    ) -> SendingBatch {
        let (gathering, answers) = Gathering::new(messages.len());
        let (is_forked, millis) = (self.is_forked(), unix_millis());
        let mut sent = Vec::with_capacity(messages.len());
        let mut entering = Vec::with_capacity(messages.len());
        for (place, message) in messages.enumerate() {
            let checked = match is_forked {
                true => Err(forked(message)),
                false => self.check(message, millis),
            };
            match checked {
                Ok(message) => {
                    sent.push(Arc::clone(&message));
                    entering.push((place, message));
                }
                Err(error) => {
                    sent.push(Arc::new(Message::clone(&error.message)));
                    let waiter = Waiter::InBatch(Arc::clone(&gathering), place);
                    give(Some(waiter), Err(error));
                }
            }
        }
        if !entering.is_empty() {
            self.with(|core, now| core.enter_batch(now, entering, &gathering));
        }
        SendingBatch::new(sent, answers)
    }

    /// Fills in what is absent, and says what is wrong.
    fn check(&self, mut message: Message, millis: u64) -> Result<Arc<Message>, SendError> {
        message.stamp(Timestamp(i64::try_from(millis).unwrap_or(i64::MAX)), || {
            MessageId::v7(millis, rand::random())
        });
        if let Err(invalid) = validate_queue_message(&message, &self.options.limits()) {
            let code = invalid.code;
            let message_error = SendError::new(Fate::NotTaken, SendCode::Refused(code), message);
            let found = invalid.to_string();
            return Err(message_error.by_socket(Some(SocketReason::Invalid(found))));
        }
        Ok(Arc::new(message))
    }

    pub(crate) async fn flush(self: &Arc<Self>) {
        if !self.is_forked() {
            // An error means that the core is gone, and with it every message.
            let _ = self.with(|core, _| core.flush()).await;
        }
    }

    /// See [`Producer::close`](crate::Producer::close).
    pub(crate) async fn close(self: &Arc<Self>, deadline: Duration) -> Closed {
        if self.is_forked() {
            return Closed::default();
        }
        let end = tokio::time::Instant::now() + deadline;
        self.with(|core, _| core.begin_close());
        // The file needs its share of the time.
        let answers = end - (deadline / 4).min(Duration::from_secs(1));
        if tokio::time::timeout_at(answers, self.flush())
            .await
            .is_err()
        {
            self.with(|core, now| core.abandon(now));
            // What is not there by then is returned below.
            let _ = tokio::time::timeout_at(end, self.flush()).await;
        }
        self.with(|core, now| {
            core.abandon(now);
            core.end_close()
        })
    }

    /// Hands what is left to the writer thread of the queue and waits for it, on this thread.
    pub(crate) fn hand_over(self: &Arc<Self>) {
        if self.is_forked() {
            return;
        }
        self.with(|core, now| {
            core.begin_hand_over();
            core.abandon(now);
        });
        let end = Instant::now() + self.options.hand_over_max;
        loop {
            let core = self.lock();
            let now = Instant::now();
            if core.is_settled() || now >= end {
                break;
            }
            let until = core.next_deadline().map_or(end, |at| at.min(end));
            let wait = until.saturating_duration_since(now);
            let waited = self.changed.wait_timeout(core, wait);
            drop(waited.unwrap_or_else(PoisonError::into_inner));
            self.with(|core, now| core.turn(now));
        }
        self.with(|core, _| {
            for message in core.unsettled() {
                tracing::error!(id = %message.id, "dropped before it could be written to the queue file");
            }
            core.end();
        });
    }
}

/// Answers who waits. A failure that nobody hears of is logged.
fn give(waiter: Option<Waiter>, answer: Answer) {
    let unheard = match waiter {
        Some(waiter) => waiter.answer(answer).err(),
        None => Some(answer),
    };
    if let Some(Err(error)) = unheard {
        let id = &error.message.id;
        tracing::error!(%id, code = error.code.as_str(), "a message was not settled: {error}");
    }
}

fn forked(message: Message) -> SendError {
    SendError::new(Fate::NotTaken, SendCode::Forked, message)
}

fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    // Before 1970 the clock is not set; an id of that time is as good as any.
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
