//! Frames: a length of four bytes, big-endian, then that many bytes of JSON.
//!
//! ```text
//! offset  0        4                N + 4
//!         +--------+----------------+
//!         | N      | body           |   1 <= N <= frame_bytes_max < 16 MiB
//!         +--------+----------------+
//! ```
//!
//! The limit under 16 MiB makes the first byte of every frame 0, by which a connection that speaks
//! frames is told from one that speaks lines or HTTP.

use bytes::{Buf, Bytes, BytesMut};

use crate::{Code, Invalid};

/// The most that `frame_bytes_max` may be: 16 MiB − 1, so that the first byte stays 0.
pub const FRAME_BYTES_CEILING: usize = (1 << 24) - 1;

const HEADER_BYTES: usize = 4;

/// How much is reserved ahead of what has arrived. A length is only a claim: memory grows with the
/// bytes that come, so a hundred peers that announce 16 MiB and stop cost little.
const RESERVE_BYTES: usize = 64 * 1024;

/// How much it is behind the beginning of a long body, which is seldom the only one: one read brings several, and what
/// has arrived of the last is moved once for all of them.
const RESERVE_BYTES_LONG: usize = 256 * 1024;

/// Cuts a stream of bytes, in any chunking, into the bodies of frames.
///
/// It has no buffer of its own: read into a [`BytesMut`], then call [`next`](Self::next) until it
/// returns `None`. Bodies are split off that buffer and share it.
#[derive(Clone, Debug)]
pub struct FrameDecoder {
    frame_bytes_max: usize,
    /// The length of the body whose header has been taken.
    body: Option<usize>,
}

impl FrameDecoder {
    /// A decoder that takes bodies of at most `frame_bytes_max` bytes, and never more than
    /// [`FRAME_BYTES_CEILING`].
    pub fn new(frame_bytes_max: usize) -> Self {
        Self {
            frame_bytes_max: frame_bytes_max.min(FRAME_BYTES_CEILING),
            body: None,
        }
    }

    /// The next body, or `None` until more bytes are there.
    ///
    /// # Errors
    ///
    /// A [`FrameError`] for a length that no frame has, before any of the body is waited for. The
    /// stream cannot be read on: the next call returns the same error.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, FrameError> {
        let body = match self.body {
            Some(body) => body,
            None => {
                let Some(header) = buffer.first_chunk::<HEADER_BYTES>() else {
                    return Ok(None);
                };
                let length = u32::from_be_bytes(*header);
                let body = self.check(length)?;
                buffer.advance(HEADER_BYTES);
                self.body = Some(body);
                body
            }
        };
        if buffer.len() < body {
            let held = buffer.len();
            if buffer.capacity() < body {
                let ahead = match held < RESERVE_BYTES / 2 {
                    true => RESERVE_BYTES,
                    false => held.max(RESERVE_BYTES_LONG),
                };
                buffer.reserve((body - held).max(RESERVE_BYTES_LONG).min(ahead));
            }
            return Ok(None);
        }
        self.body = None;
        Ok(Some(buffer.split_to(body).freeze()))
    }

    /// The length of the body that the front of the buffer belongs to, once its header has been taken.
    pub const fn begun(&self) -> Option<usize> {
        self.body
    }

    /// Says whether the stream may end here, with `buffer` holding what is left of it.
    ///
    /// # Errors
    ///
    /// [`FrameError::Cut`] in the middle of a frame.
    pub fn end(&self, buffer: &BytesMut) -> Result<(), FrameError> {
        match self.body {
            None if buffer.is_empty() => Ok(()),
            body => Err(FrameError::Cut {
                body,
                found: buffer.len(),
            }),
        }
    }

    fn check(&self, length: u32) -> Result<usize, FrameError> {
        match usize::try_from(length) {
            Ok(0) => Err(FrameError::Empty),
            Ok(length) if length <= self.frame_bytes_max => Ok(length),
            _ => Err(FrameError::TooLong {
                length,
                frame_bytes_max: self.frame_bytes_max,
            }),
        }
    }
}

/// A stream that is not one of frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream ended inside a frame: its peer died or was cut off.
    #[error("the stream ended {found} bytes into {}", part(*.body))]
    Cut {
        /// The length of the body, once its header was complete.
        body: Option<usize>,
        /// How much of the header or the body had arrived.
        found: usize,
    },
    /// A length of zero.
    #[error("a frame of 0 bytes; a frame has at least 1")]
    Empty,
    /// A length over the limit; also what text read as a length looks like.
    #[error("a frame of {length} bytes; at most {frame_bytes_max} are allowed (`frame_bytes_max`)")]
    TooLong {
        /// The length that was announced.
        length: u32,
        /// The limit in force.
        frame_bytes_max: usize,
    },
}

fn part(body: Option<usize>) -> String {
    match body {
        Some(body) => format!("the body of a frame of {body} bytes"),
        None => "the length of a frame".to_owned(),
    }
}

impl FrameError {
    /// The code to answer with before the connection is closed.
    pub const fn code(&self) -> Code {
        match self {
            Self::Cut { .. } | Self::Empty => Code::BadFrame,
            Self::TooLong { .. } => Code::TooLarge,
        }
    }
}

impl From<FrameError> for Invalid {
    fn from(error: FrameError) -> Self {
        let found = match error {
            FrameError::Cut { body, found } => format!("{found} bytes of {}", part(body)),
            FrameError::Empty => "a frame of 0 bytes".to_owned(),
            FrameError::TooLong { length, .. } => format!("a frame of {length} bytes"),
        };
        let allowed = match error {
            FrameError::TooLong {
                frame_bytes_max, ..
            } => format!("{frame_bytes_max} bytes (`frame_bytes_max`)").into(),
            FrameError::Cut { .. } => "whole frames".into(),
            FrameError::Empty => std::borrow::Cow::Borrowed("at least 1 byte"),
        };
        Self::new(error.code(), found, allowed)
    }
}

/// Appends a frame around what `body` appends.
///
/// The body must not be empty and must be within the peer's `frame_bytes_max`, which holds for a
/// message that passed validation.
pub fn put_frame(out: &mut BytesMut, body: impl FnOnce(&mut BytesMut)) {
    let header = out.len();
    out.extend_from_slice(&[0; HEADER_BYTES]);
    body(out);
    let length = out.len() - header - HEADER_BYTES;
    debug_assert!(
        (1..=FRAME_BYTES_CEILING).contains(&length),
        "a frame of {length} bytes"
    );
    // Over 4 GiB nothing was validated; a length of 0 makes the peer refuse it.
    let length = u32::try_from(length).unwrap_or(0);
    out[header..header + HEADER_BYTES].copy_from_slice(&length.to_be_bytes());
}

/// What a connection speaks, told by its first byte.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// Frames: the first byte is 0.
    Frames,
    /// Newline-delimited JSON: `{`, `[` or white space.
    Lines,
    /// HTTP/1.1: an ASCII capital.
    Http,
}

impl Dialect {
    /// The dialect that a connection opens with `byte`; `None` for a byte that opens none.
    pub const fn of(byte: u8) -> Option<Self> {
        match byte {
            0 => Some(Self::Frames),
            b'{' | b'[' | b' ' | b'\t' | b'\r' | b'\n' => Some(Self::Lines),
            b'A'..=b'Z' => Some(Self::Http),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(bodies: &[&[u8]]) -> BytesMut {
        let mut out = BytesMut::new();
        bodies
            .iter()
            .for_each(|body| put_frame(&mut out, |out| out.extend_from_slice(body)));
        out
    }

    /// Feeds `stream` in chunks of the sizes that `chunk` yields.
    fn decode(
        stream: &[u8],
        frame_bytes_max: usize,
        mut chunk: impl FnMut() -> usize,
    ) -> (Vec<Bytes>, Result<(), FrameError>) {
        let mut decoder = FrameDecoder::new(frame_bytes_max);
        let (mut buffer, mut bodies, mut rest) = (BytesMut::new(), Vec::new(), stream);
        while !rest.is_empty() {
            let (now, later) = rest.split_at(chunk().clamp(1, rest.len()));
            rest = later;
            buffer.extend_from_slice(now);
            loop {
                match decoder.next(&mut buffer) {
                    Ok(Some(body)) => bodies.push(body),
                    Ok(None) => break,
                    Err(error) => {
                        assert_eq!(
                            decoder.next(&mut buffer),
                            Err(error),
                            "it must stay refused"
                        );
                        return (bodies, Err(error));
                    }
                }
            }
        }
        (bodies, decoder.end(&buffer))
    }

    #[test]
    fn every_chunking_gives_the_same_frames() {
        let bodies: &[&[u8]] = &[b"1", b"{}", &[b' '; 300], b"[]", &[0; 7], b"x"];
        let stream = stream(bodies);
        for size in 1..=stream.len() {
            let (found, end) = decode(&stream, 300, || size);
            assert_eq!(
                (found.as_slice(), end),
                (bodies_of(bodies).as_slice(), Ok(())),
                "{size}"
            );
        }
        for seed in 1..200u32 {
            let mut state = seed;
            let (found, end) = decode(&stream, 300, || {
                state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                (state >> 28) as usize
            });
            assert_eq!(
                (found.as_slice(), end),
                (bodies_of(bodies).as_slice(), Ok(())),
                "{seed}"
            );
        }
    }

    fn bodies_of(bodies: &[&[u8]]) -> Vec<Bytes> {
        bodies
            .iter()
            .map(|body| Bytes::copy_from_slice(body))
            .collect()
    }

    #[test]
    fn lengths_hold_at_the_edge_and_not_one_past_it() {
        let length = |length: u32| length.to_be_bytes();
        let too_long = |length, frame_bytes_max| {
            Err(FrameError::TooLong {
                length,
                frame_bytes_max,
            })
        };
        let ceiling = FRAME_BYTES_CEILING as u32;
        for (length, max, expected) in [
            (length(0), 10, Err(FrameError::Empty)),
            (length(10), 10, Ok(None)),
            (length(11), 10, too_long(11, 10)),
            (length(ceiling), usize::MAX, Ok(None)),
            (
                length(ceiling + 1),
                usize::MAX,
                too_long(ceiling + 1, FRAME_BYTES_CEILING),
            ),
            (
                length(u32::MAX),
                usize::MAX,
                too_long(u32::MAX, FRAME_BYTES_CEILING),
            ),
            (
                *b"GET ",
                1 << 24,
                too_long(0x4745_5420, FRAME_BYTES_CEILING),
            ),
        ] {
            let mut buffer = BytesMut::from(&length[..]);
            assert_eq!(
                FrameDecoder::new(max).next(&mut buffer),
                expected,
                "{length:?}"
            );
        }
    }

    #[test]
    fn an_announced_length_alone_takes_little_memory() {
        let mut buffer = BytesMut::from(&(FRAME_BYTES_CEILING as u32).to_be_bytes()[..]);
        let mut decoder = FrameDecoder::new(FRAME_BYTES_CEILING);
        assert_eq!(decoder.next(&mut buffer), Ok(None));
        assert!(
            buffer.capacity() <= 4 * RESERVE_BYTES,
            "{}",
            buffer.capacity()
        );
        buffer.extend_from_slice(&vec![b' '; 1_000_000]);
        assert_eq!(decoder.next(&mut buffer), Ok(None));
        assert!(buffer.capacity() <= 4_000_000, "{}", buffer.capacity());
    }

    #[test]
    fn the_end_inside_a_frame_is_told() {
        let stream = stream(&[b"abc"]);
        for (length, expected) in [
            (0, Ok(())),
            (
                2,
                Err(FrameError::Cut {
                    body: None,
                    found: 2,
                }),
            ),
            (
                4,
                Err(FrameError::Cut {
                    body: Some(3),
                    found: 0,
                }),
            ),
            (
                6,
                Err(FrameError::Cut {
                    body: Some(3),
                    found: 2,
                }),
            ),
            (7, Ok(())),
        ] {
            assert_eq!(decode(&stream[..length], 10, || 1).1, expected, "{length}");
        }
        let text = FrameError::Cut {
            body: Some(3),
            found: 2,
        }
        .to_string();
        assert_eq!(
            text,
            "the stream ended 2 bytes into the body of a frame of 3 bytes"
        );
        let invalid = Invalid::from(FrameError::TooLong {
            length: 9,
            frame_bytes_max: 5,
        });
        assert_eq!(invalid.code, Code::TooLarge);
    }

    #[test]
    fn the_first_byte_tells_the_dialect() {
        assert_eq!(Dialect::of(stream(&[b"x"])[0]), Some(Dialect::Frames));
        for byte in *b"{[ \t\r\n" {
            assert_eq!(Dialect::of(byte), Some(Dialect::Lines));
        }
        for byte in *b"GPDHO" {
            assert_eq!(Dialect::of(byte), Some(Dialect::Http));
        }
        for byte in [1, b'g', b'"', 0x7f, 0x80, 0xff] {
            assert_eq!(Dialect::of(byte), None);
        }
    }
}
