//! A message in every state against every event, and the behaviours that a row of a table does not show.

use spoolway_proto::{Code, Epoch, MessageId, PROTOCOL_VERSION, ProducerHello, ProducerId};
use spoolway_queue::{Before, Candidate, KeyRows, Origin, Page, Written};

use super::*;

const CONN: ConnId = 1;
const ROW: i64 = 9;

/// A machine, the clock, and the words to drive it. The message that a table row is about is number 1, ticket
/// [`Bench::ticket`].
struct Bench {
    now: Now,
    machine: Machine,
    ticket: Ticket,
    batches: VecDeque<(BatchId, Vec<Write>)>,
    lookup: Option<(Key, u64)>,
    asks: Vec<u64>,
}

impl Bench {
    /// A greeted producer; the file is known to hold no keyed rows.
    fn new() -> Self {
        Self::with(MachineConfig {
            slots: 1,
            ..MachineConfig::default()
        })
    }

    fn with(config: MachineConfig) -> Self {
        let now = Now {
            mono: Instant::now(),
            wall: Timestamp(1_000),
        };
        let instance = InstanceId::from_u128(7);
        let machine = Machine::new(now, config, start(instance));
        let mut bench = Self {
            now,
            machine,
            ticket: 1,
            batches: VecDeque::new(),
            lookup: None,
            asks: Vec::new(),
        };
        bench.drain();
        bench.polled(Vec::new());
        bench.hello(CONN, 1, 1, 1);
        bench
    }

    fn hello(&mut self, conn: ConnId, epoch: u64, first: u64, fresh: u64) -> Vec<String> {
        let hello = ProducerHello {
            version: PROTOCOL_VERSION,
            producer: ProducerId::from_u128(5),
            epoch: Epoch(epoch),
            client: String::new(),
            ack: AckLevel::Processed,
            first,
            fresh,
            socket: first.saturating_sub(1),
            queue: 0,
            err: 0,
        };
        let mut said = self.on(Event::Hello {
            conn,
            hello: Box::new(hello),
        });
        said.extend(self.answer_asks(false));
        said
    }

    fn answer_asks(&mut self, keyed: bool) -> Vec<String> {
        let asks = std::mem::take(&mut self.asks);
        let answer = |ask| Event::Asked {
            ask,
            keyed: Some(keyed),
            producer: None,
        };
        asks.into_iter()
            .flat_map(|ask| self.on(answer(ask)))
            .collect()
    }

    fn on(&mut self, event: Event) -> Vec<String> {
        self.machine.on(self.now, event);
        self.drain()
    }

    fn after(&mut self, wait: Duration) -> Vec<String> {
        self.now.mono += wait;
        self.on(Event::Tick)
    }

    fn arrives(&mut self, conn: ConnId, name: &str, key: Option<&str>) -> Vec<String> {
        self.on(Event::Arrived {
            conn,
            message: Ok(message(name, key)),
            answer: false,
        })
    }

    fn polled(&mut self, candidates: Vec<Candidate>) -> Vec<String> {
        self.polled_of(0, candidates)
    }

    fn polled_of(&mut self, generation: u64, candidates: Vec<Candidate>) -> Vec<String> {
        let page = Page {
            candidates,
            damaged: Vec::new(),
            generation,
            cursor: Cursor::default(),
            end: true,
            next_due_in: None,
            held: None,
        };
        self.on(Event::Polled(Some(Box::new(page))))
    }

    fn finish(&mut self, finish: Finish) -> Vec<String> {
        self.on(Event::Finished {
            ticket: self.ticket,
            finish,
        })
    }

    fn commits(&mut self) -> Vec<String> {
        let Some((batch, writes)) = self.batches.pop_front() else {
            return Vec::new();
        };
        let written = writes.iter().map(written).collect();
        self.on(Event::Committed { batch, written })
    }

    fn commit_fails(&mut self) -> Vec<String> {
        let Some((batch, _)) = self.batches.pop_front() else {
            return Vec::new();
        };
        self.on(Event::CommitFailed { batch })
    }

    fn looked_up(&mut self, rows: Vec<i64>) -> Vec<String> {
        let Some((key, read)) = self.lookup.take() else {
            return Vec::new();
        };
        self.on(Event::LookedUp {
            key,
            read,
            rows: Some(KeyRows {
                rows,
                generation: 0,
            }),
        })
    }

    fn drain(&mut self) -> Vec<String> {
        let mut said = Vec::new();
        while let Some(action) = self.machine.next_action() {
            match &action {
                Action::Commit { batch, writes, .. } => {
                    self.batches.push_back((*batch, writes.clone()));
                }
                Action::Lookup { key, read } => self.lookup = Some((key.clone(), *read)),
                Action::Ask { ask, .. } => self.asks.push(*ask),
                _ => {}
            }
            said.extend(word(&action));
        }
        said
    }

    fn state(&self) -> String {
        match self.machine.entries.get(&self.ticket) {
            None => "gone".to_owned(),
            Some(entry) => {
                let step = match entry.step {
                    Step::Delayed(_) => "Delayed".to_owned(),
                    step => format!("{step:?}"),
                };
                if entry.row.is_some() {
                    format!("{step}, row")
                } else {
                    step
                }
            }
        }
    }
}

fn message(name: &str, key: Option<&str>) -> Arc<Message> {
    let mut message = Message::new("event", &name).expect("a plain message");
    message.stamp(Timestamp(1_000), || {
        MessageId::new(name).expect("a short id")
    });
    Arc::new(match key {
        Some(key) => message.key(key),
        None => message,
    })
}

fn row(seq: i64, name: &str, key: Option<&str>) -> Candidate {
    let message = message(name, key);
    let crc = message.crc();
    Candidate {
        seq,
        message,
        attempts: 0,
        delivery: 0,
        suspect: false,
        origin: Some(Origin {
            producer: ProducerId::from_u128(5),
            epoch: Epoch(1),
            sequence: 1,
        }),
        crc,
        kept: None,
        before: Before::None,
    }
}

fn written(write: &Write) -> Written {
    match write {
        Write::Insert(_) => Written::Inserted { seq: ROW },
        Write::Begin { .. } => Written::Began { attempts: 1 },
        _ => Written::Done,
    }
}

/// Reads are no part of the table: they change nothing.
fn word(action: &Action) -> Option<String> {
    Some(match action {
        Action::Greet { window, .. } => format!("greet {window}"),
        Action::Window { conn, window, .. } => format!("window {conn} {window}"),
        Action::Answer { n, outcome, .. } => format!("{outcome} {n}"),
        Action::Nack { n, code, .. } => format!("nack {n} {code}"),
        Action::Reply {
            message, outcome, ..
        } => format!("reply {} {outcome:?}", message.id),
        Action::Fault { code, .. } => format!("fault {code}"),
        Action::Fence { conn } => format!("fence {conn}"),
        Action::Run {
            message, attempt, ..
        } => format!("run {} #{attempt}", message.id),
        Action::Commit { writes, .. } => {
            let writes: Vec<String> = writes.iter().map(write_word).collect();
            format!("commit [{}]", writes.join(", "))
        }
        Action::Lookup { key, .. } => format!("look up {key}"),
        Action::Saved { save, saved } => format!("saved {save} {saved}"),
        Action::Ask { .. }
        | Action::Poll { .. }
        | Action::PollKey { .. }
        | Action::PollSuspects { .. } => return None,
    })
}

fn write_word(write: &Write) -> String {
    match write {
        Write::Insert(row) => {
            let id = &row.message.id;
            match &row.state {
                spoolway_queue::RowState::Dead { reason, .. } => format!("dead {id} {reason}"),
                spoolway_queue::RowState::Pending { suspect: true, .. } => format!("suspect {id}"),
                spoolway_queue::RowState::Pending { claimed: true, .. } => format!("claimed {id}"),
                spoolway_queue::RowState::Pending { attempts, .. } => {
                    format!("row {id} a{attempts}")
                }
            }
        }
        Write::Claim(rows) => format!("claim {rows:?}"),
        Write::Release(rows) => format!("release {rows:?}"),
        Write::Begin { seq } => format!("begin {seq}"),
        Write::Processed { seq, .. } => format!("processed {seq}"),
        Write::Retry { seq, attempts, .. } => format!("retry {seq} a{attempts}"),
        Write::Dead { seq, reason, .. } => format!("dead {seq} {reason}"),
        Write::SettleById { id, outcome, .. } => format!("settle {id} {outcome}"),
        Write::SaveProducer(_) => "save producer".to_owned(),
        Write::SaveCounts(_) => "save counts".to_owned(),
        Write::Keep { kept, .. } => format!("keep {}", kept.sequence),
        Write::Drop { ranges, .. } => format!("drop {ranges:?}"),
        Write::HoldKey(held) => format!("hold {}", held.key),
        other => format!("{other:?}"),
    }
}

// ---- the table

type State = (&'static str, fn() -> Bench);

fn states() -> Vec<State> {
    vec![
        ("Asking", || {
            let mut bench = Bench::new();
            bench.on(Event::At { conn: CONN, n: 1 });
            bench.arrives(CONN, "m", Some("k"));
            bench
        }),
        ("Waiting", || {
            let mut bench = Bench::new();
            bench.arrives(CONN, "m", Some("k"));
            bench.ticket = 2;
            bench.arrives(CONN, "n", Some("k"));
            bench
        }),
        ("Ready", || {
            let mut bench = Bench::new();
            bench.arrives(CONN, "x", None);
            bench.ticket = 2;
            bench.arrives(CONN, "m", None);
            bench
        }),
        ("Running", || {
            let mut bench = Bench::new();
            bench.arrives(CONN, "m", None);
            bench
        }),
        ("Claiming, row", || {
            let mut bench = Bench::new();
            bench.machine.poll.under_way = Some(0);
            bench.polled(vec![row(ROW, "m", Some("k"))]);
            bench
        }),
        ("Running, row", || {
            let mut bench = Bench::new();
            bench.machine.poll.under_way = Some(0);
            bench.polled(vec![row(ROW, "m", Some("k"))]);
            bench.commits();
            bench
        }),
        ("Beginning, row", || {
            let mut bench = Bench::new();
            bench.machine.poll.under_way = Some(0);
            bench.polled(vec![Candidate {
                suspect: true,
                ..row(ROW, "m", Some("k"))
            }]);
            bench.commits();
            bench
        }),
        ("Leaving", || {
            let mut bench = Bench::new();
            bench.arrives(CONN, "m", Some("k"));
            bench.finish(Finish::Failed("no".into()));
            bench
        }),
        ("Burying", || {
            let mut bench = Bench::with(MachineConfig {
                on_dead: OnDead::Hold,
                ..MachineConfig::default()
            });
            bench.arrives(CONN, "m", Some("k"));
            bench.finish(Finish::Rejected {
                reason: "bad".into(),
                error: None,
            });
            bench
        }),
        ("Settling", || {
            let mut bench = Bench::with(MachineConfig {
                dedup: Dedup::Durable,
                ..MachineConfig::default()
            });
            bench.arrives(CONN, "m", Some("k"));
            bench.finish(Finish::Done);
            bench
        }),
        ("Settling, row", || {
            let mut bench = Bench::new();
            bench.machine.poll.under_way = Some(0);
            bench.polled(vec![row(ROW, "m", Some("k"))]);
            bench.commits();
            bench.finish(Finish::Done);
            bench
        }),
        ("Delayed", || {
            let mut bench = Bench::new();
            bench.arrives(CONN, "m", Some("k"));
            bench.finish(Finish::Failed("no".into()));
            bench.commit_fails();
            bench
        }),
    ]
}

type Do = (&'static str, fn(&mut Bench) -> Vec<String>);

fn events() -> Vec<Do> {
    vec![
        ("its number again", |bench| {
            bench.on(Event::Closed { conn: CONN });
            let (name, key) = name_of(bench);
            bench.hello(2, 2, 1, 9);
            bench.on(Event::At {
                conn: 2,
                n: if name == "n" || bench.ticket == 2 {
                    2
                } else {
                    1
                },
            });
            bench.arrives(2, &name, key.as_deref())
        }),
        ("its id with other content", |bench| {
            let (name, _) = name_of(bench);
            let mut other = Message::new("other", &1).expect("a plain message");
            other.stamp(Timestamp(1), || MessageId::new(name).expect("a short id"));
            bench.on(Event::Arrived {
                conn: CONN,
                message: Ok(Arc::new(other)),
                answer: false,
            })
        }),
        ("its row", |bench| {
            bench.machine.poll.under_way.get_or_insert(0);
            let (name, key) = name_of(bench);
            bench.polled(vec![row(ROW, &name, key.as_deref())])
        }),
        ("a newer row of its producer", |bench| {
            bench.machine.poll.under_way.get_or_insert(0);
            let mut newer = row(ROW + 1, "z", None);
            let sequence = 50;
            newer.origin = Some(Origin {
                producer: ProducerId::from_u128(5),
                epoch: Epoch(3),
                sequence,
            });
            bench.polled(vec![newer])
        }),
        ("looked up: no rows", |bench| bench.looked_up(Vec::new())),
        ("looked up: a row before", |bench| bench.looked_up(vec![4])),
        ("committed", Bench::commits),
        ("commit failed", Bench::commit_fails),
        ("done", |bench| bench.finish(Finish::Done)),
        ("failed", |bench| bench.finish(Finish::Failed("no".into()))),
        ("unavailable", |bench| {
            bench.finish(Finish::Unavailable("no".into()))
        }),
        ("rejected", |bench| {
            bench.finish(Finish::Rejected {
                reason: "no_route".into(),
                error: None,
            })
        }),
        ("closed", |bench| bench.on(Event::Closed { conn: CONN })),
        ("1 s later", |bench| {
            bench.after(Duration::from_millis(1_001))
        }),
        ("hold_max later", |bench| {
            bench.after(Duration::from_millis(2_001))
        }),
        ("replaced", |bench| {
            bench.on(Event::Replaced { generation: 1 })
        }),
        ("drain", |bench| bench.on(Event::Drain)),
        ("halt", |bench| bench.on(Event::Halt)),
    ]
}

fn name_of(bench: &Bench) -> (String, Option<String>) {
    let message = &bench.machine.entries[&bench.ticket].message;
    (
        message.id.to_string(),
        message.key.as_ref().map(ToString::to_string),
    )
}

/// `state | event | state after | actions`, for every pair that changes the state or asks for something.
const TABLE: &str = include_str!("table.txt");

#[test]
fn every_event_in_every_state_does_what_the_table_says() {
    let mut found = String::new();
    for (state, reach) in states() {
        for (event, happen) in events() {
            let mut bench = reach();
            assert_eq!(bench.state(), state, "the bench does not reach it");
            let said = happen(&mut bench);
            if bench.state() != state || !said.is_empty() {
                let line = format!(
                    "{state} | {event} | {} | {}",
                    bench.state(),
                    said.join("; ")
                );
                found.push_str(line.trim_end());
                found.push('\n');
            }
        }
    }
    for (number, (found, told)) in found.lines().zip(TABLE.lines()).enumerate() {
        assert_eq!(found, told, "line {}", number + 1);
    }
    assert_eq!(
        found.lines().count(),
        TABLE.lines().count(),
        "all of it:\n{found}"
    );
}

// ---- behaviours

#[test]
fn a_processed_message_is_answered_without_the_disk() {
    let mut bench = Bench::new();
    assert_eq!(bench.arrives(CONN, "m", Some("k")), ["run m #1"]);
    assert_eq!(bench.finish(Finish::Done), ["processed 1"]);
    assert!(bench.machine.lanes.is_empty(), "an idle lane costs nothing");
}

#[test]
fn a_copy_of_a_processed_message_is_answered_and_not_run_until_its_producer_has_seen_it() {
    let mut bench = Bench::new();
    bench.arrives(CONN, "m", None);
    bench.finish(Finish::Done);
    bench.on(Event::Closed { conn: CONN });
    bench.hello(2, 2, 1, 2);
    assert_eq!(bench.arrives(2, "m", None), ["processed 1"]);
    let ranges = [1].into_iter().collect();
    bench.on(Event::Seen {
        conn: 2,
        ranges,
        queue: 0,
        err: 0,
    });
    assert!(
        bench
            .machine
            .producers
            .values()
            .all(|producer| producer.all_kept().next().is_none())
    );
}

#[test]
fn a_spooled_copy_of_a_processed_message_is_settled_at_hello() {
    let mut bench = Bench::new();
    bench.arrives(CONN, "m", None);
    bench.finish(Finish::Done);
    bench.on(Event::Closed { conn: CONN });
    let said = bench.hello(2, 3, 2, 2);
    assert_eq!(said, ["greet 1024", "commit [settle m processed]"]);
    bench.commits();
    assert!(
        bench
            .machine
            .producers
            .values()
            .all(|producer| producer.all_kept().next().is_none())
    );
}

#[test]
fn a_row_that_was_replayed_before_its_copy_was_settled_runs_again() {
    let mut bench = Bench::new();
    bench.arrives(CONN, "m", None);
    bench.finish(Finish::Done);
    let poll = |bench: &mut Bench| {
        bench.machine.poll.under_way = Some(bench.machine.reads.begin());
    };
    poll(&mut bench);
    let said = bench.polled(vec![row(ROW, "m", None)]);
    assert_eq!(said, ["commit [settle m processed]"], "by id, not by row");
    poll(&mut bench);
    let (batch, _) = bench.batches.pop_front().expect("on its way");
    let written = vec![Written::Settled { seq: None }];
    bench.on(Event::Committed { batch, written });
    let replayed = Candidate {
        delivery: 1,
        ..row(ROW, "m", None)
    };
    assert_eq!(
        bench.polled(vec![replayed]),
        [format!("commit [claim [{ROW}]]")]
    );
}

#[test]
fn what_another_consumer_may_have_died_of_is_stored_as_a_suspect_first() {
    let mut bench = Bench::new();
    bench.on(Event::Closed { conn: CONN });
    let mut bench = Bench {
        machine: fresh_machine(&bench),
        ..bench
    };
    bench.drain();
    bench.hello(2, 2, 1, 3);
    assert_eq!(bench.arrives(2, "m", None), ["commit [suspect m]"]);
    assert_eq!(bench.arrives(2, "n", None), ["commit [suspect n]"]);
    assert_eq!(
        bench.arrives(2, "o", None),
        ["run o #1"],
        "it was never sent before"
    );
    assert_eq!(bench.commits(), ["stored 1"]);
}

fn fresh_machine(bench: &Bench) -> Machine {
    let config = MachineConfig {
        slots: 1,
        ..MachineConfig::default()
    };
    Machine::new(bench.now, config, start(InstanceId::from_u128(8)))
}

fn start(instance: InstanceId) -> Start {
    Start {
        instance,
        last: None,
        held: Vec::new(),
        generation: 0,
    }
}

#[test]
fn a_failed_head_takes_its_lane_to_the_file_in_order() {
    let mut bench = Bench::new();
    for name in ["m", "n", "o"] {
        bench.arrives(CONN, name, Some("k"));
    }
    let said = bench.finish(Finish::Failed("no".into()));
    assert_eq!(said, ["commit [row m a1, row n a0, row o a0]"]);
    assert_eq!(bench.commits(), ["stored 1", "stored 2", "stored 3"]);
    assert!(bench.machine.is_idle());
}

#[test]
fn one_message_of_a_key_runs_at_a_time_and_in_order() {
    let mut bench = Bench::with(MachineConfig::default());
    assert_eq!(bench.arrives(CONN, "m", Some("k")), ["run m #1"]);
    assert_eq!(bench.arrives(CONN, "n", Some("k")), Vec::<String>::new());
    assert_eq!(bench.arrives(CONN, "o", Some("l")), ["run o #1"]);
    assert_eq!(bench.finish(Finish::Done), ["processed 1", "run n #1"]);
}

#[test]
fn a_keyed_message_behind_rows_of_its_key_goes_behind_them_in_the_file() {
    let mut bench = Bench::new();
    bench.on(Event::At { conn: CONN, n: 5 });
    assert_eq!(bench.arrives(CONN, "m", Some("k")), ["look up k"]);
    assert_eq!(bench.arrives(CONN, "n", Some("k")), Vec::<String>::new());
    assert_eq!(bench.looked_up(vec![3]), ["commit [row m a0, row n a0]"]);
    assert_eq!(bench.commits(), ["stored 5", "stored 6"]);
}

#[test]
fn messages_that_meet_their_rows_run_in_the_order_of_the_rows() {
    let mut bench = Bench::new();
    bench.machine.mark_backlog();
    for name in ["late", "early"] {
        bench.arrives(CONN, name, Some("k"));
    }
    let rows = [(9, "early"), (10, "between"), (11, "late")];
    let rows = rows.map(|(seq, name)| Candidate {
        before: match seq {
            9 => Before::None,
            _ => Before::Rows((9..seq).collect()),
        },
        ..row(seq, name, Some("k"))
    });
    bench.on(Event::Woken);
    bench.polled(rows.to_vec());
    let lane = &bench.machine.lanes[&Key::new("k").expect("a short key")];
    let seqs = lane.iter().map(|ticket| bench.machine.entries[&ticket].row);
    assert_eq!(seqs.collect::<Vec<_>>(), [Some(9), Some(10), Some(11)]);
}

#[test]
fn an_overrun_window_is_an_error() {
    let config = MachineConfig {
        window_max: 1,
        slots: 1,
        ..MachineConfig::default()
    };
    let mut bench = Bench::with(config);
    bench.arrives(CONN, "m", None);
    assert_eq!(bench.arrives(CONN, "n", None), ["fault window_overrun"]);
}

#[test]
fn windows_shrink_as_connections_come_and_what_is_unanswered_stays_within_the_old_one() {
    let config = MachineConfig {
        pending_max: 4,
        slots: 9,
        ..MachineConfig::default()
    };
    let mut bench = Bench::with(config);
    for name in ["m", "n", "o", "p"] {
        bench.arrives(CONN, name, None);
    }
    let hello = ProducerHello {
        producer: ProducerId::from_u128(6),
        ..hello_of_another(ProducerId::from_u128(6))
    };
    let mut said = bench.on(Event::Hello {
        conn: 2,
        hello: Box::new(hello),
    });
    said.extend(bench.answer_asks(false));
    assert_eq!(said, ["window 1 2", "greet 2"]);
    assert_eq!(bench.finish(Finish::Done), ["processed 1"]);
    assert_eq!(bench.arrives(CONN, "q", None), ["fault window_overrun"]);
}

fn hello_of_another(producer: ProducerId) -> ProducerHello {
    ProducerHello {
        version: PROTOCOL_VERSION,
        producer,
        epoch: Epoch(1),
        client: String::new(),
        ack: AckLevel::Processed,
        first: 1,
        fresh: 1,
        socket: 0,
        queue: 0,
        err: 0,
    }
}

#[test]
fn a_stale_hello_is_refused_and_a_newer_one_fences_the_connection_before() {
    let mut bench = Bench::new();
    assert_eq!(bench.hello(2, 1, 1, 1), ["fault stale_epoch"]);
    assert_eq!(bench.hello(3, 2, 1, 1), ["fence 1", "greet 1024"]);
    assert_eq!(
        bench.arrives(CONN, "m", None),
        Vec::<String>::new(),
        "it is in the file by now"
    );
}

#[test]
fn a_number_with_another_id_ends_the_connection() {
    let mut bench = Bench::new();
    bench.arrives(CONN, "m", None);
    bench.on(Event::At { conn: CONN, n: 1 });
    assert_eq!(
        bench.arrives(CONN, "n", None),
        [format!("fault {}", Code::PairReused)]
    );
}

#[test]
fn an_expired_message_is_dead_once_that_is_on_disk() {
    let mut bench = Bench::new();
    let mut late = Message::new("event", &1).expect("a plain message");
    late.stamp(Timestamp(0), || MessageId::new("m").expect("a short id"));
    let late = late.ttl(Duration::from_millis(1));
    let said = bench.on(Event::Arrived {
        conn: CONN,
        message: Ok(Arc::new(late)),
        answer: false,
    });
    assert_eq!(said, ["commit [dead m expired]"]);
    assert_eq!(bench.commits(), ["dead 1"]);
}

#[test]
fn a_producer_without_a_connection_leaves_memory_after_its_record_is_saved() {
    let mut bench = Bench::new();
    bench.arrives(CONN, "m", None);
    bench.finish(Finish::Done);
    bench.on(Event::Closed { conn: CONN });
    assert_eq!(
        bench.after(Duration::from_secs(61)),
        ["commit [save producer]"]
    );
    bench.commits();
    assert_eq!(
        bench.machine.kept().1,
        1,
        "a read that began before is under way"
    );
    bench.polled(Vec::new());
    assert!(bench.machine.producers.is_empty());
}

#[test]
fn a_producer_stays_in_memory_while_a_newer_record_of_it_is_on_its_way() {
    let mut bench = Bench::new();
    let leave = |bench: &mut Bench, conn| {
        bench.on(Event::Closed { conn });
        bench.after(Duration::from_secs(61))
    };
    assert_eq!(leave(&mut bench, CONN), ["commit [save producer]"]);
    bench.hello(2, 2, 1, 1);
    bench.arrives(2, "m", None);
    bench.finish(Finish::Done);
    assert_eq!(leave(&mut bench, 2), ["commit [save producer]"]);
    bench.commits();
    bench.polled(Vec::new());
    assert_eq!(bench.machine.kept().1, 1, "the file says nothing of m yet");
    bench.commits();
    bench.polled(Vec::new());
    assert!(bench.machine.producers.is_empty());
}

#[test]
fn a_row_that_left_memory_after_a_read_began_is_not_taken_from_it() {
    let mut bench = Bench::new();
    let poll = |bench: &mut Bench| {
        bench.machine.poll.under_way = Some(bench.machine.reads.begin());
    };
    poll(&mut bench);
    bench.polled(vec![row(ROW, "m", None)]);
    bench.commits();
    poll(&mut bench);
    bench.finish(Finish::Done);
    bench.commits();
    assert_eq!(
        bench.polled(vec![row(ROW, "m", None)]),
        Vec::<String>::new()
    );
}

#[test]
fn when_the_file_is_replaced_what_is_in_memory_goes_on_without_its_rows() {
    let mut bench = Bench::new();
    let poll = |bench: &mut Bench| {
        bench.machine.poll.under_way = Some(bench.machine.reads.begin());
    };
    poll(&mut bench);
    bench.polled(vec![row(ROW, "m", None), row(ROW + 1, "n", None)]);
    bench.commits();
    bench.finish(Finish::Done);
    assert_eq!(
        bench.on(Event::Replaced { generation: 1 }),
        Vec::<String>::new()
    );
    assert_eq!(
        bench.commit_fails(),
        Vec::<String>::new(),
        "the outcome of a row that is gone"
    );
    assert_eq!(bench.state(), "gone");
    bench.ticket = 2;
    assert_eq!(bench.state(), "Running");
    assert_eq!(
        bench.finish(Finish::Failed("no".into())),
        ["commit [row n a1]"]
    );
    poll(&mut bench);
    let said = bench.polled(vec![row(1, "o", None)]);
    assert_eq!(said, Vec::<String>::new(), "a page of the old file");
}

#[test]
fn what_was_known_of_rows_of_a_replaced_file_says_nothing_of_the_new_one() {
    let mut bench = Bench::new();
    let poll = |bench: &mut Bench| {
        bench.machine.poll.under_way = Some(bench.machine.reads.begin());
    };
    poll(&mut bench);
    bench.polled(vec![row(1, "m", Some("k"))]);
    bench.commits();
    poll(&mut bench);
    bench.finish(Finish::Done);
    bench.commits();
    bench.on(Event::Replaced { generation: 1 });
    let rows = || vec![row(1, "n", Some("k")), row(2, "o", Some("k"))];
    let said = bench.polled_of(1, rows());
    assert_eq!(said, Vec::<String>::new(), "it began before");
    let said = bench.polled_of(1, rows());
    assert_eq!(said, ["commit [claim [1, 2]]"]);
}

#[test]
fn a_lookup_in_a_file_that_is_not_known_yet_orders_nothing() {
    let mut bench = Bench::new();
    bench.on(Event::At { conn: CONN, n: 1 });
    bench.arrives(CONN, "m", Some("k"));
    let (key, read) = bench.lookup.take().expect("a lookup");
    let rows = Some(KeyRows {
        rows: Vec::new(),
        generation: 1,
    });
    let said = bench.on(Event::LookedUp { key, read, rows });
    assert_eq!(said, ["commit [row m a0]"], "behind what may be there");
}

#[test]
fn a_dead_letter_steps_aside() {
    let mut bench = Bench::new();
    bench.arrives(CONN, "m", Some("k"));
    bench.arrives(CONN, "n", Some("k"));
    let said = bench.finish(rejected());
    assert_eq!(said, ["commit [dead m bad]"]);
    assert_eq!(bench.commits(), ["dead 1", "run n #1"]);
}

fn rejected() -> Finish {
    Finish::Rejected {
        reason: "bad".into(),
        error: None,
    }
}

fn holding() -> Bench {
    let mut bench = Bench::with(MachineConfig {
        on_dead: OnDead::Hold,
        ..MachineConfig::default()
    });
    bench.arrives(CONN, "m", Some("k"));
    bench.arrives(CONN, "n", Some("k"));
    bench
}

#[test]
fn a_dead_letter_that_holds_its_key_takes_what_is_behind_it_to_the_file() {
    let mut bench = holding();
    let said = bench.finish(rejected());
    assert_eq!(said, ["commit [dead m bad, hold k, row n a0]"]);
    assert_eq!(bench.commits(), ["dead 1", "stored 2"]);
    assert_eq!(
        bench.arrives(CONN, "o", Some("k")),
        ["look up k", "commit [row o a0]"],
        "what comes later goes behind them"
    );
    assert_eq!(
        bench.arrives(CONN, "p", Some("l")),
        ["look up l"],
        "no other key is stopped"
    );
    assert_eq!(bench.looked_up(Vec::new()), ["run p #1"]);
}

#[test]
fn what_could_not_be_stored_with_its_head_goes_to_the_file_in_its_place_when_the_head_dies() {
    let mut bench = holding();
    let said = bench.after(Duration::from_millis(2_001));
    assert_eq!(said, ["commit [claimed m, row n a0]"]);
    bench.arrives(CONN, "o", Some("k"));
    assert_eq!(bench.finish(rejected()), Vec::<String>::new());
    let said = bench.commit_fails();
    assert_eq!(said, ["commit [dead m bad, hold k, row n a0, row o a0]"]);
}

#[test]
fn nothing_is_stored_before_what_is_on_its_way_ahead_of_it() {
    let mut bench = Bench::new();
    bench.machine.poll.under_way = Some(bench.machine.reads.begin());
    bench.polled(vec![row(ROW, "m", Some("k"))]);
    bench.commits();
    bench.arrives(CONN, "n", Some("k"));
    bench.looked_up(vec![ROW]);
    let said = bench.after(Duration::from_millis(2_001));
    assert_eq!(said, ["commit [row n a0]"]);
    bench.arrives(CONN, "o", Some("k"));
    let said = bench.finish(Finish::Failed("no".into()));
    assert_eq!(said, [format!("commit [retry {ROW} a1]")], "n may fail");
}

#[test]
fn a_keyed_row_is_for_the_file_that_is_known_and_any_other_for_whatever_file_there_is() {
    for (key, generation) in [(Some("k"), Some(0)), (None, None)] {
        let mut bench = Bench::new();
        bench.arrives(CONN, "m", key);
        bench.now.mono += Duration::from_millis(2_001);
        bench.machine.on(bench.now, Event::Tick);
        let actions = std::iter::from_fn(|| bench.machine.next_action());
        let found: Vec<Option<u64>> = actions
            .filter_map(|action| match action {
                Action::Commit { generation, .. } => Some(generation),
                _ => None,
            })
            .collect();
        assert_eq!(found, [generation], "{key:?}");
    }
}

#[test]
fn a_stopped_key_runs_again_once_the_file_says_that_it_is_released() {
    let mut bench = holding();
    bench.finish(rejected());
    let stopped = |held: Vec<Key>| {
        Event::Polled(Some(Box::new(Page {
            candidates: vec![row(10, "n", Some("k"))],
            damaged: Vec::new(),
            generation: 0,
            cursor: Cursor::default(),
            end: true,
            next_due_in: None,
            held: Some(held),
        })))
    };
    let key = Key::new("k").expect("a short key");
    bench.machine.poll.under_way = Some(0);
    let said = bench.on(stopped(Vec::new()));
    assert_eq!(said, Vec::<String>::new(), "read before it was committed");
    bench.commits();
    let read = bench.machine.reads.begin();
    bench.machine.poll.under_way = Some(read);
    assert_eq!(bench.on(stopped(vec![key])), Vec::<String>::new());
    let read = bench.machine.reads.begin();
    bench.machine.poll.under_way = Some(read);
    assert_eq!(bench.on(stopped(Vec::new())), ["commit [claim [10]]"]);
}

#[test]
fn a_durable_outcome_is_on_disk_before_its_answer_and_goes_when_it_is_seen() {
    let mut bench = Bench::with(MachineConfig {
        dedup: Dedup::Durable,
        ..MachineConfig::default()
    });
    bench.arrives(CONN, "m", Some("k"));
    bench.arrives(CONN, "n", Some("k"));
    assert_eq!(
        bench.finish(Finish::Done),
        ["commit [keep 1]", "run n #1"],
        "the next of its key need not wait"
    );
    assert_eq!(bench.commit_fails(), Vec::<String>::new());
    assert_eq!(
        bench.after(Duration::from_secs(1)),
        ["commit [keep 1]"],
        "unanswered until it is there"
    );
    assert_eq!(bench.commits(), ["processed 1"]);
    let said = bench.on(Event::Seen {
        conn: CONN,
        ranges: [1].into_iter().collect(),
        queue: 0,
        err: 0,
    });
    assert_eq!(said, ["commit [drop [[1, 1]]]"]);
}

#[test]
fn live_messages_and_rows_take_turns_and_rows_leave_slots_free() {
    let mut bench = Bench::with(MachineConfig {
        slots: 3,
        backlog_slots: 2,
        ..MachineConfig::default()
    });
    bench.machine.poll.under_way = Some(0);
    bench.polled(
        (10..14)
            .map(|seq| row(seq, &format!("r{seq}"), None))
            .collect(),
    );
    assert_eq!(bench.commits(), ["run r10 #1", "run r11 #1"]);
    assert_eq!(bench.arrives(CONN, "a", None), ["run a #1"]);
    assert_eq!(bench.arrives(CONN, "b", None), Vec::<String>::new());
    bench.ticket = 1;
    let said = bench.finish(Finish::Done);
    assert_eq!(said, ["commit [processed 10]", "run r12 #1"], "its turn");
    bench.ticket = 2;
    let said = bench.finish(Finish::Done);
    assert_eq!(said, ["commit [processed 11]", "run b #1"], "its turn");
}

#[test]
fn what_was_answered_balances_with_the_word_of_the_producer() {
    let mut bench = Bench::new();
    for name in ["m", "n"] {
        bench.arrives(CONN, name, None);
        bench.finish(Finish::Done);
        bench.ticket += 1;
    }
    bench.on(Event::Closed { conn: CONN });
    bench.hello(2, 2, 3, 3);
    let counts = bench.machine.records()[0].counts;
    assert_eq!(
        (counts.by_socket, counts.by_word, counts.missing),
        (2, 0, 0)
    );

    bench.on(Event::Closed { conn: 2 });
    bench.hello(3, 3, 4, 4);
    let counts = bench.machine.records()[0].counts;
    assert_eq!(counts.missing, 1, "nobody here has answered number 3");

    let mut bench = Bench {
        machine: fresh_machine(&bench),
        ..bench
    };
    bench.drain();
    bench.hello(1, 4, 4, 4);
    let counts = bench.machine.records()[0].counts;
    assert_eq!(
        (counts.by_word, counts.missing),
        (3, 0),
        "another consumer may have, before it was killed"
    );
}

#[test]
fn producers_without_a_connection_are_bounded() {
    let mut bench = Bench::with(MachineConfig {
        gone_max: 10,
        ..MachineConfig::default()
    });
    for n in 2..40 {
        let hello = ProducerHello {
            version: PROTOCOL_VERSION,
            producer: ProducerId::from_u128(u128::from(n) + 100),
            epoch: Epoch(1),
            client: String::new(),
            ack: AckLevel::Processed,
            first: 1,
            fresh: 1,
            socket: 0,
            queue: 0,
            err: 0,
        };
        bench.on(Event::Hello {
            conn: n,
            hello: Box::new(hello),
        });
        bench.answer_asks(false);
        bench.on(Event::Closed { conn: n });
        bench.commits();
        let (_, producers) = bench.machine.kept();
        assert!(producers <= 1 + 10, "the connected one, and the bound");
    }
}

#[test]
fn an_event_is_small_whatever_it_carries() {
    // Two are moved for each message.
    assert!(size_of::<Event>() <= 64, "{} bytes", size_of::<Event>());
}
