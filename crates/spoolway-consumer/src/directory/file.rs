//! One message file: read, decoded, and held against what is known of it already.

use std::fs::Metadata;
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use rustix::io::Errno;
use spoolway_proto::{
    Code, Invalid, Message, MessageId, Outcome, Reply, Timestamp, validate_queue_message,
};
use spoolway_queue::{Existing, QueueError};

use super::ack::{Ack, open};
use super::folders::Folder;
use super::left::LeftAlone;
use crate::shared::Shared;

/// A file that is not JSON may still be being written, by a program that does not rename, for this long.
const UNFINISHED_MAX: Duration = Duration::from_secs(1);

/// A file that was read.
pub(crate) struct Taken {
    pub(crate) folder: Arc<Folder>,
    /// Its name without `.json`: what its ack is called.
    pub(crate) name: Box<str>,
    /// Which file that name was.
    stamp: Stamp,
    /// What it held; `None` when it is too large to be read.
    pub(crate) content: Option<Bytes>,
}

/// What tells a file from another one that was given its name meanwhile.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Stamp {
    inode: u64,
    bytes: u64,
    modified_ns: i128,
}

/// What a file turned out to be.
pub(crate) enum Found {
    /// A message nothing is known of, and its checksum.
    Message(Taken, Box<Message>, u32),
    /// A message whose outcome is known, or none at all.
    Settled(Taken, Reply, Option<u32>),
    /// Not to be touched.
    LeftAlone(LeftAlone),
    /// Gone, or not to be judged yet.
    Nothing,
}

impl Found {
    /// Reads that file. Blocks.
    pub(crate) fn read(folder: &Arc<Folder>, name: &str, shared: &Shared) -> Self {
        match Taken::read(folder, name, shared.limits.frame_bytes_max as u64) {
            Ok(Some(file)) => Self::of(file, shared),
            Ok(None) => Self::LeftAlone(LeftAlone::Special),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::Nothing,
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                Self::LeftAlone(LeftAlone::Link)
            }
            Err(_) => Self::LeftAlone(LeftAlone::Unreadable),
        }
    }

    fn of(file: Taken, shared: &Shared) -> Self {
        let Some(content) = &file.content else {
            let max = shared.limits.frame_bytes_max;
            let (found, allowed) = (file.stamp.bytes, max);
            let invalid = Invalid::new(
                Code::TooLarge,
                format!("a file of {found} bytes"),
                format!("{allowed} bytes"),
            );
            return Self::refused(file, &invalid);
        };
        let message = match file.message(content, shared) {
            Ok(message) => message,
            Err(invalid) if invalid.code == Code::BadJson && file.is_young() => {
                return Self::Nothing;
            }
            Err(invalid) => return Self::refused(file, &invalid),
        };
        let crc = message.crc();
        let ack = Ack::read(&file.folder.ack(&file.name));
        if let Some(reply) = ack.and_then(|ack| ack.outcome_of(&message, crc)) {
            return Self::Settled(file, reply, Some(crc));
        }
        match shared.reads.noted(stored(&message, shared)) {
            Some(Some(reply)) => Self::Settled(file, reply, Some(crc)),
            Some(None) => Self::Message(file, Box::new(message), crc),
            // Whether it was taken before is not known now.
            None => Self::Nothing,
        }
    }

    fn refused(file: Taken, invalid: &Invalid) -> Self {
        Self::Settled(file, Reply::from(invalid), None)
    }
}

/// What became of this very message as far as the queue file has it.
fn stored(message: &Message, shared: &Shared) -> Result<Option<Reply>, QueueError> {
    let id = message.id.clone();
    let outcome = match shared.queue.state_of(message)? {
        None => return Ok(None),
        Some(Existing::Pending) => Outcome::Stored,
        Some(Existing::Processed) => Outcome::Processed,
        Some(Existing::Dead) => {
            let letter = shared.queue.dead_letter(id.as_str())?;
            let reason = letter.and_then(|letter| letter.reason);
            return Ok(Some(Reply::dead(id, reason.unwrap_or("dead".into()))));
        }
    };
    Ok(Some(Reply::taken(id, outcome)))
}

impl Taken {
    /// `None`: that is no file.
    fn read(folder: &Arc<Folder>, name: &str, bytes_max: u64) -> io::Result<Option<Self>> {
        let file = open(&folder.message(name))?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Ok(None);
        }
        let stamp = Stamp::of(&metadata);
        let content = if stamp.bytes > bytes_max {
            None
        } else {
            let mut content = Vec::with_capacity(usize::try_from(stamp.bytes).unwrap_or(0));
            file.take(bytes_max + 1).read_to_end(&mut content)?;
            (content.len() as u64 <= bytes_max).then(|| content.into())
        };
        Ok(Some(Self {
            folder: Arc::clone(folder),
            name: name.into(),
            stamp,
            content,
        }))
    }

    /// The message it holds. Its folder is where it lies; its id is its name, and its time that of the file, where
    /// it says none.
    fn message(&self, content: &Bytes, shared: &Shared) -> Result<Message, Invalid> {
        let mut message = Message::decode(content)?;
        message.folder = Some(self.folder.name.clone());
        if message.id.is_empty() {
            message.id = MessageId::new(&self.name)?;
        }
        message.timestamp.get_or_insert(self.modified());
        validate_queue_message(&message, &shared.limits)?;
        Ok(message)
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.folder.message(&self.name)
    }

    /// What it takes of memory.
    pub(crate) fn bytes(&self) -> u64 {
        self.content
            .as_ref()
            .map_or(0, |content| content.len() as u64)
    }

    pub(crate) fn modified(&self) -> Timestamp {
        let millis = self.stamp.modified_ns.div_euclid(1_000_000);
        Timestamp(i64::try_from(millis).unwrap_or_default().max(0))
    }

    fn is_young(&self) -> bool {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now.map_or(0, |now| now.as_nanos().cast_signed());
        (0..UNFINISHED_MAX.as_nanos().cast_signed()).contains(&(now - self.stamp.modified_ns))
    }

    /// Whether its name is still this file's.
    pub(crate) fn is_there(&self) -> bool {
        let found = self.path().symlink_metadata();
        found.is_ok_and(|found| Stamp::of(&found) == self.stamp)
    }
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Self {
            inode: metadata.ino(),
            bytes: metadata.size(),
            modified_ns: i128::from(metadata.mtime()) * 1_000_000_000
                + i128::from(metadata.mtime_nsec()),
        }
    }
}
