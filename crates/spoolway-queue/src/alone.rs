//! Whether the locks on a queue file still belong to this process alone.
//!
//! SQLite's locks are POSIX locks: they belong to a process, and whichever descriptor of a file it closes ends all
//! that it has on it. Inside one SQLite library that is taken care of. A second library in the process, or a plain
//! `open` and `close` of the file, ends them unseen: then another process may write at the same time, or take itself
//! for the last one and delete the log. A library keeps one descriptor of the `-shm` however many connections it has,
//! so a second descriptor is a second library; and what locks a process holds is in its `/proc/self/fdinfo`. Where
//! there is no `/proc` nothing is seen, and nothing refused.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use crate::lock::side_file;

/// How often the descriptors are looked at, and at most which share of the time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
const LOOKING_SHARE: u32 = 1_000;

/// How long a `-shm` may be that of two files: until a handle of this process notices that its file was replaced.
const SETTLES_MAX: Duration = Duration::from_secs(3);
const SETTLES_EVERY: Duration = Duration::from_millis(20);

/// What is known of the descriptors of this process.
#[derive(Debug)]
pub(crate) struct Alone {
    /// The locks were there once, so they can be seen.
    locked: bool,
    next: Instant,
}

impl Alone {
    /// Looks at a file that has just been opened; the error says what is wrong. Blocks.
    pub(crate) fn new(path: &Path) -> Result<Self, &'static str> {
        let started = Instant::now();
        let mut alone = Self {
            locked: false,
            next: started,
        };
        loop {
            match alone.look(path) {
                Err(_) if started.elapsed() < SETTLES_MAX => thread::sleep(SETTLES_EVERY),
                looked => return looked.map(|()| alone),
            }
        }
    }

    /// Looks again, unless all was well a moment ago.
    pub(crate) fn look(&mut self, path: &Path) -> Result<(), &'static str> {
        let now = Instant::now();
        if now < self.next {
            return Ok(());
        }
        let found = Descriptors::of(path);
        if found.shm > 1 {
            return Err("another SQLite library has it open too, or something else its -shm");
        }
        let locked = found.file_locked && found.shm_locked;
        if self.locked && !locked {
            // What is lost stays so: the library believes it holds them.
            return Err(
                "its locks are gone, since another SQLite library or a plain file call closed it",
            );
        }
        self.locked = locked;
        self.next = now + LOOK_EVERY.max(now.elapsed() * LOOKING_SHARE);
        Ok(())
    }
}

/// The descriptors that this process has of a queue file.
#[derive(Debug, Default)]
struct Descriptors {
    /// How many of the `-shm`.
    shm: usize,
    /// Whether this process holds a lock by one of them.
    shm_locked: bool,
    file_locked: bool,
}

impl Descriptors {
    fn of(path: &Path) -> Self {
        let mut found = Self::default();
        let id = |path: &Path| fs::metadata(path).ok().map(|at| (at.dev(), at.ino()));
        let (Some(file), Some(shm)) = (id(path), id(&side_file(path, "-shm"))) else {
            return found;
        };
        let Ok(entries) = fs::read_dir("/proc/self/fd") else {
            return found;
        };
        for entry in entries.flatten() {
            let number = entry.file_name();
            let locked = || {
                let info = Path::new("/proc/self/fdinfo").join(&number);
                fs::read_to_string(info).is_ok_and(|text| text.contains("POSIX"))
            };
            match id(&entry.path()) {
                Some(other) if other == file => found.file_locked = found.file_locked || locked(),
                Some(other) if other == shm => {
                    found.shm += 1;
                    found.shm_locked = found.shm_locked || locked();
                }
                _ => {}
            }
        }
        found
    }
}
