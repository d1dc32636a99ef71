//! A stream of lines, in any chunking: what its definition says, and each line as an envelope.

use bytes::{Bytes, BytesMut};
use spoolway_proto::{LineDecoder, LineError};

use crate::chunks::Chunks;
use crate::envelope;

pub(crate) fn check(input: &[u8]) {
    let Some(chunks) = Chunks::of(input) else {
        return;
    };
    let defined = defined(chunks.stream, chunks.bytes_max);
    assert_eq!(decoded(&chunks.undivided()), defined, "undivided");
    assert_eq!(decoded(&chunks), defined, "in chunks");
    for line in defined.0 {
        envelope::check(&line);
    }
}

type Read = (Vec<Bytes>, Result<(), LineError>);

/// The lines of a stream, by their definition.
fn defined(stream: &[u8], max: usize) -> Read {
    let mut lines = Vec::new();
    let mut parts = stream.split(|&byte| byte == b'\n').peekable();
    while let Some(part) = parts.next() {
        let (line, fits) = match parts.peek() {
            Some(_) => {
                let line = part.strip_suffix(b"\r").unwrap_or(part);
                (line, line.len() <= max)
            }
            // Before its end is known, one byte more may be the carriage return of a line feed to come.
            None => {
                let line = part.trim_ascii_end();
                (
                    line,
                    line.len() <= max && part.len().saturating_sub(1) <= max,
                )
            }
        };
        if !fits {
            let line_bytes_max = max;
            return (lines, Err(LineError { line_bytes_max }));
        }
        if !line.trim_ascii().is_empty() {
            lines.push(Bytes::copy_from_slice(line));
        }
    }
    (lines, Ok(()))
}

fn decoded(chunks: &Chunks<'_>) -> Read {
    let mut decoder = LineDecoder::new(chunks.bytes_max);
    let (mut buffer, mut lines) = (BytesMut::new(), Vec::new());
    for chunk in chunks.iter() {
        buffer.extend_from_slice(chunk);
        loop {
            match decoder.next(&mut buffer) {
                Ok(Some(line)) => lines.push(line),
                Ok(None) => break,
                Err(error) => {
                    assert_eq!(decoder.next(&mut buffer), Err(error), "it stays refused");
                    return (lines, Err(error));
                }
            }
        }
    }
    match decoder.end(&mut buffer) {
        Ok(last) => {
            lines.extend(last);
            (lines, Ok(()))
        }
        Err(error) => (lines, Err(error)),
    }
}
