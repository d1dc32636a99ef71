//! Notices names that appear in directories, so that nobody has to look again and again.

use std::path::{Path, PathBuf};

use notify::event::ModifyKind;
use notify::{Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};

/// A watch of directories, one level deep each. It ends when it is dropped.
#[derive(Debug)]
pub struct DirectoryWatch(RecommendedWatcher);

/// What a [`DirectoryWatch`] has noticed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum DirectoryNews {
    /// Something of that path showed up or changed.
    Appeared(PathBuf),
    /// Something of that path went away: an entry, or a watched directory, which is watched no more.
    Gone(PathBuf),
    /// Something may have been missed.
    Missed,
}

impl DirectoryWatch {
    /// A watch of nothing yet; `noticed` is called on a thread of its own. `None` when the system gives no more
    /// watches: then looking again is all there is.
    pub fn new(noticed: impl Fn(DirectoryNews) + Send + 'static) -> Option<Self> {
        let handler = move |event: notify::Result<Event>| match event {
            Ok(event) if event.need_rescan() => noticed(DirectoryNews::Missed),
            Ok(event) if event.kind.is_remove() => {
                let paths = event.paths.into_iter();
                paths.map(DirectoryNews::Gone).for_each(&noticed);
            }
            Ok(event) if shows_up(&event.kind) => {
                let paths = event.paths.into_iter();
                paths.map(DirectoryNews::Appeared).for_each(&noticed);
            }
            Ok(_) => {}
            Err(_) => noticed(DirectoryNews::Missed),
        };
        notify::recommended_watcher(handler).ok().map(Self)
    }

    /// Watches that directory too. Whether it does: not when there is no such directory, or no room for one more.
    pub fn add(&mut self, directory: &Path) -> bool {
        self.0.watch(directory, RecursiveMode::NonRecursive).is_ok()
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
