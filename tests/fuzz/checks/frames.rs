//! A stream of frames, in any chunking: what its definition says, and memory in proportion to what has come.

use bytes::{Bytes, BytesMut};
use spoolway_proto::{FRAME_BYTES_CEILING, FrameDecoder, FrameError, put_frame};

use crate::chunks::Chunks;

/// What a decoder may reserve beyond four times what it holds.
const AHEAD_BYTES_MAX: usize = 256 * 1024;

pub(crate) fn check(input: &[u8]) {
    let Some(chunks) = Chunks::of(input) else {
        return;
    };
    let max = chunks.bytes_max.min(FRAME_BYTES_CEILING);
    let defined = defined(chunks.stream, max);
    assert_eq!(decoded(&chunks.undivided()), defined, "undivided");
    assert_eq!(decoded(&chunks), defined, "in chunks");

    let (bodies, _) = defined;
    let mut again = BytesMut::new();
    for body in &bodies {
        put_frame(&mut again, |out| out.extend_from_slice(body));
    }
    assert!(chunks.stream.starts_with(&again), "as they are written");
}

type Read = (Vec<Bytes>, Result<(), FrameError>);

/// The bodies of a stream, by its definition.
fn defined(mut stream: &[u8], max: usize) -> Read {
    let mut bodies = Vec::new();
    let end = loop {
        let found = stream.len();
        let Some((header, rest)) = stream.split_first_chunk::<4>() else {
            break match found {
                0 => Ok(()),
                _ => Err(FrameError::Cut { body: None, found }),
            };
        };
        let length = u32::from_be_bytes(*header);
        let bytes = length as usize;
        if length == 0 {
            break Err(FrameError::Empty);
        }
        if bytes > max {
            break Err(FrameError::TooLong {
                length,
                frame_bytes_max: max,
            });
        }
        let Some((body, rest)) = rest.split_at_checked(bytes) else {
            break Err(FrameError::Cut {
                body: Some(bytes),
                found: rest.len(),
            });
        };
        bodies.push(Bytes::copy_from_slice(body));
        stream = rest;
    };
    (bodies, end)
}

fn decoded(chunks: &Chunks<'_>) -> Read {
    let mut decoder = FrameDecoder::new(chunks.bytes_max);
    let (mut buffer, mut bodies) = (BytesMut::new(), Vec::new());
    for chunk in chunks.iter() {
        buffer.extend_from_slice(chunk);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(body)) => bodies.push(body),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next(&mut buffer), Err(error), "it stays refused");
                    return (bodies, Err(error));
                }
            }
        }
        let (held, reserved) = (buffer.len(), buffer.capacity());
        assert!(
            reserved <= 4 * held + AHEAD_BYTES_MAX,
            "{reserved} bytes reserved for {held}"
        );
    }
    (bodies, decoder.end(&buffer))
}
