//! Notices when the socket file appears, so that nobody waits for the backoff.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use spoolway_socket::{DirectoryNews, DirectoryWatch};

/// A watch of the directory of the socket. It ends when it is dropped.
#[derive(Debug)]
pub(crate) struct Watch {
    _watch: DirectoryWatch,
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
        let mut watch = DirectoryWatch::new(move |news| match news {
            DirectoryNews::Appeared(path) if path.file_name() == Some(&name) => appeared(),
            DirectoryNews::Appeared(_) => {}
            DirectoryNews::Gone(path) if path != root => {}
            DirectoryNews::Gone(_) | DirectoryNews::Missed => gone.store(true, Ordering::Relaxed),
        })?;
        watch.add(&directory).then_some(Self {
            _watch: watch,
            lost,
        })
    }

    /// Whether the directory went away, and another one may have its name.
    pub(crate) fn is_lost(&self) -> bool {
        self.lost.load(Ordering::Relaxed)
    }
}

fn directory(socket: &Path) -> PathBuf {
    match socket.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
