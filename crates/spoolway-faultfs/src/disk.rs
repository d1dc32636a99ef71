//! A directory under the VFS: what was done to its files, and which call is to fail.

use std::collections::HashMap;
use std::ffi::c_int;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};

use crate::fault::{Call, Error, Fault, code};
use crate::vfs;

/// A directory whose SQLite files are recorded and can fail, until this value is dropped.
///
/// Files that are open keep being recorded after that, for nobody.
#[derive(Debug)]
pub struct Disk {
    dir: PathBuf,
    shared: Arc<Shared>,
}

impl Disk {
    /// Takes charge of `dir`. What it holds already counts as durable. No SQLite file in it may be
    /// open.
    ///
    /// # Errors
    ///
    /// What reading the directory ran into.
    pub fn under(dir: impl AsRef<Path>) -> io::Result<Self> {
        vfs::register();
        let dir = fs::canonicalize(dir)?;
        let mut state = State::default();
        for entry in fs::read_dir(&dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if entry.file_type()?.is_file() && is_recorded(&name) {
                let file = state.new_file();
                state
                    .names
                    .insert(name.clone(), (inode(&entry.path()), file));
                let data = fs::read(entry.path())?.into();
                state.log.extend([
                    Op::Link { name, file },
                    Op::Write {
                        file,
                        offset: 0,
                        data,
                    },
                    Op::Sync { file },
                ]);
            }
        }
        state.log.push(Op::SyncDirectory);
        let shared = Arc::new(Shared(Mutex::new(state)));
        directories().insert(dir.clone(), Arc::clone(&shared));
        Ok(Self { dir, shared })
    }

    /// The number of operations so far: what a call did lies between the positions before and
    /// after it.
    pub fn position(&self) -> usize {
        self.shared.lock().log.len()
    }

    /// What was done so far.
    pub fn log(&self) -> Log {
        Log(self.shared.lock().log.clone())
    }

    /// Makes a call fail, beside those that are to fail already.
    pub fn fail(&self, fault: Fault) {
        self.shared.lock().faults.push((fault, 0));
    }

    /// Nothing fails any more; how many calls have failed since the last time.
    pub fn heal(&self) -> u64 {
        let mut state = self.shared.lock();
        state.faults.clear();
        std::mem::take(&mut state.failed)
    }

    /// The power is gone: every call fails, for good.
    pub fn cut(&self) {
        self.shared.lock().off = true;
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        directories().remove(&self.dir);
    }
}

/// What was done to the files of a [`Disk`], in order.
#[derive(Clone, Debug)]
pub struct Log(pub(crate) Vec<Op>);

impl Log {
    /// How many operations.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The positions right behind each sync that succeeded.
    pub fn syncs(&self) -> impl Iterator<Item = usize> {
        let ops = self.0.iter().enumerate();
        ops.filter(|(_, op)| matches!(op, Op::Sync { .. }))
            .map(|(at, _)| at + 1)
    }
}

/// A file, whatever its name.
pub(crate) type FileId = usize;

#[derive(Clone, Debug)]
pub(crate) enum Op {
    Link {
        name: String,
        file: FileId,
    },
    Unlink {
        name: String,
    },
    Write {
        file: FileId,
        offset: usize,
        data: Arc<[u8]>,
    },
    Truncate {
        file: FileId,
        len: usize,
    },
    Sync {
        file: FileId,
    },
    /// The kernel forgets what it could not write.
    FailedSync {
        file: FileId,
    },
    SyncDirectory,
}

#[derive(Debug)]
pub(crate) struct Shared(Mutex<State>);

impl Shared {
    /// The disk in charge of the file at `path`, and the file's name there.
    pub(crate) fn of(path: &Path) -> Option<(Arc<Self>, String)> {
        let (dir, name) = (path.parent()?, path.file_name()?);
        let shared = directories().get(dir).cloned()?;
        Some((shared, name.to_string_lossy().into_owned()))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under this lock is a bug of the harness, and has been reported as one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) log: Vec<Op>,
    names: HashMap<String, (u64, FileId)>,
    files: usize,
    /// With the number of such calls since it was set.
    faults: Vec<(Fault, u64)>,
    failed: u64,
    off: bool,
}

impl State {
    fn new_file(&mut self) -> FileId {
        self.files += 1;
        self.files - 1
    }

    /// Counts a call; if it is to fail, how and with which code.
    pub(crate) fn enter(&mut self, call: Call) -> Result<(), (Error, c_int)> {
        if self.off {
            return Err((Error::Io, code(call, Error::Io)));
        }
        let mut failure = None;
        for (fault, calls) in &mut self.faults {
            if fault.call == call {
                if *calls == fault.nth || (fault.lasting && *calls > fault.nth) {
                    failure = failure.or(Some(fault.error));
                }
                *calls += 1;
            }
        }
        match failure {
            None => Ok(()),
            Some(error) => {
                self.failed += 1;
                Err((error, code(call, error)))
            }
        }
    }

    /// The file that `name` names now, at `path`. One that came there by other means than this VFS
    /// was linked by them, with what it holds, and neither is durable.
    pub(crate) fn opened(&mut self, name: &str, path: &Path) -> FileId {
        let found = inode(path);
        if let Some(&(known, file)) = self.names.get(name)
            && known == found
        {
            return file;
        }
        let file = self.new_file();
        self.names.insert(name.into(), (found, file));
        self.log.push(Op::Link {
            name: name.into(),
            file,
        });
        match fs::read(path) {
            Ok(data) if !data.is_empty() => {
                let data = data.into();
                self.log.push(Op::Write {
                    file,
                    offset: 0,
                    data,
                });
            }
            _ => {}
        }
        file
    }

    pub(crate) fn unlinked(&mut self, name: &str) {
        self.names.remove(name);
        self.log.push(Op::Unlink { name: name.into() });
    }
}

/// The shared memory of a WAL is lost with the power.
pub(crate) fn is_recorded(name: &str) -> bool {
    !name.ends_with("-shm")
}

fn inode(path: &Path) -> u64 {
    fs::symlink_metadata(path).map_or(0, |found| found.ino())
}

fn directories() -> MutexGuard<'static, HashMap<PathBuf, Arc<Shared>>> {
    static DIRECTORIES: LazyLock<Mutex<HashMap<PathBuf, Arc<Shared>>>> =
        LazyLock::new(Mutex::default);
    DIRECTORIES.lock().unwrap_or_else(PoisonError::into_inner)
}
