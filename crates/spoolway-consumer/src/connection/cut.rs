//! Where one message ends and the next begins, in the dialect of a connection.

use bytes::{Bytes, BytesMut};
use spoolway_proto::{FrameDecoder, Invalid, Limits, LineDecoder};

/// A hello is shorter.
const HELLO_BYTES_MAX: usize = 4 * 1024;

/// Cuts what was read into frames or lines.
pub(super) enum Cutter {
    Frames(FrameDecoder),
    Lines(LineDecoder),
}

/// The front of what was read, without taking it.
pub(super) enum Front<'a> {
    /// Nothing whole yet.
    Nothing,
    /// A frame or a line, which may be a hello.
    Short(&'a [u8]),
    /// Longer than a hello.
    Long,
}

impl Cutter {
    pub(super) fn frames(limits: &Limits) -> Self {
        Self::Frames(FrameDecoder::new(limits.frame_bytes_max))
    }

    pub(super) fn lines(limits: &Limits) -> Self {
        Self::Lines(LineDecoder::new(limits.frame_bytes_max))
    }

    pub(super) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Invalid> {
        match self {
            Self::Frames(frames) => frames.next(buffer).map_err(Invalid::from),
            Self::Lines(lines) => lines.next(buffer).map_err(Invalid::from),
        }
    }

    /// What the end of the stream makes whole.
    pub(super) fn end(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Invalid> {
        match self {
            Self::Frames(frames) => frames.end(buffer).map(|()| None).map_err(Invalid::from),
            Self::Lines(lines) => lines.end(buffer).map_err(Invalid::from),
        }
    }

    pub(super) fn front<'a>(&self, buffer: &'a [u8]) -> Front<'a> {
        match self {
            Self::Frames(_) => {
                let Some(header) = buffer.first_chunk::<4>() else {
                    return Front::Nothing;
                };
                let end = 4 + u32::from_be_bytes(*header) as usize;
                if end > HELLO_BYTES_MAX && header[0] == 0 {
                    return Front::Long;
                }
                buffer.get(4..end).map_or(Front::Nothing, Front::Short)
            }
            Self::Lines(_) => {
                let lines = buffer.trim_ascii_start();
                let start = &lines[..lines.len().min(HELLO_BYTES_MAX)];
                match start.iter().position(|&byte| byte == b'\n') {
                    Some(end) => Front::Short(&start[..end]),
                    None if lines.len() > HELLO_BYTES_MAX => Front::Long,
                    None => Front::Nothing,
                }
            }
        }
    }
}
