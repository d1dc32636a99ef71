//! What is known of producers: kept outcomes, and counts that balance.

use std::sync::Arc;
use std::time::Duration;

use spoolway_proto::{Epoch, Outcome, ProducerId, Ranges, Timestamp};
use spoolway_queue::{
    Audit, Cursor, Due, Kept, NewRow, Origin, ProducerCounts, ProducerRecord, QueueOptions,
    RowCounts, RowState, SqliteQueue, Write,
};

use crate::support::{Fixture, instance, message};

const WHO: ProducerId = ProducerId::from_u128(5);

fn record(producer: ProducerId, kept: Vec<Kept>) -> ProducerRecord {
    ProducerRecord {
        producer,
        epoch: Epoch(4),
        instance: Some(instance()),
        counts: ProducerCounts {
            sent: 10,
            by_socket: 6,
            answered: 5,
            by_word: 1,
            err: 1,
            unheard: 0,
            missing: 0,
            rows: RowCounts::default(),
        },
        kept,
        since: Timestamp(77),
        updated_at: Timestamp(77),
    }
}

fn kept(sequence: u64, id: &str, outcome: Outcome) -> Kept {
    Kept {
        sequence,
        id: message(id).id,
        crc: message(id).crc(),
        outcome,
        reason: (outcome == Outcome::Dead).then(|| "expired".into()),
        counted: true,
    }
}

fn insert(id: &str, sequence: u64, state: RowState) -> Write {
    let origin = Some(Origin {
        producer: WHO,
        epoch: Epoch(1),
        sequence,
    });
    Write::Insert(NewRow {
        message: Arc::new(message(id)),
        origin,
        state,
    })
}

fn candidates_kept(queue: &SqliteQueue) -> Vec<Option<(Outcome, Option<String>)>> {
    let page = queue.candidates(Cursor::default(), 9).unwrap();
    page.candidates.into_iter().map(|row| row.kept).collect()
}

#[test]
fn producers_and_their_kept_outcomes_are_found_again() {
    let queue = Fixture::new();
    let outcomes = vec![
        kept(1, "a", Outcome::Processed),
        kept(2, "b", Outcome::Dead),
    ];
    queue
        .write(vec![Write::SaveProducer(record(WHO, outcomes.clone()))])
        .unwrap();
    for (n, id) in [(1, "a"), (2, "b"), (3, "c")] {
        queue
            .write(vec![insert(id, n, RowState::default())])
            .unwrap();
    }
    let dead = Some((Outcome::Dead, Some("expired".into())));
    let expected = [Some((Outcome::Processed, None)), dead, None];
    assert_eq!(candidates_kept(&queue), expected);
    let again = queue.again();
    assert_eq!(candidates_kept(&again), expected, "after a restart");
    let found = again.producer(WHO).unwrap().unwrap();
    assert_eq!(found.kept, outcomes);
    assert_eq!(found.counts.rows.stored, 3, "counted with the rows");
    assert_eq!(found.counts.sent, 10);
    assert_eq!(again.producer(ProducerId::from_u128(7)).unwrap(), None);

    queue
        .write(vec![Write::SaveProducer(record(WHO, Vec::new()))])
        .unwrap();
    assert_eq!(candidates_kept(&queue), [None, None, None], "confirmed");
    let rows = queue.producer(WHO).unwrap().unwrap().counts.rows;
    assert_eq!(rows.stored, 3, "saving a record leaves the row counts");
}

#[test]
fn an_outcome_of_the_same_number_with_another_id_and_content_is_not_its_own() {
    let queue = Fixture::new();
    let other = kept(1, "other", Outcome::Processed);
    queue
        .write(vec![
            Write::Keep {
                producer: WHO,
                kept: other,
            },
            insert("a", 1, RowState::default()),
        ])
        .unwrap();
    assert_eq!(candidates_kept(&queue), [None]);
}

#[test]
fn outcomes_kept_one_by_one_go_when_they_are_seen() {
    let queue = Fixture::new();
    let keep = |n| Write::Keep {
        producer: WHO,
        kept: kept(n, &format!("m{n}"), Outcome::Processed),
    };
    queue
        .write((1..=5).map(keep).chain([keep(5)]).collect())
        .unwrap();
    let found = queue.producer(WHO).unwrap().expect("known by its outcomes");
    assert_eq!(found.kept.len(), 5);
    queue
        .write(vec![Write::SaveProducer(ProducerRecord {
            kept: (1..=5)
                .map(|n| kept(n, &format!("m{n}"), Outcome::Processed))
                .collect(),
            ..record(WHO, Vec::new())
        })])
        .unwrap();
    let ranges: Ranges = [1, 2, 4].into_iter().collect();
    queue
        .write(vec![Write::Drop {
            producer: WHO,
            ranges,
        }])
        .unwrap();
    let left: Vec<u64> = queue.producer(WHO).unwrap().unwrap().kept[..]
        .iter()
        .map(|kept| kept.sequence)
        .collect();
    assert_eq!(left, [3, 5]);
}

fn audit(queue: &SqliteQueue) -> Audit {
    let audits = queue.audit().unwrap();
    assert_eq!(audits.len(), 1, "{audits:?}");
    audits[0]
}

#[test]
fn the_audit_counts_rows_where_they_are_made_and_settled() {
    let queue = Fixture::new();
    let producer = SqliteQueue::open(queue.path(), QueueOptions::default()).unwrap();
    let pending = RowState::default;
    let dead = RowState::Dead {
        attempts: 1,
        reason: "expired".into(),
        error: None,
    };
    producer
        .write(vec![insert("a", 1, pending()), insert("b", 2, pending())])
        .unwrap();
    queue
        .write(vec![
            insert("c", 3, pending()),
            insert("d", 4, dead),
            insert("a", 1, pending()),
        ])
        .unwrap();
    let rows = queue.producer(WHO).unwrap().unwrap().counts.rows;
    let expected = RowCounts {
        by_queue: 2,
        stored: 2,
        processed: 0,
        dead: 1,
    };
    assert_eq!(rows, expected, "a row that was there is not made again");

    let page = queue.candidates(Cursor::default(), 9).unwrap();
    let seqs: Vec<i64> = page.candidates.iter().map(|row| row.seq).collect();
    let processed = |seq| Write::Processed { seq, attempts: 1 };
    queue
        .write(vec![processed(seqs[0]), processed(seqs[0])])
        .unwrap();
    let again = Write::Retry {
        seq: seqs[1],
        attempts: 1,
        due: Due::Now,
        error: "not now".into(),
    };
    let late = Write::SettleById {
        id: message("c").id,
        crc: message("c").crc(),
        outcome: Outcome::Processed,
        reason: None,
    };
    queue.write(vec![again, late]).unwrap();
    let found = audit(&queue);
    assert_eq!((found.processed, found.dead, found.stored), (2, 1, 1));
    assert_eq!(found.missing, 0);

    queue
        .foreign()
        .execute("DELETE FROM message_queue WHERE message_id = 'b'", ())
        .unwrap();
    assert_eq!(audit(&queue).missing, 1, "a row that vanished is missed");
}

#[test]
fn a_write_that_fails_alone_counts_nothing() {
    let queue = Fixture::new();
    let taken = Write::SaveMeta {
        name: "identity".into(),
        value: None,
    };
    queue
        .write(vec![insert("a", 1, RowState::default()), taken])
        .unwrap_err();
    assert!(queue.audit().unwrap().is_empty());
}

#[test]
fn producers_are_forgotten_when_nothing_of_theirs_can_be_missed() {
    let queue = Fixture::new();
    queue
        .write(vec![
            insert("a", 1, RowState::default()),
            Write::SaveProducer(record(ProducerId::from_u128(6), Vec::new())),
            Write::SaveProducer(ProducerRecord {
                counts: ProducerCounts {
                    missing: 1,
                    ..ProducerCounts::default()
                },
                ..record(ProducerId::from_u128(7), Vec::new())
            }),
        ])
        .unwrap();
    assert_eq!(queue.cleanup_producers(Duration::ZERO).unwrap(), 1);
    let left: Vec<ProducerId> = queue.audit().unwrap().iter().map(|a| a.producer).collect();
    assert!(left.contains(&WHO), "its message is not processed");
    assert!(left.contains(&ProducerId::from_u128(7)), "an alarm stays");
}
