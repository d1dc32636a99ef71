//! One connection to the consumer: bytes in, ops out.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rustix::net::{RecvFlags, recv};
use spoolway_proto::{ConsumerOp, FrameDecoder, Invalid, Limits, decode_for_producer};
use tokio::net::UnixStream;

/// How much is read at a time.
const READ_BYTES: usize = 64 * 1024;

/// How much is read at a time when it is the last: on the stack.
const LAST_BYTES: usize = 8 * 1024;

#[derive(Debug)]
pub(crate) struct Link {
    stream: Arc<UnixStream>,
    decoder: FrameDecoder,
    inbox: BytesMut,
    /// The kernel took less than it was given: the driver says when to go on.
    blocked: bool,
    /// A write failed: what is there to be read is the last.
    broken: bool,
    /// Bytes the kernel took.
    taken: usize,
    /// The messages it has not taken whole, and where in the stream they end.
    untaken: VecDeque<(u64, usize)>,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Read {
    Bytes,
    Again,
    Nothing,
    End,
}

impl Link {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self {
            stream: Arc::new(stream),
            decoder: FrameDecoder::new(Limits::default().frame_bytes_max),
            inbox: BytesMut::new(),
            blocked: false,
            broken: false,
            taken: 0,
            untaken: VecDeque::new(),
        }
    }

    /// The frame of message `n` is the last `out` holds.
    pub(crate) fn framed(&mut self, n: u64, out: &BytesMut) {
        self.untaken.push_back((n, self.taken + out.len()));
    }

    /// The messages that no consumer can have, since the kernel did not take them whole.
    pub(crate) fn unsent(&self) -> Vec<u64> {
        let unsent = self.untaken.iter().filter(|(_, end)| *end > self.taken);
        unsent.map(|(n, _)| *n).collect()
    }

    /// What to wait for readiness on.
    pub(crate) fn stream(&self) -> Arc<UnixStream> {
        Arc::clone(&self.stream)
    }

    /// Whether bytes wait for the kernel to take them.
    pub(crate) fn is_blocked(&self) -> bool {
        self.blocked && !self.broken
    }

    /// Whether nothing more is written, and what is there to be read is the last.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken
    }

    /// Ends it from this side.
    pub(crate) fn fail(&mut self) {
        self.broken = true;
    }

    /// The kernel takes bytes again.
    pub(crate) fn unblock(&mut self) {
        self.blocked = false;
    }

    /// Reads what the reactor has seen, without waiting.
    pub(crate) fn read(&mut self) -> Read {
        if self.broken {
            return match self.read_last() {
                Read::Nothing => Read::End,
                read => read,
            };
        }
        self.inbox.reserve(READ_BYTES);
        let result = self.stream.try_read_buf(&mut self.inbox);
        Self::judge(result)
    }

    /// Reads what the kernel has, also where the reactor has not come by yet: before a connection
    /// is given up, what was answered counts.
    pub(crate) fn read_last(&mut self) -> Read {
        let mut chunk = [0; LAST_BYTES];
        let result = recv(&self.stream, &mut chunk, RecvFlags::DONTWAIT);
        let result = result.map(|(count, _)| {
            self.inbox.extend_from_slice(&chunk[..count]);
            count
        });
        Self::judge(result.map_err(io::Error::from))
    }

    fn judge(result: io::Result<usize>) -> Read {
        match result {
            Ok(0) => Read::End,
            Ok(_) => Read::Bytes,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Read::Again,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Read::Nothing,
            Err(_) => Read::End,
        }
    }

    /// The next op of what was read.
    pub(crate) fn next_op(&mut self) -> Result<Option<ConsumerOp>, Invalid> {
        match self.decoder.next(&mut self.inbox)? {
            Some(frame) => decode_for_producer(&frame).map(Some),
            None => Ok(None),
        }
    }

    /// Writes as much as the kernel takes. Returns whether the driver has to go on.
    pub(crate) fn write(&mut self, out: &mut BytesMut) -> bool {
        if self.broken {
            out.clear();
        }
        while !out.is_empty() && !self.blocked {
            match self.stream.try_write(out) {
                Ok(n) => {
                    self.taken += n;
                    out.advance(n);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    self.untaken.retain(|(_, end)| *end > self.taken);
                    return true;
                }
                Err(_) => {
                    self.broken = true;
                    out.clear();
                    return true;
                }
            }
        }
        if out.is_empty() && !self.broken {
            self.untaken.clear();
        }
        false
    }
}
