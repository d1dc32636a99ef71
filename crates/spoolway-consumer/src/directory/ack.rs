//! What is written for whoever wrote a message file: its ack, and its error.

use std::ffi::OsStr;
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use spoolway_proto::{Code, Message, Outcome, Reply};

/// A reason is a sentence, so no ack comes near this.
const ACK_BYTES_MAX: u64 = 64 * 1024;
/// What no name of a message begins with: dotted names are left alone.
pub(crate) const TEMPORARY: &str = ".tmp-";

/// The outcome of a message, as it is found in its ack.
#[derive(Debug, Deserialize, Serialize)]
pub(crate) struct Ack {
    id: Box<str>,
    #[serde(flatten)]
    verdict: Verdict,
    /// When it was settled, in milliseconds.
    time: i64,
    /// That of the message, by which a copy is known; none where the file was no message.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    crc: Option<u32>,
}

/// What became of a file.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Verdict {
    /// `processed`, `stored`, `dead`, or `refused`.
    outcome: Box<str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    code: Option<Code>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    reason: Option<Box<str>>,
}

/// An error of a file, with everything that is needed to repair and send it again.
#[derive(Serialize)]
pub(crate) struct Failure<'a> {
    pub(crate) id: &'a str,
    pub(crate) folder: &'a str,
    pub(crate) file: &'a str,
    #[serde(flatten)]
    pub(crate) verdict: &'a Verdict,
    pub(crate) time: i64,
    /// The content of the file, where it is text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) content: Option<&'a str>,
    /// Else the name of the file, which was moved beside this one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) original: Option<&'a str>,
}

impl Ack {
    pub(crate) fn new(id: &str, verdict: Verdict, time: i64, crc: Option<u32>) -> Self {
        Self {
            id: id.into(),
            verdict,
            time,
            crc,
        }
    }

    /// The one at that path; `None` without one that can be read: then nothing is known.
    pub(crate) fn read(path: &Path) -> Option<Self> {
        let file = open(path).ok()?;
        let mut text = Vec::new();
        file.take(ACK_BYTES_MAX).read_to_end(&mut text).ok()?;
        serde_json::from_slice(&text).ok()
    }

    /// What became of this very message, if it was taken before.
    pub(crate) fn outcome_of(&self, message: &Message, crc: u32) -> Option<Reply> {
        let same = *self.id == *message.id.as_str() && self.crc == Some(crc);
        let outcome = self.verdict.outcome.parse().ok().filter(|_| same)?;
        let id = message.id.clone();
        Some(match outcome {
            Outcome::Dead => Reply::dead(id, self.verdict.reason.as_deref().unwrap_or("dead")),
            outcome => Reply::taken(id, outcome),
        })
    }
}

impl Verdict {
    pub(crate) fn is_failure(&self) -> bool {
        matches!(&*self.outcome, "dead" | "refused")
    }
}

impl From<&Reply> for Verdict {
    fn from(reply: &Reply) -> Self {
        Self {
            outcome: reply.outcome.map_or("refused", Outcome::as_str).into(),
            code: reply.code,
            reason: reply.error.as_deref().map(Into::into),
        }
    }
}

/// Opens a file to read it, if it is one: links are not followed, and a pipe does not block.
pub(crate) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .custom_flags((OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed())
        .open(path)
}

/// Writes a file whole: under its name is the old one or the new one. `durable`: before it has its name.
pub(crate) fn put(
    directory: &Path,
    name: &OsStr,
    line: &impl Serialize,
    durable: bool,
) -> io::Result<()> {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    let temporary = directory.join(format!("{TEMPORARY}{}-{n}", std::process::id()));
    let written = File::options()
        .write(true)
        .create(true)
        .truncate(true)
        .custom_flags(OFlags::NOFOLLOW.bits().cast_signed())
        .open(&temporary)
        .and_then(|mut file| {
            let mut text = serde_json::to_vec(line)?;
            text.push(b'\n');
            file.write_all(&text)?;
            if durable {
                file.sync_data()?;
            }
            fs::rename(&temporary, directory.join(name))
        });
    if written.is_err() {
        // Of no use, and in the way of a full disk; if it cannot be removed it goes with a cleanup.
        let _ = fs::remove_file(&temporary);
    }
    written
}

/// Makes a directory beside `messages`, for whoever may use that one.
pub(crate) fn make_beside(messages: &Path, directory: &Path) -> io::Result<()> {
    let mode = fs::metadata(messages)?.mode() & 0o777;
    match DirBuilder::new().mode(mode).create(directory) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error),
        Ok(()) => directory.parent().map_or(Ok(()), sync),
    }
}

/// Puts the names of a directory on disk.
pub(crate) fn sync(directory: &Path) -> io::Result<()> {
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use spoolway_proto::Payload;

    use super::*;

    #[test]
    fn the_ack_in_the_document_is_that_of_its_recipe() {
        let document = include_str!("../../../../docs/spool-directory.md");
        let example = document.split("```json ack\n").nth(1).unwrap();
        let example = example.split('\n').next().unwrap();
        let payload = Payload::from_json(r#"{"id":1}"#).unwrap();
        let message = Message::with_payload("order", payload).id("1767225600000000000-7");
        let reply = Reply::taken(message.id.clone(), Outcome::Processed);
        let verdict = Verdict::from(&reply);
        let ack = Ack::new(
            message.id.as_str(),
            verdict,
            1_767_225_600_012,
            Some(message.crc()),
        );
        assert_eq!(serde_json::to_string(&ack).unwrap(), example);
        let read: Ack = serde_json::from_str(example).unwrap();
        assert_eq!(read.outcome_of(&message, message.crc()), Some(reply));
        assert_eq!(read.outcome_of(&message, 7), None, "another content");
        let other = message.clone().id("other");
        assert_eq!(read.outcome_of(&other, message.crc()), None, "another id");
    }

    #[test]
    fn an_ack_of_what_was_refused_says_nothing_of_a_message() {
        let id = spoolway_proto::MessageId::new("m1").unwrap();
        let refused = Reply::refused(id.clone(), Code::Conflict, "conflict: taken");
        let ack = Ack::new("m1", Verdict::from(&refused), 1, Some(7));
        let message = Message::new("t", &1).unwrap().id("m1");
        assert_eq!(ack.outcome_of(&message, 7), None);
        let dead = Ack::new(
            "m1",
            Verdict::from(&Reply::dead(id.clone(), "no_route")),
            1,
            Some(7),
        );
        assert_eq!(
            dead.outcome_of(&message, 7),
            Some(Reply::dead(id, "no_route"))
        );
    }
}
