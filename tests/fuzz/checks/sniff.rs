//! A whole connection as far as it is pure: its first byte, its cutter, what its messages and ops make the machine do.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use spoolway_consumer::fuzzing::Cutter;
use spoolway_consumer::machine::{
    Action, Dedup, Event, Finish, Machine, MachineConfig, Now, Start, Ticket,
};
use spoolway_proto::{
    Dialect, Incoming, InstanceId, Invalid, Limits, Message, MessageId, ProducerOp, Timestamp,
    decode_for_consumer,
};
use spoolway_queue::{Cursor, KeyRows, Page, Write, Written};

use crate::chunks::Chunks;

pub(crate) fn check(input: &[u8]) {
    let Some(chunks) = Chunks::of(input) else {
        return;
    };
    let read = read(&chunks);
    assert_eq!(read, self::read(&chunks.undivided()), "in chunks");
    for dedup in [Dedup::Memory, Dedup::Durable] {
        serve(&read.0, dedup);
    }
}

/// What a connection says, and what ended it early.
type Read = (Vec<Incoming>, Option<Invalid>);

fn read(chunks: &Chunks<'_>) -> Read {
    let limits = Limits {
        frame_bytes_max: chunks.bytes_max,
        ..Limits::default()
    };
    let mut said = Vec::new();
    let dialect = chunks.stream.first().copied().and_then(Dialect::of);
    let cutter = dialect.and_then(|dialect| Cutter::of(dialect, &limits));
    let Some(mut cutter) = cutter else {
        return (said, None);
    };
    let mut buffer = BytesMut::new();
    for chunk in chunks.iter() {
        buffer.extend_from_slice(chunk);
        loop {
            let front = cutter.front(&buffer).map(Bytes::copy_from_slice);
            let next = cutter.next(&mut buffer);
            if let Ok(next) = &next {
                looks_like(front.as_deref(), next.as_deref());
            }
            match next {
                Ok(Some(body)) => {
                    // The next line can be read whatever this one is.
                    match decode_for_consumer(&body, &limits) {
                        Ok(incoming) => said.push(incoming),
                        Err(_) if dialect == Some(Dialect::Lines) => {}
                        Err(invalid) => return (said, Some(invalid)),
                    }
                }
                Ok(None) => break,
                Err(invalid) => return (said, Some(invalid)),
            }
        }
    }
    match cutter.end(&mut buffer) {
        Ok(last) => {
            let last = last.and_then(|last| decode_for_consumer(&last, &limits).ok());
            said.extend(last);
            (said, None)
        }
        Err(invalid) => (said, Some(invalid)),
    }
}

/// What was at the front is what was cut then. What is as long as a hello can be need not be seen.
fn looks_like(front: Option<&[u8]>, next: Option<&[u8]>) {
    const SHORT_BYTES_MAX: usize = 4_000;
    match (front, next) {
        (None, Some(body)) => assert!(body.len() > SHORT_BYTES_MAX, "unseen: {body:?}"),
        (Some(front), next) => assert_eq!(Some(front.trim_ascii()), next.map(<[u8]>::trim_ascii)),
        (None, None) => {}
    }
}

/// Tells a machine what was said, on a connection of its own, and brings it to an end.
fn serve(said: &[Incoming], dedup: Dedup) {
    let mut shell = Shell::new(dedup);
    for incoming in said {
        match incoming {
            Incoming::Message(message) => shell.arrived(message),
            Incoming::Batch(batch) => batch.iter().for_each(|message| shell.arrived(message)),
            Incoming::Op(op) => shell.op(op),
        }
    }
    shell.on(Event::Closed { conn: CONN });
    shell.on(Event::Drain);
    for _ in 0..4 {
        shell.now.mono += Duration::from_secs(600);
        shell.on(Event::Tick);
    }
    shell.on(Event::Halt);
    shell.finish_all();
    assert!(shell.machine.is_idle(), "everything is settled or stored");
}

const CONN: u64 = 1;

/// Does what the machine asks for, with an empty queue file that never fails.
struct Shell {
    machine: Machine,
    now: Now,
    greeted: bool,
    ids: u64,
    rows: i64,
    running: VecDeque<(Ticket, u32)>,
}

impl Shell {
    fn new(dedup: Dedup) -> Self {
        let now = Now {
            mono: Instant::now(),
            wall: Timestamp(1_700_000_000_000),
        };
        // Few of everything, so that a short stream comes to the limits.
        let config = MachineConfig {
            slots: 2,
            window_max: 8,
            pending_max: 16,
            recent_max: 8,
            dedup,
            ..MachineConfig::default()
        };
        let start = Start {
            instance: InstanceId::from_u128(1),
            last: None,
            held: Vec::new(),
            generation: 0,
        };
        let mut shell = Self {
            machine: Machine::new(now, config, start),
            now,
            greeted: false,
            ids: 0,
            rows: 0,
            running: VecDeque::new(),
        };
        shell.follow();
        shell
    }

    fn arrived(&mut self, message: &Result<Message, Invalid>) {
        let message = match message {
            Ok(message) => {
                let mut message = message.clone();
                self.ids += 1;
                message.stamp(self.now.wall, || MessageId::v7(self.ids, [0; 10]));
                Ok(Arc::new(message))
            }
            Err(_) if !self.greeted => return,
            Err(invalid) => Err(Box::new(invalid.clone())),
        };
        let answer = !self.greeted;
        self.on(Event::Arrived {
            conn: CONN,
            message,
            answer,
        });
    }

    fn op(&mut self, op: &ProducerOp) {
        let conn = CONN;
        let event = match op.clone() {
            ProducerOp::Hello(hello) => {
                self.greeted = true;
                let hello = Box::new(hello);
                Event::Hello { conn, hello }
            }
            ProducerOp::At { n } => Event::At { conn, n },
            ProducerOp::Seen { ranges, queue, err } => Event::Seen {
                conn,
                ranges,
                queue,
                err,
            },
            ProducerOp::Save => Event::Save { save: conn },
            // Time passes, and a handler ends.
            ProducerOp::Ping | ProducerOp::Pong => {
                self.now.mono += Duration::from_secs(1);
                self.finish();
                Event::Tick
            }
        };
        self.on(event);
    }

    fn on(&mut self, event: Event) {
        self.machine.on(self.now, event);
        self.follow();
    }

    fn follow(&mut self) {
        while let Some(action) = self.machine.next_action() {
            let Some(event) = self.answer(action) else {
                continue;
            };
            self.machine.on(self.now, event);
        }
    }

    fn answer(&mut self, action: Action) -> Option<Event> {
        Some(match action {
            Action::Run {
                ticket, attempt, ..
            } => {
                self.running.push_back((ticket, attempt));
                return None;
            }
            Action::Commit { batch, writes, .. } => Event::Committed {
                batch,
                written: writes.iter().map(|write| self.written(write)).collect(),
            },
            Action::Ask { ask, .. } => Event::Asked {
                ask,
                keyed: Some(false),
                producer: None,
            },
            Action::Lookup { key, read } => Event::LookedUp {
                key,
                read,
                rows: Some(KeyRows::default()),
            },
            Action::Poll { .. } => Event::Polled(Some(empty())),
            Action::PollKey { key, read, .. } => Event::PolledKey {
                key,
                read,
                page: Some(empty()),
            },
            Action::PollSuspects { read, .. } => Event::PolledSuspects {
                read,
                page: Some(empty()),
            },
            _ => return None,
        })
    }

    fn written(&mut self, write: &Write) -> Written {
        match write {
            Write::Insert(_) => {
                self.rows += 1;
                Written::Inserted { seq: self.rows }
            }
            Write::Begin { .. } => Written::Began { attempts: 1 },
            _ => Written::Done,
        }
    }

    /// Ends the handler that began first, each time in another way.
    fn finish(&mut self) {
        let Some((ticket, attempt)) = self.running.pop_front() else {
            return;
        };
        let finish = match ticket.wrapping_add(attempt.into()) % 5 {
            0 => Finish::Failed("failed".to_owned()),
            1 => Finish::Unavailable("away".to_owned()),
            2 => Finish::Rejected {
                reason: "no_route".to_owned(),
                error: None,
            },
            _ => Finish::Done,
        };
        self.on(Event::Finished { ticket, finish });
    }

    fn finish_all(&mut self) {
        while !self.running.is_empty() {
            self.finish();
        }
    }
}

fn empty() -> Box<Page> {
    Box::new(Page {
        candidates: Vec::new(),
        damaged: Vec::new(),
        cursor: Cursor::default(),
        end: true,
        generation: 0,
        next_due_in: None,
        held: None,
    })
}
