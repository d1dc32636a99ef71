//! Sinks: configured handlers that hand messages to something outside, as one line of JSON each.
//!
//! A sink has a thread of its own. It takes what is waiting as one group, writes and syncs it once, and then ends
//! the handlers of all of it: the more is going on, the larger the groups.

mod file;
mod mark;
mod stdout;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};

use bytes::BytesMut;
use spoolway_proto::{Message, MessageId};

use crate::health::Health;
use crate::machine::{Finish, Ticket};

use file::FileTarget;
use stdout::StdoutTarget;

/// Where messages go that no handler of their own takes.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Sink {
    /// Appended to a file, one message a line, and synced before the message counts as processed.
    ///
    /// Beside it lies `<path>.mark`, which says from where on its lines are read again at the next start: with them a
    /// consumer that was killed between the line and its outcome writes no line twice.
    File(PathBuf),
    /// Written to the standard output, one message a line.
    Stdout,
}

/// Why a sink cannot be opened or is not one.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SinkError {
    /// The file cannot be used.
    #[error("cannot {action} {path}")]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The text names no sink.
    #[error("{0:?} is no sink; write `stdout` or `file:PATH`")]
    Unknown(String),
}

impl Sink {
    /// Writes to the standard output.
    pub fn stdout() -> Self {
        Self::Stdout
    }

    /// Appends to that file, which is made when missing.
    pub fn file(path: impl Into<PathBuf>) -> Self {
        Self::File(path.into())
    }

    pub(crate) fn open(&self) -> Result<OpenSink, SinkError> {
        Ok(match self {
            Self::File(path) => {
                let target = FileTarget::open(path)?;
                let recovered = target.recovered();
                OpenSink {
                    target: Box::new(target),
                    recovered,
                }
            }
            Self::Stdout => OpenSink {
                target: Box::new(StdoutTarget),
                recovered: Vec::new(),
            },
        })
    }
}

impl FromStr for Sink {
    type Err = SinkError;

    fn from_str(text: &str) -> Result<Self, SinkError> {
        match text.split_once(':') {
            None if text == "stdout" => Ok(Self::Stdout),
            Some(("file", path)) if !path.is_empty() => Ok(Self::file(path)),
            _ => Err(SinkError::Unknown(text.to_owned())),
        }
    }
}

impl fmt::Display for Sink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "file:{}", path.display()),
            Self::Stdout => f.write_str("stdout"),
        }
    }
}

/// What a sink writes to.
pub(crate) trait Target: Send {
    /// Whether it holds the line of this message from before this run.
    fn has(&self, message: &Message) -> bool;
    /// Writes whole lines, which survive what the sink promises when this returns; on an error none of them counts.
    fn append(&mut self, lines: &[u8], count: usize) -> io::Result<()>;
    /// The end. `settled`: the outcome of every line is on disk or was heard.
    fn close(&mut self, settled: bool);
}

/// A sink that is ready, before its thread runs.
pub(crate) struct OpenSink {
    target: Box<dyn Target>,
    /// Ids, and checksums over id, type and payload, of the lines written since the last mark.
    pub(crate) recovered: Vec<(MessageId, u32)>,
}

/// A message on its way to the sink.
pub(crate) struct SinkJob {
    pub(crate) ticket: Ticket,
    pub(crate) message: Arc<Message>,
    pub(crate) replayed: bool,
}

/// The thread of a sink.
pub(crate) struct SinkThread {
    jobs: Mutex<Option<Sender<SinkJob>>>,
    thread: Mutex<Option<JoinHandle<Box<dyn Target>>>>,
}

/// Bytes of a group, beyond which the rest waits for the next one.
const GROUP_BYTES_MAX: usize = 4 << 20;

impl OpenSink {
    /// Starts the thread. `ended` hears of each message once it is written, or why it is not.
    pub(crate) fn start(
        self,
        ended: impl Fn(Ticket, Finish) + Send + 'static,
    ) -> io::Result<SinkThread> {
        let (jobs, waiting) = channel();
        let mut target = self.target;
        let thread = thread::Builder::new()
            .name("spoolway-sink".into())
            .spawn(move || {
                run(&mut *target, &waiting, &ended);
                target
            })?;
        Ok(SinkThread {
            jobs: Mutex::new(Some(jobs)),
            thread: Mutex::new(Some(thread)),
        })
    }
}

impl SinkThread {
    pub(crate) fn hand(&self, job: SinkJob) {
        let jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(jobs) = &*jobs {
            // A thread that is gone panicked; the messages are stored when their time is up.
            let _ = jobs.send(job);
        }
    }

    /// Writes what is waiting, and ends. Blocks.
    pub(crate) fn close(&self, settled: bool) {
        drop(
            self.jobs
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(Ok(mut target)) = thread.map(JoinHandle::join) {
            target.close(settled);
        }
    }
}

fn run(target: &mut dyn Target, waiting: &Receiver<SinkJob>, ended: &dyn Fn(Ticket, Finish)) {
    let health = Health::new("writing to the sink");
    let mut lines = BytesMut::new();
    let mut tickets = Vec::new();
    while let Ok(first) = waiting.recv() {
        let mut next = Some(first);
        while let Some(job) = next {
            if !job.replayed && target.has(&job.message) {
                ended(job.ticket, Finish::Done);
            } else {
                put_line(&mut lines, &job.message);
                tickets.push(job.ticket);
            }
            next = if lines.len() < GROUP_BYTES_MAX {
                waiting.try_recv().ok()
            } else {
                None
            };
        }
        if tickets.is_empty() {
            continue;
        }
        let written = target.append(&lines, tickets.len());
        let failed = written.as_ref().err().map(|error| format!("sink: {error}"));
        health.noted(written);
        for ticket in tickets.drain(..) {
            ended(
                ticket,
                failed.clone().map_or(Finish::Done, Finish::Unavailable),
            );
        }
        lines.clear();
    }
}

/// Appends the message as one line.
fn put_line(lines: &mut BytesMut, message: &Message) {
    let start = lines.len();
    message.encode(lines);
    make_one_line(&mut lines[start..]);
    lines.extend_from_slice(b"\n");
}

/// Payloads are carried byte for byte, so there may be line breaks: in JSON they are white space, as a string has them
/// only as escapes.
fn make_one_line(json: &mut [u8]) {
    for byte in json {
        if matches!(*byte, b'\n' | b'\r') {
            *byte = b' ';
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use spoolway_proto::Payload;

    #[test]
    fn a_message_is_one_line_whatever_its_payload() {
        let payload = Payload::from_json("{\n\"a\":\r\n\"\\n\"}").unwrap();
        let mut lines = BytesMut::new();
        put_line(&mut lines, &Message::with_payload("t", payload));
        assert_eq!(lines, "{\"type\":\"t\",\"payload\":{ \"a\":  \"\\n\"}}\n");
    }

    /// Fails whenever it is to write `bad`.
    struct Picky(Vec<u8>);

    impl Target for Picky {
        fn has(&self, message: &Message) -> bool {
            message.id.as_str() == "known"
        }

        fn append(&mut self, lines: &[u8], _: usize) -> io::Result<()> {
            if lines.windows(3).any(|part| part == b"bad") {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.extend_from_slice(lines);
            Ok(())
        }

        fn close(&mut self, _: bool) {}
    }

    #[test]
    fn a_group_ends_as_its_write_does_and_what_is_known_is_not_written() {
        let mut picky = Picky(Vec::new());
        let ended = Mutex::new(Vec::new());
        let note = |ticket, finish| ended.lock().unwrap().push((ticket, finish == Finish::Done));
        let mut hand = |group: &[(&str, bool)]| {
            let (jobs, waiting) = channel();
            for (ticket, (id, replayed)) in group.iter().enumerate() {
                let message = Arc::new(Message::new("t", &1).unwrap().id(id));
                jobs.send(SinkJob {
                    ticket: ticket as u64,
                    message,
                    replayed: *replayed,
                })
                .unwrap();
            }
            drop(jobs);
            run(&mut picky, &waiting, &note);
            std::mem::take(&mut *ended.lock().unwrap())
        };
        assert_eq!(
            hand(&[("a", false), ("bad", false)]),
            [(0, false), (1, false)]
        );
        assert_eq!(
            hand(&[("a", false), ("known", false)]),
            [(1, true), (0, true)]
        );
        assert_eq!(hand(&[("known", true)]), [(0, true)]);
        let text = String::from_utf8(picky.0).unwrap();
        let ids: Vec<&str> = text.lines().map(|line| &line[..12]).collect();
        assert_eq!(ids, ["{\"id\":\"a\",\"t", "{\"id\":\"known"]);
    }

    #[test]
    fn a_sink_survives_text() {
        for text in ["stdout", "file:/var/log/orders.jsonl", "file:a:b"] {
            assert_eq!(text.parse::<Sink>().unwrap().to_string(), text);
        }
        for text in ["", "file:", "file", "orders.jsonl"] {
            assert!(text.parse::<Sink>().is_err(), "{text}");
        }
    }
}
