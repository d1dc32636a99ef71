//! The spool directory: a file renamed into place is a message, and a file beside it says what became of it.
//!
//! ```text
//! DIR/<folder>/messages/<name>.json   taken when it is renamed into place, removed when its outcome is safe
//! DIR/<folder>/acks/<name>.ack        its outcome: one JSON object
//! DIR/<folder>/errors/<time>-<name>.json   what was refused or is dead: the reason, and the content
//! ```
//!
//! One task takes files: what the watch has noticed, and everything once a second. Each is handed to the machine as
//! a message without hello, under a number of its own, so that its reply names it. The other task settles:
//! error, ack, sync, and only then the message file goes. What a kill leaves behind, step by step:
//!
//! | killed behind | the next consumer finds | and |
//! |---|---|---|
//! | the handler | the file | runs it again, as with every message of a killed consumer |
//! | the commit (`stored`, `dead`) | the file, and its row | answers with the row's state |
//! | the error | the file, and its error | refuses it again, into the same name: the time is the file's own |
//! | the ack | the file, and its ack of that id and content | writes the ack again |
//!
//! | bound | value |
//! |---|---|
//! | files in hand, from reading to removal | 256; above 64 MiB no more are read, of which 16 MiB or one at a time |
//! | names in memory | 4,096 of one folder, the first by name; and of what cannot be taken 16,384 |
//! | folders | 1,000; the others wait until one goes |

mod ack;
mod clean;
mod file;
mod folders;
mod hand;
mod left;
mod news;
mod settle;
mod take;

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use spoolway_queue::{ConsumerLock, QueueError};
use tokio::sync::{mpsc, oneshot};
use tokio::task::{AbortHandle, JoinSet};

use crate::ConsumerError;
use crate::shared::Shared;
use hand::Hand;

/// A spool directory that this process alone takes from.
pub(crate) struct SpoolDirectory {
    root: PathBuf,
    lock: ConsumerLock,
}

/// The tasks of a spool directory; aborted when dropped.
pub(crate) struct Taking {
    tasks: JoinSet<()>,
    stop: oneshot::Sender<()>,
    cleaning: Cleaning,
    lock: ConsumerLock,
}

/// Ends a cleanup in the middle when it is dropped: it may have millions of files to look at.
struct Cleaning {
    ended: Arc<AtomicBool>,
    task: AbortHandle,
}

impl SpoolDirectory {
    /// Makes the directory when it is missing, for its owner only, and takes its lock.
    pub(crate) fn open(
        root: &Path,
        lock: impl FnOnce(&Path) -> Result<ConsumerLock, QueueError>,
    ) -> Result<Self, ConsumerError> {
        let root = make(root).map_err(failed("use", root))?;
        let lock = lock(&root.join(".lock"))?;
        Ok(Self { root, lock })
    }

    /// Takes from now on. `unread` is dropped when nothing more is taken.
    pub(crate) fn start(self, shared: &Arc<Shared>, unread: mpsc::Sender<()>) -> Taking {
        let hand = Arc::new(Hand::default());
        let (settled, settling) = mpsc::unbounded_channel();
        let (stop, stopped) = oneshot::channel();
        let ended = Arc::new(AtomicBool::new(false));
        let mut tasks = JoinSet::new();
        tasks.spawn(take::run(
            take::Taker::new(shared, self.root.clone(), &hand, settled),
            stopped,
            unread,
        ));
        tasks.spawn(settle::run(Arc::clone(shared), hand, settling));
        let cleaning = clean::run(Arc::clone(shared), self.root, Arc::clone(&ended));
        let task = tasks.spawn(cleaning);
        let cleaning = Cleaning { ended, task };
        Taking {
            tasks,
            stop,
            cleaning,
            lock: self.lock,
        }
    }
}

impl Taking {
    /// Takes nothing more; what is in hand goes on.
    pub(crate) fn stop(self) -> Stopped {
        // A task that is gone takes nothing.
        let _ = self.stop.send(());
        drop(self.cleaning);
        Stopped {
            tasks: self.tasks,
            _lock: self.lock,
        }
    }
}

/// A spool directory from which nothing more is taken.
pub(crate) struct Stopped {
    tasks: JoinSet<()>,
    _lock: ConsumerLock,
}

impl Stopped {
    /// Settles what was answered. Nothing may be answered after this was called.
    pub(crate) async fn finish(mut self) {
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Drop for Cleaning {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        self.task.abort();
    }
}

fn make(root: &Path) -> io::Result<PathBuf> {
    let mut builder = DirBuilder::new();
    if let Some(parent) = root
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
    {
        builder.recursive(true).mode(0o755).create(parent)?;
    }
    match builder.recursive(false).mode(0o700).create(root) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    // Whole, and without links: what is watched is named by it.
    let root = fs::canonicalize(root)?;
    fs::read_dir(&root)?;
    Ok(root)
}

fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> ConsumerError {
    move |source| ConsumerError::SpoolDirectory {
        action,
        path: path.into(),
        source,
    }
}
