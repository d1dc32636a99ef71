//! Which folders there are, which of them are watched, and which files of one come next.

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BinaryHeap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, DirEntry, FileType};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use spoolway_proto::MessageId;
use spoolway_socket::DirectoryWatch;

use super::ack::make_beside;
use super::hand::Hand;
use super::left::{LeftAlone, Warned};
use super::news::{Changed, News};
use crate::health::Health;

/// Names that are in memory at a time: half a megabyte at the most, and a folder of 100,000 is read fifty times.
const NAMES_MAX: usize = 4_096;
/// How often a directory is read to see it the same twice, which fails only while names come in below others.
const READINGS_MAX: usize = 10;
/// Each takes two watches, of which a user has some ten thousand.
const FOLDERS_MAX: usize = 1_000;
/// A temporary file that is older was left behind.
const TEMPORARY_MAX: Duration = Duration::from_secs(60);

/// A folder, and where its files are.
pub(crate) struct Folder {
    pub(crate) name: Box<str>,
    root: PathBuf,
}

/// Every folder of a spool directory.
pub(crate) struct Folders {
    root: PathBuf,
    watch: Option<DirectoryWatch>,
    watched: bool,
    known: BTreeMap<Box<str>, Known>,
    /// Of what is no folder.
    warned: Warned,
    hand: Arc<Hand>,
    health: Health,
}

struct Known {
    folder: Arc<Folder>,
    /// The inodes that are watched: of the folder, and of its messages.
    watched: [Option<u64>; 2],
    /// It has places for acks and errors.
    ready: bool,
    warned: Warned,
}

/// The next files of a folder.
#[derive(Default)]
pub(crate) struct Slice {
    /// Without `.json`, by rising name.
    pub(crate) names: Vec<Box<str>>,
    /// There are more behind them.
    pub(crate) more: bool,
}

impl Folders {
    pub(crate) fn new(root: PathBuf, hand: Arc<Hand>, news: &Arc<News>) -> Self {
        let (told, depth) = (Arc::clone(news), root.components().count());
        let mut watch = DirectoryWatch::new(move |news| told.note(depth, news));
        let watched = watch.as_mut().is_some_and(|watch| watch.add(&root));
        let mut folders = Self {
            root,
            watch,
            watched: true,
            known: BTreeMap::new(),
            warned: Warned::default(),
            hand,
            health: Health::new("looking into the spool directory"),
        };
        if !watched {
            folders.note_unwatched();
        }
        folders
    }

    /// Says it once.
    fn note_unwatched(&mut self) {
        if std::mem::take(&mut self.watched) {
            tracing::warn!(
                "no watch is to be had for all of {}: it is looked at once a second; raise fs.inotify.max_user_watches",
                self.root.display()
            );
        }
    }

    /// The folders that may have something new. Blocks.
    pub(crate) fn look(&mut self, changed: &Changed) -> Vec<Arc<Folder>> {
        for known in self.known.values_mut() {
            let folder = &known.folder;
            for (place, path) in [&folder.root, &folder.messages()].into_iter().enumerate() {
                if changed.gone.contains(path) {
                    known.watched[place] = None;
                }
            }
        }
        let mut new = HashSet::new();
        if changed.all || changed.paths.contains(&self.root) {
            let found = self.find();
            new = self.health.noted(found).unwrap_or_default();
        }
        let names: Vec<Box<str>> = self
            .known
            .iter()
            .filter(|(name, known)| {
                let folder = &known.folder;
                changed.all
                    || new.contains(*name)
                    || changed.paths.contains(&folder.root)
                    || changed.paths.contains(&folder.messages())
            })
            .map(|(name, _)| name.clone())
            .collect();
        names
            .into_iter()
            .filter_map(|name| self.meet(&name))
            .collect()
    }

    /// Notes which folders there are, and says which are new.
    fn find(&mut self) -> io::Result<HashSet<Box<str>>> {
        let (mut there, mut new) = (HashSet::new(), HashSet::new());
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            if is_dotted(&name) {
                continue;
            }
            let kind = entry.file_type()?;
            let place = &self.root;
            match name.to_str().filter(|name| MessageId::new(name).is_ok()) {
                _ if kind.is_symlink() => self.warned.of(LeftAlone::Link, place, &name),
                _ if !kind.is_dir() => self.warned.of(LeftAlone::Special, place, &name),
                None => self.warned.of(LeftAlone::Name, place, &name),
                Some(name) if self.known.contains_key(name) => {
                    there.insert(Box::<str>::from(name));
                }
                Some(_) if self.known.len() + new.len() >= FOLDERS_MAX => {
                    self.warned.of(LeftAlone::TooMany, place, &name);
                }
                Some(name) => {
                    new.insert(Box::<str>::from(name));
                }
            }
        }
        self.known.retain(|name, _| there.contains(name));
        for name in &new {
            let folder = Folder {
                name: name.clone(),
                root: self.root.join(&**name),
            };
            let known = Known {
                folder: Arc::new(folder),
                watched: [None; 2],
                ready: false,
                warned: Warned::default(),
            };
            self.known.insert(name.clone(), known);
        }
        Ok(new)
    }

    /// Watches a folder, and prepares it. `None` while it has no messages. Watched before it is read, so that no
    /// file falls between.
    fn meet(&mut self, name: &str) -> Option<Arc<Folder>> {
        let known = self.known.get_mut(name)?;
        let folder = Arc::clone(&known.folder);
        let messages = folder.messages();
        let mut unwatched = false;
        for (place, path) in [&folder.root, &messages].into_iter().enumerate() {
            let found = path.symlink_metadata().ok()?;
            if !found.is_dir() {
                known
                    .warned
                    .of(LeftAlone::Link, &folder.root, path.as_os_str());
                return None;
            }
            if known.watched[place] != Some(found.ino()) {
                let watched = self.watch.as_mut().is_some_and(|watch| watch.add(path));
                known.watched[place] = watched.then(|| found.ino());
                unwatched |= !watched;
            }
        }
        if !known.ready {
            let beside = [folder.acks(), folder.errors()];
            let made = beside
                .iter()
                .try_for_each(|path| make_beside(&messages, path));
            known.ready = self.health.noted(made).is_some();
        }
        if unwatched {
            self.note_unwatched();
        }
        Some(folder)
    }

    /// The first files of a folder by name, without those in hand and those that were passed over. Blocks.
    ///
    /// A directory that changes while it is read may show a later file and not an earlier one. So it is read until
    /// it says the same twice: then whatever was renamed before one of these files is among them, or behind them.
    pub(crate) fn slice(&mut self, folder: &Folder, passed: &HashSet<Box<str>>) -> Slice {
        let mut slice = self.names(folder, passed, None);
        for _ in 0..READINGS_MAX {
            let Some(last) = slice.names.last().cloned() else {
                break;
            };
            let again = self.names(folder, passed, Some(&last));
            let same = again.names == slice.names;
            slice.more |= again.more;
            slice.names = again.names;
            if same {
                break;
            }
        }
        slice
    }

    fn names(&mut self, folder: &Folder, passed: &HashSet<Box<str>>, last: Option<&str>) -> Slice {
        match self.try_names(folder, passed, last) {
            // Its folder is gone: the next look notices.
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            read => self.health.noted(read),
        }
        .unwrap_or_default()
    }

    /// Names up to `last`, as many as may be in memory.
    fn try_names(
        &mut self,
        folder: &Folder,
        passed: &HashSet<Box<str>>,
        last: Option<&str>,
    ) -> io::Result<Slice> {
        let (mut names, mut more) = (BinaryHeap::new(), false);
        let messages = folder.messages();
        for entry in fs::read_dir(&messages)? {
            let entry = entry?;
            let name = match stem(&entry) {
                Ok(name) => name,
                Err(LeftAlone::Temporary) if !is_old(&entry) => continue,
                Err(why) => {
                    self.left_alone(folder, why, &entry.file_name());
                    continue;
                }
            };
            let full = names.len() >= NAMES_MAX && names.peek().is_some_and(|top| name >= *top);
            if full || last.is_some_and(|last| *name > *last) {
                more = true;
                continue;
            }
            if passed.contains(&name) || self.hand.has(&messages.join(entry.file_name())) {
                continue;
            }
            names.push(name);
            if names.len() > NAMES_MAX {
                names.pop();
                more = true;
            }
        }
        let names = names.into_sorted_vec();
        Ok(Slice { names, more })
    }

    /// Warns, the first time for this kind in this folder.
    pub(crate) fn left_alone(&mut self, folder: &Folder, why: LeftAlone, name: &OsStr) {
        if let Some(known) = self.known.get_mut(&folder.name) {
            known.warned.of(why, &folder.messages(), name);
        }
    }
}

/// The name of a message without `.json`, or why it is none.
fn stem(entry: &DirEntry) -> Result<Box<str>, LeftAlone> {
    let name = entry.file_name();
    if is_dotted(&name) {
        return Err(LeftAlone::Temporary);
    }
    let kind = entry.file_type().map_err(|_| LeftAlone::Unreadable)?;
    if let Some(why) = left_by_kind(kind) {
        return Err(why);
    }
    let name = name.to_str().ok_or(LeftAlone::Name)?;
    let stem = name.strip_suffix(".json").ok_or(LeftAlone::NoJson)?;
    MessageId::new(stem).map_err(|_| LeftAlone::Name)?;
    Ok(stem.into())
}

fn left_by_kind(kind: FileType) -> Option<LeftAlone> {
    match kind {
        kind if kind.is_file() => None,
        kind if kind.is_dir() => Some(LeftAlone::Directory),
        kind if kind.is_symlink() => Some(LeftAlone::Link),
        _ => Some(LeftAlone::Special),
    }
}

fn is_dotted(name: &OsStr) -> bool {
    name.as_encoded_bytes().starts_with(b".")
}

fn is_old(entry: &DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    let age = modified.ok().and_then(|modified| modified.elapsed().ok());
    age.is_some_and(|age| age > TEMPORARY_MAX)
}

impl Folder {
    pub(crate) fn messages(&self) -> PathBuf {
        self.root.join("messages")
    }

    pub(crate) fn acks(&self) -> PathBuf {
        self.root.join("acks")
    }

    pub(crate) fn errors(&self) -> PathBuf {
        self.root.join("errors")
    }

    pub(crate) fn message(&self, name: &str) -> PathBuf {
        self.messages().join(format!("{name}.json"))
    }

    pub(crate) fn ack(&self, name: &str) -> PathBuf {
        self.acks().join(format!("{name}.ack"))
    }

    /// Whether it is still there.
    pub(crate) fn exists(&self) -> bool {
        self.root.is_dir()
    }
}
