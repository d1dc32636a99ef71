//! Takes message files, slice by slice, folder by folder, and hands them to the machine.

use std::collections::{HashSet, VecDeque};
use std::ffi::OsString;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::file::Found;
use super::folders::{Folder, Folders};
use super::hand::Hand;
use super::news::News;
use super::settle::Settled;
use crate::ConsumerError;
use crate::consumer::unblocked;
use crate::health::Guard;
use crate::machine::Event;
use crate::shared::{Ear, Shared};

/// What the watch has missed, or cannot see, is found within this time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Files that are read before the first of them is handed over.
const READ_FILES_MAX: usize = 64;
/// The same in bytes, but for one.
const READ_BYTES_MAX: u64 = 16 << 20;
/// Files of a folder that cannot be taken; with more of them it waits for the next look.
const PASSED_MAX: usize = 16_384;

pub(crate) struct Taker {
    shared: Arc<Shared>,
    root: PathBuf,
    hand: Arc<Hand>,
    settled: mpsc::UnboundedSender<Settled>,
}

/// A folder to be taken from.
struct Due {
    folder: Arc<Folder>,
    /// It changed since its names were read.
    again: bool,
    /// What could not be taken, until everything else was: the first in the order must not be in the way for ever.
    passed: HashSet<Box<str>>,
}

/// Takes until told to stop. Nothing that was read is lost then: what was not handed over stays where it is.
pub(crate) async fn run(taker: Taker, stop: oneshot::Receiver<()>, unread: mpsc::Sender<()>) {
    let guard = Guard {
        shared: &taker.shared,
        what: "taking from the spool directory",
    };
    tokio::select! {
        biased;
        _ = stop => {}
        Err(error) = taker.take() => taker.shared.fail(error),
    }
    guard.done();
    drop(unread);
}

impl Taker {
    pub(crate) fn new(
        shared: &Arc<Shared>,
        root: PathBuf,
        hand: &Arc<Hand>,
        settled: mpsc::UnboundedSender<Settled>,
    ) -> Self {
        Self {
            shared: Arc::clone(shared),
            root,
            hand: Arc::clone(hand),
            settled,
        }
    }

    async fn take(&self) -> Result<(), ConsumerError> {
        let news = Arc::new(News::default());
        let folders = {
            let (root, hand, news) = (self.root.clone(), Arc::clone(&self.hand), Arc::clone(&news));
            unblocked(move || Folders::new(root, hand, &news)).await?
        };
        let folders = Arc::new(Mutex::new(folders));
        let mut due: VecDeque<Due> = VecDeque::new();
        let mut look_at = Instant::now();
        loop {
            if due.is_empty() {
                // When time is up, everything is looked at.
                let _ = timeout_at(look_at, news.came.notified()).await;
            }
            if Instant::now() >= look_at {
                news.note_all();
            }
            if let Some(changed) = news.take() {
                if changed.all {
                    look_at = Instant::now() + LOOK_EVERY;
                }
                let found = with(&folders, move |folders| folders.look(&changed)).await?;
                found.into_iter().for_each(|folder| note(&mut due, folder));
            }
            let Some(mut next) = due.pop_front() else {
                continue;
            };
            next.again = false;
            let more = self.take_slice(&folders, &mut next).await?;
            if more || next.again {
                // Behind the others, so that a full folder holds up none of them.
                due.push_back(next);
            }
        }
    }

    /// Takes the next files of a folder; says whether there are more behind them.
    async fn take_slice(
        &self,
        folders: &Arc<Mutex<Folders>>,
        due: &mut Due,
    ) -> Result<bool, ConsumerError> {
        let (folder, passed) = (Arc::clone(&due.folder), std::mem::take(&mut due.passed));
        let sliced = with(folders, move |folders| {
            (folders.slice(&folder, &passed), passed)
        });
        let slice;
        (slice, due.passed) = sliced.await?;
        let mut names: VecDeque<Box<str>> = slice.names.into();
        while !names.is_empty() {
            let room = self.hand.has_room().await;
            self.shared.has_room().await;
            let count = room.min(READ_FILES_MAX).min(names.len());
            let mut some: VecDeque<Box<str>> = names.drain(..count).collect();
            let (folder, shared) = (Arc::clone(&due.folder), Arc::clone(&self.shared));
            let reading = with(folders, move |folders| {
                let (found, passed) = read(folders, &folder, &mut some, &shared);
                (found, passed, some)
            });
            let (found, passed, mut unread) = reading.await?;
            unread.append(&mut names);
            names = unread;
            due.passed.extend(passed);
            self.hand_over(found);
        }
        Ok(slice.more && due.passed.len() < PASSED_MAX)
    }

    fn hand_over(&self, found: Vec<Found>) {
        let mut turn = self.shared.turn();
        for found in found {
            match found {
                Found::Message(file, message, crc) => {
                    self.hand.take(file.path(), file.bytes());
                    let settled = self.settled.clone();
                    let conn = self.shared.connect(Ear::Caller(Box::new(move |reply| {
                        let crc = Some(crc);
                        // Without a receiver the consumer is gone, and the file is the next one's.
                        let _ = settled.send(Settled { file, reply, crc });
                    })));
                    turn.tell(Event::Arrived {
                        conn,
                        message: Ok(Arc::new(*message)),
                        answer: true,
                    });
                }
                Found::Settled(file, reply, crc) => {
                    self.hand.take(file.path(), file.bytes());
                    // As above.
                    let _ = self.settled.send(Settled { file, reply, crc });
                }
                Found::LeftAlone(_) | Found::Nothing => {}
            }
        }
        turn.end();
    }
}

/// A folder has something new.
fn note(due: &mut VecDeque<Due>, folder: Arc<Folder>) {
    match due.iter_mut().find(|due| due.folder.name == folder.name) {
        Some(due) => due.again = true,
        None => due.push_back(Due {
            folder,
            again: false,
            passed: HashSet::new(),
        }),
    }
}

/// Reads files until they are enough, and takes their names out; the others it returns are passed over. Blocks.
fn read(
    folders: &mut Folders,
    folder: &Arc<Folder>,
    names: &mut VecDeque<Box<str>>,
    shared: &Shared,
) -> (Vec<Found>, Vec<Box<str>>) {
    let (mut some, mut passed, mut bytes) = (Vec::new(), Vec::new(), 0);
    while bytes < READ_BYTES_MAX
        && let Some(name) = names.pop_front()
    {
        let found = Found::read(folder, &name, shared);
        match &found {
            Found::Message(file, ..) | Found::Settled(file, ..) => bytes += file.bytes(),
            Found::LeftAlone(why) => {
                folders.left_alone(folder, *why, &OsString::from(format!("{name}.json")));
                passed.push(name);
            }
            Found::Nothing => passed.push(name),
        }
        some.push(found);
    }
    (some, passed)
}

/// On a thread that may block.
async fn with<T: Send + 'static>(
    folders: &Arc<Mutex<Folders>>,
    work: impl FnOnce(&mut Folders) -> T + Send + 'static,
) -> Result<T, ConsumerError> {
    let folders = Arc::clone(folders);
    unblocked(move || work(&mut folders.lock().unwrap_or_else(PoisonError::into_inner))).await
}
