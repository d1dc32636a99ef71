//! One life of a process on a disk: a random workload, from open to the end of its power.

use std::path::Path;
use std::sync::Mutex;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use spoolway_faultfs::Disk;
use spoolway_proto::Message;
use spoolway_queue::{Claimed, QueueOptions, Settlement, SqliteQueue};

use crate::ledger::{End, Entry, Ledger, Span};
use crate::support::{foreign, message, queue_path};

/// Runs `steps` random calls on the queue in `dir`, all of which have to succeed, and adds them to
/// the ledger.
pub(crate) fn live(
    disk: &Disk,
    dir: &Path,
    options: &QueueOptions,
    ledger: &mut Ledger,
    (seed, steps): (u64, usize),
) {
    let mut life = Life::begin(disk, dir, options, ledger, seed);
    for _ in 0..steps {
        life.step();
    }
}

/// Messages of a life that ends behind a cleanup, and how many of them that deletes.
const STORED: usize = 240;
const CLEANED: usize = 200;

/// Stores messages, processes most of them, deletes those, and stores one more; says when it deleted.
pub(crate) fn live_for_a_cleanup(
    disk: &Disk,
    dir: &Path,
    options: &QueueOptions,
    ledger: &mut Ledger,
) -> Span {
    let mut life = Life::begin(disk, dir, options, ledger, 1);
    life.enqueue(STORED);
    let claimed = life.queue.dequeue(STORED).unwrap();
    let ids: Vec<_> = claimed[..CLEANED]
        .iter()
        .map(|claimed| claimed.message.id.clone())
        .collect();
    let settled: Vec<_> = claimed[..CLEANED]
        .iter()
        .map(|claimed| (claimed, Settlement::Processed))
        .collect();
    let ended = span(disk, || life.queue.settle(&settled).unwrap()).1;
    for entry in &mut life.ledger.entries {
        if ids.contains(&entry.message.id) {
            entry.ends.push((End::Processed, ended));
        }
    }
    let (deleted, cleaned) = span(disk, || life.queue.cleanup(Duration::ZERO).unwrap());
    assert_eq!(deleted, CLEANED as u64);
    life.ledger.cleanups.push(cleaned);
    life.enqueue(1);
    cleaned
}

fn open(dir: &Path, options: &QueueOptions) -> SqliteQueue {
    SqliteQueue::open(queue_path(dir), options.clone()).unwrap()
}

struct Life<'a> {
    disk: &'a Disk,
    dir: &'a Path,
    options: &'a QueueOptions,
    queue: SqliteQueue,
    claimed: Vec<Claimed>,
    ledger: &'a mut Ledger,
    rng: SmallRng,
    next: u64,
    name: u64,
}

impl<'a> Life<'a> {
    fn begin(
        disk: &'a Disk,
        dir: &'a Path,
        options: &'a QueueOptions,
        ledger: &'a mut Ledger,
        seed: u64,
    ) -> Self {
        Self {
            disk,
            dir,
            options,
            queue: open(dir, options),
            claimed: Vec::new(),
            ledger,
            rng: SmallRng::seed_from_u64(seed),
            next: 0,
            name: seed,
        }
    }

    fn step(&mut self) {
        match self.rng.random_range(0..100) {
            0..30 => self.enqueue(1),
            30..45 => {
                let many = self.rng.random_range(2..12);
                self.enqueue(many);
            }
            45..52 => self.enqueue_at_once(),
            52..65 => self.dequeue(),
            65..84 => self.settle(),
            84..87 => self.clean_up(),
            87..95 => self.checkpoint(),
            _ => self.reopen(),
        }
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.name * 1_000_000 + self.next
    }

    fn message(&mut self) -> Message {
        let number = self.number();
        // Mostly small, some of several pages.
        let bytes = match self.rng.random_range(0..10) {
            0 => self.rng.random_range(3_000..15_000),
            _ => self.rng.random_range(1..500),
        };
        let message = message(&format!("m{number}"), bytes);
        match self.rng.random_range(0..4) {
            0 => message.key(format!("k{}", self.rng.random_range(0..3))),
            _ => message,
        }
    }

    fn enqueue(&mut self, count: usize) {
        let messages: Vec<_> = (0..count).map(|_| self.message()).collect();
        let (sender, batch) = (0, self.number());
        let stored = span(self.disk, || self.queue.enqueue_batch(&messages).unwrap()).1;
        self.ledger
            .entries
            .extend(entries(messages, stored, sender, batch));
    }

    /// From several threads, so that some are committed together.
    fn enqueue_at_once(&mut self) {
        let added = Mutex::new(Vec::new());
        let senders: Vec<_> = (0..3)
            .map(|_| {
                let batches = (0..3).map(|_| (self.number(), self.message()));
                let batches: Vec<_> = batches.collect();
                (self.number(), batches)
            })
            .collect();
        std::thread::scope(|scope| {
            for (sender, batches) in senders {
                let (disk, queue, added) = (self.disk, &self.queue, &added);
                scope.spawn(move || {
                    for (batch, message) in batches {
                        let stored = span(disk, || queue.enqueue(&message).unwrap()).1;
                        let entries = entries(vec![message], stored, sender, batch);
                        added.lock().unwrap().extend(entries);
                    }
                });
            }
        });
        self.ledger.entries.extend(added.into_inner().unwrap());
    }

    fn dequeue(&mut self) {
        let limit = self.rng.random_range(1..8);
        self.claimed.extend(self.queue.dequeue(limit).unwrap());
    }

    fn settle(&mut self) {
        let count = self.rng.random_range(0..=self.claimed.len().min(5));
        let settled: Vec<_> = self.claimed.drain(..count).collect();
        let ends: Vec<_> = settled
            .iter()
            .map(|_| match self.rng.random_range(0..8) {
                0 => (Some(End::Dead), dead()),
                1 => (Some(End::Retry), retry()),
                2 => (None, Settlement::Release),
                _ => (Some(End::Processed), Settlement::Processed),
            })
            .collect();
        let pairs: Vec<_> = settled
            .iter()
            .zip(ends.iter().map(|(_, settlement)| settlement.clone()))
            .collect();
        let span = span(self.disk, || self.queue.settle(&pairs).unwrap()).1;
        for (claimed, (end, _)) in settled.iter().zip(ends) {
            let mut entries = self.ledger.entries.iter_mut();
            let entry = entries.find(|entry| entry.message.id == claimed.message.id);
            entry.unwrap().ends.extend(end.map(|end| (end, span)));
        }
    }

    fn clean_up(&mut self) {
        let span = span(self.disk, || self.queue.cleanup(Duration::ZERO).unwrap()).1;
        self.ledger.cleanups.push(span);
    }

    fn checkpoint(&mut self) {
        let modes = ["PASSIVE", "FULL", "RESTART", "TRUNCATE"];
        let mode = modes[self.rng.random_range(0..modes.len())];
        foreign(self.dir)
            .query_row(&format!("PRAGMA wal_checkpoint({mode})"), (), |_| Ok(()))
            .unwrap();
    }

    fn reopen(&mut self) {
        self.claimed.clear();
        self.queue.close();
        self.queue = open(self.dir, self.options);
    }
}

fn dead() -> Settlement {
    Settlement::Dead {
        reason: "refused".into(),
        error: None,
    }
}

fn retry() -> Settlement {
    Settlement::Retry {
        after: Duration::ZERO,
        error: "not yet".into(),
    }
}

fn entries(
    messages: Vec<Message>,
    stored: Span,
    sender: u64,
    batch: u64,
) -> impl Iterator<Item = Entry> {
    messages.into_iter().map(move |message| Entry {
        message,
        stored,
        sender,
        batch,
        ends: Vec::new(),
    })
}

/// Runs a call that is answered `Ok`, between two positions.
fn span<T>(disk: &Disk, call: impl FnOnce() -> T) -> (T, Span) {
    let begun = disk.position();
    let value = call();
    let answered = Some(disk.position());
    (value, Span { begun, answered })
}
