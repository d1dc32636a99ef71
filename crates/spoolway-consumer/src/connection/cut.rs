//! Where one message ends and the next begins, in the dialect of a connection.

use bytes::{Bytes, BytesMut};
use spoolway_proto::{FRAME_BYTES_CEILING, FrameDecoder, Invalid, Limits, LineDecoder};

/// A hello is shorter.
const HELLO_BYTES_MAX: usize = 4 * 1024;

/// Cuts what was read into frames or lines.
pub(crate) enum Cutter {
    Frames(FrameDecoder),
    Lines(LineDecoder),
}

/// The front of what was read, without taking it.
pub(crate) enum Front<'a> {
    /// Nothing whole yet.
    Nothing,
    /// A frame or a line, which may be a hello.
    Short(&'a [u8]),
    /// Longer than a hello.
    Long,
}

impl Cutter {
    pub(crate) fn frames(limits: &Limits) -> Self {
        Self::Frames(FrameDecoder::new(limits.frame_bytes_max))
    }

    pub(crate) fn lines(limits: &Limits) -> Self {
        Self::Lines(LineDecoder::new(limits.frame_bytes_max))
    }

    pub(crate) fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Invalid> {
        match self {
            Self::Frames(frames) => frames.next(buffer).map_err(Invalid::from),
            Self::Lines(lines) => lines.next(buffer).map_err(Invalid::from),
        }
    }

    /// What the end of the stream makes whole.
    pub(crate) fn end(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, Invalid> {
        match self {
            Self::Frames(frames) => frames.end(buffer).map(|()| None).map_err(Invalid::from),
            Self::Lines(lines) => lines.end(buffer).map_err(Invalid::from),
        }
    }

    pub(crate) fn front<'a>(&self, buffer: &'a [u8]) -> Front<'a> {
        match self {
            Self::Frames(frames) => {
                let (start, length) = match (frames.begun(), buffer.first_chunk::<4>()) {
                    (Some(body), _) => (0, Some(body)),
                    (None, header) => (4, header.map(|n| u32::from_be_bytes(*n) as usize)),
                };
                let Some(length) = length else {
                    return Front::Nothing;
                };
                if length > FRAME_BYTES_CEILING {
                    // No frame: it is refused at once.
                    return Front::Nothing;
                }
                if length > HELLO_BYTES_MAX {
                    return Front::Long;
                }
                let body = buffer.get(start..start + length);
                body.map_or(Front::Nothing, Front::Short)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_front_of_a_frame_whose_length_has_been_taken_is_its_body() {
        let mut frames = Cutter::frames(&Limits::default());
        let mut buffer = BytesMut::from(&b"\0\0\0\x07{\"a"[..]);
        assert_eq!(frames.next(&mut buffer), Ok(None));
        assert!(matches!(frames.front(&buffer), Front::Nothing));
        buffer.extend_from_slice(b"\":1}\0\0");
        assert!(matches!(frames.front(&buffer), Front::Short(br#"{"a":1}"#)));
        assert_eq!(frames.next(&mut buffer).unwrap().unwrap(), r#"{"a":1}"#);
    }
}
