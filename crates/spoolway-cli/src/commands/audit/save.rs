//! Asks a running consumer to write its newest counts into the queue file.

use std::fmt;
use std::io::{self, Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::channel;
use std::thread;
use std::time::Duration;

use bytes::BytesMut;
use serde::{Serialize, Serializer};
use spoolway::SqliteQueue;
use spoolway::proto::{
    ConsumerOp, FRAME_BYTES_CEILING, FrameDecoder, ProducerOp, decode_for_producer,
};
use spoolway::queue::ConsumerLock;

use crate::failure::Failure;
use crate::units::span;

/// How long the consumer may take: a commit and what waits before it.
const SAVE_MAX: Duration = Duration::from_secs(2);
/// Read at a time: the answer is 28 bytes.
const CHUNK: usize = 512;

/// What the counts in the file leave out.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Consumer {
    /// Nothing: it has written them down.
    Saved,
    /// Nothing that anyone knows.
    NotRunning,
    /// What it has in memory, for this reason.
    NotSaved(String),
}

impl Consumer {
    pub(super) fn as_str(&self) -> &'static str {
        match self {
            Self::Saved => "saved",
            Self::NotRunning => "not_running",
            Self::NotSaved(_) => "not_saved",
        }
    }
}

impl fmt::Display for Consumer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.as_str().replace('_', " "))
    }
}

impl Serialize for Consumer {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

/// Asks the consumer that owns the file, if there is one, and waits until the file has it.
pub(super) fn newest(queue: &SqliteQueue, socket: &Path) -> Result<Consumer, Failure> {
    if !ConsumerLock::is_held(&queue.lock_path())? {
        return Ok(Consumer::NotRunning);
    }
    // On a thread of its own: connecting to a consumer that is stopped may take forever.
    let (sender, answer) = channel();
    let path = socket.to_path_buf();
    thread::Builder::new()
        .name("save".into())
        .spawn(move || drop(sender.send(save(&path))))
        .map_err(|error| Failure::io("cannot start a thread", &error))?;
    let not_saved = |why: String| Consumer::NotSaved(format!("{}: {why}", socket.display()));
    Ok(match answer.recv_timeout(SAVE_MAX) {
        Ok(Ok(true)) => Consumer::Saved,
        Ok(Ok(false)) => not_saved("it could not write to the queue file".to_owned()),
        Ok(Err(error)) => not_saved(error.to_string()),
        Err(_) => not_saved(format!("no answer within {}", span(SAVE_MAX))),
    })
}

/// Says `save` without a hello, and reads until `saved`.
fn save(socket: &Path) -> io::Result<bool> {
    let mut stream = UnixStream::connect(socket)?;
    let mut bytes = BytesMut::new();
    ProducerOp::Save.put(&mut bytes);
    stream.write_all(&bytes)?;
    bytes.clear();
    let mut decoder = FrameDecoder::new(FRAME_BYTES_CEILING);
    let mut chunk = [0; CHUNK];
    loop {
        while let Some(frame) = decoder.next(&mut bytes).map_err(io::Error::other)? {
            match decode_for_producer(&frame).map_err(io::Error::other)? {
                ConsumerOp::Saved { saved } => return Ok(saved),
                ConsumerOp::Error { message, .. } => return Err(io::Error::other(message)),
                _ => {}
            }
        }
        match stream.read(&mut chunk)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            length => bytes.extend_from_slice(&chunk[..length]),
        }
    }
}
