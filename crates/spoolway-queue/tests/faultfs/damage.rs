//! Files that rotted: whatever is flipped or cut off, what is delivered is what was stored, each
//! once, and nothing panics or hangs.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use spoolway_faultfs::{Disk, Image, Loss, Replay};
use spoolway_proto::Message;
use spoolway_queue::{Durability, QueueError, Settlement, SqliteQueue};

use crate::support::{
    DEADLINE, for_each_seed, foreign, message, options, queue_path, report, tempdir,
};

const PAGE: usize = 4_096;

/// The type of such a page.
const INDEX_LEAF: u8 = 10;

/// Flips in each page beside those in its header.
const FLIPS: usize = 24;

/// What became of the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Fate {
    /// Everything was delivered.
    Whole,
    /// Some became dead letters, and the rest was delivered.
    Buried,
    /// Some neither delivered nor buried: what says that they are there is gone.
    Missed,
    /// The file was refused, or a call on it, with an error.
    Refused,
}

#[test]
fn a_file_that_rotted_anywhere_delivers_nothing_false() {
    let stored = full_file(false);
    let size = stored.image.files["q.db"].len();
    let damages = |rng: &mut SmallRng| {
        let mut damages = Vec::new();
        for page in 0..size / PAGE {
            let start = page * PAGE;
            // Page 1 begins with the header of the file.
            let header = if page == 0 { 112 } else { 16 };
            damages.extend((0..header).map(|at| Damage::Flip("q.db", start + at)));
            let rest = (0..FLIPS).map(|_| Damage::Flip("q.db", start + rng.random_range(0..PAGE)));
            damages.extend(rest);
            damages.push(Damage::Noise("q.db", start..start + PAGE));
            damages.push(Damage::Zeros("q.db", start..start + PAGE));
            damages.push(Damage::End("q.db", start));
            damages.push(Damage::End("q.db", start + rng.random_range(1..PAGE)));
        }
        damages
    };
    survey("file", &stored, damages);
}

#[test]
fn an_index_that_rotted_anywhere_ends_and_delivers_nothing_twice() {
    let stored = full_file(false);
    let data = &stored.image.files["q.db"];
    let damages = |rng: &mut SmallRng| {
        let leaves = (1..data.len() / PAGE).filter(|page| data[page * PAGE] == INDEX_LEAF);
        let bytes = leaves.flat_map(|page| page * PAGE..(page + 1) * PAGE);
        let bytes = bytes.filter(|&at| data[at] != 0 && rng.random_ratio(1, 4));
        bytes.map(|at| Damage::Flip("q.db", at)).collect()
    };
    survey("index", &stored, damages);
}

#[test]
fn a_wal_that_rotted_anywhere_delivers_nothing_false() {
    let stored = full_file(true);
    let size = stored.image.files["q.db-wal"].len();
    let damages = |rng: &mut SmallRng| {
        let mut damages: Vec<_> = (0..32).map(|at| Damage::Flip("q.db-wal", at)).collect();
        let frames = (size - 32) / (PAGE + 24);
        for frame in [0, 1, frames / 2, frames - 2, frames - 1] {
            let start = 32 + frame * (PAGE + 24);
            damages.extend((0..24).map(|at| Damage::Flip("q.db-wal", start + at)));
            let inside = (0..FLIPS).map(|_| start + 24 + rng.random_range(0..PAGE));
            damages.extend(inside.map(|at| Damage::Flip("q.db-wal", at)));
            damages.push(Damage::End("q.db-wal", start + rng.random_range(0..PAGE)));
            damages.push(Damage::Zeros("q.db-wal", start..start + 24));
        }
        damages
    };
    survey("WAL", &stored, damages);
}

#[test]
fn a_flip_in_a_payload_buries_that_message_alone() {
    let stored = full_file(false);
    let data = &stored.image.files["q.db"];
    let mut buried = 0;
    for id in stored.messages.keys() {
        // Only of small messages the whole content is in one place.
        let text = id.repeat(30);
        let at = data.windows(90).position(|found| found == text.as_bytes());
        let Some(at) = at else { continue };
        let (fate, delivered) = within_deadline(&stored, Damage::Flip("q.db", at + 5), 1);
        if fate == Fate::Whole {
            // It was settled before.
            continue;
        }
        assert_eq!(
            (fate, delivered),
            (Fate::Buried, stored.pending - 1),
            "{id}"
        );
        buried += 1;
    }
    assert!(buried > 20, "{buried}");
}

#[derive(Clone, Debug)]
enum Damage {
    /// One bit of that byte.
    Flip(&'static str, usize),
    Noise(&'static str, std::ops::Range<usize>),
    Zeros(&'static str, std::ops::Range<usize>),
    /// The file ends there.
    End(&'static str, usize),
}

impl Damage {
    fn to(&self, image: &mut Image, rng: &mut SmallRng) {
        let mut file = |name: &str| image.files.remove(name).unwrap();
        let (name, data) = match self {
            Self::Flip(name, at) => {
                let mut data = file(name);
                data[*at] ^= 1 << rng.random_range(0..8);
                (name, data)
            }
            Self::Noise(name, range) => {
                let mut data = file(name);
                data[range.clone()].fill_with(|| rng.random());
                (name, data)
            }
            Self::Zeros(name, range) => {
                let mut data = file(name);
                data[range.clone()].fill(0);
                (name, data)
            }
            Self::End(name, at) => {
                let mut data = file(name);
                data.truncate(*at);
                (name, data)
            }
        };
        image.files.insert((*name).into(), data);
    }
}

/// Tries each damage, every second one by the seed 0 and the others by the seed 1.
fn survey(what: &str, stored: &Stored, damages: impl Fn(&mut SmallRng) -> Vec<Damage> + Sync) {
    for_each_seed(2, |seed| {
        let mut fates: BTreeMap<Fate, usize> = BTreeMap::new();
        let mut rng = SmallRng::seed_from_u64(seed);
        let half = damages(&mut rng)
            .into_iter()
            .skip(seed as usize % 2)
            .step_by(2);
        for damage in half {
            let (fate, _) = within_deadline(stored, damage, rng.random());
            *fates.entry(fate).or_default() += 1;
        }
        report(&format!("{what}, seed {seed}: {fates:?}"));
        assert!(
            fates.contains_key(&Fate::Whole) && fates.len() > 1,
            "{fates:?}"
        );
    });
}

/// A file before it rots.
struct Stored {
    image: Image,
    /// All that was ever in it, by id.
    messages: HashMap<String, Message>,
    /// How many are pending.
    pending: usize,
}

/// A queue with every kind of page; a consumer gave it up, or was killed.
fn full_file(killed: bool) -> Stored {
    let dir = tempdir();
    let disk = Disk::under(&dir).unwrap();
    let queue = open(&dir).unwrap();
    let mut messages = Vec::new();
    for n in 0..100_usize {
        // Every tenth over several pages.
        let bytes = if n.is_multiple_of(10) { 9_000 } else { 100 + n };
        let mut message = message(&format!("m{n:02}"), bytes).priority([50, 10, 90][n % 3]);
        if n.is_multiple_of(4) {
            message = message.key(format!("k{}", n % 5));
        }
        messages.push(message);
    }
    // A few commits, so that the WAL is of few frames.
    for batch in messages.chunks(25) {
        queue.enqueue_batch(batch).unwrap();
    }
    // Free pages, processed rows, dead letters.
    settle(&queue, 30, Settlement::Processed);
    queue.cleanup(Duration::ZERO).unwrap();
    settle(&queue, 5, Settlement::Processed);
    let (reason, error) = ("refused".to_owned(), None);
    settle(&queue, 5, Settlement::Dead { reason, error });
    let pending = messages.len() - 40;
    let held = killed.then_some(queue);
    if !killed {
        // The last to close copies the WAL into the file; the queue's readers may not write.
        let conn = foreign(dir.path());
        conn.query_row("PRAGMA wal_checkpoint", (), |_| Ok(()))
            .unwrap();
    }
    let log = disk.log();
    let mut replay = Replay::new();
    replay.advance(&log, log.len());
    let (seed, sector, kept) = (0, 512, 1.0);
    drop(held);
    Stored {
        image: replay.image(Loss { seed, sector, kept }),
        messages: messages
            .into_iter()
            .map(|sent| (sent.id.to_string(), sent))
            .collect(),
        pending,
    }
}

fn settle(queue: &SqliteQueue, count: usize, settlement: Settlement) {
    let claimed = queue.dequeue(count).unwrap();
    assert_eq!(claimed.len(), count);
    let settled = claimed.iter().map(|row| (row, settlement.clone()));
    queue.settle(&settled.collect::<Vec<_>>()).unwrap();
}

fn open(dir: &tempfile::TempDir) -> Result<SqliteQueue, QueueError> {
    SqliteQueue::open(queue_path(dir.path()), options(Durability::Full))
}

/// What became of it, and how many were delivered.
fn within_deadline(stored: &Stored, damage: Damage, seed: u64) -> (Fate, usize) {
    let mut rng = SmallRng::seed_from_u64(seed);
    let mut image = stored.image.clone();
    damage.to(&mut image, &mut rng);
    let dir = tempdir();
    image.write_to(&dir).unwrap();
    let _disk = Disk::under(&dir).unwrap();
    let (sender, done) = mpsc::channel();
    let run = std::thread::spawn(move || {
        let (delivered, buried, error) = drain(&dir);
        sender.send((delivered, buried, error)).ok();
    });
    let (delivered, buried, error) = match done.recv_timeout(DEADLINE) {
        Ok(done) => done,
        Err(mpsc::RecvTimeoutError::Timeout) => panic!("{damage:?}, seed {seed}: it hangs"),
        Err(mpsc::RecvTimeoutError::Disconnected) => {
            drop(run.join());
            panic!("{damage:?}, seed {seed}: see above");
        }
    };
    let mut ids: Vec<_> = delivered.iter().map(|row| row.id.as_str()).collect();
    ids.sort_unstable();
    let count = ids.len();
    ids.dedup();
    assert_eq!(count, ids.len(), "{damage:?}, seed {seed}: delivered twice");
    for found in &delivered {
        let same =
            |stored: &Message| stored.r#type == found.r#type && stored.payload == found.payload;
        let known = stored.messages.get(found.id.as_str());
        assert!(
            known.is_some_and(same),
            "{damage:?}, seed {seed}: {} is false",
            found.id
        );
    }
    let fate = match error {
        Some(error) => {
            let code = error.code();
            let clear = [
                "queue_corrupt",
                "queue_not_ours",
                "queue_too_new",
                // A header can say that the file is only to be read, …
                "queue_denied",
                // … and a schema lack a column that is asked for.
                "queue_statement",
            ];
            assert!(clear.contains(&code), "{damage:?}, seed {seed}: {error:?}");
            Fate::Refused
        }
        None if count >= stored.pending => Fate::Whole,
        None if count + buried >= stored.pending => Fate::Buried,
        None => Fate::Missed,
    };
    (fate, count)
}

/// What is delivered, how many rows were damaged, and the error that ended it.
fn drain(dir: &tempfile::TempDir) -> (Vec<Arc<Message>>, usize, Option<QueueError>) {
    let (mut delivered, mut buried) = (Vec::new(), 0);
    let mut drain = || -> Result<(), QueueError> {
        let queue = open(dir)?;
        loop {
            let claimed = queue.dequeue(1_000)?;
            if claimed.is_empty() {
                break;
            }
            let settled = claimed.iter().map(|row| (row, Settlement::Processed));
            let settled: Vec<_> = settled.collect();
            delivered.extend(claimed.iter().map(|row| Arc::clone(&row.message)));
            queue.settle(&settled)?;
            // Some of them twice, as the caller will find.
            if delivered.len() > 200 {
                break;
            }
        }
        let dead = queue.dead_letters(&spoolway_queue::Filter::default(), 1_000)?;
        buried = dead
            .iter()
            .filter(|letter| letter.reason.as_deref() != Some("refused"))
            .count();
        queue.stats()?;
        queue.cleanup(Duration::ZERO)?;
        Ok(())
    };
    let error = drain().err();
    (delivered, buried, error)
}
