//! The report of the demo: what was sent against what the sink's file holds.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::File;
use std::io::{self, BufWriter, Write as _};
use std::path::Path;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::Serialize;
use spoolway::{Message, MessageId};

use crate::commands::send::Summary;
use crate::failure::Failure;
use crate::units::{count, span};

/// A message of the input.
pub(super) struct Event {
    pub(super) message: Message,
}

/// What the demo found. Every number is counted, none is assumed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    /// Messages whose `send` returned `Ok`.
    sent: u64,
    by_socket: u64,
    by_queue: u64,
    /// Messages without an `Ok`.
    failed: u64,
    /// Messages of the input whose id is in the sink's file.
    processed: u64,
    /// Messages that were in the sink's file when the consumer was killed, were spooled all the
    /// same since their answer was lost, and were not written again.
    copies_suppressed: u64,
    /// Messages of the input whose id is not in the file.
    lost: u64,
    /// Ids that are there more than once.
    doubled: u64,
    /// Lines that are no message of the input.
    foreign: u64,
    /// Keys of the input.
    keys: u64,
    /// Keys whose messages are not in the order they were sent.
    keys_out_of_order: u64,
    seconds: f64,
    pub(super) ok: bool,
}

/// Compares the input with the text of the sink's file. `copies` were handed to the consumer again
/// after they had been written.
pub(super) fn judge(
    events: &[Event],
    text: &[u8],
    summary: &Summary,
    copies: &HashSet<MessageId>,
    seconds: f64,
) -> Report {
    let places: HashMap<&MessageId, usize> = events
        .iter()
        .enumerate()
        .map(|(place, event)| (&event.message.id, place))
        .collect();
    let mut times = vec![0_u32; events.len()];
    let mut last_of_key = HashMap::new();
    let mut disordered = HashSet::new();
    let mut foreign = 0;
    for id in ids(text) {
        let Some(&place) = id.as_ref().and_then(|id| places.get(id)) else {
            foreign += 1;
            continue;
        };
        times[place] += 1;
        if let Some(key) = &events[place].message.key
            && let Some(last) = last_of_key.insert(key, place)
            && last > place
        {
            disordered.insert(key);
        }
    }
    let number = |is: fn(u32) -> bool| times.iter().filter(|times| is(**times)).count() as u64;
    let (lost, doubled) = (number(|times| times == 0), number(|times| times > 1));
    let keys: HashSet<_> = events
        .iter()
        .filter_map(|event| event.message.key.as_ref())
        .collect();
    let keys_out_of_order = disordered.len() as u64;
    let once = |id: &&MessageId| places.get(id).is_some_and(|&place| times[place] == 1);
    let suppressed = copies.iter().filter(once).count() as u64;
    let failed = summary.bad + summary.not_taken;
    Report {
        sent: summary.sent,
        by_socket: summary.by_socket,
        by_queue: summary.by_queue,
        failed,
        processed: number(|times| times > 0),
        copies_suppressed: suppressed,
        lost,
        doubled,
        foreign,
        keys: keys.len() as u64,
        keys_out_of_order,
        seconds,
        ok: lost + doubled + foreign + keys_out_of_order + failed == 0
            && summary.sent == events.len() as u64,
    }
}

/// The id of each line of a sink's file; `None` for a line that is no message.
fn ids(text: &[u8]) -> impl Iterator<Item = Option<MessageId>> {
    text.split_inclusive(|byte| *byte == b'\n').map(|line| {
        let message = Message::decode(&Bytes::copy_from_slice(line.strip_suffix(b"\n")?));
        Some(message.ok()?.id)
    })
}

/// The ids of the whole lines of the sink's file.
pub(super) fn ids_of(path: &Path) -> Result<HashSet<MessageId>, Failure> {
    let text =
        std::fs::read(path).map_err(|error| Failure::io("cannot read the sink's file", &error))?;
    Ok(ids(&text).flatten().collect())
}

/// Writes the input of the producer.
pub(super) fn write_events(path: &Path, events: &[Event]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    let mut line = BytesMut::new();
    for event in events {
        line.clear();
        event.message.encode(&mut line);
        // Line breaks in a payload are white space there: as text JSON has only escapes.
        for byte in &mut line[..] {
            if matches!(byte, b'\n' | b'\r') {
                *byte = b' ';
            }
        }
        file.write_all(&line)?;
        file.write_all(b"\n")?;
    }
    file.flush()
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f)?;
        let mut line = |name: &str, number: u64, what: &str| {
            let text = format!("{name:<20}{:>10}   {what}", count(number));
            writeln!(f, "{}", text.trim_end())
        };
        line("sent", self.sent, "`send` returned Ok")?;
        line("  by socket", self.by_socket, "")?;
        line("  by queue", self.by_queue, "")?;
        if self.failed > 0 {
            line("not sent", self.failed, "`send` returned an error")?;
        }
        line(
            "processed",
            self.processed,
            "ids of the input found in the consumer's file",
        )?;
        line(
            "copies suppressed",
            self.copies_suppressed,
            "written before the kill, spooled all the same, not written again",
        )?;
        line("lost", self.lost, "")?;
        line("doubled", self.doubled, "")?;
        if self.foreign > 0 {
            line("foreign", self.foreign, "lines that nobody sent")?;
        }
        if self.keys > 0 {
            let what = format!("of {}", count(self.keys));
            line("keys out of order", self.keys_out_of_order, &what)?;
        }
        let time = Duration::try_from_secs_f64(self.seconds).unwrap_or_default();
        let verdict = match (self.ok, self.keys) {
            (true, 0) => "ok: nothing lost, each message exactly once",
            (true, _) => "ok: nothing lost, each message exactly once, in order per key",
            (false, _) => "FAILED",
        };
        write!(f, "\n{verdict} ({})", span(time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events() -> Vec<Event> {
        let event = |(id, key): (&str, &str)| Event {
            message: Message::new("t", &1).unwrap().id(id).key(key),
        };
        [("a", "x"), ("b", "y"), ("c", "x")].map(event).into()
    }

    fn report(ids: &[&str]) -> Report {
        let line = |id: &&str| format!("{{\"id\":\"{id}\",\"type\":\"t\",\"payload\":1}}\n");
        let text: String = ids.iter().map(line).collect();
        let summary = Summary {
            sent: 3,
            by_socket: 2,
            by_queue: 1,
            ..Summary::default()
        };
        judge(
            &events(),
            text.as_bytes(),
            &summary,
            &[MessageId::new("b").unwrap()].into(),
            1.0,
        )
    }

    #[test]
    fn each_id_once_and_keys_in_order_is_ok() {
        let report = report(&["b", "a", "c"]);
        assert!(report.ok, "{report}");
        assert_eq!((report.processed, report.copies_suppressed), (3, 1));
        assert!(
            report
                .to_string()
                .contains("exactly once, in order per key")
        );
    }

    #[test]
    fn loss_copies_strangers_and_disorder_are_counted() {
        let found = report(&["a", "c"]);
        assert_eq!((found.lost, found.processed, found.ok), (1, 2, false));
        let found = report(&["a", "b", "c", "b"]);
        assert_eq!(
            (found.doubled, found.copies_suppressed, found.ok),
            (1, 0, false)
        );
        let found = report(&["a", "b", "c", "z"]);
        assert_eq!((found.foreign, found.ok), (1, false));
        let found = report(&["c", "b", "a"]);
        assert_eq!((found.keys_out_of_order, found.ok), (1, false));
        assert!(found.to_string().contains("FAILED"));
    }

    #[test]
    fn a_torn_last_line_is_no_message() {
        let torn = b"{\"id\":\"a\",\"type\":\"t\",\"payload\":1}\n{\"id\":\"b\",\"type\":\"t\",\"payload\":1}";
        let found: Vec<_> = ids(torn).map(|id| id.is_some()).collect();
        assert_eq!(found, [true, false]);
    }

    #[test]
    fn a_message_without_an_ok_is_no_success() {
        let summary = Summary {
            sent: 2,
            not_taken: 1,
            ..Summary::default()
        };
        let text = b"{\"id\":\"a\",\"type\":\"t\",\"payload\":1}\n";
        assert!(!judge(&events()[..1], text, &summary, &HashSet::new(), 1.0).ok);
    }
}
