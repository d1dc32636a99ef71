//! Notices when the socket file appears, so that nobody waits for the backoff.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// A watch of the directory of the socket. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    _watcher: RecommendedWatcher,
    lost: Arc<AtomicBool>,
}

impl Watch {
    /// Calls `appeared`, on a thread of its own, when the socket's name shows up or changes.
    /// `None` when there is no such directory, or no more watches are to be had: then the backoff
    /// is all there is.
    pub(crate) fn new(socket: &Path, appeared: impl Fn() + Send + 'static) -> Option<Self> {
        let name = socket.file_name()?.to_owned();
        let directory = directory(socket);
        let lost = Arc::new(AtomicBool::new(false));
        let (gone, root) = (Arc::clone(&lost), directory.clone());
        let handler = move |event: notify::Result<Event>| match event {
            Ok(event) if event.kind.is_remove() && event.paths.contains(&root) => {
                gone.store(true, Ordering::Relaxed);
            }
            Ok(event) if shows_up(&event.kind) => {
                let named = |path: &PathBuf| path.file_name() == Some(&name);
                if event.paths.iter().any(named) {
                    appeared();
                }
            }
            Ok(_) => {}
            Err(_) => gone.store(true, Ordering::Relaxed),
        };
        let mut watcher = notify::recommended_watcher(handler).ok()?;
        watcher
            .watch(&directory, RecursiveMode::NonRecursive)
            .ok()?;
        let _watcher = watcher;
        Some(Self { _watcher, lost })
    }

    /// Whether the directory went away, and another one may have its name.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

fn shows_up(kind: &EventKind) -> bool {
    matches!(
        kind,
        EventKind::Any
            | EventKind::Create(_)
            | EventKind::Modify(ModifyKind::Any | ModifyKind::Name(_) | ModifyKind::Metadata(_))
    )
}

fn directory(socket: &Path) -> PathBuf {
    match socket.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
