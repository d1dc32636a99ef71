//! The real queue: does what a step says, and is compared with the model after it.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use proptest_state_machine::StateMachineTest;
use rusqlite::{Connection, params};
use spoolway_proto::{Epoch, Key, Message, MessageId, ProducerId};
use spoolway_queue::{
    Before, Claimed, Durability, Existing, Filter, Finding, HeldKey, NewRow, Origin, QueueError,
    QueueOptions, Role, Settled, Severity, SqliteQueue, Write, Written,
};
use tempfile::TempDir;

use crate::answer::{Answer, Balance, Counts, Peeked, Stored};
use crate::model::Model;
use crate::row::State;
use crate::steps::{By, Draft, End, Step, Steps};
use crate::words::{LONG, MADE, kind};

/// The queue on a file of its own, held against a model that has this flaw.
#[derive(Debug)]
pub(crate) struct Against<const FLAW: u8 = 0>;

pub(crate) struct System {
    consumer: Option<SqliteQueue>,
    other: SqliteQueue,
    foreign: Connection,
    held: Vec<Claimed>,
    /// The highest number a row was given.
    newest: i64,
    /// The next message of each producer.
    sequence: u64,
    dir: TempDir,
}

impl<const FLAW: u8> StateMachineTest for Against<FLAW> {
    type SystemUnderTest = System;
    type Reference = Steps<FLAW>;

    fn init_test(_: &Model) -> System {
        System::new()
    }

    fn apply(mut system: System, model: &Model, step: Step) -> System {
        let answer = system.take(&step);
        assert_eq!(answer, model.answer, "the answer to {step:?}");
        system
    }

    fn check_invariants(system: &System, model: &Model) {
        assert_eq!(system.rows(), rows(model), "rows");
        let mark = system.other.meta("clean_shutdown").unwrap();
        assert_eq!(mark.is_some(), model.clean, "the mark of a clean end");
        assert_eq!(system.counts(), model.counts(), "statistics");
        assert_eq!(system.balances(), model.balances(), "audit");
    }

    fn teardown(system: System, model: Model) {
        let checked = spoolway_queue::check(system.path(), true, |_| {}).unwrap();
        let damaged = model.rows.iter().any(|row| row.damaged);
        let as_expected = |fault: &&Finding| damaged && fault.code == "row_corrupt";
        let findings = checked.findings.iter();
        let mut faults = findings.filter(|finding| finding.severity == Severity::Fault);
        assert!(faults.all(|fault| as_expected(&fault)), "{checked:?}");
    }
}

fn open(path: PathBuf, role: Role) -> SqliteQueue {
    let options = QueueOptions {
        role,
        // Nothing here ends with the power.
        durability: Durability::Process,
        ..QueueOptions::default()
    };
    SqliteQueue::open(path, options).unwrap()
}

impl System {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("q.db");
        Self {
            consumer: Some(open(path.clone(), Role::Consumer)),
            other: open(path.clone(), Role::Producer),
            foreign: Connection::open(path).unwrap(),
            held: Vec::new(),
            newest: 0,
            sequence: 0,
            dir,
        }
    }

    fn path(&self) -> PathBuf {
        self.dir.path().join("q.db")
    }

    fn by(&self, by: By) -> &SqliteQueue {
        match by {
            By::Consumer => self.consumer.as_ref().unwrap(),
            By::Other => &self.other,
        }
    }

    fn take(&mut self, step: &Step) -> Answer {
        let consumer = self.by(By::Consumer).clone();
        match step {
            Step::Enqueue(by, draft) => match self.by(*by).enqueue(&draft.message()) {
                Ok(enqueued) => Answer::Enqueued(vec![self.stored(enqueued.written)]),
                Err(error) => refused(&error),
            },
            Step::EnqueueBatch(by, drafts) => self.enqueue_batch(*by, drafts),
            Step::Fill(many, key) => self.enqueue_batch(By::Consumer, &Draft::many(*many, *key)),
            Step::Spool(producer, draft) => self.spool(*producer, &draft.made_valid()),
            Step::Insert { id, content } => {
                let insert = "INSERT OR IGNORE INTO message_queue (message_id, type, payload, timestamp) \
                    VALUES (?, ?, ?, ?)";
                let payload = content.map_or("not JSON".to_owned(), |content| content.to_string());
                let kind = kind(content.unwrap_or(0));
                self.foreign(insert, params![id, kind, payload, MADE.0])
            }
            Step::MarkForeign(id) => {
                let mark =
                    "UPDATE message_queue SET processed = 1 WHERE message_id = ? AND processed = 0";
                self.foreign(mark, params![id])
            }
            Step::Damage(id) => {
                let damage =
                    "UPDATE message_queue SET payload = '\"damaged\"' WHERE message_id = ?";
                self.foreign(damage, params![id]);
                Answer::Done
            }
            Step::Dequeue(limit) => {
                let claimed = consumer.dequeue(*limit).unwrap();
                let told = claimed
                    .iter()
                    .map(|one| (one.message.id.to_string(), one.attempts, one.suspect));
                let answer = Answer::Claimed(told.collect());
                self.held.extend(claimed);
                answer
            }
            Step::Intrude => refused(&self.other.dequeue(1).unwrap_err()),
            Step::Peek(limit) => self.peek(&consumer, *limit),
            Step::Settle(ends) => self.settle(&consumer, ends),
            Step::MarkProcessed(by, id) => {
                let id = MessageId::new(id).unwrap();
                if *by == By::Consumer {
                    let seq = self.seq_of(&id);
                    self.held.retain(|held| Some(held.seq) != seq);
                }
                Answer::Marked(self.by(*by).mark_processed(&id).unwrap())
            }
            Step::Cleanup { all } => {
                let retention = if *all { Duration::ZERO } else { LONG };
                Answer::Count(consumer.cleanup(retention).unwrap())
            }
            Step::List(which, limit) => list(&consumer, &which.filter(), *limit),
            Step::Requeue(by, which) => {
                Answer::Count(self.by(*by).requeue(&which.filter()).unwrap())
            }
            Step::Replay(limit) => {
                let processed = Settled::Processed;
                let filter = Filter::default();
                let replayed = consumer
                    .requeue_some(processed, &filter, 0, *limit)
                    .unwrap();
                Answer::Count(replayed.requeued)
            }
            Step::Purge(by, which) => Answer::Count(self.by(*by).purge(&which.filter()).unwrap()),
            Step::Hold(key) => {
                let held = HeldKey {
                    key: Key::new(*key).unwrap(),
                    since: MADE,
                    message_id: MessageId::new("x").unwrap(),
                    reason: "attempts".into(),
                };
                consumer.write(vec![Write::HoldKey(held)]).unwrap();
                Answer::Done
            }
            Step::Free(key) => {
                let free = Write::FreeKey(Key::new(*key).unwrap());
                consumer.write(vec![free]).unwrap();
                Answer::Done
            }
            Step::Restart => {
                consumer.shutdown_clean(Vec::new()).unwrap();
                drop(consumer);
                self.restart()
            }
            Step::Crash => {
                drop(consumer);
                self.restart()
            }
        }
    }

    /// Whatever the file says of the handle that ends here is left as it is; its lock goes with it.
    fn restart(&mut self) -> Answer {
        self.held.clear();
        self.consumer = None;
        self.consumer = Some(open(self.path(), Role::Consumer));
        Answer::Done
    }

    fn foreign(&self, statement: &str, values: &[&dyn rusqlite::ToSql]) -> Answer {
        Answer::Count(self.foreign.execute(statement, values).unwrap() as u64)
    }

    fn seq_of(&self, id: &MessageId) -> Option<i64> {
        let find = "SELECT seq FROM message_queue WHERE message_id = ?";
        let found = self
            .foreign
            .query_row(find, [id.as_str()], |row| row.get(0));
        found.ok()
    }

    fn id_of(&self, seq: i64) -> String {
        let find = "SELECT message_id FROM message_queue WHERE seq = ?";
        let found = self.foreign.query_row(find, [seq], |row| row.get(0));
        found.unwrap()
    }

    fn enqueue_batch(&mut self, by: By, drafts: &[Draft]) -> Answer {
        let messages: Vec<Message> = drafts.iter().map(Draft::message).collect();
        let enqueued = match self.by(by).enqueue_batch(&messages) {
            Ok(enqueued) => enqueued,
            Err(error) => return refused(&error),
        };
        let of_ids = enqueued.iter().map(|one| &one.id);
        assert!(of_ids.eq(messages.iter().map(|message| &message.id)));
        let written = enqueued.into_iter().map(|one| one.written);
        Answer::Enqueued(written.map(|one| self.stored(one)).collect())
    }

    fn spool(&mut self, producer: usize, draft: &Draft) -> Answer {
        self.sequence += 1;
        let origin = Origin {
            producer: ProducerId::from_u128(producer as u128),
            epoch: Epoch(1),
            sequence: self.sequence,
        };
        let row = NewRow::pending(Arc::new(draft.message()), Some(origin));
        let written = self.other.write(vec![Write::Insert(row)]).unwrap();
        Answer::Enqueued(written.into_iter().map(|one| self.stored(one)).collect())
    }

    fn stored(&mut self, written: Written) -> Stored {
        match written {
            Written::Inserted { seq } => {
                assert!(seq > self.newest, "numbers rise and are never used again");
                self.newest = seq;
                Stored::Inserted
            }
            Written::Exists { state, .. } => Stored::Exists(match state {
                Existing::Pending => State::Pending,
                Existing::Processed => State::Processed,
                Existing::Dead => State::Dead,
            }),
            Written::Conflict => Stored::Conflict,
            other => panic!("{other:?}"),
        }
    }

    fn peek(&self, consumer: &SqliteQueue, limit: usize) -> Answer {
        let candidates = consumer.peek(limit).unwrap().into_iter();
        let peeked = candidates.map(|row| Peeked {
            id: row.message.id.to_string(),
            attempts: row.attempts,
            delivery: row.delivery,
            suspect: row.suspect,
            before: match row.before {
                Before::None => Some(Vec::new()),
                Before::Rows(rows) => Some(rows.iter().map(|&seq| self.id_of(seq)).collect()),
                Before::Many => None,
            },
        });
        Answer::Peeked(peeked.collect())
    }

    fn settle(&mut self, consumer: &SqliteQueue, ends: &[(usize, End)]) -> Answer {
        let places = Model::places(self.held.len(), ends);
        let settled: Vec<_> = places
            .iter()
            .map(|(place, end)| (&self.held[*place], end.settlement()))
            .collect();
        consumer.settle(&settled).unwrap();
        for (place, _) in places.iter().rev() {
            self.held.remove(*place);
        }
        Answer::Done
    }

    fn rows(&self) -> Vec<RowSeen> {
        let select = "SELECT message_id, processed, attempts, delivery, suspect, dead_reason, last_error, \
            key, priority FROM message_queue ORDER BY seq";
        let mut select = self.foreign.prepare_cached(select).unwrap();
        let rows = select.query_map((), |row| {
            Ok(RowSeen {
                id: row.get(0)?,
                state: match row.get(1)? {
                    0 => State::Pending,
                    1 => State::Processed,
                    _ => State::Dead,
                },
                attempts: row.get(2)?,
                delivery: row.get(3)?,
                suspect: row.get(4)?,
                reason: row.get(5)?,
                error: row.get::<_, Option<String>>(6)?.map(known_error),
                key: row.get(7)?,
                priority: row.get(8)?,
            })
        });
        rows.unwrap().collect::<Result<_, _>>().unwrap()
    }

    fn counts(&self) -> Counts {
        let stats = self.other.stats().unwrap();
        Counts {
            pending: stats.pending,
            ready: stats.ready,
            claimed: stats.claimed,
            delayed: stats.delayed,
            retries: stats.retries,
            held: stats.held,
            suspects: stats.suspects,
            processed: stats.processed,
            dead: stats.dead,
            dead_by_reason: stats.dead_by_reason,
        }
    }

    fn balances(&self) -> BTreeMap<usize, Balance> {
        let audits = self.other.audit().unwrap().into_iter();
        let balances = audits.map(|audit| {
            assert_eq!(audit.missing, 0, "{audit:?}");
            let producer = usize::try_from(audit.producer.as_u128()).unwrap();
            let balance = Balance {
                made: audit.by_queue,
                processed: audit.processed,
                dead: audit.dead,
                pending: audit.stored,
            };
            assert_eq!(audit.by_queue, audit.processed + audit.dead + audit.stored);
            (producer, balance)
        });
        balances.collect()
    }
}

/// A row, as far as a model knows it.
#[derive(Debug, PartialEq, Eq)]
struct RowSeen {
    id: String,
    state: State,
    attempts: u32,
    delivery: u32,
    suspect: bool,
    reason: Option<String>,
    error: Option<String>,
    key: Option<String>,
    priority: u8,
}

fn rows(model: &Model) -> Vec<RowSeen> {
    let rows = model.rows.iter().map(|row| RowSeen {
        id: row.id.clone(),
        state: row.state,
        attempts: row.attempts,
        delivery: row.delivery,
        suspect: row.suspect,
        reason: row.reason.map(str::to_owned),
        error: row.error.map(str::to_owned),
        key: row.key.map(str::to_owned),
        priority: row.priority,
    });
    rows.collect()
}

fn refused(error: &QueueError) -> Answer {
    Answer::Refused(error.code())
}

/// What is listed last died first; a limit cuts the end off.
fn list(queue: &SqliteQueue, filter: &Filter, limit: usize) -> Answer {
    let mut letters = queue.dead_letters(filter, usize::MAX).unwrap();
    let died: Vec<_> = letters.iter().map(|one| (one.died_at, one.seq)).collect();
    assert!(died.is_sorted_by(|one, next| one > next), "{died:?}");
    assert_eq!(
        queue.dead_letters(filter, limit).unwrap(),
        letters[..limit.min(letters.len())]
    );
    assert_eq!(queue.count_dead(filter).unwrap(), letters.len() as u64);
    letters.sort_by_key(|letter| letter.seq);
    let letters = letters.into_iter().map(|letter| {
        let shown = queue.dead_letter(&letter.id).unwrap().unwrap();
        assert_eq!((shown.seq, shown.payload.is_some()), (letter.seq, true));
        let reason = letter.reason.map(known_reason);
        (letter.id, letter.attempts, letter.delivery, reason)
    });
    Answer::Letters(letters.collect())
}

/// What our own settlements say, or that something is wrong with the row, which is said to people.
fn known_error(error: String) -> String {
    match error.as_str() {
        "again" | "dead" => error,
        _ => "damaged".to_owned(),
    }
}

fn known_reason(reason: String) -> &'static str {
    let known = ["attempts", "no_route", "expired", "invalid", "corrupt"];
    known.into_iter().find(|known| *known == reason).unwrap()
}
