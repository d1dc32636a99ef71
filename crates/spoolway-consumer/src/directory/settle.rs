//! Settles message files: the error, the ack, and then the file goes. In this order, whatever happens in between.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use spoolway_proto::{Code, Reply};
use spoolway_queue::Durability;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use super::ack::{Ack, Failure, Verdict, make_beside, put, sync};
use super::failed;
use super::file::Taken;
use super::hand::Hand;
use crate::ConsumerError;
use crate::consumer::unblocked;
use crate::health::{Guard, Health};
use crate::shared::{Shared, wall};

/// Files settled together: they share the sync of their directories.
const GROUP_MAX: usize = 64;
/// Threads that sync them.
const SYNCS_MAX: usize = 8;
/// Between two tries to write what could not be written.
const RETRY_EVERY: Duration = Duration::from_secs(1);

/// A file whose outcome is known.
pub(crate) struct Settled {
    pub(crate) file: Taken,
    pub(crate) reply: Reply,
    pub(crate) crc: Option<u32>,
}

/// Settles until nobody is left who could answer.
pub(crate) async fn run(
    shared: Arc<Shared>,
    hand: Arc<Hand>,
    answered: mpsc::UnboundedReceiver<Settled>,
) {
    let guard = Guard {
        shared: &shared,
        what: "settling in the spool directory",
    };
    let durable = shared.config.durability == Durability::Full;
    if let Err(error) = settle_all(&hand, durable, answered).await {
        shared.fail(error);
    }
    guard.done();
}

async fn settle_all(
    hand: &Arc<Hand>,
    durable: bool,
    mut answered: mpsc::UnboundedReceiver<Settled>,
) -> Result<(), ConsumerError> {
    let health = Arc::new(Health::new("writing acks into the spool directory"));
    let mut waiting: Vec<Settled> = Vec::new();
    // When what failed is tried again; what comes meanwhile joins it, bounded by what may be in hand.
    let mut retry_at: Option<Instant> = None;
    loop {
        let received = answered.recv_many(&mut waiting, GROUP_MAX);
        let last = match retry_at {
            None => received.await == 0,
            Some(at) => match timeout_at(at, received).await {
                Ok(0) => true,
                Ok(_) => continue,
                Err(_) => false,
            },
        };
        if !waiting.is_empty() {
            let (group, hand) = (std::mem::take(&mut waiting), Arc::clone(hand));
            let health = Arc::clone(&health);
            waiting = unblocked(move || {
                let mut left = Vec::new();
                health.noted(settle(group, &hand, durable, &mut left));
                left
            })
            .await?;
        }
        retry_at = (!waiting.is_empty()).then(|| Instant::now() + RETRY_EVERY);
        if last {
            if !waiting.is_empty() {
                let count = waiting.len();
                tracing::error!(
                    "{count} message files stay for the next consumer: no ack could be written"
                );
            }
            return Ok(());
        }
    }
}

/// Settles a group; what could not be settled is `left`, with the last reason. Blocks.
fn settle(
    group: Vec<Settled>,
    hand: &Hand,
    durable: bool,
    left: &mut Vec<Settled>,
) -> Result<(), ConsumerError> {
    let (mut written, mut result) = (Vec::new(), Ok(()));
    let (group, over): (Vec<_>, Vec<_>) = group.into_iter().partition(Settled::is_awaited);
    over.iter().for_each(|settled| settled.release(hand));
    for (settled, wrote) in write(group, durable) {
        match wrote {
            Ok(()) => written.push(settled),
            Err(error) => {
                result = Err(error);
                left.push(settled);
            }
        }
    }
    let places: BTreeSet<PathBuf> = written
        .iter()
        .flat_map(|settled| settled.synced_places(durable))
        .collect();
    let synced = places
        .iter()
        .try_for_each(|place| sync(place).map_err(failed("sync", place)));
    if synced.is_err() {
        left.append(&mut written);
        return synced;
    }
    for settled in written {
        match settled.remove() {
            Ok(()) => settled.release(hand),
            Err(error) => {
                result = Err(error);
                left.push(settled);
            }
        }
    }
    result
}

/// Writes errors and acks, on some threads: syncs that run beside each other share the journal's commits, and a group
/// takes a thirtieth of the time.
fn write(group: Vec<Settled>, durable: bool) -> Vec<(Settled, Result<(), ConsumerError>)> {
    let threads = if durable { SYNCS_MAX } else { 1 };
    let each = group.len().div_ceil(threads).max(1);
    let write = |some: &[Settled]| -> Vec<_> {
        some.iter().map(|settled| settled.write(durable)).collect()
    };
    let (first, rest) = group.split_at(each.min(group.len()));
    let results: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = rest
            .chunks(each)
            .map(|some| {
                (
                    some,
                    thread::Builder::new().spawn_scoped(scope, || write(some)),
                )
            })
            .collect();
        let mut results = write(first);
        for (some, thread) in threads {
            let wrote = thread.ok().and_then(|thread| thread.join().ok());
            // The system gives no thread.
            results.extend(wrote.unwrap_or_else(|| write(some)));
        }
        results
    });
    group.into_iter().zip(results).collect()
}

impl Settled {
    /// Whether there is somebody to be told. Not where it was not taken for a reason that passes: its file stays, and
    /// is found again. Not when its folder is gone.
    fn is_awaited(&self) -> bool {
        let passes = matches!(self.reply.code, Some(Code::Unavailable | Code::RateLimited));
        !passes && self.file.folder.exists()
    }

    fn release(&self, hand: &Hand) {
        hand.release(&self.file.path(), self.file.bytes());
    }

    /// The directories whose names must be on disk before the file goes. An error holds all that is left of it.
    fn synced_places(&self, durable: bool) -> Vec<PathBuf> {
        let folder = &self.file.folder;
        let error = Verdict::from(&self.reply).is_failure();
        let error = error.then(|| folder.errors());
        let ack = durable.then(|| folder.acks());
        error.into_iter().chain(ack).collect()
    }

    /// Writes its error, if it is one, and its ack.
    fn write(&self, durable: bool) -> Result<(), ConsumerError> {
        let verdict = Verdict::from(&self.reply);
        let file = &self.file;
        let id = match self.reply.id.as_str() {
            "" => &file.name,
            id => id,
        };
        let time = wall().0;
        if verdict.is_failure() {
            let original = self.original();
            let failure = Failure {
                id,
                folder: &file.folder.name,
                file: &file.name,
                verdict: &verdict,
                time,
                content: self.content(),
                original: original.as_deref(),
            };
            let name = self.error_name("json");
            self.put_in(file.folder.errors(), &name, &failure, true)?;
        }
        let ack = Ack::new(id, verdict, time, self.crc);
        let name = format!("{}.ack", file.name);
        self.put_in(file.folder.acks(), &name, &ack, durable)
    }

    fn put_in(
        &self,
        place: PathBuf,
        name: &str,
        line: &impl serde::Serialize,
        durable: bool,
    ) -> Result<(), ConsumerError> {
        let name = OsStr::new(name);
        let put = || put(&place, name, line, durable);
        let written = match put() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                // Somebody has removed the directory.
                make_beside(&self.file.folder.messages(), &place).and_then(|()| put())
            }
            written => written,
        };
        written.map_err(failed("write into", &place))
    }

    /// Its outcome is safe: the file goes, unless its name is another one's by now.
    fn remove(&self) -> Result<(), ConsumerError> {
        if !self.file.is_there() {
            return Ok(());
        }
        let path = self.file.path();
        let removed = match self.original() {
            Some(name) if self.reply.outcome.is_none() => {
                fs::rename(&path, self.file.folder.errors().join(name))
            }
            _ => fs::remove_file(&path),
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(failed("remove from", Path::new(&path))(error))
            }
            _ => Ok(()),
        }
    }

    fn content(&self) -> Option<&str> {
        std::str::from_utf8(self.file.content.as_ref()?).ok()
    }

    /// Where a file goes that is no text, or too large to be copied.
    fn original(&self) -> Option<String> {
        self.content()
            .is_none()
            .then(|| self.error_name("original"))
    }

    /// By the time of the file, so that a second try has the same name.
    fn error_name(&self, extension: &str) -> String {
        let file = &self.file;
        format!("{}-{}.{extension}", file.modified().0, file.name)
    }
}
