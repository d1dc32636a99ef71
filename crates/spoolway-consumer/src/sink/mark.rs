//! The mark beside a file sink: from where on its lines are read again at the next start.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Lines that are read again at the least: how far back a line may lie whose outcome nobody has heard. Producers
/// leave at most a window unconfirmed, all windows together are 10,000 messages, and this is ten times that.
const LINES_MIN: u64 = 100_000;
/// Lines between two writings of the mark.
const STEP: u64 = 50_000;

/// The mark of a file sink.
pub(super) struct Mark {
    path: PathBuf,
    inode: u64,
    lines: u64,
    /// Places the mark may move to: how many lines there were, and where they ended.
    steps: VecDeque<(u64, u64)>,
}

#[derive(Serialize, Deserialize)]
struct Text {
    /// Bytes of the file whose lines need not be read.
    offset: u64,
    /// The file it speaks of.
    inode: u64,
}

impl Mark {
    pub(super) fn new(sink: &Path, inode: u64) -> Self {
        let mut path = sink.as_os_str().to_owned();
        path.push(".mark");
        Self {
            path: path.into(),
            inode,
            lines: 0,
            steps: VecDeque::new(),
        }
    }

    /// Where to read on; `None` if there is no mark yet.
    pub(super) fn read(&self) -> io::Result<Option<u64>> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        // A mark of another file, or one that cannot be read, marks nothing: everything is read again.
        let mark = serde_json::from_slice::<Text>(&text).ok();
        Ok(Some(
            mark.filter(|mark| mark.inode == self.inode)
                .map_or(0, |mark| mark.offset),
        ))
    }

    /// Writes the mark, so that a crash leaves the old one or the new one.
    pub(super) fn write(&self, offset: u64) -> io::Result<()> {
        let mut temporary = self.path.clone().into_os_string();
        temporary.push(".new");
        let mut file = File::create(&temporary)?;
        serde_json::to_writer(
            &mut file,
            &Text {
                offset,
                inode: self.inode,
            },
        )?;
        file.write_all(b"\n")?;
        file.sync_data()?;
        fs::rename(&temporary, &self.path)
    }

    /// There are `count` more lines, and the file now ends at `end`. Returns where the mark may be, if it may move.
    pub(super) fn advance(&mut self, count: u64, end: u64) -> Option<u64> {
        let before = self.lines / STEP;
        self.lines += count;
        if self.lines / STEP > before {
            self.steps.push_back((self.lines, end));
        }
        let (lines, offset) = *self.steps.front()?;
        if self.lines < lines + LINES_MIN {
            return None;
        }
        self.steps.pop_front();
        Some(offset)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_mark_stays_behind_what_may_be_unheard() {
        let dir = tempfile::tempdir().unwrap();
        let mut mark = Mark::new(&dir.path().join("out"), 7);
        let mut at = 0;
        for n in 1..=400_000u64 {
            if let Some(offset) = mark.advance(1, n * 10) {
                assert!(n - offset / 10 >= LINES_MIN && n - offset / 10 < LINES_MIN + STEP);
                at = offset;
            }
        }
        assert_eq!(at, 3_000_000);
    }

    #[test]
    fn a_mark_of_another_file_marks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out");
        assert_eq!(Mark::new(&path, 7).read().unwrap(), None);
        Mark::new(&path, 7).write(30).unwrap();
        assert_eq!(Mark::new(&path, 7).read().unwrap(), Some(30));
        assert_eq!(Mark::new(&path, 8).read().unwrap(), Some(0));
        fs::write(dir.path().join("out.mark"), "{\"offset\":3").unwrap();
        assert_eq!(Mark::new(&path, 7).read().unwrap(), Some(0));
    }
}
