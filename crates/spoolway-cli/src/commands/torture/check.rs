//! Compares what the producers were told with what the sink's file and the queue file hold.
//!
//! Memory is a byte a message and an entry a run and key, whatever the files measure.

use std::collections::HashMap;
use std::io::{self, BufRead};

use bytes::Bytes;
use hdrhistogram::Histogram;
use serde::Serialize;
use spoolway::queue::Audit;
use spoolway::{Message, MessageId};

use super::content::{Content, place};
use super::journal::{CONFLICT, Entry, NOT_TAKEN, Told};

/// Marks of a message.
mod mark {
    pub(super) const OK: u8 = 1;
    pub(super) const NOT_TAKEN: u8 = 2;
    pub(super) const UNKNOWN: u8 = 4;
    pub(super) const IN_SINK: u8 = 8;
    /// In the queue file: dead, or not processed yet.
    pub(super) const IN_QUEUE: u8 = 16;
    pub(super) const TOLD: u8 = OK | NOT_TAKEN | UNKNOWN;
}

/// The longest latency that is told from longer ones: far more than `send` may take.
const LATENCY_MAX_US: u64 = 600_000_000;
/// Significant figures of a latency.
const FIGURES: u8 = 3;

/// What was counted. What a guarantee forbids is in [`Counts::broken`].
#[derive(Clone, Debug, Default, Eq, PartialEq, Serialize)]
pub(super) struct Counts {
    /// Messages whose `send` returned `Ok`, as it said.
    pub(super) sent: u64,
    pub(super) by_socket: u64,
    pub(super) by_queue: u64,
    pub(super) told_processed: u64,
    pub(super) told_stored: u64,
    pub(super) told_dead: u64,
    /// Messages whose `send` returned `Err`.
    pub(super) not_taken: u64,
    pub(super) unknown: u64,
    /// Of those: the queue file had another message of that id.
    pub(super) conflicts: u64,
    /// Ids in the sink's file.
    pub(super) processed: u64,
    /// Of those: nobody was told, since the producer was killed or `send` returned `Unknown`.
    pub(super) processed_untold: u64,
    /// Dead letters in the queue file.
    pub(super) dead: u64,
    /// `Ok`, but neither in the sink's file nor in the queue file.
    pub(super) lost: u64,
    /// Lines of the sink's file whose id had been there before.
    pub(super) doubled: u64,
    /// Messages that are in the sink's file behind a later one of their run and key.
    pub(super) out_of_order: u64,
    /// `NotTaken`, but in the sink's file or the queue file.
    pub(super) taken_all_the_same: u64,
    /// Lines of the sink's file that nobody sent, or not so.
    pub(super) foreign: u64,
    /// Messages of a producer that ended in order, and whose `send` has not returned.
    pub(super) unanswered: u64,
    /// Messages that still wait in the queue file.
    pub(super) unsettled: u64,
    /// Messages that `spoolway audit` misses.
    pub(super) audit_missing: u64,
}

impl Counts {
    /// What is not as `docs/guarantees.md` says, with its number.
    pub(super) fn broken(&self) -> Vec<(&'static str, u64)> {
        [
            ("lost", self.lost),
            // The file sink recovers its lines, so not even a kill may double one there.
            ("doubled", self.doubled),
            ("out of order", self.out_of_order),
            ("taken all the same", self.taken_all_the_same),
            ("conflicts", self.conflicts),
            ("foreign", self.foreign),
            ("unanswered", self.unanswered),
            ("unsettled", self.unsettled),
            ("missing by the audit", self.audit_missing),
        ]
        .into_iter()
        .filter(|(_, number)| *number > 0)
        .collect()
    }
}

/// The comparison. First the journals, then the files.
pub(super) struct Check {
    content: Content,
    runs: Vec<Run>,
    /// The last number of each run and key that is in the sink's file.
    last: HashMap<(u32, u32), u32>,
    counts: Counts,
    latency: Histogram<u64>,
    /// A few of the messages that should not be as they are, for whoever looks into it.
    examples: Vec<String>,
}

#[derive(Default)]
struct Run {
    /// A byte for each number that may have been sent.
    marks: Vec<u8>,
    ended: bool,
}

/// What [`Check::judge`] found.
pub(super) struct Found {
    pub(super) counts: Counts,
    /// Microseconds of each `send` that returned `Ok`.
    pub(super) latency: Histogram<u64>,
    pub(super) examples: Vec<String>,
}

const EXAMPLES_MAX: usize = 20;

impl Check {
    pub(super) fn new(content: Content) -> Result<Self, hdrhistogram::CreationError> {
        Ok(Self {
            content,
            runs: Vec::new(),
            last: HashMap::new(),
            counts: Counts::default(),
            latency: Histogram::new_with_max(LATENCY_MAX_US, FIGURES)?,
            examples: Vec::new(),
        })
    }

    /// Reads the journal of the next run.
    pub(super) fn journal(&mut self, mut journal: impl BufRead) -> io::Result<()> {
        let mut run = Run::default();
        let mut line = String::new();
        // The last line of a killed producer may be torn.
        while journal.read_line(&mut line)? > 0 && line.ends_with('\n') {
            let entry = line.trim_end().parse().map_err(|_| {
                io::Error::new(io::ErrorKind::InvalidData, format!("no entry: {line:?}"))
            })?;
            match entry {
                Entry::Reserve(below) => run.marks.resize(below as usize, 0),
                Entry::End(sent) => {
                    run.marks.truncate(sent as usize);
                    run.ended = true;
                }
                Entry::Told { n, told, micros } => {
                    let mark = self.count_told(&told, micros);
                    match run.marks.get_mut(n as usize) {
                        Some(marks) => *marks |= mark,
                        None => return Err(io::Error::other(format!("{n} was not reserved"))),
                    }
                }
            }
            line.clear();
        }
        if run.ended {
            let untold = run.marks.iter().filter(|marks| **marks & mark::TOLD == 0);
            self.counts.unanswered += untold.count() as u64;
        }
        self.runs.push(run);
        Ok(())
    }

    fn count_told(&mut self, told: &Told, micros: u64) -> u8 {
        let counts = &mut self.counts;
        match told {
            Told::Ok { path, outcome } => {
                counts.sent += 1;
                *match path.as_str() {
                    "socket" => &mut counts.by_socket,
                    _ => &mut counts.by_queue,
                } += 1;
                *match outcome.as_str() {
                    "processed" => &mut counts.told_processed,
                    "dead" => &mut counts.told_dead,
                    _ => &mut counts.told_stored,
                } += 1;
                self.latency.saturating_record(micros);
                mark::OK
            }
            Told::Err { fate, code } => {
                counts.conflicts += u64::from(code == CONFLICT);
                if fate == NOT_TAKEN {
                    counts.not_taken += 1;
                    mark::NOT_TAKEN
                } else {
                    counts.unknown += 1;
                    mark::UNKNOWN
                }
            }
        }
    }

    /// Reads the sink's file.
    pub(super) fn sink(&mut self, mut sink: impl BufRead) -> io::Result<()> {
        let mut line = Vec::new();
        while sink.read_until(b'\n', &mut line)? > 0 {
            self.line(&line);
            line.clear();
        }
        Ok(())
    }

    fn line(&mut self, line: &[u8]) {
        let message = line
            .strip_suffix(b"\n")
            .and_then(|line| Message::decode(&Bytes::copy_from_slice(line)).ok());
        let known = message.as_ref().and_then(|message| {
            let (run, n) = place(&message.id)?;
            self.marks(run, n)?;
            self.content.is_whole(message, (run, n)).then_some((run, n))
        });
        let Some((run, n)) = known else {
            self.counts.foreign += 1;
            let text = String::from_utf8_lossy(&line[..line.len().min(200)]);
            return self.example(format!("foreign: {}", text.trim_end()));
        };
        if self.add(run, n, mark::IN_SINK) & mark::IN_SINK != 0 {
            self.counts.doubled += 1;
            return self.example(format!("doubled: {run}-{n}"));
        }
        self.counts.processed += 1;
        // A run may repeat after a kill, so first occurrences make the order.
        let Some(key) = self.content.draw(run, n).key else {
            return;
        };
        let last = self.last.entry((run, key)).or_insert(n);
        if *last > n {
            let last = *last;
            self.counts.out_of_order += 1;
            self.example(format!(
                "out of order: {run}-{n} of key k{key} behind {run}-{last}"
            ));
        } else {
            *last = n;
        }
    }

    /// A dead letter of the queue file.
    pub(super) fn dead(&mut self, id: &MessageId) {
        self.counts.dead += 1;
        self.queued(id);
    }

    /// A message that waits in the queue file.
    pub(super) fn unsettled(&mut self, id: &MessageId) {
        self.counts.unsettled += 1;
        self.example(format!("unsettled: {id}"));
        self.queued(id);
    }

    /// What the queue file says of a producer, once the consumer has ended.
    pub(super) fn audited(&mut self, audit: &Audit) {
        self.counts.audit_missing += audit.missing;
        if audit.missing > 0 {
            self.example(format!("missing by the audit: {audit:?}"));
        }
    }

    fn queued(&mut self, id: &MessageId) {
        match place(id) {
            Some((run, n)) if self.marks(run, n).is_some() => {
                self.add(run, n, mark::IN_QUEUE);
            }
            _ => self.counts.foreign += 1,
        }
    }

    /// Sums up.
    pub(super) fn judge(mut self) -> Found {
        for (run, marks) in std::mem::take(&mut self.runs).iter().enumerate() {
            for (n, marks) in marks.marks.iter().enumerate() {
                let has = |mark| marks & mark != 0;
                let somewhere = has(mark::IN_SINK | mark::IN_QUEUE);
                if has(mark::OK) && !somewhere {
                    self.counts.lost += 1;
                    self.example(format!("lost: {run}-{n}"));
                }
                if has(mark::NOT_TAKEN) && somewhere {
                    self.counts.taken_all_the_same += 1;
                    self.example(format!("taken all the same: {run}-{n}"));
                }
                let untold = has(mark::IN_SINK) && !has(mark::OK | mark::NOT_TAKEN);
                self.counts.processed_untold += u64::from(untold);
            }
        }
        Found {
            counts: self.counts,
            latency: self.latency,
            examples: self.examples,
        }
    }

    fn marks(&mut self, run: u32, n: u32) -> Option<&mut u8> {
        self.runs.get_mut(run as usize)?.marks.get_mut(n as usize)
    }

    /// Adds a mark and returns what there was before.
    fn add(&mut self, run: u32, n: u32, mark: u8) -> u8 {
        self.marks(run, n).map_or(0, |marks| {
            let before = *marks;
            *marks |= mark;
            before
        })
    }

    fn example(&mut self, text: String) {
        if self.examples.len() < EXAMPLES_MAX {
            self.examples.push(text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTENT: Content = Content { seed: 7, keys: 1 };
    const SENT: u32 = 40;

    fn line(n: u32) -> String {
        let mut line = bytes::BytesMut::new();
        CONTENT.message(0, n, 0).unwrap().encode(&mut line);
        format!("{}\n", String::from_utf8_lossy(&line))
    }

    fn lines() -> Vec<String> {
        (0..SENT).map(line).collect()
    }

    fn journal(told: impl Fn(u32) -> String, end: &str) -> String {
        let told: String = (0..SENT).map(told).collect();
        format!("reserve 256\n{told}{end}")
    }

    fn ok(n: u32) -> String {
        format!("ok {n} socket processed 100\n")
    }

    fn found_in(journal: &str, sink: &[String]) -> Found {
        let mut check = Check::new(CONTENT).unwrap();
        check.journal(journal.as_bytes()).unwrap();
        check.sink(sink.concat().as_bytes()).unwrap();
        check.judge()
    }

    fn found(sink: &[String]) -> Found {
        found_in(&journal(ok, "end 40\n"), sink)
    }

    /// Two neighbours of the one key.
    fn keyed_pair() -> (usize, usize) {
        let keyed: Vec<_> = (0..SENT)
            .filter(|n| CONTENT.draw(0, *n).key.is_some())
            .collect();
        (keyed[3] as usize, keyed[4] as usize)
    }

    #[test]
    fn each_message_once_and_in_order_breaks_nothing() {
        let found = found(&lines());
        assert_eq!(found.counts.broken(), [], "{:?}", found.examples);
        assert_eq!((found.counts.sent, found.counts.processed), (40, 40));
        assert_eq!(found.latency.max(), 100);
    }

    #[test]
    fn a_removed_line_is_a_loss() {
        let mut sink = lines();
        sink.remove(17);
        let found = found(&sink);
        assert_eq!(found.counts.broken(), [("lost", 1)]);
        assert_eq!(found.examples, ["lost: 0-17"]);
    }

    #[test]
    fn a_dead_letter_is_no_loss_and_what_waits_is_unsettled() {
        let mut check = Check::new(CONTENT).unwrap();
        check.journal(journal(ok, "end 40\n").as_bytes()).unwrap();
        check.sink(lines()[2..].concat().as_bytes()).unwrap();
        check.dead(&MessageId::new("0-0").unwrap());
        check.unsettled(&MessageId::new("0-1").unwrap());
        let counts = check.judge().counts;
        assert_eq!(counts.broken(), [("unsettled", 1)]);
        assert_eq!(counts.dead, 1);
    }

    #[test]
    fn what_the_audit_misses_is_broken() {
        let audit = |missing| Audit {
            producer: spoolway::proto::ProducerId::from_u128(7),
            sent: 40,
            by_socket: 40,
            by_word: 0,
            by_queue: 0,
            processed: 40,
            stored: 0,
            dead: 0,
            err: 0,
            open: 0,
            missing,
            since: spoolway::Timestamp(0),
        };
        let mut check = Check::new(CONTENT).unwrap();
        check.audited(&audit(0));
        check.audited(&audit(3));
        let found = check.judge();
        assert_eq!(found.counts.broken(), [("missing by the audit", 3)]);
        assert_eq!(found.examples.len(), 1);
    }

    #[test]
    fn a_line_that_is_there_twice_is_a_double() {
        let mut sink = lines();
        sink.push(sink[5].clone());
        assert_eq!(found(&sink).counts.broken(), [("doubled", 1)]);
    }

    #[test]
    fn swapped_lines_of_a_key_are_out_of_order() {
        let (mut sink, (first, second)) = (lines(), keyed_pair());
        sink.swap(first, second);
        assert_eq!(found(&sink).counts.broken(), [("out of order", 1)]);
    }

    #[test]
    fn messages_without_a_key_have_no_order() {
        let keyless = |n: &u32| CONTENT.draw(0, *n).key.is_none();
        let n = (0..SENT).find(keyless).unwrap() as usize;
        let mut sink = lines();
        let moved = sink.remove(n);
        sink.push(moved);
        assert_eq!(found(&sink).counts.broken(), []);
    }

    #[test]
    fn what_was_not_sent_or_not_so_is_foreign() {
        for (from, to) in [
            ("\"id\":\"0-9\"", "\"id\":\"0-99\""),
            ("x\"", "xx\""),
            ("}\n", ""),
        ] {
            let mut sink = lines();
            sink[9] = sink[9].replace(from, to);
            sink.truncate(10);
            let counts = found(&sink).counts;
            assert_eq!(counts.foreign, 1, "{from}");
            assert_eq!(counts.lost, 31, "{from}");
        }
    }

    #[test]
    fn not_taken_is_not_there_and_unknown_may_be() {
        let told = |n| match n {
            0 => "err 0 not_taken full 5\n".to_owned(),
            1 => "err 1 unknown unanswered 5\n".to_owned(),
            n => ok(n),
        };
        let journal = journal(told, "end 40\n");
        let counts = found_in(&journal, &lines()).counts;
        assert_eq!(counts.broken(), [("taken all the same", 1)]);
        assert_eq!((counts.unknown, counts.processed_untold), (1, 1));
        assert_eq!(found_in(&journal, &lines()[1..]).counts.broken(), []);
        assert_eq!(found_in(&journal, &lines()[2..]).counts.broken(), []);
    }

    #[test]
    fn a_killed_producer_does_not_know_of_its_last_messages() {
        let told = |n| if n < 30 { ok(n) } else { String::new() };
        let killed = journal(told, "ok 30 sock");
        let counts = found_in(&killed, &lines()).counts;
        assert_eq!(counts.broken(), []);
        assert_eq!((counts.sent, counts.processed_untold), (30, 10));
        let ended = journal(told, "end 40\n");
        assert_eq!(
            found_in(&ended, &lines()).counts.broken(),
            [("unanswered", 10)]
        );
    }

    #[test]
    fn a_conflict_is_never_right() {
        let told = |n| match n {
            39 => "err 39 not_taken conflict 5\n".to_owned(),
            n => ok(n),
        };
        let journal = journal(told, "end 40\n");
        assert_eq!(
            found_in(&journal, &lines()[..39]).counts.broken(),
            [("conflicts", 1)]
        );
    }
}
