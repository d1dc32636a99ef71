//! `spoolway torture-producer`: one producer of the torture. It sends as fast as it may, and writes
//! down what each `send` returned, so that its parent knows even when it was killed.
//!
//! Its standard input says `slow`, `go` and `end`; when that closes, its parent is gone and it ends.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use spoolway::client::{Fate, QueueReason};
use spoolway::{Producer, Receipt, SendError};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use super::content::Content;
use super::journal::{CONFLICT, Entry, NOT_TAKEN, Told, UNKNOWN};
use crate::args::TortureProducer;
use crate::failure::{Failure, exit};
use crate::paths::Places;
use crate::program::words_of_parent;

/// How many messages a run has on their way at most: one of these. A consumer's window is 1,024.
const OUTSTANDING_MAX: [usize; 5] = [1, 16, 128, 512, 1_500];
/// Numbers that are reserved at a time.
const RESERVE: u32 = 256;
/// What was not sent in its time is sent later, but never more than this much of it.
const BURST: Duration = Duration::from_millis(50);
/// How much less is sent while the backlog is long.
const SLOW: u32 = 50;
/// How long what is unsettled may take at the end.
const CLOSE_MAX: Duration = Duration::from_secs(20);

/// Sends until it is told to end.
pub(crate) async fn run(places: Places, args: TortureProducer) -> Result<u8, Failure> {
    let mut commands = words_of_parent()?;
    let journal = File::options()
        .create(true)
        .append(true)
        .open(&args.journal);
    let journal = journal.map_err(|error| Failure::io("cannot write the journal", &error))?;
    let mut rng = SmallRng::seed_from_u64(args.seed ^ u64::from(args.run));
    let producer = Producer::open(&places.socket, &places.database).await?;
    let mut run = Run {
        content: Content {
            seed: args.seed,
            keys: args.keys,
        },
        run: args.run,
        next: 0,
        reserved: 0,
        of_key: vec![0; args.keys as usize],
        outstanding: JoinSet::new(),
        outstanding_max: OUTSTANDING_MAX[rng.random_range(0..OUTSTANDING_MAX.len())],
        journal,
        text: String::new(),
    };
    let fast = Duration::from_secs(1) / args.rate.max(1);
    let mut apart = fast;
    let mut due = Instant::now();
    let mut ending = false;
    while !ending || !run.outstanding.is_empty() {
        tokio::select! {
            biased;
            command = commands.recv() => match command.as_deref() {
                Some("slow") => apart = fast * SLOW,
                Some("go") => apart = fast,
                Some("end") => ending = true,
                _ => std::process::exit(exit::FAILED.into()),
            },
            Some(told) = run.outstanding.join_next() => run.write_down(told.ok())?,
            () = sleep_until(due), if !ending && run.has_room() => {
                due = due.max(Instant::now() - BURST);
                while due <= Instant::now() && run.has_room() {
                    run.send(&producer)?;
                    due += apart;
                }
            }
        }
    }
    producer.close(CLOSE_MAX).await;
    run.write(&Entry::End(run.next))?;
    Ok(exit::OK)
}

/// What a `send` returned, and when.
struct Answered {
    n: u32,
    answer: Result<Receipt, SendError>,
    took: Duration,
}

struct Run {
    content: Content,
    run: u32,
    next: u32,
    reserved: u32,
    /// How many messages of each key were sent.
    of_key: Vec<u32>,
    outstanding: JoinSet<Answered>,
    outstanding_max: usize,
    journal: File,
    text: String,
}

impl Run {
    fn has_room(&self) -> bool {
        self.outstanding.len() < self.outstanding_max
    }

    fn send(&mut self, producer: &Producer) -> Result<(), Failure> {
        let n = self.next;
        if n == self.reserved {
            self.reserved += RESERVE;
            self.write(&Entry::Reserve(self.reserved))?;
        }
        self.next += 1;
        let of_key = match self.content.draw(self.run, n).key {
            Some(key) => {
                let of_key = &mut self.of_key[key as usize];
                *of_key += 1;
                *of_key - 1
            }
            None => 0,
        };
        let message = self.content.message(self.run, n, of_key).map_err(|error| {
            Failure::new(exit::FAILED, "no_message", "cannot make a message")
                .because(error.to_string())
        })?;
        let started = Instant::now();
        let sending = producer.send(message);
        self.outstanding.spawn(async move {
            let answer = sending.await;
            Answered {
                n,
                answer,
                took: started.elapsed(),
            }
        });
        Ok(())
    }

    /// Writes down an answer, and whatever else is there by now, with one write.
    fn write_down(&mut self, first: Option<Answered>) -> Result<(), Failure> {
        self.text.clear();
        let mut answered = first;
        loop {
            if let Some(answered) = answered {
                // Writing to a string cannot fail.
                let _ = writeln!(self.text, "{}", entry(answered));
            }
            match self.outstanding.try_join_next() {
                Some(next) => answered = next.ok(),
                None => break,
            }
        }
        let text = std::mem::take(&mut self.text);
        self.append(&text)?;
        self.text = text;
        Ok(())
    }

    fn write(&mut self, entry: &Entry) -> Result<(), Failure> {
        self.append(&format!("{entry}\n"))
    }

    /// A write that has returned survives the end of the process, which is all that is asked here.
    fn append(&mut self, text: &str) -> Result<(), Failure> {
        self.journal
            .write_all(text.as_bytes())
            .map_err(|error| Failure::io("cannot write the journal", &error))
    }
}

fn entry(Answered { n, answer, took }: Answered) -> Entry {
    let told = match answer {
        Ok(receipt) => Told::Ok {
            path: receipt.path.to_string(),
            outcome: receipt.outcome.to_string(),
        },
        Err(error) => Told::Err {
            fate: match error.fate {
                Fate::NotTaken => NOT_TAKEN.to_owned(),
                Fate::Unknown => UNKNOWN.to_owned(),
            },
            code: match error.queue.as_deref() {
                Some(QueueReason::Conflict) => CONFLICT.to_owned(),
                _ => error.code.to_string(),
            },
        },
    };
    let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
    Entry::Told { n, told, micros }
}
