//! Lines of a file or the standard input, numbered, on a thread of their own.

use std::io::{self, BufRead, BufReader, Read};
use std::thread;
use std::time::{Duration, Instant};

use bytes::Bytes;
use spoolway::Message;
use tokio::sync::mpsc;

use crate::failure::Failure;

/// The longest line that is read: what a frame can hold.
const LINE_BYTES_MAX: usize = (16 << 20) - 1;
/// Lines that are read ahead.
const AHEAD: usize = 256;
/// Length of a burst when a rate is asked for.
const BURST: Duration = Duration::from_millis(250);

/// A line with its number, from 1: a message, or what is wrong with it.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) number: u64,
    pub(crate) content: Result<Message, String>,
}

/// Starts to read. The thread ends with the input, or when the receiver is dropped.
pub(crate) fn start(
    input: impl Read + Send + 'static,
    rate: Option<u32>,
) -> Result<mpsc::Receiver<io::Result<Line>>, Failure> {
    let (sender, receiver) = mpsc::channel(AHEAD);
    let read = move || {
        let started = Instant::now();
        for (n, line) in (0_u32..).zip(Lines::new(BufReader::new(input))) {
            if let Some(rate) = rate {
                thread::sleep(due(n, rate).saturating_sub(started.elapsed()));
            }
            if sender.blocking_send(line).is_err() {
                return;
            }
        }
    };
    thread::Builder::new()
        .name("lines".into())
        .spawn(read)
        .map_err(|error| Failure::io("cannot start a thread", &error))?;
    Ok(receiver)
}

/// When message `n` leaves: at the start of its burst.
fn due(n: u32, rate: u32) -> Duration {
    let at = Duration::from_secs(1) * n / rate.max(1);
    let bursts = at.as_nanos() / BURST.as_nanos();
    BURST * u32::try_from(bursts).unwrap_or(u32::MAX)
}

/// Splits into lines, decodes each; blank ones are skipped, overlong ones are not kept in memory.
struct Lines<R> {
    input: R,
    number: u64,
}

impl<R: BufRead> Lines<R> {
    fn new(input: R) -> Self {
        Self { input, number: 0 }
    }

    /// The next line without its end; `None` at the end of the input.
    fn read(&mut self) -> io::Result<Option<Result<Vec<u8>, String>>> {
        let mut text = Vec::new();
        let limit = LINE_BYTES_MAX as u64 + 1;
        if self
            .input
            .by_ref()
            .take(limit)
            .read_until(b'\n', &mut text)?
            == 0
        {
            return Ok(None);
        }
        self.number += 1;
        if text.last() == Some(&b'\n') {
            text.pop();
        } else if text.len() > LINE_BYTES_MAX {
            self.input.skip_until(b'\n')?;
            let found = format!("too_large: a line of more than {LINE_BYTES_MAX} bytes");
            return Ok(Some(Err(found)));
        }
        Ok(Some(Ok(text)))
    }
}

impl<R: BufRead> Iterator for Lines<R> {
    type Item = io::Result<Line>;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            let content = match self.read() {
                Ok(None) => return None,
                Ok(Some(Ok(text))) if text.trim_ascii().is_empty() => continue,
                Ok(Some(Ok(text))) => decode(text),
                Ok(Some(Err(wrong))) => Err(wrong),
                Err(error) => return Some(Err(error)),
            };
            let number = self.number;
            return Some(Ok(Line { number, content }));
        }
    }
}

/// What is wrong, in the words of someone who looks at a file: a line is one line to the parser too,
/// whose number would only confuse, and its next step speaks of frames.
fn decode(text: Vec<u8>) -> Result<Message, String> {
    Message::decode(&Bytes::from(text)).map_err(|invalid| {
        let sentence = invalid.to_string();
        let (wrong, _) = sentence.rsplit_once("; ").unwrap_or((&sentence, ""));
        wrong.replace(" at line 1 column ", " at column ")
    })
}

/// Reads everything at once, for small files.
pub(crate) fn read_all(input: impl Read) -> io::Result<Vec<Line>> {
    Lines::new(BufReader::new(input)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &[u8]) -> Vec<(u64, Result<String, String>)> {
        let lines = read_all(text).unwrap();
        let short = |message: Message| message.id.to_string();
        lines
            .into_iter()
            .map(|line| (line.number, line.content.map(short)))
            .collect()
    }

    #[test]
    fn bad_lines_are_numbered_and_the_rest_is_read() {
        let text = b"{\"id\":\"a\",\"type\":\"t\",\"payload\":1}\n\n  \r\nnot json\n{\"id\":\"b\",\"type\":\"t\"}\n\
            [1]\n{\"type\":\"t\",\"payload\":1}}\n\xff\n{\"id\":\"c\",\"type\":\"t\",\"payload\":null}";
        let lines = read(text);
        let numbers: Vec<u64> = lines.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, [1, 4, 5, 6, 7, 8, 9]);
        assert_eq!(lines[0].1.as_deref(), Ok("a"));
        assert_eq!(lines[6].1.as_deref(), Ok("c"));
        for (line, part) in [
            (1, "bad_json: "),
            (2, "`payload`"),
            (3, "an array"),
            (4, "at column "),
            (5, "UTF-8"),
        ] {
            let error = lines[line].1.as_ref().unwrap_err();
            assert!(
                error.contains(part) && !error.contains("at line"),
                "{error}"
            );
        }
    }

    #[test]
    fn an_overlong_line_is_refused_and_the_next_is_read() {
        let mut text = vec![b' '; LINE_BYTES_MAX + 5];
        text.extend_from_slice(b"\n{\"id\":\"a\",\"type\":\"t\",\"payload\":1}\n");
        let lines = read(&text);
        assert!(lines[0].1.as_ref().unwrap_err().starts_with("too_large"));
        assert_eq!(lines[1], (2, Ok("a".to_owned())));
    }

    #[test]
    fn a_rate_is_kept_in_bursts() {
        assert_eq!(due(0, 100), Duration::ZERO);
        assert_eq!(due(24, 100), Duration::ZERO);
        assert_eq!(due(25, 100), BURST);
        assert_eq!(due(100, 100), Duration::from_secs(1));
    }
}
