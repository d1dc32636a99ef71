//! Time, the network, and the faults. What happens is a heap of happenings; each is handled to its end.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use spoolway_client::route;
use spoolway_consumer::machine::{ConnId, Event, Now};
use spoolway_proto::{MessageId, Timestamp};
use spoolway_queue::Write;

use crate::consumer::{Consumer, ToConsumer};
use crate::coverage::Coverage;
use crate::file::{File, Writer};
use crate::ledger::{Broken, Ledger, Run, Sender};
use crate::options::Options;
use crate::producer::Producer;

/// What a run did.
#[derive(Clone, Copy, Debug, Default)]
#[non_exhaustive]
pub struct Report {
    /// Messages sent.
    pub sent: u64,
    /// Messages whose handler succeeded at least once.
    pub processed: u64,
    /// Successes beyond the first, each admitted by a kill.
    pub doubles: u64,
    /// Runs of the consumer.
    pub consumers: u64,
    /// Rows that were deleted behind everyone's back.
    pub stolen: u64,
    /// Processed rows that were made pending again, by request.
    pub replayed: u64,
    /// Simulated time.
    pub time: Duration,
}

/// Something that will happen.
#[derive(Debug)]
pub(crate) enum Happening {
    Sends(usize),
    /// The producer process hears something on its connection.
    ToProducer {
        conn: ConnId,
        event: route::Event,
    },
    ProducerClosed {
        conn: ConnId,
    },
    Dialled {
        producer: usize,
        sender: Sender,
        dial: u64,
    },
    ProducerTick {
        producer: usize,
        sender: Sender,
    },
    SpoolApplies {
        producer: usize,
        sender: Sender,
    },
    Spooled {
        producer: usize,
        sender: Sender,
        event: route::Event,
    },
    /// The consumer process hears something on a connection.
    ToConsumer {
        conn: ConnId,
        packet: ToConsumer,
    },
    ConsumerClosed {
        conn: ConnId,
    },
    /// Something inside the consumer process.
    Inside {
        run: Run,
        event: Event,
    },
    Reads {
        run: Run,
        read: crate::consumer::Read,
    },
    HandlerEnds {
        run: Run,
        ticket: u64,
        id: MessageId,
    },
    CommitApplies {
        run: Run,
    },
    ConsumerTick {
        run: Run,
    },
    HaltIsDue {
        run: Run,
    },
    Starts,
    Resumes,
    /// The consumer comes to what a connection brought while it was stopped.
    IsRead {
        conn: ConnId,
    },
    Fault(Fault),
    DiskHasRoom,
    /// The socket appears before the eyes of a producer.
    Appears {
        producer: usize,
        sender: Sender,
    },
    /// A producer that ends looks whether all it had is settled.
    ProducerEnds {
        producer: usize,
        sender: Sender,
    },
    /// Somebody releases the keys that dead letters have stopped.
    Releases,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Fault {
    Kill,
    Restart,
    Stop,
    Cut,
    ProducerKill,
    DiskFull,
    ProducerEnd,
    Flush,
    ClockJump,
    Save,
    Restore,
    Replace,
    Theft,
    Replay,
}

const FAULTS: [Fault; 14] = [
    Fault::Kill,
    Fault::Restart,
    Fault::Stop,
    Fault::Cut,
    Fault::ProducerKill,
    Fault::DiskFull,
    Fault::ProducerEnd,
    Fault::Flush,
    Fault::ClockJump,
    Fault::Save,
    Fault::Restore,
    Fault::Replace,
    Fault::Theft,
    Fault::Replay,
];

/// A connection: two directions, each in order.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) producer: usize,
    pub(crate) sender: Sender,
    pub(crate) run: Run,
    pub(crate) producer_open: bool,
    pub(crate) consumer_open: bool,
    /// Whether hello was answered on it: before, the consumer says nothing.
    pub(crate) greeted: bool,
    to_consumer: u64,
    to_producer: u64,
    /// Nothing arrives after this, either way.
    cut_at: u64,
}

pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) rng: SmallRng,
    base: Instant,
    /// Nanoseconds since the start.
    pub(crate) clock: u64,
    order: u64,
    heap: BinaryHeap<Reverse<(u64, u64, usize)>>,
    happenings: BTreeMap<usize, Happening>,
    next_happening: usize,
    pub(crate) links: BTreeMap<ConnId, Link>,
    pub(crate) next_conn: ConnId,
    pub(crate) producers: Vec<Producer>,
    pub(crate) consumer: Consumer,
    pub(crate) file: File,
    pub(crate) ledger: Ledger,
    pub(crate) disk_full: bool,
    pub(crate) next_sender: Sender,
    pub(crate) next_dial: u64,
    pub(crate) sent: u64,
    /// What waits for a stopped consumer.
    frozen: VecDeque<Happening>,
    /// What connections brought meanwhile, until they are read.
    unread: BTreeMap<ConnId, VecDeque<Happening>>,
    stopped: bool,
    /// Nobody accepts for a stopped consumer, so dials may find no room.
    pub(crate) backlog_full: bool,
    pub(crate) calm: bool,
    pub(crate) coverage: Coverage,
    /// How far the wall clock was set, in milliseconds.
    wall_offset: i64,
    /// When the last of the files that came to the path is noticed.
    noticed: u64,
    /// An earlier state of the queue file.
    snapshot: Option<File>,
}

/// Runs one simulation.
///
/// # Errors
/// The first rule that was broken.
pub fn run(options: Options) -> Result<Report, Broken> {
    run_covered(options, &mut Coverage::default())
}

/// The same, and adds to the cells of the machines' tables that were reached.
///
/// # Errors
/// The first rule that was broken.
pub fn run_covered(options: Options, coverage: &mut Coverage) -> Result<Report, Broken> {
    let mut world = World::new(options);
    let played = world.play();
    coverage.add(&world.coverage);
    played
}

/// Faults end here at the latest.
const FAULTS_FOR: Duration = Duration::from_secs(40);
/// Between two looks of the one who releases keys.
const RELEASE_EVERY: Duration = Duration::from_secs(2);
/// Everything is settled this long after the last fault, or never: retries take 5 s each, a poison its attempts.
const SETTLED_AFTER: Duration = Duration::from_secs(20_000);

impl World {
    fn new(options: Options) -> Self {
        let base = Instant::now() + Duration::from_secs(3600);
        let rng = SmallRng::seed_from_u64(options.seed ^ 0x5eed);
        let mut world = Self {
            rng,
            base,
            clock: 0,
            order: 0,
            heap: BinaryHeap::new(),
            happenings: BTreeMap::new(),
            next_happening: 0,
            links: BTreeMap::new(),
            next_conn: 1,
            producers: Vec::new(),
            consumer: Consumer::down(),
            file: File::new(options.on_dead, 0),
            ledger: Ledger::default(),
            disk_full: false,
            next_sender: 1,
            next_dial: 1,
            sent: 0,
            frozen: VecDeque::new(),
            unread: BTreeMap::new(),
            stopped: false,
            backlog_full: false,
            calm: false,
            coverage: Coverage::default(),
            wall_offset: 0,
            noticed: 0,
            snapshot: None,
            options,
        };
        for index in 0..world.options.producers {
            world.start_producer(index, world.options.messages);
        }
        world.schedule(Duration::from_micros(10), Happening::Starts);
        world.schedule(RELEASE_EVERY, Happening::Releases);
        for fault in FAULTS {
            world.schedule_fault(fault);
        }
        world
    }

    fn play(&mut self) -> Result<Report, Broken> {
        let mut calm_since = None;
        while let Some(Reverse((at, _, name))) = self.heap.pop() {
            self.clock = at;
            let happening = self.happenings.remove(&name).expect("scheduled once");
            self.happen(happening);
            if let Some(broken) = self.ledger.broken() {
                return Err(broken);
            }
            let resting = self.producers.iter().all(|producer| producer.left == 0);
            if !self.calm && (resting || at > nanos(FAULTS_FOR)) {
                self.calm = true;
            }
            if self.calm {
                let since = *calm_since.get_or_insert(at);
                if resting && self.is_settled() {
                    break;
                }
                if at - since > nanos(SETTLED_AFTER) {
                    return Err(Broken::Liveness(format!(
                        "not settled: {}",
                        self.unsettled()
                    )));
                }
            }
        }
        if !self.is_settled() {
            return Err(Broken::Liveness(format!(
                "nothing happens any more: {}",
                self.unsettled()
            )));
        }
        self.save_everything();
        self.ledger.close(&self.file);
        match self.ledger.broken() {
            Some(broken) => Err(broken),
            None => Ok(Report {
                sent: self.sent,
                processed: self.ledger.processed(),
                doubles: self.ledger.doubles,
                consumers: u64::from(self.consumer.run),
                stolen: self.ledger.stolen,
                replayed: self.ledger.replayed,
                time: Duration::from_nanos(self.clock),
            }),
        }
    }

    fn is_settled(&self) -> bool {
        let sent = self.producers.iter().all(Producer::is_settled);
        sent && self.consumer.is_idle() && self.file.pending() == 0
    }

    fn unsettled(&self) -> String {
        let owed: usize = self.producers.iter().map(Producer::unsettled).sum();
        if self.options.trace {
            for producer in &self.producers {
                println!("{producer:?}");
            }
        }
        format!(
            "{owed} at producers, {} in the consumer, {} rows pending at {:?}",
            self.consumer.pending(),
            self.file.pending(),
            Duration::from_nanos(self.clock),
        )
    }

    fn happen(&mut self, happening: Happening) {
        if self.options.trace {
            println!("{:>12?} {happening:?}", Duration::from_nanos(self.clock));
        }
        if self.stopped && happening.is_in_consumer() {
            self.frozen.push_back(happening);
            return;
        }
        if let Some(unread) = happening
            .connection()
            .and_then(|conn| self.unread.get_mut(&conn))
        {
            unread.push_back(happening);
            return;
        }
        match happening {
            Happening::Sends(producer) => self.producer_sends(producer),
            Happening::ToProducer { conn, event } => self.producer_hears(conn, event),
            Happening::ProducerClosed { conn } => self.producer_closed(conn),
            Happening::Dialled {
                producer,
                sender,
                dial,
            } => self.dialled(producer, sender, dial),
            Happening::ProducerTick { producer, sender } => self.producer_tick(producer, sender),
            Happening::SpoolApplies { producer, sender } => self.spool_applies(producer, sender),
            Happening::Spooled {
                producer,
                sender,
                event,
            } => {
                self.tell_producer(producer, sender, event);
            }
            Happening::ToConsumer { conn, packet } => self.consumer_hears(conn, packet),
            Happening::ConsumerClosed { conn } => self.consumer_closed(conn),
            Happening::Inside { run, event } => self.tell_consumer(run, event),
            Happening::Reads { run, read } => self.reads(run, read),
            Happening::HandlerEnds { run, ticket, id } => self.handler_ends(run, ticket, &id),
            Happening::CommitApplies { run } => self.commit_applies(run),
            Happening::ConsumerTick { run } => self.consumer_tick(run),
            Happening::HaltIsDue { run } => self.halt_is_due(run),
            Happening::Starts => self.start_consumer(),
            Happening::Resumes => self.resumes(),
            Happening::IsRead { conn } => self.is_read(conn),
            Happening::Fault(fault) => self.fault(fault),
            Happening::DiskHasRoom => self.disk_full = false,
            Happening::Appears { producer, sender } => {
                self.tell_producer(producer, sender, route::Event::Appeared);
            }
            Happening::ProducerEnds { producer, sender } => self.producer_ends(producer, sender),
            Happening::Releases => {
                if self.file.release_keys() {
                    self.wake_consumer();
                }
                self.schedule(RELEASE_EVERY, Happening::Releases);
            }
        }
    }

    /// What the audit would see after asking the consumer to save.
    fn save_everything(&mut self) {
        let now = self.now();
        let records = self.consumer.records();
        let writes: Vec<Write> = records.into_iter().map(Write::SaveCounts).collect();
        self.file.commit(now, Writer::Consumer, &writes);
    }

    // ---- faults

    fn schedule_fault(&mut self, fault: Fault) {
        let rate = match fault {
            Fault::Kill => self.options.kills,
            Fault::Restart => self.options.restarts,
            Fault::Stop => self.options.stops,
            Fault::Cut => self.options.cuts,
            Fault::ProducerKill => self.options.producer_kills,
            Fault::DiskFull => self.options.disk_full,
            Fault::ProducerEnd => self.options.producer_ends,
            Fault::Flush => self.options.flushes,
            Fault::ClockJump => self.options.clock_jumps,
            Fault::Save => self.options.saves,
            Fault::Restore => self.options.restores,
            Fault::Replace => self.options.replaces,
            Fault::Theft => self.options.thefts,
            Fault::Replay => self.options.replays,
        };
        if rate > 0.0 && !self.calm {
            let wait = self.rng.random_range(0.0..2.0) / rate;
            self.schedule(Duration::from_secs_f64(wait), Happening::Fault(fault));
        }
    }

    fn fault(&mut self, fault: Fault) {
        if self.calm {
            return;
        }
        match fault {
            Fault::Kill => self.kill_consumer(),
            Fault::Restart => self.drain_consumer(),
            Fault::Stop if self.consumer.is_up() && !self.stopped => {
                self.stopped = true;
                self.backlog_full = self.rng.random_bool(0.5);
                // Half of them outlast the silence after which producers leave.
                let long = self.rng.random_bool(0.5);
                let (least, most) = if long { (5_300, 9_000) } else { (10, 5_300) };
                let wait = self.between(Duration::from_millis(least), Duration::from_millis(most));
                self.schedule(wait, Happening::Resumes);
            }
            Fault::Stop => {}
            Fault::Cut => self.cut(),
            Fault::ProducerKill => {
                let producer = self.rng.random_range(0..self.producers.len());
                self.kill_producer(producer);
            }
            Fault::DiskFull => {
                self.disk_full = true;
                let wait = self.between(Duration::from_millis(50), Duration::from_secs(12));
                self.schedule(wait, Happening::DiskHasRoom);
            }
            Fault::ProducerEnd => {
                let producer = self.rng.random_range(0..self.producers.len());
                self.end_producer(producer);
            }
            Fault::Flush => {
                let producer = self.rng.random_range(0..self.producers.len());
                let sender = self.producers[producer].sender;
                self.tell_producer(producer, sender, route::Event::Confirm);
            }
            Fault::ClockJump => self.wall_offset += self.rng.random_range(-60_000..=60_000),
            Fault::Save => {
                let run = self.consumer.run;
                self.tell_consumer(run, Event::Save { save: 0 });
            }
            Fault::Restore => self.restore(),
            Fault::Replace if self.consumer.is_up() && !self.stopped => self.replace(),
            Fault::Replace => {}
            Fault::Theft if !self.consumer.is_up() => {
                if let Some(id) = self.file.lose_row() {
                    self.ledger.stolen(id);
                }
            }
            Fault::Theft => {}
            Fault::Replay => self.replay(),
        }
        self.schedule_fault(fault);
    }

    /// A program beside the consumer makes some processed rows pending again.
    fn replay(&mut self) {
        let after = self.rng.random_range(0..=self.file.newest());
        let most = self.rng.random_range(1..=10);
        for id in self.file.replay(after, most) {
            self.ledger.replayed(&id);
        }
        self.wake_consumer();
    }

    /// Takes a copy of the queue file, or puts the one that was taken in its place while no consumer runs.
    fn restore(&mut self) {
        match self.snapshot.take() {
            None => self.snapshot = Some(self.file.clone()),
            Some(snapshot) => {
                self.kill_consumer();
                self.ledger.forgive();
                self.file = snapshot;
            }
        }
    }

    /// An empty file comes to the path under the running consumer, which takes it over.
    fn replace(&mut self) {
        self.ledger.forgive();
        let generation = self.file.generation + 1;
        self.file = File::new(self.options.on_dead, generation);
        let run = self.consumer.run;
        let wait = self.between(Duration::from_micros(50), Duration::from_millis(20));
        let event = Event::Replaced { generation };
        // One thread writes, and answers in order: what went into the old file was answered before.
        let last = self.noticed.max(self.consumer.answered);
        self.noticed = (self.clock + nanos(wait)).max(last + 1);
        self.schedule_at(self.noticed, Happening::Inside { run, event });
    }

    /// What waited is met in the order of each connection, and the connections are read sooner or later: rows that
    /// were written meanwhile may be read before.
    fn resumes(&mut self) {
        self.stopped = false;
        self.backlog_full = false;
        for happening in std::mem::take(&mut self.frozen) {
            match happening.connection() {
                Some(conn) if !self.unread.contains_key(&conn) => {
                    self.unread.insert(conn, VecDeque::from([happening]));
                    let wait = self.between(Duration::ZERO, Duration::from_millis(400));
                    self.schedule(wait, Happening::IsRead { conn });
                }
                _ => self.happen(happening),
            }
        }
    }

    fn is_read(&mut self, conn: ConnId) {
        for happening in self.unread.remove(&conn).unwrap_or_default() {
            self.happen(happening);
        }
    }

    /// A killed process is not stopped any more, and nothing reaches it.
    pub(crate) fn thaw(&mut self) {
        self.stopped = false;
        self.backlog_full = false;
        self.frozen.clear();
        self.unread.clear();
    }

    fn cut(&mut self) {
        let open: Vec<ConnId> = self
            .links
            .iter()
            .filter(|(_, link)| link.producer_open && link.consumer_open)
            .map(|(conn, _)| *conn)
            .collect();
        if open.is_empty() {
            return;
        }
        let conn = open[self.rng.random_range(0..open.len())];
        let wait = self.between(Duration::ZERO, Duration::from_millis(2));
        let at = self.clock + nanos(wait);
        let link = self.links.get_mut(&conn).expect("an open link");
        link.cut_at = link.cut_at.min(at);
        self.schedule(wait, Happening::ProducerClosed { conn });
        self.schedule(wait, Happening::ConsumerClosed { conn });
    }

    // ---- the network

    pub(crate) fn send_to_consumer(&mut self, conn: ConnId, packet: ToConsumer) {
        let delay = self.packet_delay();
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        let at = (self.clock + delay).max(link.to_consumer + 1);
        link.to_consumer = at;
        if at <= link.cut_at {
            self.schedule_at(at, Happening::ToConsumer { conn, packet });
        }
    }

    pub(crate) fn send_to_producer(&mut self, conn: ConnId, event: route::Event) {
        let delay = self.packet_delay();
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        link.greeted |= matches!(event, route::Event::Greeted { .. });
        let at = (self.clock + delay).max(link.to_producer + 1);
        link.to_producer = at;
        if at <= link.cut_at && link.consumer_open {
            self.schedule_at(at, Happening::ToProducer { conn, event });
        }
    }

    /// The producer's end is closed; what it wrote still arrives.
    pub(crate) fn close_producer_end(&mut self, conn: ConnId) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if std::mem::take(&mut link.producer_open) {
            let at = link.to_consumer.max(self.clock) + 1;
            self.schedule_at(at, Happening::ConsumerClosed { conn });
        }
    }

    /// The consumer's end is closed; what it wrote still arrives.
    pub(crate) fn close_consumer_end(&mut self, conn: ConnId) {
        let Some(link) = self.links.get_mut(&conn) else {
            return;
        };
        if std::mem::take(&mut link.consumer_open) {
            let at = link.to_producer.max(self.clock) + 1;
            self.schedule_at(at, Happening::ProducerClosed { conn });
        }
    }

    pub(crate) fn open_link(&mut self, producer: usize, sender: Sender) -> ConnId {
        let conn = self.next_conn;
        self.next_conn += 1;
        let link = Link {
            producer,
            sender,
            run: self.consumer.run,
            producer_open: true,
            consumer_open: true,
            greeted: false,
            to_consumer: self.clock,
            to_producer: self.clock,
            cut_at: u64::MAX,
        };
        self.links.insert(conn, link);
        conn
    }

    fn packet_delay(&mut self) -> u64 {
        let late = self.options.late_packet_share;
        let late = self.rng.random_bool(late);
        let most = if late {
            Duration::from_millis(80)
        } else {
            Duration::from_micros(200)
        };
        nanos(self.between(Duration::from_micros(5), most))
    }

    // ---- time

    pub(crate) fn disk_delay(&mut self) -> Duration {
        let late = self.rng.random_bool(self.options.late_commit_share);
        let most = if late {
            Duration::from_millis(400)
        } else {
            Duration::from_millis(2)
        };
        self.between(Duration::from_micros(20), most)
    }

    pub(crate) fn between(&mut self, least: Duration, most: Duration) -> Duration {
        self.rng.random_range(least..=most)
    }

    pub(crate) fn schedule(&mut self, wait: Duration, happening: Happening) {
        self.schedule_at(self.clock + nanos(wait), happening);
    }

    pub(crate) fn schedule_at(&mut self, at: u64, happening: Happening) {
        let name = self.next_happening;
        self.next_happening += 1;
        self.order += 1;
        self.happenings.insert(name, happening);
        self.heap
            .push(Reverse((at.max(self.clock), self.order, name)));
    }

    pub(crate) fn mono(&self) -> Instant {
        self.base + Duration::from_nanos(self.clock)
    }

    pub(crate) fn now(&self) -> Now {
        let ms = 1_700_000_000_000 + (self.clock / 1_000_000) as i64 + self.wall_offset;
        Now {
            mono: self.mono(),
            wall: Timestamp(ms),
        }
    }

    /// The clock at an instant of a machine's.
    pub(crate) fn clock_at(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.base))
    }
}

impl Happening {
    /// The connection that brings it to the consumer.
    fn connection(&self) -> Option<ConnId> {
        match self {
            Self::ToConsumer { conn, .. } | Self::ConsumerClosed { conn } => Some(*conn),
            _ => None,
        }
    }

    fn is_in_consumer(&self) -> bool {
        matches!(
            self,
            Self::ToConsumer { .. }
                | Self::ConsumerClosed { .. }
                | Self::Inside { .. }
                | Self::Reads { .. }
                | Self::HandlerEnds { .. }
                | Self::CommitApplies { .. }
                | Self::ConsumerTick { .. }
                | Self::HaltIsDue { .. }
                | Self::IsRead { .. }
        )
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).expect("a simulated time")
}
