//! The consumer process: the dedup-and-lane machine with a modelled shell around it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use spoolway_client::route;
use spoolway_consumer::machine::{
    Action, BatchId, ConnId, Event, Finish, Machine, MachineConfig, Start, Ticket,
};
use spoolway_proto::{
    Code, InstanceId, Key, Message, MessageId, Outcome, ProducerHello, ProducerId, Ranges,
};
use spoolway_queue::{Cursor, KeyRows, ProducerRecord, Write};

use crate::file::Writer;
use crate::ledger::Run;
use crate::world::{Happening, World};

/// What a producer says.
#[derive(Debug)]
pub(crate) enum ToConsumer {
    Hello(ProducerHello),
    At(u64),
    /// The number does not travel.
    Message(Arc<Message>),
    Seen {
        ranges: Ranges,
        queue: u64,
        err: u64,
    },
    Ping,
}

/// A read of the file.
#[derive(Debug)]
pub(crate) enum Read {
    Ask(u64, Option<ProducerId>),
    Lookup(Key, u64),
    Poll(Cursor, usize),
    PollKey(Key, u64, usize),
    PollSuspects(i64, u64, usize),
}

pub(crate) struct Consumer {
    pub(crate) run: Run,
    machine: Option<Machine>,
    tick_at: Option<u64>,
    commits: VecDeque<(BatchId, Option<u64>, Vec<Write>)>,
    applied: u64,
    pub(crate) answered: u64,
    draining: bool,
    halted: bool,
}

impl Consumer {
    pub(crate) fn down() -> Self {
        Self {
            run: 0,
            machine: None,
            tick_at: None,
            commits: VecDeque::new(),
            applied: 0,
            answered: 0,
            draining: false,
            halted: false,
        }
    }

    pub(crate) fn is_up(&self) -> bool {
        self.machine.is_some()
    }

    pub(crate) fn listens(&self) -> bool {
        self.is_up() && !self.draining
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.machine.as_ref().is_some_and(Machine::is_idle)
    }

    pub(crate) fn records(&self) -> Vec<ProducerRecord> {
        self.machine
            .as_ref()
            .map_or_else(Vec::new, Machine::records)
    }

    pub(crate) fn pending(&self) -> usize {
        self.machine.as_ref().map_or(0, Machine::pending)
    }
}

impl World {
    pub(crate) fn start_consumer(&mut self) {
        let run = self.consumer.run + 1;
        self.consumer = Consumer {
            run,
            ..Consumer::down()
        };
        let last = self.file.take_over();
        // A process counts from the file it opened.
        self.file.generation = 0;
        let config = MachineConfig {
            slots: self.options.slots,
            backlog_slots: (self.options.slots * 3 / 4).max(1),
            claimed_max: self.options.claimed_max,
            page: self.options.page,
            window_max: self.options.window,
            pending_max: self.options.pending_max,
            dedup: self.options.dedup,
            on_dead: self.options.on_dead,
            gone_max: 2,
            forget_after: Duration::from_secs(5),
            ..MachineConfig::default()
        };
        let start = Start {
            instance: instance(run),
            last,
            held: self.file.held(),
            generation: 0,
        };
        self.consumer.machine = Some(Machine::new(self.now(), config, start));
        for producer in 0..self.producers.len() {
            // Directory watches tell most of them.
            if self.rng.random_bool(0.7) {
                let sender = self.producers[producer].sender;
                let wait = self.between(Duration::from_micros(20), Duration::from_millis(5));
                self.schedule(wait, Happening::Appears { producer, sender });
            }
        }
        self.drain_machine();
    }

    pub(crate) fn kill_consumer(&mut self) {
        if !self.consumer.is_up() {
            return;
        }
        self.ledger.killed(self.consumer.run);
        self.thaw();
        // The commit that is under way happens or not; those behind it only after it.
        let commits = std::mem::take(&mut self.consumer.commits);
        for (_, generation, writes) in commits {
            if self.disk_full || self.rng.random_bool(0.5) {
                break;
            }
            if generation.is_none_or(|known| known == self.file.generation) {
                let now = self.now();
                self.file.commit(now, Writer::Consumer, &writes);
            }
        }
        self.end_consumer();
    }

    fn end_consumer(&mut self) {
        self.consumer.machine = None;
        let run = self.consumer.run;
        let conns: Vec<ConnId> = self
            .links
            .iter()
            .filter(|(_, link)| link.run == run)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in conns {
            self.close_consumer_end(conn);
        }
        let most = if self.options.standby { 3 } else { 800 };
        let wait = self.between(Duration::from_millis(1), Duration::from_millis(most));
        self.schedule(wait, Happening::Starts);
    }

    /// SIGTERM: goodbye, finish what is here, store the rest, leave the clean mark.
    pub(crate) fn drain_consumer(&mut self) {
        if !self.consumer.listens() {
            return;
        }
        self.consumer.draining = true;
        let run = self.consumer.run;
        let conns: Vec<ConnId> = self
            .links
            .iter()
            .filter(|(_, link)| link.run == run && link.greeted)
            .map(|(conn, _)| *conn)
            .collect();
        for conn in conns {
            let hold = Duration::from_millis(500);
            self.send_to_producer(conn, route::Event::Goodbye { hold });
        }
        let wait = self.between(Duration::ZERO, self.options.finish_within);
        self.schedule(wait, Happening::HaltIsDue { run });
        self.tell_consumer(run, Event::Drain);
    }

    pub(crate) fn halt_is_due(&mut self, run: Run) {
        if self.consumer.run == run && self.consumer.is_up() {
            self.consumer.halted = true;
            self.tell_consumer(run, Event::Halt);
        }
    }

    fn end_if_drained(&mut self) {
        let Some(machine) = &self.consumer.machine else {
            return;
        };
        if !self.consumer.draining {
            return;
        }
        if machine.is_idle() || self.consumer.halted && machine.is_committed() {
            let records = machine.records();
            let settled = machine.is_idle();
            self.file.shut_down(instance(self.consumer.run), &records);
            if !settled {
                // What still runs is abandoned with the process.
                self.ledger.killed(self.consumer.run);
            }
            self.end_consumer();
        }
    }

    pub(crate) fn wake_consumer(&mut self) {
        let run = self.consumer.run;
        let wait = self.between(Duration::from_micros(20), Duration::from_millis(10));
        self.schedule(
            wait,
            Happening::Inside {
                run,
                event: Event::Woken,
            },
        );
    }

    pub(crate) fn tell_consumer(&mut self, run: Run, event: Event) {
        if self.consumer.run != run {
            return;
        }
        let now = self.now();
        let Some(machine) = &mut self.consumer.machine else {
            return;
        };
        self.coverage.machine(machine, &event);
        machine.on(now, event);
        self.drain_machine();
        self.end_if_drained();
    }

    pub(crate) fn consumer_tick(&mut self, run: Run) {
        if self.consumer.run == run {
            self.consumer.tick_at = None;
            self.tell_consumer(run, Event::Tick);
        }
    }

    pub(crate) fn consumer_hears(&mut self, conn: ConnId, packet: ToConsumer) {
        let Some(link) = self.links.get(&conn) else {
            return;
        };
        if !link.consumer_open || link.run != self.consumer.run {
            return;
        }
        let run = link.run;
        let event = match packet {
            ToConsumer::Hello(hello) => {
                let hello = Box::new(hello);
                Event::Hello { conn, hello }
            }
            ToConsumer::At(n) => Event::At { conn, n },
            ToConsumer::Message(message) => Event::Arrived {
                conn,
                message: Ok(message),
                answer: false,
            },
            ToConsumer::Seen { ranges, queue, err } => Event::Seen {
                conn,
                ranges,
                queue,
                err,
            },
            ToConsumer::Ping => {
                // A pong is a byte heard.
                return self.send_to_producer(conn, route::Event::Heard);
            }
        };
        self.tell_consumer(run, event);
    }

    pub(crate) fn consumer_closed(&mut self, conn: ConnId) {
        let Some(link) = self.links.get(&conn) else {
            return;
        };
        let run = link.run;
        if link.consumer_open {
            self.close_consumer_end(conn);
            self.tell_consumer(run, Event::Closed { conn });
        }
    }

    fn drain_machine(&mut self) {
        while let Some(action) = self
            .consumer
            .machine
            .as_mut()
            .and_then(Machine::next_action)
        {
            self.do_action(action);
        }
        let Some(machine) = &self.consumer.machine else {
            return;
        };
        let Some(at) = machine.next_deadline() else {
            return;
        };
        let at = self.clock_at(at).max(self.clock + 1);
        if self.consumer.tick_at.is_none_or(|known| at < known) {
            self.consumer.tick_at = Some(at);
            let run = self.consumer.run;
            self.schedule_at(at, Happening::ConsumerTick { run });
        }
    }

    fn do_action(&mut self, action: Action) {
        if self.options.trace {
            println!("{:>12?}     {action:?}", Duration::from_nanos(self.clock));
        }
        let run = self.consumer.run;
        match action {
            Action::Greet {
                conn,
                window,
                window_bytes,
            } => {
                let instance = instance(run);
                let event = route::Event::Greeted {
                    instance,
                    window,
                    window_bytes,
                };
                self.send_to_producer(conn, event);
            }
            Action::Window {
                conn,
                window,
                window_bytes,
            } => {
                self.send_to_producer(
                    conn,
                    route::Event::Window {
                        window,
                        window_bytes,
                    },
                );
            }
            Action::Answer {
                conn,
                n,
                outcome: Outcome::Dead,
                reason,
            } => {
                let reason = reason.as_deref().unwrap_or_default().to_owned();
                self.send_to_producer(conn, route::Event::Dead { n, reason });
            }
            Action::Answer {
                conn,
                n,
                outcome,
                reason: _,
            } => {
                let ranges = [n].into_iter().collect();
                self.send_to_producer(conn, route::Event::Acked { outcome, ranges });
            }
            Action::Nack {
                conn,
                n,
                code,
                message,
                retry_after,
            } => {
                let event = route::Event::Nacked {
                    n,
                    code,
                    message,
                    retry_after,
                };
                self.send_to_producer(conn, event);
            }
            Action::Reply { .. } => {}
            // A hello that was given up on, and arrives after the rows that were written since.
            Action::Fault {
                conn,
                code: code @ Code::StaleEpoch,
                message,
            } => {
                let event = route::Event::Faulted {
                    code,
                    message,
                    n: None,
                };
                self.send_to_producer(conn, event);
                self.close_consumer_end(conn);
                let event = Event::Closed { conn };
                self.schedule(Duration::ZERO, Happening::Inside { run, event });
            }
            Action::Fault {
                conn,
                code,
                message,
            } => {
                self.ledger
                    .break_rule(format!("connection {conn}: {code:?} {message}"));
            }
            Action::Fence { conn } => {
                self.close_consumer_end(conn);
                self.schedule(
                    Duration::ZERO,
                    Happening::Inside {
                        run,
                        event: Event::Closed { conn },
                    },
                );
            }
            Action::Run {
                ticket,
                message,
                attempt: _,
                replayed: _,
            } => {
                self.run_handler(ticket, &message);
            }
            Action::Saved { .. } => {}
            Action::Commit {
                batch,
                generation,
                writes,
            } => {
                self.consumer.commits.push_back((batch, generation, writes));
                let wait = self.disk_delay();
                let at = (self.clock + wait.as_nanos() as u64).max(self.consumer.applied + 1);
                self.consumer.applied = at;
                self.schedule_at(at, Happening::CommitApplies { run });
            }
            Action::Ask { ask, producer } => self.read(Read::Ask(ask, producer)),
            Action::Lookup { key, read } => self.read(Read::Lookup(key, read)),
            Action::Poll { cursor, limit } => self.read(Read::Poll(cursor, limit)),
            Action::PollKey { key, read, limit } => self.read(Read::PollKey(key, read, limit)),
            Action::PollSuspects { after, read, limit } => {
                self.read(Read::PollSuspects(after, read, limit));
            }
        }
    }

    fn read(&mut self, read: Read) {
        let run = self.consumer.run;
        let wait = self.disk_delay() / 2;
        self.schedule(wait, Happening::Reads { run, read });
    }

    pub(crate) fn reads(&mut self, run: Run, read: Read) {
        if self.consumer.run != run {
            return;
        }
        let now = self.now();
        let event = match read {
            Read::Ask(ask, producer) => Event::Asked {
                ask,
                keyed: Some(self.file.has_keyed()),
                producer: producer.and_then(|id| self.file.producer(id)).map(Box::new),
            },
            Read::Lookup(key, read) => {
                let rows = Some(KeyRows {
                    rows: self.file.rows_of_key(&key),
                    generation: self.file.generation,
                });
                Event::LookedUp { key, read, rows }
            }
            Read::Poll(cursor, limit) => {
                let page = self.file.page(now, cursor, limit);
                Event::Polled(Some(Box::new(page)))
            }
            Read::PollKey(key, read, limit) => {
                let page = Some(Box::new(self.file.page_of_key(now, &key, limit)));
                Event::PolledKey { key, read, page }
            }
            Read::PollSuspects(after, read, limit) => {
                let page = Some(Box::new(self.file.suspects(now, after, limit)));
                Event::PolledSuspects { read, page }
            }
        };
        let wait = self.disk_delay() / 2;
        self.schedule(wait, Happening::Inside { run, event });
    }

    pub(crate) fn commit_applies(&mut self, run: Run) {
        if self.consumer.run != run || !self.consumer.is_up() {
            return;
        }
        let (batch, generation, writes) = self.consumer.commits.pop_front().expect("a batch");
        let void = generation.is_some_and(|known| known != self.file.generation);
        let event = if self.disk_full || void {
            Event::CommitFailed { batch }
        } else {
            let now = self.now();
            Event::Committed {
                batch,
                written: self.file.commit(now, Writer::Consumer, &writes),
            }
        };
        let wait = self.disk_delay();
        let at = (self.clock + wait.as_nanos() as u64).max(self.consumer.answered + 1);
        self.consumer.answered = at;
        self.schedule_at(at, Happening::Inside { run, event });
    }

    fn run_handler(&mut self, ticket: Ticket, message: &Message) {
        let run = self.consumer.run;
        self.ledger.starts(&message.id, run, &self.file);
        if &*message.r#type == "poison" {
            let wait = self.between(Duration::from_micros(1), Duration::from_millis(1));
            return self.schedule(
                wait,
                Happening::HandlerEnds {
                    run,
                    ticket,
                    id: MessageId::default(),
                },
            );
        }
        let slow = self.rng.random_bool(self.options.slow_share);
        let most = if slow {
            Duration::from_secs(6)
        } else {
            Duration::from_millis(1)
        };
        let wait = self.between(Duration::from_micros(1), most);
        let id = message.id.clone();
        self.schedule(wait, Happening::HandlerEnds { run, ticket, id });
    }

    pub(crate) fn handler_ends(&mut self, run: Run, ticket: Ticket, id: &MessageId) {
        if self.consumer.run != run || !self.consumer.is_up() {
            return;
        }
        if id.is_empty() {
            return self.kill_consumer();
        }
        let finish = if self.rng.random_bool(self.options.reject_share) {
            Finish::Rejected {
                reason: "never".to_owned(),
                error: None,
            }
        } else if self.rng.random_bool(self.options.fail_share) {
            match self.rng.random_bool(0.3) {
                true => Finish::Unavailable("not there".to_owned()),
                false => Finish::Failed("it failed".to_owned()),
            }
        } else {
            self.ledger.done(id, run, &self.file);
            Finish::Done
        };
        self.tell_consumer(run, Event::Finished { ticket, finish });
    }
}

fn instance(run: Run) -> InstanceId {
    InstanceId::from_u128(u128::from(run))
}
