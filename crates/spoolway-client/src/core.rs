//! What a producer is, behind its lock: the route, the connection, and who waits for what.
//!
//! Nothing here waits, and the lock is never held while something else may: what has to be done
//! without it ([`Effects`]) is collected and done by [`Shared`](crate::shared::Shared).

mod answer;
mod call;
mod hear;
mod spool;

pub(crate) use call::Room;

use std::cell::Cell;
use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut as _, BytesMut};
use spoolway_proto::{Message, PROTOCOL_VERSION, ProducerHello, ProducerOp, put_frame};
use spoolway_queue::{Origin, QueueError, SqliteQueue, Write};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use crate::builder::Options;
use crate::link::{Link, Read};
use crate::receipt::{Answer, Waiter};
use crate::route::{Action, Event, Route, RouteConfig};
use crate::told::Told;
use crate::{Absence, Closed, OtherQueueFile, SocketReason, Status};

/// With so many messages unanswered the consumer is busy: what is sent then is gathered and written by the driver, or
/// at once when it comes to [`GATHER_BYTES`]. Below, it is written by whoever sends it.
const GATHER_FROM: u32 = 16;
const GATHER_BYTES: usize = 32 * 1024;
/// With so many bytes unwritten, what comes behind them is encoded when the kernel has taken them: no memory for it
/// before, and what is encoded is still near at hand when it is written.
const OUT_MAX: usize = 128 * 1024;
/// Messages of a frame at most, and bytes of one with more than one: what a faulty frame costs stays small.
const BATCH_MAX: usize = 64;
const BATCH_BYTES: usize = 64 * 1024;

/// A message as the route keeps it. The cells are behind the lock of the core.
pub(crate) struct Body {
    message: Arc<Message>,
    waiter: Cell<Option<Waiter>>,
    /// Its caller was told that the fate is unknown.
    told: Cell<bool>,
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Body").field(&self.message.id).finish()
    }
}

/// What keeps its place on the link before it is encoded.
#[derive(Clone, Copy, Debug)]
enum Behind {
    At(u64),
    Message(u64),
}

#[derive(Debug)]
pub(crate) struct Core {
    options: Arc<Options>,
    queue: SqliteQueue,
    route: Route<Body>,
    link: Option<Link>,
    /// The dial that is wanted or under way.
    dialing: Option<u64>,
    /// Rises with each dial and each end of a connection.
    turns: u64,
    /// The socket is not used any more.
    given_up: bool,
    /// What is to be written on the link.
    out: BytesMut,
    /// What is behind it, and not encoded yet.
    behind: VecDeque<Behind>,
    /// What is written goes into frames of many messages; these are of the next one.
    batches: bool,
    batch: Vec<u64>,
    batch_bytes: usize,
    /// What was entered last may wait for the driver to be written with what comes behind it.
    gathers: bool,
    /// The driver was woken to write what is gathered.
    gathering: bool,
    /// Why messages do not go by the socket; none while connected.
    reason: Option<SocketReason>,
    /// Why the last group was not committed.
    queue_error: Option<QueueError>,
    other_queue: Option<OtherQueueFile>,
    told: Told,
    /// How many messages entered.
    entered: u64,
    status: Status,
    /// What was logged last of the way messages go.
    noted: Option<String>,
    /// The first dial is not over.
    opening: Option<oneshot::Sender<()>>,
    flushes: Vec<(u64, oneshot::Sender<()>)>,
    /// Nothing is sent any more.
    closed: bool,
    /// What `close` will return.
    closing: Option<Closed>,
    /// The driver may end.
    over: bool,
    /// Somebody waits on the condition for the last messages.
    handing_over: bool,
    /// When the driver looks next by itself.
    armed: Option<Instant>,
    effects: Effects,
}

/// What is done after the lock is released.
#[derive(Debug, Default)]
pub(crate) struct Effects {
    pub(crate) spool: Option<Spool>,
    pub(crate) answers: Vec<(Option<Waiter>, Answer)>,
    pub(crate) flushed: Vec<oneshot::Sender<()>>,
    pub(crate) wake: bool,
    pub(crate) notify: bool,
}

/// A group on its way to the file. The route has one at a time, so their order needs no care.
#[derive(Debug)]
pub(crate) struct Spool {
    pub(crate) group: u64,
    pub(crate) writes: Vec<Write>,
}

/// What the driver waits for.
#[derive(Debug)]
pub(crate) struct Wait {
    pub(crate) over: bool,
    /// Rises with each dial and each end of a connection.
    pub(crate) turns: u64,
    /// Whether the socket is not wanted any more.
    pub(crate) given_up: bool,
    pub(crate) dialing: Option<u64>,
    pub(crate) stream: Option<Arc<UnixStream>>,
    pub(crate) blocked: bool,
    pub(crate) deadline: Option<Instant>,
}

impl Core {
    pub(crate) fn new(
        options: Arc<Options>,
        queue: SqliteQueue,
        route: RouteConfig,
        now: Instant,
        opening: oneshot::Sender<()>,
    ) -> Self {
        let mut core = Self {
            route: Route::new(now, route, rand::random()),
            link: None,
            dialing: None,
            turns: 0,
            given_up: false,
            out: BytesMut::new(),
            behind: VecDeque::new(),
            batches: false,
            batch: Vec::new(),
            batch_bytes: 0,
            gathers: false,
            gathering: false,
            reason: Some(SocketReason::NotTried),
            queue_error: None,
            other_queue: None,
            told: Told::default(),
            entered: 0,
            status: Status::default(),
            noted: None,
            opening: Some(opening),
            flushes: Vec::new(),
            closed: false,
            closing: None,
            over: false,
            handing_over: false,
            armed: None,
            effects: Effects::default(),
            options,
            queue,
        };
        if core.options.spool_only {
            core.give_up(now);
        }
        core.drain(now);
        core
    }

    // ---- what the driver does

    /// Feeds what has arrived and what is due.
    pub(crate) fn turn(&mut self, now: Instant) {
        self.receive(now, Link::read);
        if self.route.next_deadline().is_some_and(|at| now >= at) {
            // A tick may end the connection: what was answered counts, and what nobody listened
            // for is no silence.
            self.receive(now, Link::read_last);
            self.on(now, Event::Tick);
        }
        for (message, waiter) in self.told.late(now) {
            let answer = Err(self.unknown(&message));
            self.effects.answers.push((Some(waiter), answer));
        }
    }

    /// What to wait for next. The driver looks again by its deadline.
    pub(crate) fn wait(&mut self) -> Wait {
        self.armed = self.next_deadline();
        Wait {
            over: self.over,
            turns: self.turns,
            given_up: self.given_up,
            dialing: self.dialing,
            stream: self.link.as_ref().map(Link::stream),
            blocked: self.link.as_ref().is_some_and(Link::is_blocked),
            deadline: self.armed,
        }
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let clocks = [self.route.next_deadline(), self.told.next_deadline()];
        clocks.into_iter().flatten().min()
    }

    /// The dial of this number ended.
    pub(crate) fn dialed(&mut self, now: Instant, dial: u64, result: Result<UnixStream, Absence>) {
        if self.dialing != Some(dial) {
            return;
        }
        self.dialing = None;
        match result {
            Ok(stream) => {
                self.link = Some(Link::new(stream));
                self.forget_out();
                self.reason = None;
                self.on(now, Event::Connected);
            }
            Err(absence) => {
                let socket = self.options.socket.display();
                let code = absence.code();
                let reason = Some(SocketReason::Absent(absence.clone()));
                if self.reason != reason {
                    tracing::warn!(code, %socket, "{absence}");
                    self.reason = reason;
                }
                self.on(now, Event::Refused);
                self.opened();
            }
        }
    }

    /// The kernel takes bytes again.
    pub(crate) fn unblock(&mut self) {
        self.link.iter_mut().for_each(Link::unblock);
    }

    /// The socket's name showed up.
    pub(crate) fn appeared(&mut self, now: Instant) {
        self.on(now, Event::Appeared);
    }

    // ---- the route

    fn on(&mut self, now: Instant, event: Event) {
        self.route.on(now, event);
        self.drain(now);
    }

    fn drain(&mut self, now: Instant) {
        while let Some(action) = self.route.next_action() {
            if self.batches && !matches!(action, Action::Write { .. }) {
                self.put_batch();
            }
            match action {
                Action::Dial => {
                    self.turns += 1;
                    self.dialing = Some(self.turns);
                    self.effects.wake = true;
                }
                Action::HangUp => self.hang_up(),
                Action::Hello {
                    producer,
                    epoch,
                    first,
                    fresh,
                    socket,
                    queue,
                    err,
                } => {
                    let version = PROTOCOL_VERSION;
                    let client = self.options.client_name.clone();
                    let ack = self.options.ack;
                    let hello = ProducerHello {
                        version,
                        producer,
                        epoch,
                        client,
                        ack,
                        first,
                        fresh,
                        socket,
                        queue,
                        err,
                    };
                    ProducerOp::Hello(hello).put(&mut self.out);
                }
                Action::At { n } if self.is_backed_up() => self.behind.push_back(Behind::At(n)),
                Action::At { n } => ProducerOp::At { n }.put(&mut self.out),
                Action::Write { n } if self.is_backed_up() => {
                    self.put_batch();
                    self.behind.push_back(Behind::Message(n));
                }
                Action::Write { n } => {
                    let bytes = self.route.body(n).map_or(0, |body| body.message.size());
                    if self.batch.len() == BATCH_MAX || self.batch_bytes + bytes > BATCH_BYTES {
                        self.put_batch();
                    }
                    self.batch.push(n);
                    self.batch_bytes += bytes;
                    if !self.batches {
                        self.put_batch();
                    }
                }
                Action::Seen { ranges, queue, err } => {
                    ProducerOp::Seen { ranges, queue, err }.put(&mut self.out);
                }
                Action::Ping => ProducerOp::Ping.put(&mut self.out),
                Action::Pong => ProducerOp::Pong.put(&mut self.out),
                Action::Spool {
                    group,
                    producer,
                    epoch,
                    numbers,
                } => {
                    let origin = |sequence| Origin {
                        producer,
                        epoch,
                        sequence,
                    };
                    self.spool(now, group, numbers.into_iter().map(origin));
                }
                Action::Settle {
                    n: _,
                    body,
                    verdict,
                } => self.settle(body, verdict),
                Action::Unknown { n } => self.tell(n),
            }
        }
    }

    // ---- what is written

    fn is_backed_up(&self) -> bool {
        self.out.len() >= OUT_MAX || !self.behind.is_empty()
    }

    /// Writes as much as the kernel takes. Returns whether the driver has to go on.
    fn write(&mut self) -> bool {
        let mut wake = false;
        while let Some(link) = &mut self.link {
            wake |= link.write(&mut self.out);
            if link.is_broken() {
                return true;
            }
            if link.is_blocked() || self.behind.is_empty() {
                break;
            }
            self.put_behind();
        }
        wake
    }

    /// Encodes what comes next.
    fn put_behind(&mut self) {
        while self.out.len() < OUT_MAX
            && let Some(next) = self.behind.pop_front()
        {
            match next {
                Behind::At(n) => ProducerOp::At { n }.put(&mut self.out),
                Behind::Message(n) if self.route.body(n).is_some() => {
                    self.batch.push(n);
                    self.put_batch();
                }
                Behind::Message(n) => {
                    // Numbers count messages, so nothing can be written past it.
                    tracing::warn!(n, "the consumer answered a message before it was written");
                    self.link.iter_mut().for_each(Link::fail);
                    return;
                }
            }
        }
    }

    /// The messages that no consumer can have, in order: the kernel did not take them whole.
    fn unsent(&self) -> Vec<u64> {
        let mut unsent = self.link.as_ref().map(Link::unsent).unwrap_or_default();
        unsent.extend(self.behind.iter().filter_map(|behind| match behind {
            Behind::Message(n) => Some(*n),
            Behind::At(_) => None,
        }));
        unsent
    }

    fn forget_out(&mut self) {
        self.out.clear();
        self.behind.clear();
    }

    /// Puts one message as a frame, many as a frame with an array.
    fn put_batch(&mut self) {
        let (route, link) = (&self.route, &mut self.link);
        // The route writes only what it holds, and numbers count messages.
        let body = |n: &u64| route.body(*n).expect("a written message is unsettled");
        match &self.batch[..] {
            [] => return,
            [n] => put_frame(&mut self.out, |out| body(n).message.encode(out)),
            [first, others @ ..] => put_frame(&mut self.out, |out| {
                out.put_u8(b'[');
                body(first).message.encode(out);
                for n in others {
                    out.put_u8(b',');
                    body(n).message.encode(out);
                }
                out.put_u8(b']');
            }),
        }
        self.batch_bytes = 0;
        for n in self.batch.drain(..) {
            if let Some(link) = link {
                link.framed(n, &self.out);
            }
        }
    }

    /// Ends what has to be done under the lock, and hands out the rest.
    pub(crate) fn finish(&mut self, now: Instant) -> Effects {
        if !self.flushes.is_empty() {
            let first = self.route.first_unsettled();
            let flushed = self.flushes.extract_if(.., |(mark, _)| *mark <= first);
            let flushed: Vec<_> = flushed.map(|(_, flushed)| flushed).collect();
            if !flushed.is_empty() {
                // Whoever flushes may end next: the consumer need not keep what is settled.
                self.on(now, Event::Confirm);
            }
            self.effects.flushed.extend(flushed);
        }
        if std::mem::take(&mut self.gathers) && self.out.len() < GATHER_BYTES {
            self.effects.wake |= !std::mem::replace(&mut self.gathering, true);
        } else if self.link.is_some() {
            self.gathering = false;
            self.effects.wake |= self.write();
        }
        if let Some(deadline) = self.next_deadline() {
            self.effects.wake |= self.armed.is_none_or(|armed| deadline < armed);
        }
        self.effects.notify = self.handing_over;
        std::mem::take(&mut self.effects)
    }
}
