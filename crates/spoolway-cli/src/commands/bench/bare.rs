//! The ceiling of the socket: the same bytes between two bare tokio programs, with the envelope parsed by `serde_json`
//! and the answers gathered, and nothing else: no ids are remembered, nothing is ordered, nothing is kept.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::Instant;

use bytes::{Buf as _, Bytes, BytesMut};
use hdrhistogram::Histogram;
use serde::Deserialize;
use serde_json::value::RawValue;
use spoolway::{MessageId, Timestamp, wire};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};

use super::load::{BATCH, Messages};
use super::side::histogram;
use crate::args::{BenchSide, Work};
use crate::failure::{Failure, exit};

/// Bytes of an answer: an `ack` of one range.
const ANSWER: usize = 36;
const READ_BYTES: usize = 64 * 1024;
/// How much a client hands to the kernel at a time.
const WRITE_BYTES: usize = 64 * 1024;

/// What every consumer has to know of a message.
#[derive(Deserialize)]
#[expect(dead_code, reason = "parsed for its cost")]
struct Envelope<'a> {
    id: &'a str,
    #[serde(rename = "type")]
    kind: &'a str,
    #[serde(borrow)]
    payload: &'a RawValue,
    timestamp: i64,
    sender: Option<&'a str>,
    recipient: Option<&'a str>,
    topic: Option<&'a str>,
    folder: Option<&'a str>,
    key: Option<&'a str>,
    priority: Option<u8>,
    ttl_ms: Option<u64>,
    deliver_at: Option<i64>,
    ack: Option<&'a str>,
    #[serde(default)]
    requires_ack: bool,
    correlation_id: Option<&'a str>,
    request_id: Option<&'a str>,
    reply_to: Option<&'a str>,
    #[serde(borrow)]
    headers: Option<&'a RawValue>,
}

// ---- the server

pub(super) struct Server {
    listener: UnixListener,
    path: PathBuf,
    work: Work,
}

impl Server {
    pub(super) fn listen(path: &Path, args: &BenchSide) -> Result<Self, Failure> {
        // The one before left its name behind.
        let _ = std::fs::remove_file(path);
        let listener = UnixListener::bind(path)
            .map_err(|error| Failure::io(format!("cannot listen on {}", path.display()), &error))?;
        let (path, work) = (path.to_owned(), args.work);
        Ok(Self {
            listener,
            path,
            work,
        })
    }

    /// Serves for ever, or until it fails.
    pub(super) async fn serve(self) -> Failure {
        loop {
            match self.listener.accept().await {
                Ok((stream, _)) => drop(tokio::spawn(answer(stream, self.work))),
                Err(error) => {
                    let what = format!("cannot accept on {}", self.path.display());
                    return Failure::io(what, &error);
                }
            }
        }
    }
}

/// Answers each read with the number of messages so far.
async fn answer(mut stream: UnixStream, work: Work) -> std::io::Result<()> {
    let mut buffer = BytesMut::new();
    let mut taken = 0_u64;
    loop {
        buffer.reserve(READ_BYTES);
        if stream.read_buf(&mut buffer).await? == 0 {
            return Ok(());
        }
        let before = taken;
        while let Some(length) = buffer.first_chunk::<4>() {
            let end = 4 + u32::from_be_bytes(*length) as usize;
            if buffer.len() < end {
                break;
            }
            let frame = buffer.split_to(end).freeze();
            taken += parse(&frame.slice(4..), work)?;
        }
        if taken > before {
            let mut answer = [0; ANSWER];
            answer[..8].copy_from_slice(&taken.to_be_bytes());
            stream.write_all(&answer).await?;
        }
    }
}

/// The number of messages of a frame.
fn parse(frame: &Bytes, work: Work) -> std::io::Result<u64> {
    let read = |envelope: &Envelope<'_>| {
        std::hint::black_box(envelope);
    };
    if work == Work::Batch {
        let envelopes: Vec<Envelope<'_>> = serde_json::from_slice(frame)?;
        envelopes.iter().for_each(read);
        return Ok(envelopes.len() as u64);
    }
    read(&serde_json::from_slice(frame)?);
    Ok(1)
}

// ---- the client

pub(super) struct Client {
    stream: UnixStream,
    /// A chunk of frames, and where each of its prefixes of whole frames ends.
    chunk: Vec<u8>,
    frame: usize,
    /// Messages of a frame.
    of_frame: u64,
    messages: u64,
    window: u64,
}

impl Client {
    pub(super) async fn connect(path: &Path, args: &BenchSide) -> Result<Self, Failure> {
        let stream = UnixStream::connect(path).await.map_err(|error| {
            Failure::io(format!("cannot connect to {}", path.display()), &error)
        })?;
        let of_frame = if args.work == Work::Batch { BATCH } else { 1 };
        let frame = frame(args, of_frame)?;
        let frames = (WRITE_BYTES / frame.len()).max(1);
        Ok(Self {
            stream,
            chunk: frame.repeat(frames),
            frame: frame.len(),
            of_frame,
            messages: args.messages.next_multiple_of(of_frame),
            window: (args.window as u64).max(of_frame),
        })
    }

    /// Sends all messages with at most a window of them unanswered. Returns how long each took.
    pub(super) async fn send(&mut self) -> Result<Histogram<u64>, Failure> {
        let lost = |error| Failure::io("the bare server is gone", &error);
        let (mut reader, mut writer) = self.stream.split();
        let mut times = histogram();
        let (mut sent, mut answered) = (0, 0);
        let mut writes: VecDeque<(u64, Instant)> = VecDeque::new();
        let mut answers = BytesMut::with_capacity(READ_BYTES);
        // What is being written: always the end of the chunk's first frames.
        let mut unwritten: &[u8] = &[];
        while answered < self.messages {
            // Half a window at least at a time, as whoever coalesces does.
            if unwritten.is_empty() && sent < self.messages && sent - answered <= self.window / 2 {
                let room = self.window - (sent - answered);
                let frames = room.min(self.messages - sent) / self.of_frame;
                let frames = frames.clamp(1, (self.chunk.len() / self.frame) as u64);
                unwritten = &self.chunk[..frames as usize * self.frame];
                sent += frames * self.of_frame;
                writes.push_back((sent, Instant::now()));
            }
            tokio::select! {
                biased;
                written = writer.write(unwritten), if !unwritten.is_empty() => {
                    unwritten = &unwritten[written.map_err(lost)?..];
                }
                read = reader.read_buf(&mut answers) => if read.map_err(lost)? == 0 {
                    return Err(Failure::new(exit::FAILED, "bare_end", "the bare server hung up"));
                },
            }
            while answers.len() >= ANSWER {
                let now = u64::from_be_bytes(*answers.first_chunk().expect("a whole answer"));
                answers.advance(ANSWER);
                while let Some((end, at)) = writes.front().copied() {
                    let count = now.min(end).saturating_sub(answered);
                    let nanos = u64::try_from(at.elapsed().as_nanos()).unwrap_or(u64::MAX);
                    times.saturating_record_n(nanos, count);
                    answered += count;
                    if answered < end {
                        break;
                    }
                    writes.pop_front();
                }
            }
        }
        Ok(times)
    }
}

/// A frame of as many bytes as the real one.
fn frame(args: &BenchSide, of_frame: u64) -> Result<Vec<u8>, Failure> {
    let mut messages = Messages::new(args.work, args.bytes, args.number);
    let mut frame = BytesMut::new();
    wire::put_frame(&mut frame, |body| {
        let batch = of_frame > 1;
        for n in 0..of_frame {
            if batch {
                body.extend_from_slice(if n == 0 { b"[" } else { b"," });
            }
            let mut message = messages.next();
            message.stamp(Timestamp(1_700_000_000_000), || {
                MessageId::v7(1_700_000_000_000, [7; 10])
            });
            message.encode(body);
        }
        if batch {
            body.extend_from_slice(b"]");
        }
    });
    Ok(frame.to_vec())
}
