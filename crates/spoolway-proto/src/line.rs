//! Lines: one JSON value each, ended by a line feed, a carriage return before it allowed.
//!
//! Lines of nothing but white space are passed over. What is behind the last line feed is a line too once
//! the stream has ended, so a program that forgets to end its last line loses nothing.

use bytes::{Bytes, BytesMut};
use memchr::memchr;

use crate::{Code, Invalid};

/// Cuts a stream of bytes, in any chunking, into lines.
///
/// Like [`FrameDecoder`](crate::FrameDecoder) it has no buffer of its own; lines are split off the buffer
/// that was read into, and share it. No byte is looked at twice.
///
/// ```
/// use bytes::BytesMut;
/// use spoolway_proto::LineDecoder;
///
/// let mut buffer = BytesMut::from("{\"op\":\"ping\"}\r\n\n{\"op\":\"save\"}");
/// let mut lines = LineDecoder::new(100);
/// assert_eq!(lines.next(&mut buffer)?.unwrap(), "{\"op\":\"ping\"}");
/// assert_eq!(lines.next(&mut buffer)?, None);
/// assert_eq!(lines.end(&mut buffer)?.unwrap(), "{\"op\":\"save\"}");
/// # Ok::<(), spoolway_proto::LineError>(())
/// ```
#[derive(Clone, Debug)]
pub struct LineDecoder {
    line_bytes_max: usize,
    /// How much of the buffer holds no line feed.
    searched: usize,
}

impl LineDecoder {
    /// A decoder that takes lines of at most `line_bytes_max` bytes, their ends not counted.
    pub fn new(line_bytes_max: usize) -> Self {
        Self {
            line_bytes_max,
            searched: 0,
        }
    }

    /// The next line that is not blank, without its end; `None` until more bytes are there.
    ///
    /// # Errors
    ///
    /// A [`LineError`] as soon as more than `line_bytes_max` bytes have no end among them. The stream
    /// cannot be read on: the next call returns the same error.
    pub fn next(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, LineError> {
        loop {
            let Some(end) = memchr(b'\n', &buffer[self.searched..]) else {
                self.searched = buffer.len();
                // A carriage return may stand at the end of what is here.
                return self.check(self.searched.saturating_sub(1)).map(|()| None);
            };
            let end = self.searched + end;
            let length = end - usize::from(end > 0 && buffer[end - 1] == b'\r');
            self.check(length)?;
            let mut line = buffer.split_to(end + 1);
            self.searched = 0;
            line.truncate(length);
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line.freeze()));
            }
        }
    }

    /// The line that the end of the stream ends, unless it is blank.
    ///
    /// # Errors
    ///
    /// A [`LineError`] as for [`next`](Self::next), which must have returned `None` before.
    pub fn end(&mut self, buffer: &mut BytesMut) -> Result<Option<Bytes>, LineError> {
        let length = buffer.trim_ascii_end().len();
        self.check(length)?;
        self.searched = 0;
        let mut line = buffer.split();
        line.truncate(length);
        Ok((!line.is_empty()).then(|| line.freeze()))
    }

    fn check(&self, length: usize) -> Result<(), LineError> {
        match length > self.line_bytes_max {
            false => Ok(()),
            true => Err(LineError {
                line_bytes_max: self.line_bytes_max,
            }),
        }
    }
}

/// A line that is longer than any may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a line of more than {line_bytes_max} bytes")]
pub struct LineError {
    /// The limit in force.
    pub line_bytes_max: usize,
}

impl From<LineError> for Invalid {
    fn from(error: LineError) -> Self {
        let allowed = format!("{} bytes", error.line_bytes_max);
        Self::new(Code::TooLarge, error.to_string(), allowed)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Feeds `stream` in chunks of the sizes that `chunks` repeats.
    fn cut(stream: &[u8], max: usize, chunks: &[usize]) -> Result<Vec<Bytes>, LineError> {
        let mut decoder = LineDecoder::new(max);
        let (mut buffer, mut lines, mut rest) = (BytesMut::new(), Vec::new(), stream);
        for chunk in chunks.iter().cycle() {
            let (now, later) = rest.split_at((*chunk).clamp(1, rest.len().max(1)).min(rest.len()));
            rest = later;
            buffer.extend_from_slice(now);
            while let Some(line) = decoder.next(&mut buffer).inspect_err(|error| {
                let again = decoder.clone().next(&mut buffer.clone());
                assert_eq!(again, Err(*error), "it must stay refused");
            })? {
                lines.push(line);
            }
            if rest.is_empty() {
                break;
            }
        }
        lines.extend(decoder.end(&mut buffer)?);
        Ok(lines)
    }

    /// The same, by the standard library, from the whole stream.
    fn naive(stream: &[u8], max: usize) -> Result<Vec<Bytes>, LineError> {
        let mut parts: Vec<&[u8]> = stream.split(|&byte| byte == b'\n').collect();
        let last = parts.pop().unwrap_or_default().trim_ascii_end();
        let mut lines = Vec::new();
        for line in parts {
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            if line.len() > max {
                return Err(LineError {
                    line_bytes_max: max,
                });
            }
            lines.push(line);
        }
        if last.len() > max {
            return Err(LineError {
                line_bytes_max: max,
            });
        }
        lines.push(last);
        lines.retain(|line| !line.trim_ascii().is_empty());
        Ok(lines.into_iter().map(Bytes::copy_from_slice).collect())
    }

    proptest! {
        #[test]
        fn every_chunking_gives_the_lines_of_the_whole_stream(
            stream in "[ab \t\r\n]{0,80}",
            chunks in proptest::collection::vec(1_usize..9, 1..5),
        ) {
            prop_assert_eq!(
                cut(stream.as_bytes(), usize::MAX, &chunks),
                naive(stream.as_bytes(), usize::MAX)
            );
        }

        #[test]
        fn a_long_line_is_refused_in_every_chunking(
            // White space at an end counts as long as nobody knows that it is the end.
            stream in "[ab\n]{0,60}",
            chunks in proptest::collection::vec(1_usize..9, 1..5),
            max in 1_usize..20,
        ) {
            prop_assert_eq!(cut(stream.as_bytes(), max, &chunks), naive(stream.as_bytes(), max));
        }
    }

    #[test]
    fn lengths_hold_at_the_edge_and_not_one_past_it() {
        for (stream, fits) in [
            (&b"1234\n"[..], true),
            (b"1234\r\n", true),
            (b"1234", true),
            (b"1234\r", true),
            (b"12345\n", false),
            (b"12345\r\n", false),
            (b"12345", false),
        ] {
            for chunk in 1..=stream.len() {
                let lines = cut(stream, 4, &[chunk]);
                assert_eq!(lines.is_ok(), fits, "{:?}", stream.escape_ascii());
            }
        }
        let invalid = Invalid::from(LineError { line_bytes_max: 4 });
        assert_eq!(invalid.code, Code::TooLarge);
    }

    #[test]
    fn a_long_line_is_refused_before_its_end_is_there() {
        let mut buffer = BytesMut::from("123456");
        assert!(LineDecoder::new(4).next(&mut buffer).is_err());
    }
}
