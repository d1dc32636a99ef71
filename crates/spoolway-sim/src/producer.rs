//! A producer process: the path machine with a modelled shell around it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use rand::RngExt as _;
use spoolway_client::route::{Action, Event, Outgoing, Route, RouteConfig, Spooled};
use spoolway_consumer::machine::ConnId;
use spoolway_proto::{
    AckLevel, Epoch, Message, MessageId, Outcome, PROTOCOL_VERSION, ProducerHello, ProducerId,
    Timestamp,
};
use spoolway_queue::{Due, Existing, NewRow, Origin, RowState, Write, Written};

use crate::consumer::ToConsumer;
use crate::file::Writer;
use crate::ledger::Sender;
use crate::world::{Happening, World};

#[derive(Debug)]
pub(crate) struct Producer {
    pub(crate) sender: Sender,
    route: Route<Arc<Message>>,
    conn: Option<ConnId>,
    /// The dial under way.
    dial: Option<u64>,
    /// Messages still to be sent.
    pub(crate) left: usize,
    tick_at: Option<u64>,
    /// Groups on their way to the file.
    spools: VecDeque<(u64, Vec<Write>)>,
}

impl Producer {
    pub(crate) fn is_settled(&self) -> bool {
        self.unsettled() == 0 && self.left == 0
    }

    pub(crate) fn unsettled(&self) -> usize {
        (self.route.next_number() - self.route.first_unsettled()) as usize
    }
}

impl World {
    pub(crate) fn start_producer(&mut self, index: usize, left: usize) {
        let sender = self.next_sender;
        self.next_sender += 1;
        let seed = self.rng.random();
        let config = RouteConfig {
            on_full: self.options.on_full,
            ..RouteConfig::default()
        };
        let producer = Producer {
            sender,
            route: Route::new(self.mono(), config, seed),
            conn: None,
            dial: None,
            left,
            tick_at: None,
            spools: VecDeque::new(),
        };
        if index < self.producers.len() {
            self.producers[index] = producer;
        } else {
            self.producers.push(producer);
            self.schedule(Duration::from_micros(50), Happening::Sends(index));
        }
        self.drain_route(index);
    }

    /// What it had not committed is gone; what it was told stays true.
    pub(crate) fn kill_producer(&mut self, index: usize) {
        if let Some(conn) = self.producers[index].conn.take() {
            self.close_producer_end(conn);
        }
        let spools = std::mem::take(&mut self.producers[index].spools);
        for (_, writes) in spools {
            if self.disk_full || self.rng.random_bool(0.5) {
                break;
            }
            let now = self.now();
            self.file.commit(now, Writer::Producer, &writes);
        }
        let left = self.producers[index].left;
        self.start_producer(index, left);
    }

    /// It goes on by the file alone until all it has is settled, and another takes its place.
    pub(crate) fn end_producer(&mut self, index: usize) {
        let sender = self.producers[index].sender;
        self.tell_producer(index, sender, Event::Abandon);
        let happening = Happening::ProducerEnds {
            producer: index,
            sender,
        };
        self.schedule(Duration::from_millis(5), happening);
    }

    pub(crate) fn producer_ends(&mut self, index: usize, sender: Sender) {
        let producer = &self.producers[index];
        if producer.sender != sender {
            return;
        }
        if producer.unsettled() == 0 {
            let left = producer.left;
            return self.start_producer(index, left);
        }
        let happening = Happening::ProducerEnds {
            producer: index,
            sender,
        };
        self.schedule(Duration::from_millis(50), happening);
    }

    pub(crate) fn producer_sends(&mut self, index: usize) {
        if self.producers[index].left == 0 {
            return;
        }
        self.producers[index].left -= 1;
        self.sent += 1;
        let (keyless, poison) = (self.options.keyless_share, self.options.poison_share);
        let keyed = !self.rng.random_bool(keyless);
        let kind = if self.rng.random_bool(poison) {
            "poison"
        } else {
            "event"
        };
        let mut message = Message::new(kind, &self.sent).expect("a plain message");
        let sender = self.producers[index].sender;
        let id = MessageId::new(format!("{index}.{sender}-{}", self.sent)).expect("a short id");
        let wall = self.now().wall;
        message.stamp(wall, || id.clone());
        let mut lane = None;
        if keyed {
            let key = format!("k{}", self.rng.random_range(0..self.options.keys));
            message = message.key(&key);
            lane = Some(key);
        }
        if self.rng.random_bool(self.options.ttl_share) {
            let ttl = self.between(Duration::from_millis(1), Duration::from_secs(3));
            message = message.ttl(ttl);
        } else if !keyed && self.rng.random_bool(self.options.later_share) {
            let wait = self.between(Duration::ZERO, Duration::from_secs(3));
            message = message.deliver_at(Timestamp(wall.0 + wait.as_millis() as i64));
        }
        if self.options.priority_share > 0.0 && self.rng.random_bool(self.options.priority_share) {
            message = message.priority(self.rng.random_range(0..=100));
        }
        self.ledger.sent(id, sender, lane);
        let now = self.mono();
        let outgoing = Outgoing {
            keyed,
            bytes: message.size(),
            deadline: now + Duration::from_secs(10),
        };
        let sent = self.producers[index]
            .route
            .send(now, Arc::new(message), outgoing);
        sent.expect("room for every message");
        self.drain_route(index);
        let wait = self.between(Duration::ZERO, self.options.send_every * 2);
        self.schedule(wait, Happening::Sends(index));
    }

    pub(crate) fn tell_producer(&mut self, index: usize, sender: Sender, event: Event) {
        if self.producers[index].sender == sender {
            let now = self.mono();
            let route = &self.producers[index].route;
            self.coverage.route(route, &event);
            self.producers[index].route.on(now, event);
            self.drain_route(index);
        }
    }

    pub(crate) fn producer_hears(&mut self, conn: ConnId, event: Event) {
        let Some((index, sender)) = self.open_producer(conn) else {
            return;
        };
        self.tell_producer(index, sender, Event::Heard);
        self.tell_producer(index, sender, event);
    }

    pub(crate) fn producer_closed(&mut self, conn: ConnId) {
        let Some((index, sender)) = self.open_producer(conn) else {
            return;
        };
        self.close_producer_end(conn);
        self.producers[index].conn = None;
        self.tell_producer(index, sender, Event::Closed { unsent: Vec::new() });
    }

    /// The process whose current connection this is.
    fn open_producer(&self, conn: ConnId) -> Option<(usize, Sender)> {
        let link = self.links.get(&conn)?;
        let producer = &self.producers[link.producer];
        let current = producer.sender == link.sender && producer.conn == Some(conn);
        current.then_some((link.producer, link.sender))
    }

    pub(crate) fn dialled(&mut self, index: usize, sender: Sender, dial: u64) {
        let producer = &mut self.producers[index];
        if producer.sender != sender || producer.dial.take_if(|known| *known == dial).is_none() {
            return;
        }
        if self.consumer.listens() && !self.backlog_full {
            let conn = self.open_link(index, sender);
            self.producers[index].conn = Some(conn);
            self.tell_producer(index, sender, Event::Connected);
        } else {
            self.tell_producer(index, sender, Event::Refused);
        }
    }

    pub(crate) fn producer_tick(&mut self, index: usize, sender: Sender) {
        if self.producers[index].sender == sender {
            self.producers[index].tick_at = None;
            self.tell_producer(index, sender, Event::Tick);
        }
    }

    fn drain_route(&mut self, index: usize) {
        while let Some(action) = self.producers[index].route.next_action() {
            self.act(index, action);
        }
        let producer = &self.producers[index];
        let Some(at) = producer.route.next_deadline() else {
            return;
        };
        let at = self.clock_at(at).max(self.clock + 1);
        if producer.tick_at.is_none_or(|known| at < known) {
            let sender = producer.sender;
            self.producers[index].tick_at = Some(at);
            self.schedule_at(
                at,
                Happening::ProducerTick {
                    producer: index,
                    sender,
                },
            );
        }
    }

    fn act(&mut self, index: usize, action: Action<Arc<Message>>) {
        let sender = self.producers[index].sender;
        let conn = self.producers[index].conn;
        if self.options.trace {
            println!(
                "{:>12?}   P{index} {action:?}",
                Duration::from_nanos(self.clock)
            );
        }
        match action {
            Action::Dial => {
                let dial = self.next_dial;
                self.next_dial += 1;
                self.producers[index].dial = Some(dial);
                let late = self.rng.random_bool(self.options.late_dial_share);
                let most = Duration::from_micros(if late { 2_000_000 } else { 300 });
                let wait = self.between(Duration::from_micros(10), most);
                self.schedule(
                    wait,
                    Happening::Dialled {
                        producer: index,
                        sender,
                        dial,
                    },
                );
            }
            Action::HangUp => {
                self.producers[index].dial = None;
                if let Some(conn) = self.producers[index].conn.take() {
                    self.close_producer_end(conn);
                }
            }
            Action::Hello {
                producer,
                epoch,
                first,
                fresh,
                socket,
                queue,
                err,
            } => {
                let hello = ProducerHello {
                    version: PROTOCOL_VERSION,
                    producer,
                    epoch,
                    client: String::new(),
                    ack: AckLevel::Processed,
                    first,
                    fresh,
                    socket,
                    queue,
                    err,
                };
                self.say(conn, ToConsumer::Hello(hello));
            }
            Action::At { n } => self.say(conn, ToConsumer::At(n)),
            Action::Write { n } => {
                let body = self.producers[index]
                    .route
                    .body(n)
                    .expect("an unsettled message");
                let message = Arc::clone(body);
                self.say(conn, ToConsumer::Message(message));
            }
            Action::Seen { ranges, queue, err } => {
                self.say(conn, ToConsumer::Seen { ranges, queue, err });
            }
            Action::Ping => self.say(conn, ToConsumer::Ping),
            Action::Pong | Action::Unknown { .. } => {}
            Action::Spool {
                group,
                producer,
                epoch,
                numbers,
            } => {
                let writes = self.rows(index, producer, epoch, &numbers);
                self.producers[index].spools.push_back((group, writes));
                let wait = self.disk_delay();
                self.schedule(
                    wait,
                    Happening::SpoolApplies {
                        producer: index,
                        sender,
                    },
                );
            }
            Action::Settle {
                n: _,
                body,
                verdict,
            } => {
                self.ledger.settled(&body.id, &verdict, &self.file);
            }
        }
    }

    fn say(&mut self, conn: Option<ConnId>, packet: ToConsumer) {
        match conn {
            Some(conn) => self.send_to_consumer(conn, packet),
            None => self
                .ledger
                .break_rule(format!("writes without a connection: {packet:?}")),
        }
    }

    fn rows(
        &self,
        index: usize,
        producer: ProducerId,
        epoch: Epoch,
        numbers: &[u64],
    ) -> Vec<Write> {
        let row = |n: &u64| {
            let body = self.producers[index]
                .route
                .body(*n)
                .expect("an unsettled message");
            Write::Insert(NewRow {
                message: Arc::clone(body),
                origin: Some(Origin {
                    producer,
                    epoch,
                    sequence: *n,
                }),
                state: RowState::Pending {
                    attempts: 0,
                    due: Due::Now,
                    error: None,
                    suspect: false,
                    claimed: false,
                },
            })
        };
        numbers.iter().map(row).collect()
    }

    pub(crate) fn spool_applies(&mut self, index: usize, sender: Sender) {
        if self.producers[index].sender != sender {
            return;
        }
        let (group, writes) = self.producers[index].spools.pop_front().expect("a group");
        let half = self.rng.random_bool(self.options.half_commit_share);
        let event = if self.disk_full || half {
            if half && self.rng.random_bool(0.5) {
                let now = self.now();
                self.file.commit(now, Writer::Producer, &writes);
            }
            Event::SpoolFailed {
                group,
                unknown: half,
            }
        } else {
            let now = self.now();
            let written = self.file.commit(now, Writer::Producer, &writes);
            if !self.rng.random_bool(self.options.lost_wake_share) {
                self.wake_consumer();
            }
            Event::Spooled {
                group,
                results: written.iter().map(spooled).collect(),
            }
        };
        let wait = self.disk_delay();
        self.schedule(
            wait,
            Happening::Spooled {
                producer: index,
                sender,
                event,
            },
        );
    }
}

fn spooled(written: &Written) -> Spooled {
    match written {
        Written::Inserted { .. } => Spooled::Stored,
        Written::Exists {
            state: Existing::Processed,
            ..
        } => Spooled::Duplicate(Outcome::Processed),
        Written::Exists {
            state: Existing::Dead,
            ..
        } => Spooled::Duplicate(Outcome::Dead),
        Written::Exists { .. } => Spooled::Duplicate(Outcome::Stored),
        other => {
            assert!(matches!(other, Written::Conflict), "{other:?}");
            Spooled::Conflict
        }
    }
}
