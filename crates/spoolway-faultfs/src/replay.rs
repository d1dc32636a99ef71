//! From what was done to what may be on disk.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::Path;

use rand::rngs::SmallRng;
use rand::{Rng as _, RngExt as _, SeedableRng as _};

use crate::disk::{FileId, Log, Op};

/// What a power cut does to what was not synced.
#[derive(Clone, Copy, Debug)]
pub struct Loss {
    /// Chooses what is kept.
    pub seed: u64,
    /// What a disk writes at once, in bytes: 512 or 4096.
    pub sector: usize,
    /// How much of it is kept, from 0 (nothing) to 1 (all of it, untorn).
    pub kept: f64,
}

impl Loss {
    /// A loss that the seed chooses whole: sector size, and whether nothing, half or all is kept.
    pub fn random(seed: u64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        Self {
            seed: rng.random(),
            sector: [512, 4096][rng.random_range(0..2)],
            kept: [0.0, 0.5, 0.9, 1.0][rng.random_range(0..4)],
        }
    }
}

/// A disk at some moment of a [`Log`]: what is durable, and what is not yet.
#[derive(Clone, Debug, Default)]
pub struct Replay {
    files: Vec<Contents>,
    names: BTreeMap<String, FileId>,
    /// Names given (`Some`) and taken since the directory was synced.
    renamed: Vec<(String, Option<FileId>)>,
    position: usize,
    /// It answers every sync and does nothing.
    lies: bool,
}

impl Replay {
    /// An empty disk, before the first operation.
    pub fn new() -> Self {
        Self::default()
    }

    /// The same disk, but one that answers syncs without doing them. What a check of durability
    /// says of it shows whether the check can fail.
    pub fn lying() -> Self {
        let lies = true;
        Self {
            lies,
            ..Self::default()
        }
    }

    /// Goes on to just before the operation `position` of the log. What a disk holds at the start
    /// of the log is its first operations.
    ///
    /// # Panics
    ///
    /// If it is there already, or the log is shorter.
    pub fn advance(&mut self, log: &Log, position: usize) {
        for op in &log.0[self.position..position] {
            self.apply(op);
        }
        self.position = position;
    }

    fn apply(&mut self, op: &Op) {
        match op {
            Op::Link { name, file } => self.renamed.push((name.clone(), Some(*file))),
            Op::Unlink { name } => self.renamed.push((name.clone(), None)),
            Op::Write { file, offset, data } => {
                let (at, data) = (*offset, data.to_vec());
                self.file(*file).push(What::Write { at, data });
            }
            Op::Truncate { file, len } => self.file(*file).push(What::Truncate { len: *len }),
            Op::Sync { .. } | Op::SyncDirectory if self.lies => {}
            Op::Sync { file } => self.file(*file).sync(),
            Op::FailedSync { file } => self.file(*file).give_up(),
            Op::SyncDirectory => {
                for (name, file) in std::mem::take(&mut self.renamed) {
                    rename(&mut self.names, name, file);
                }
            }
        }
    }

    fn file(&mut self, file: FileId) -> &mut Contents {
        if file >= self.files.len() {
            self.files.resize_with(file + 1, Contents::default);
        }
        &mut self.files[file]
    }

    /// What is on disk when the power goes now.
    pub fn image(&self, loss: Loss) -> Image {
        let mut rng = SmallRng::seed_from_u64(loss.seed);
        let mut names = self.names.clone();
        for (name, file) in &self.renamed {
            if rng.random_bool(loss.kept) {
                rename(&mut names, name.clone(), *file);
            }
        }
        let files = names.into_iter().map(|(name, file)| {
            let contents = self.files.get(file);
            let data = contents.map(|file| file.after(loss, &mut rng));
            (name, data.unwrap_or_default())
        });
        Image {
            files: files.collect(),
        }
    }
}

fn rename(names: &mut BTreeMap<String, FileId>, name: String, file: Option<FileId>) {
    match file {
        Some(file) => names.insert(name, file),
        None => names.remove(&name),
    };
}

/// What a power cut left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Image {
    /// By name.
    pub files: BTreeMap<String, Vec<u8>>,
}

impl Image {
    /// Writes the files into a directory.
    ///
    /// # Errors
    ///
    /// What the file system said.
    pub fn write_to(&self, dir: impl AsRef<Path>) -> io::Result<()> {
        for (name, data) in &self.files {
            fs::write(dir.as_ref().join(name), data)?;
        }
        Ok(())
    }
}

#[derive(Clone, Debug, Default)]
struct Contents {
    durable: Vec<u8>,
    pending: Vec<Change>,
}

#[derive(Clone, Debug)]
struct Change {
    what: What,
    /// A sync of it failed: no later one will write it.
    lost: bool,
}

#[derive(Clone, Debug)]
enum What {
    Write { at: usize, data: Vec<u8> },
    Truncate { len: usize },
}

impl Contents {
    fn push(&mut self, what: What) {
        self.pending.push(Change { what, lost: false });
    }

    fn give_up(&mut self) {
        self.pending
            .iter_mut()
            .for_each(|change| change.lost = true);
    }

    fn sync(&mut self) {
        let mut lost: Vec<Change> = Vec::new();
        for change in std::mem::take(&mut self.pending) {
            if change.lost {
                lost.push(change);
                continue;
            }
            // What was lost may have reached the disk, but not over what came later.
            lost = lost
                .into_iter()
                .flat_map(|older| older.outside(&change))
                .collect();
            change.apply(&mut self.durable);
        }
        self.pending = lost;
    }

    /// What is there after a power cut.
    fn after(&self, loss: Loss, rng: &mut SmallRng) -> Vec<u8> {
        let mut left = self.durable.clone();
        let mut longest = left.len();
        for Change { what, .. } in &self.pending {
            match what {
                What::Truncate { len } => {
                    if rng.random_bool(loss.kept) {
                        left.resize(*len, 0);
                    }
                }
                What::Write { at, data } => {
                    longest = longest.max(at + data.len());
                    write_some(&mut left, *at, data, loss, rng);
                }
            }
        }
        // The size can reach the disk before the content.
        if longest > left.len() && loss.kept > 0.0 && rng.random_ratio(1, 4) {
            left.resize(rng.random_range(left.len()..=longest), 0);
        }
        left
    }
}

/// Writes the sectors of one write that chance picks.
fn write_some(left: &mut Vec<u8>, at: usize, data: &[u8], loss: Loss, rng: &mut SmallRng) {
    let (mut at, mut data) = (at, data);
    while !data.is_empty() {
        let here = (loss.sector - at % loss.sector).min(data.len());
        let (sector, rest) = data.split_at(here);
        if rng.random_bool(loss.kept) {
            let torn = loss.kept < 1.0 && rng.random_ratio(1, 8);
            let whole = if torn {
                rng.random_range(0..here)
            } else {
                here
            };
            write(left, at, &sector[..whole]);
            if torn && rng.random() {
                let mut noise = vec![0; here - whole];
                rng.fill_bytes(&mut noise);
                write(left, at + whole, &noise);
            }
        }
        (at, data) = (at + here, rest);
    }
}

impl Change {
    fn apply(&self, file: &mut Vec<u8>) {
        match &self.what {
            What::Write { at, data } => write(file, *at, data),
            What::Truncate { len } => file.resize(*len, 0),
        }
    }

    /// What a later change left of it.
    fn outside(self, later: &Self) -> Vec<Self> {
        let lost = self.lost;
        let left = match (self.what, &later.what) {
            (What::Truncate { .. }, What::Truncate { .. }) => vec![],
            (What::Truncate { len }, What::Write { at, data }) => {
                let len = len.max(at + data.len());
                vec![What::Truncate { len }]
            }
            (What::Write { at, mut data }, What::Truncate { len }) => {
                data.truncate(len.saturating_sub(at));
                vec![What::Write { at, data }]
            }
            (
                What::Write { at, data },
                What::Write {
                    at: from,
                    data: new,
                },
            ) => {
                let before = from.saturating_sub(at).min(data.len());
                let behind = (from + new.len()).saturating_sub(at).min(data.len());
                let (first, second) = (data[..before].to_vec(), data[behind..].to_vec());
                let second = What::Write {
                    at: at + behind,
                    data: second,
                };
                vec![What::Write { at, data: first }, second]
            }
        };
        let empty = |what: &What| matches!(what, What::Write { data, .. } if data.is_empty());
        let left = left.into_iter().filter(|what| !empty(what));
        left.map(|what| Self { what, lost }).collect()
    }
}

fn write(file: &mut Vec<u8>, at: usize, data: &[u8]) {
    if data.is_empty() {
        return;
    }
    let end = at + data.len();
    if file.len() < end {
        file.resize(end, 0);
    }
    file[at..end].copy_from_slice(data);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn write_op(offset: usize, data: &[u8]) -> Op {
        Op::Write {
            file: 0,
            offset,
            data: data.into(),
        }
    }

    fn after(mut replay: Replay, ops: &[Op], kept: f64) -> Image {
        let log = Log(ops.to_vec());
        replay.advance(&log, log.len());
        let (seed, sector) = (7, 512);
        replay.image(Loss { seed, sector, kept })
    }

    fn link() -> Op {
        let name = "a".into();
        Op::Link { name, file: 0 }
    }

    #[test]
    fn what_was_synced_stays_and_the_rest_is_a_choice() {
        let ops = [
            link(),
            Op::SyncDirectory,
            write_op(0, b"one"),
            Op::Sync { file: 0 },
            write_op(3, b"two"),
        ];
        assert_eq!(after(Replay::new(), &ops, 0.0).files["a"], b"one");
        assert_eq!(after(Replay::new(), &ops, 1.0).files["a"], b"onetwo");
        assert_eq!(after(Replay::lying(), &ops, 0.0).files.len(), 0);
    }

    #[test]
    fn a_name_is_certain_once_its_directory_was_synced() {
        let made = [link(), write_op(0, b"one"), Op::Sync { file: 0 }];
        assert!(after(Replay::new(), &made, 0.0).files.is_empty());
        let unlink = Op::Unlink { name: "a".into() };
        let gone = [link(), Op::SyncDirectory, unlink];
        assert!(after(Replay::new(), &gone, 0.0).files.contains_key("a"));
        assert!(after(Replay::new(), &gone, 1.0).files.is_empty());
    }

    #[test]
    fn what_a_failed_sync_lost_no_later_one_saves() {
        let failed = [
            link(),
            Op::SyncDirectory,
            write_op(0, b"one"),
            Op::FailedSync { file: 0 },
            write_op(1, b"N"),
            Op::Sync { file: 0 },
        ];
        assert_eq!(after(Replay::new(), &failed, 0.0).files["a"], b"\0N");
        assert_eq!(after(Replay::new(), &failed, 1.0).files["a"], b"oNe");
    }

    #[test]
    fn what_was_written_anew_and_synced_stays_whatever_was_lost_before() {
        for kept in [0.0, 0.5, 1.0] {
            let ops = [
                link(),
                Op::SyncDirectory,
                write_op(0, &[1; 2_000]),
                Op::FailedSync { file: 0 },
                write_op(0, &[2; 2_000]),
                Op::Sync { file: 0 },
            ];
            assert_eq!(after(Replay::new(), &ops, kept).files["a"], [2; 2_000]);
        }
    }

    #[test]
    fn sectors_are_kept_lost_and_torn_one_by_one() {
        let ops = [link(), Op::SyncDirectory, write_op(0, &[1; 512 * 64])];
        let image = after(Replay::new(), &ops, 0.5);
        let mut kinds = [0; 3];
        for sector in image.files["a"].chunks(512) {
            let new = sector.iter().filter(|&&byte| byte == 1).count();
            kinds[usize::from(new > 0) + usize::from(new == sector.len())] += 1;
        }
        assert!(kinds.iter().all(|&sectors| sectors > 0), "{kinds:?}");
    }
}
