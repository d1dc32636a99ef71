//! Decides what happens to each message: dedup, lanes, hold, retries. No I/O, no clock.
//!
//! ```text
//!  socket ──► copy? ──► suspect, stored, delayed? ──► Asking ──► Waiting ──► Ready ──► Running
//!               │                 │                  (lookup,     (lane)     (slot)       │
//!  file ────► Claiming ───────────┼─────────────────  if the file  ▲            done      │ failed
//!               │   joins or      │                   may hold     │   ┌─────────┴────────┤
//!               ▼   is settled    ▼                   rows)        │   ▼                  ▼
//!             kept outcome     Leaving ◄── hold_max, blocked ──────┘ Settling          Leaving
//!                                 │ committed                          │ committed       │ with a due
//!                                 ▼                                    ▼                 ▼ time
//!                              `stored`                          `processed`, `dead`  `stored`
//! ```
//!
//! A key that cannot go on lives in the file only: when its head must be tried later, everything behind it is
//! stored in the same commit, in lane order, and leaves memory; the poller brings it back in the order of its rows.
//!
//! Invariants, asserted after each event in debug builds by `Machine::check`:
//! - a message of a lane runs only at its head;
//! - a message that left memory has a committed row or was refused;
//! - rows enter a lane only when every earlier unprocessed row of the key is in memory;
//! - a number that is pending is owed by a message in memory.

mod arrive;
mod audit;
mod commit;
mod event;
mod held;
mod ids;
mod kept;
mod lane;
mod numbers;
mod reads;
mod retry;
mod rows;
mod run;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::{HashMap, HashSet};
use smallvec::SmallVec;
use spoolway_proto::{
    AckLevel, InstanceId, Key, Message, Outcome, ProducerHello, ProducerId, Timestamp,
};
use spoolway_queue::{Cursor, Write};

pub use event::{Action, BatchId, ConnId, Event, Finish, Ticket};
pub use retry::{Retries, RetryPolicy};

use commit::{Batch, Doing};
use held::Held;
use ids::Ids;
use kept::Producer;
use lane::Lane;
use numbers::Numbers;
use reads::Reads;

/// Times and bounds of a [`Machine`].
#[derive(Clone, Debug)]
pub struct MachineConfig {
    /// Every message is answered within this time. Default 2 s.
    pub hold_max: Duration,
    /// Handlers that run at a time. Default 64.
    pub slots: usize,
    /// Rows of the queue file held in memory at most: as many may run twice when the consumer is killed. Default 1,024,
    /// as the window of a connection.
    pub claimed_max: usize,
    /// Rows read at a time; what is claimed, and later settled, in one commit. Default 256.
    pub page: usize,
    /// Time between looks into the queue file when nothing wakes the consumer. Default 1 s.
    pub poll_every: Duration,
    /// The sum of all windows: messages in memory. Default 10,000.
    pub pending_max: u32,
    /// The largest window of one connection, in messages. Default 1,024.
    pub window_max: u32,
    /// The window of one connection, in bytes. Default 16 MiB.
    pub window_bytes: u64,
    /// How often messages are tried, and when, by type.
    pub retries: Retries,
    /// How long what could not be committed waits before it is tried again. Default 1 s.
    pub commit_retry: Duration,
    /// How long a producer without a connection stays in memory. Default 60 s.
    pub forget_after: Duration,
    /// Producers without a connection that stay in memory at most. Default 1,000.
    pub gone_max: usize,
    /// Ids of processed messages remembered for senders that say no hello. Default 10,000.
    pub recent_max: usize,
    /// Slots that rows of the file may take at most, so that a backlog of slow messages leaves room for what comes
    /// over the socket. Where both wait, they take turns. Default 48 of 64.
    pub backlog_slots: usize,
    /// What survives the consumer of the outcomes it has answered. Default [`Dedup::Memory`].
    pub dedup: Dedup,
    /// What a dead letter means for the messages of its key behind it. Default [`OnDead::Continue`].
    pub on_dead: OnDead,
    /// Keys that may be stopped at a time; with more, a dead letter steps aside. Default 10,000.
    pub held_max: usize,
}

/// What survives a consumer that is killed of the outcomes it has answered.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Dedup {
    /// Nothing: a message whose handler succeeded may run again if its answer was not seen, at most a window of each
    /// producer. The fast path writes nothing.
    #[default]
    Memory,
    /// All: each outcome is committed to the queue file, in groups, before it is answered.
    Durable,
}

/// What a dead letter means for the messages of its key behind it.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum OnDead {
    /// It steps aside, and the next one runs.
    #[default]
    Continue,
    /// Its key is stopped, and what comes is stored behind it, until the key is released.
    Hold,
}

/// What a machine knows when it starts.
#[derive(Clone, Debug)]
pub struct Start {
    /// This run of the consumer.
    pub instance: InstanceId,
    /// The run before, if it ended in order: what it saved of producers is all there was.
    pub last: Option<InstanceId>,
    /// The keys that are stopped.
    pub held: Vec<Key>,
    /// `Page::generation` of the file that was taken over.
    pub generation: u64,
}

impl Default for MachineConfig {
    fn default() -> Self {
        Self {
            hold_max: Duration::from_secs(2),
            slots: 64,
            claimed_max: 1_024,
            page: 256,
            poll_every: Duration::from_secs(1),
            pending_max: 10_000,
            window_max: 1_024,
            window_bytes: 16 << 20,
            retries: Retries::default(),
            commit_retry: Duration::from_secs(1),
            forget_after: Duration::from_secs(60),
            gone_max: 1_000,
            recent_max: 10_000,
            backlog_slots: 48,
            dedup: Dedup::default(),
            on_dead: OnDead::default(),
            held_max: 10_000,
        }
    }
}

/// The time of an event: one clock for durations, one for what people wrote into messages.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Monotonic.
    pub mono: Instant,
    /// Wall clock.
    pub wall: Timestamp,
}

/// Suspects held in memory at a time: one runs, the others wait for it.
const SUSPECTS_MAX: usize = 32;
/// Messages of one key held in memory that came from the file: enough to keep a hot key busy.
const LANE_ROWS_MAX: usize = 32;
/// Keys remembered as passed over; with more, the whole file is read again instead.
const PASSED_MAX: usize = 10_000;

/// The dedup-and-lane machine of a consumer.
#[derive(Debug)]
pub struct Machine {
    config: MachineConfig,
    instance: InstanceId,
    last: Option<InstanceId>,
    now: Now,
    conns: BTreeMap<ConnId, Conn>,
    producers: HashMap<ProducerId, Producer>,
    entries: Numbers<Box<Entry>>,
    ids: Ids,
    by_row: HashMap<i64, Ticket>,
    lanes: HashMap<Key, Lane>,
    next_ticket: Ticket,
    /// Messages from the socket whose turn it is, waiting for a slot.
    ready: VecDeque<Ticket>,
    /// The same, of rows of the file.
    ready_rows: VecDeque<Ticket>,
    /// Whether a row was started last: where both wait, they take turns.
    row_was_last: bool,
    /// Suspects whose turn it is: one runs at a time.
    suspects: VecDeque<Ticket>,
    suspect: Option<Ticket>,
    running: usize,
    /// Of those, the ones that were started as rows.
    running_rows: usize,
    /// When to answer what is not settled by then; the wait is the same for all, so the queue is in order.
    holds: VecDeque<(Instant, Ticket)>,
    /// Messages that wait in memory for their next attempt.
    delayed: BTreeMap<(Instant, Ticket), ()>,
    /// Which file the row numbers in memory are of.
    generation: u64,
    batches: HashMap<BatchId, Batch>,
    next_batch: BatchId,
    /// Writes that failed and must not be given up.
    again: VecDeque<(Instant, Vec<(Write, Doing)>)>,
    /// Producers without a connection, since when.
    gone: VecDeque<(Instant, ProducerId)>,
    /// Those whose records are saved, and the read before which nothing may be under way when they leave memory.
    leaving: VecDeque<(u64, ProducerId)>,
    asks: HashMap<u64, Asking>,
    next_ask: u64,
    backlog: Backlog,
    poll: Poll,
    reads: Reads,
    /// Keys whose lookup failed.
    unread: Vec<Key>,
    held: Held,
    draining: bool,
    actions: VecDeque<Action>,
}

/// A connection as the machine sees it.
#[derive(Debug)]
struct Conn {
    /// `None` until hello is answered.
    hello: Option<Greeted>,
    /// Whether hello arrived and waits for the file.
    greeting: bool,
    /// Nothing more is taken from it.
    over: bool,
}

#[derive(Debug)]
struct Greeted {
    producer: ProducerId,
    ack: AckLevel,
    /// The number of the next message.
    next: u64,
    window: u32,
    /// Messages that came on it, and how many of them were answered.
    came: u64,
    answered: u64,
    /// So many may come under a window that was larger: its peer may not have heard of the new one yet.
    may_come: u64,
    bytes: u64,
}

#[derive(Debug)]
struct Asking {
    hello: Option<(ConnId, ProducerHello)>,
    version: u64,
}

/// Whether the file may hold unprocessed keyed rows.
#[derive(Debug)]
struct Backlog {
    maybe: bool,
    /// Rises each time `maybe` is set, so that only a read begun later clears it.
    version: u64,
}

#[derive(Debug)]
struct Poll {
    wanted: bool,
    /// The read that is under way.
    under_way: Option<u64>,
    cursor: Cursor,
    /// Something behind the cursor changed: go round once more.
    again: bool,
    /// Keys of which rows were passed over: read again by key when their lanes have room.
    passed: HashSet<Key>,
    /// Other rows were passed over: go round once more when a row leaves memory.
    passed_other: bool,
    /// Suspects behind this row were passed over, because enough of them were in memory.
    suspects: Option<i64>,
    /// They are being read.
    reads_suspects: bool,
    at: Instant,
}

/// A message in memory.
#[derive(Debug)]
struct Entry {
    message: Arc<Message>,
    crc: u32,
    /// Numbers that are settled with it.
    pairs: Pairs,
    /// Connections without hello that wait for its answer.
    plain: Vec<ConnId>,
    /// Whether it came, or is also wanted, by a connection without hello.
    unnumbered: bool,
    row: Option<i64>,
    /// It runs from the file only: a suspect, a delayed one, one whose sender asked for `stored`.
    by_file: bool,
    suspect: bool,
    attempts: u32,
    delivery: u32,
    step: Step,
    /// Started as a row: it counts against `backlog_slots`.
    as_row: bool,
    /// A row for it is being committed while it runs.
    storing: bool,
    /// How its handler ended while that commit was under way.
    finish: Option<Finish>,
}

/// Nearly always one, which costs no allocation of its own.
type Pairs = SmallVec<[Pair; 1]>;

#[derive(Clone, Copy, Debug)]
struct Pair {
    producer: ProducerId,
    n: u64,
    conn: ConnId,
    bytes: u64,
    /// Answered `received`: nothing more is owed.
    answered: bool,
    /// Counted by the audit already.
    counted: bool,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Step {
    /// Its key may have rows in the file; a lookup decides.
    Asking,
    /// Its row's claim is being committed.
    Claiming,
    /// In its lane, behind others.
    Waiting,
    /// Its turn; waits for a slot.
    Ready,
    /// Its turn, at this time.
    Delayed(Instant),
    /// A suspect whose attempt is being committed.
    Beginning,
    Running,
    /// Being stored; it leaves memory with the commit.
    Leaving,
    /// Its handler succeeded; that is being committed.
    Settling,
    /// It is dead; that is being committed.
    Burying,
}

impl Step {
    fn name(self) -> &'static str {
        match self {
            Self::Asking => "Asking",
            Self::Claiming => "Claiming",
            Self::Waiting => "Waiting",
            Self::Ready => "Ready",
            Self::Delayed(_) => "Delayed",
            Self::Beginning => "Beginning",
            Self::Running => "Running",
            Self::Leaving => "Leaving",
            Self::Settling => "Settling",
            Self::Burying => "Burying",
        }
    }
}

impl Machine {
    /// A machine with nothing in memory. It polls the file at once.
    pub fn new(now: Now, config: MachineConfig, start: Start) -> Self {
        let ids = Ids::new(config.recent_max);
        let mut machine = Self {
            config,
            instance: start.instance,
            last: start.last,
            now,
            conns: BTreeMap::new(),
            producers: HashMap::new(),
            entries: Numbers::default(),
            ids,
            by_row: HashMap::new(),
            lanes: HashMap::new(),
            next_ticket: 1,
            ready: VecDeque::new(),
            ready_rows: VecDeque::new(),
            row_was_last: false,
            suspects: VecDeque::new(),
            suspect: None,
            running: 0,
            running_rows: 0,
            holds: VecDeque::new(),
            delayed: BTreeMap::new(),
            generation: start.generation,
            batches: HashMap::new(),
            next_batch: 1,
            again: VecDeque::new(),
            gone: VecDeque::new(),
            leaving: VecDeque::new(),
            asks: HashMap::new(),
            next_ask: 1,
            // Until a read says otherwise the file may hold anything.
            backlog: Backlog {
                maybe: true,
                version: 1,
            },
            poll: Poll {
                wanted: true,
                under_way: None,
                cursor: Cursor::default(),
                again: false,
                passed: HashSet::new(),
                passed_other: false,
                suspects: None,
                reads_suspects: false,
                at: now.mono,
            },
            reads: Reads::default(),
            unread: Vec::new(),
            held: Held::new(start.held),
            draining: false,
            actions: VecDeque::new(),
        };
        machine.poll();
        machine
    }

    /// Tells the machine what happened: the only mutation.
    pub fn on(&mut self, now: Now, event: Event) {
        self.now = now;
        match event {
            Event::Hello { conn, hello } => self.hello(conn, *hello),
            Event::At { conn, n } => self.at(conn, n),
            Event::Arrived {
                conn,
                message,
                answer,
            } => self.arrived(conn, message, answer),
            Event::Seen {
                conn,
                ranges,
                queue: _,
                err,
            } => self.seen(conn, &ranges, err),
            Event::Closed { conn } => self.closed(conn),
            Event::Asked {
                ask,
                keyed,
                producer,
            } => self.asked(ask, keyed, producer.map(|record| *record)),
            Event::LookedUp { key, read, rows } => self.looked_up(&key, read, rows),
            Event::Polled(page) => self.polled(page.map(|page| *page)),
            Event::PolledKey { key, read, page } => {
                self.polled_key(&key, read, page.map(|page| *page));
            }
            Event::PolledSuspects { read, page } => {
                self.polled_suspects(read, page.map(|page| *page));
            }
            Event::Woken => self.want_poll(),
            Event::Replaced { generation } => self.replaced(generation),
            Event::Committed { batch, written } => self.committed(batch, written),
            Event::CommitFailed { batch } => self.commit_failed(batch),
            Event::Finished { ticket, finish } => self.finished(ticket, finish),
            Event::Save { save } => self.save(save),
            Event::Drain => self.drain(),
            Event::Halt => self.halt(),
            Event::Tick => self.tick(),
        }
        self.let_leave();
        self.dispatch();
        self.poll();
        self.poll_suspects();
        self.check();
    }

    /// The next thing the shell must do.
    pub fn next_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When to call [`Machine::on`] with [`Event::Tick`], if nothing else happens before.
    pub fn next_deadline(&self) -> Option<Instant> {
        let hold = self.holds.front().map(|(at, _)| *at);
        let delayed = self.delayed.first_key_value().map(|((at, _), ())| *at);
        let again = self.again.front().map(|(at, _)| *at);
        let poll = (!self.draining).then_some(self.poll.at);
        let forget = self.next_forget();
        [hold, delayed, again, poll, forget]
            .into_iter()
            .flatten()
            .min()
    }

    /// Whether as many messages are in memory as may be: connections without hello are not read until there is room.
    pub fn is_full(&self) -> bool {
        self.entries.len() >= self.config.pending_max as usize
    }

    /// Whether nothing is being committed.
    pub fn is_committed(&self) -> bool {
        self.batches.is_empty()
    }

    /// Whether nothing is in memory and nothing is being committed.
    pub fn is_idle(&self) -> bool {
        self.entries.is_empty() && self.batches.is_empty() && self.again.is_empty()
    }

    /// How many messages are in memory.
    pub fn pending(&self) -> usize {
        self.entries.len()
    }

    fn tick(&mut self) {
        let now = self.now.mono;
        while self.holds.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, ticket)) = self.holds.pop_front() {
                self.hold_is_over(ticket);
            }
        }
        while let Some(((at, ticket), ())) = self.delayed.first_key_value() {
            let (at, ticket) = (*at, *ticket);
            if at > now {
                break;
            }
            self.delayed.remove(&(at, ticket));
            if self.step(ticket) == Some(Step::Delayed(at)) {
                self.set_ready(ticket);
            }
        }
        while self.again.front().is_some_and(|(at, _)| *at <= now) {
            if let Some((_, writes)) = self.again.pop_front() {
                self.commit(writes);
            }
        }
        if now >= self.poll.at {
            self.poll.at = now + self.config.poll_every;
            self.relook();
            self.want_poll();
        }
        self.forget();
    }

    fn step(&self, ticket: Ticket) -> Option<Step> {
        self.entries.get(&ticket).map(|entry| entry.step)
    }

    fn set_step(&mut self, ticket: Ticket, step: Step) {
        if let Some(entry) = self.entries.get_mut(&ticket) {
            entry.step = step;
        }
    }

    /// Puts a message into memory.
    fn insert(&mut self, entry: Box<Entry>) -> Ticket {
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        if entry.delivery == 0 {
            self.ids.enter(&entry.message.id, ticket);
        }
        if let Some(row) = entry.row {
            self.by_row.insert(row, ticket);
        }
        self.entries.insert(ticket, entry);
        ticket
    }

    /// Takes a message out of memory and, if it is in one, out of its lane.
    fn remove(&mut self, ticket: Ticket) -> Option<Box<Entry>> {
        let entry = self.take_out(ticket)?;
        self.ids.leave(&entry.message.id, ticket);
        Some(entry)
    }

    /// The same, while its id is still known.
    fn take_out(&mut self, ticket: Ticket) -> Option<Box<Entry>> {
        let entry = self.entries.remove(&ticket)?;
        if let Some(row) = entry.row {
            self.by_row.remove(&row);
            self.reads
                .left(row, matches!(entry.step, Step::Settling | Step::Burying));
            if self.poll.passed_other {
                self.want_poll();
            }
        }
        if let Some(key) = entry.lane_key() {
            self.leave_lane(key, ticket);
        }
        // Nobody waits for those that are gone.
        while let Some((_, oldest)) = self.holds.front()
            && !self.entries.contains_key(oldest)
        {
            self.holds.pop_front();
        }
        Some(entry)
    }

    /// The names of all steps, in the order of a message's life.
    #[doc(hidden)]
    pub const STEPS: [&'static str; 10] = [
        "Asking",
        "Claiming",
        "Waiting",
        "Ready",
        "Delayed",
        "Beginning",
        "Running",
        "Leaving",
        "Settling",
        "Burying",
    ];

    /// The steps that messages in memory are in, by name: for the coverage of the simulation.
    #[doc(hidden)]
    pub fn steps(&self) -> std::collections::BTreeSet<&'static str> {
        self.entries
            .values()
            .map(|entry| entry.step.name())
            .collect()
    }

    /// How many outcomes are kept, and of how many producers.
    pub fn kept(&self) -> (usize, usize) {
        let kept = self.producers.values();
        let kept = kept.map(|producer| producer.all_kept().count());
        (kept.sum(), self.producers.len())
    }

    /// The invariants above, in debug builds.
    fn check(&self) {
        // Of a full memory now and then: each look costs as much as it holds.
        let skipped = self.entries.len() > 128 && !self.next_ticket.is_multiple_of(64);
        if !cfg!(debug_assertions) || skipped {
            return;
        }
        let count = |step: Step| {
            self.entries
                .values()
                .filter(|entry| entry.step == step)
                .count()
        };
        let running = self.entries.values();
        let running = running.filter(|entry| entry.step == Step::Running);
        let rows = running.filter(|entry| entry.as_row).count();
        assert_eq!(self.running_rows, rows, "slots of rows");
        let running = self.running + usize::from(self.suspect.is_some());
        assert_eq!(
            running,
            count(Step::Running) + count(Step::Beginning),
            "slots"
        );
        for (key, lane) in &self.lanes {
            for (place, ticket) in lane.iter().enumerate() {
                let entry = &self.entries[&ticket];
                assert_eq!(entry.lane_key(), Some(key), "a message in another's lane");
                let runs = matches!(entry.step, Step::Running | Step::Beginning | Step::Ready);
                assert!(place == 0 || !runs, "{key}: runs behind the head");
            }
        }
        for (row, ticket) in &self.by_row {
            assert_eq!(
                self.entries[ticket].row,
                Some(*row),
                "a claimed row without its message"
            );
        }
        for (id, producer) in &self.producers {
            for n in producer.numbers.keys() {
                let Some(ticket) = producer.pending(*n) else {
                    continue;
                };
                let entry = &self.entries[&ticket];
                let owed = entry
                    .pairs
                    .iter()
                    .any(|pair| pair.producer == *id && pair.n == *n);
                assert!(owed, "{id}/{n} is pending without a message");
            }
        }
    }
}

impl Entry {
    /// The key whose lane orders it: replayed rows run outside the lanes.
    fn lane_key(&self) -> Option<&Key> {
        self.message.key.as_ref().filter(|_| self.delivery == 0)
    }

    /// Whoever requeues or replays a message wants it run, late or not.
    fn is_late(&self, now: Timestamp) -> bool {
        self.delivery == 0 && self.message.expires_at().is_some_and(|at| at <= now)
    }
}

/// An outcome together with its reason.
type Verdict = (Outcome, Option<Arc<str>>);
