//! Lines appended to a file, synced once a group; recovered after a kill.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use bytes::Bytes;
use spoolway_proto::{Message, MessageId, Payload};

use super::mark::Mark;
use super::{SinkError, Target, make_one_line};

/// A file of lines.
pub(super) struct FileTarget {
    file: File,
    path: PathBuf,
    /// Where the last good line ends.
    end: u64,
    /// Something behind `end` could not be cut off yet.
    torn: bool,
    mark: Mark,
    /// Lines written since the mark by an earlier run: whatever became of them, they are not written again.
    known: HashMap<MessageId, u32>,
}

impl FileTarget {
    pub(super) fn open(path: &Path) -> Result<Self, SinkError> {
        let failed = |action| {
            let path = path.to_owned();
            move |source| SinkError::File {
                action,
                path,
                source,
            }
        };
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .open(path)
            .map_err(failed("open"))?;
        let found = file.metadata().map_err(failed("look at"))?;
        if !found.is_file() {
            // A pipe or a device cannot be read again, nor cut back to its last good line.
            return Err(failed("use as a file of lines")(
                io::ErrorKind::InvalidInput.into(),
            ));
        }
        let mut target = Self {
            mark: Mark::new(path, found.ino()),
            file,
            path: path.to_owned(),
            end: found.len(),
            torn: false,
            known: HashMap::new(),
        };
        target
            .cut_torn_line()
            .map_err(failed("cut the torn last line of"))?;
        target.recover().map_err(failed("read the last lines of"))?;
        sync_directory(path).map_err(failed("sync the directory of"))?;
        Ok(target)
    }

    /// The lines that were found, for their rows in the queue file.
    pub(super) fn recovered(&self) -> Vec<(MessageId, u32)> {
        self.known
            .iter()
            .map(|(id, crc)| (id.clone(), *crc))
            .collect()
    }

    /// A process that was killed may have left half a line.
    fn cut_torn_line(&mut self) -> io::Result<()> {
        let end = last_line_end(&self.file, self.end)?;
        if end < self.end {
            tracing::warn!(
                "{}: a torn last line of {} bytes is cut off",
                self.path.display(),
                self.end - end
            );
            self.file.set_len(end)?;
            self.file.sync_data()?;
            self.end = end;
        }
        Ok(())
    }

    fn recover(&mut self) -> io::Result<()> {
        let Some(offset) = self.mark.read()? else {
            // What was here before the first run is no line of ours.
            return self.mark.write(self.end);
        };
        // A file that was emptied since has new lines only.
        let offset = if offset > self.end { 0 } else { offset };
        let mut reader = BufReader::new(&self.file);
        reader.seek(SeekFrom::Start(offset))?;
        let mut line = Vec::new();
        loop {
            line.clear();
            if reader.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            // A line that is no message was not written here.
            if let Ok(message) = Message::decode(&Bytes::copy_from_slice(&line)) {
                self.known.insert(message.id.clone(), message.crc());
            }
        }
    }

    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.torn {
            self.file.set_len(self.end)?;
            self.torn = false;
        }
        // Someone may have emptied the file: appending goes to its end, wherever that is.
        self.end = self.file.metadata()?.len();
        self.torn = true;
        self.file.write_all(lines)?;
        self.file.sync_data()?;
        self.torn = false;
        self.end += lines.len() as u64;
        Ok(())
    }
}

impl Target for FileTarget {
    fn has(&self, message: &Message) -> bool {
        self.known.get(&message.id).is_some_and(|crc| {
            // The line has the payload without its line breaks.
            let mut payload = message.payload.as_bytes().to_vec();
            make_one_line(&mut payload);
            let as_line = String::from_utf8(payload).map(|text| Message {
                payload: Payload::from_trusted_json(text),
                ..message.clone()
            });
            as_line.is_ok_and(|message| message.crc() == *crc)
        })
    }

    fn append(&mut self, lines: &[u8], count: usize) -> io::Result<()> {
        let written = self.write(lines);
        if written.is_err() && self.torn && self.file.set_len(self.end).is_ok() {
            self.torn = false;
        }
        written?;
        if let Some(offset) = self.mark.advance(count as u64, self.end)
            && let Err(error) = self.mark.write(offset)
        {
            // The old mark is as good, and only older.
            tracing::warn!(
                "{}: the mark cannot be written: {error}",
                self.path.display()
            );
        }
        Ok(())
    }

    fn close(&mut self, settled: bool) {
        if settled && let Err(error) = self.mark.write(self.end) {
            tracing::warn!(
                "{}: the mark cannot be written: {error}",
                self.path.display()
            );
        }
    }
}

/// Behind the last line break within the first `length` bytes.
fn last_line_end(file: &File, length: u64) -> io::Result<u64> {
    let mut block = [0; 8 * 1024];
    let mut end = length;
    while end > 0 {
        let start = end.saturating_sub(block.len() as u64);
        let size = usize::try_from(end - start).unwrap_or(block.len());
        file.read_exact_at(&mut block[..size], start)?;
        if let Some(at) = block[..size].iter().rposition(|byte| *byte == b'\n') {
            return Ok(start + at as u64 + 1);
        }
        end = start;
    }
    Ok(0)
}

/// So that a new file is still there after a power loss.
fn sync_directory(path: &Path) -> io::Result<()> {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => File::open(parent)?.sync_all(),
        _ => File::open(".")?.sync_all(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sink::put_line;
    use bytes::BytesMut;

    fn message(id: &str, payload: &str) -> Message {
        Message::with_payload("t", Payload::from_json(payload.to_owned()).unwrap()).id(id)
    }

    fn append(target: &mut FileTarget, message: &Message) {
        let mut line = BytesMut::new();
        put_line(&mut line, message);
        target.append(&line, 1).unwrap();
    }

    #[test]
    fn lines_since_the_mark_are_known_again_and_a_torn_one_is_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        std::fs::write(&path, "not ours\n").unwrap();
        let mut first = FileTarget::open(&path).unwrap();
        assert!(first.recovered().is_empty());
        append(&mut first, &message("a", "1"));
        first.close(true);
        append(&mut first, &message("b", "[\n1]"));
        first.file.write_all(b"{\"id\":\"torn").unwrap();
        drop(first);

        let second = FileTarget::open(&path).unwrap();
        assert_eq!(
            second.recovered().len(),
            1,
            "`a` was settled before the mark"
        );
        assert!(second.has(&message("b", "[\n1]")));
        assert!(
            !second.has(&message("b", "[2]")),
            "other content is another message"
        );
        assert!(!second.has(&message("a", "1")));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 3);
        assert!(text.ends_with("\"payload\":[ 1]}\n"), "{text}");
    }

    #[test]
    fn a_failed_write_leaves_no_half_line_once_the_file_can_be_written_again() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let mut target = FileTarget::open(&path).unwrap();
        append(&mut target, &message("a", "1"));
        let good = std::mem::replace(&mut target.file, File::open(&path).unwrap());
        target.append(b"{}\n", 1).unwrap_err();
        (&good).write_all(b"half of it").unwrap();
        target.file = good;
        append(&mut target, &message("b", "1"));
        let text = std::fs::read_to_string(&path).unwrap();
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(
            text.lines().all(|line| line.starts_with("{\"id\":")),
            "{text}"
        );
    }

    #[test]
    fn a_device_is_refused() {
        assert!(FileTarget::open(Path::new("/dev/null")).is_err());
        assert!(!Path::new("/dev/null.mark").exists());
    }

    #[test]
    fn a_file_of_one_torn_line_becomes_empty() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        std::fs::write(&path, vec![b'x'; 20_000]).unwrap();
        FileTarget::open(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 0);
    }

    #[test]
    fn a_file_that_was_emptied_since_the_mark_is_read_from_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.jsonl");
        let mut target = FileTarget::open(&path).unwrap();
        for n in 0..10 {
            append(&mut target, &message(&n.to_string(), "1"));
        }
        target.close(true);
        target.file.set_len(0).unwrap();
        append(&mut target, &message("new", "1"));
        drop(target);
        assert_eq!(FileTarget::open(&path).unwrap().recovered().len(), 1);
    }
}
