//! The rules, checked as things happen: nothing with `Ok` lost, doubles only where a kill admits them, order per key.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::fmt;

use spoolway_client::route::{Spooled, Verdict};
use spoolway_proto::{MessageId, Outcome};
use spoolway_queue::Existing;

use crate::file::File;

/// A rule that was broken.
#[derive(Clone, Debug)]
pub enum Broken {
    /// Something happened that must never happen.
    Safety(String),
    /// Without faults something that must happen did not.
    Liveness(String),
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Safety(text) => write!(f, "safety: {text}"),
            Self::Liveness(text) => write!(f, "liveness: {text}"),
        }
    }
}

impl std::error::Error for Broken {}

/// A run of the consumer.
pub(crate) type Run = u32;
/// A run of a producer process: order is promised within it.
pub(crate) type Sender = u32;

#[derive(Debug, Default)]
pub(crate) struct Ledger {
    messages: HashMap<MessageId, Sent>,
    lanes: BTreeMap<(Sender, String), Vec<MessageId>>,
    killed: HashSet<Run>,
    /// Messages that another state of the queue file may have lost or repeated: nothing is promised of them.
    forgiven: HashSet<MessageId>,
    /// Whether the queue file was ever put back or replaced: counts need not balance.
    pub(crate) other_file: bool,
    pub(crate) doubles: u64,
    /// Rows that were deleted behind everyone's back.
    pub(crate) stolen: u64,
    /// Processed rows that were made pending again.
    pub(crate) replayed: u64,
    broken: Option<Broken>,
}

#[derive(Debug)]
struct Sent {
    sender: Sender,
    key: Option<String>,
    place: usize,
    verdict: Option<Verdict>,
    /// Runs of the consumer in which its handler succeeded, since it was replayed last.
    done_in: Vec<Run>,
    /// Whether it was replayed: it is to run again, outside of its lane.
    replayed: bool,
}

impl Sent {
    /// Whether its handler ever succeeded: only then can it be replayed.
    fn is_done(&self) -> bool {
        self.replayed || !self.done_in.is_empty()
    }
}

impl Ledger {
    pub(crate) fn sent(&mut self, id: MessageId, sender: Sender, key: Option<String>) {
        let place = key.as_ref().map_or(0, |key| {
            let lane = self.lanes.entry((sender, key.clone())).or_default();
            lane.push(id.clone());
            lane.len() - 1
        });
        let sent = Sent {
            sender,
            key,
            place,
            verdict: None,
            done_in: Vec::new(),
            replayed: false,
        };
        self.messages.insert(id, sent);
    }

    pub(crate) fn settled(&mut self, id: &MessageId, verdict: &Verdict, file: &File) {
        let sent = self.messages.get_mut(id).expect("a message that was sent");
        sent.verdict = Some(verdict.clone());
        let row = file.row_of(id).map(|row| row.state);
        let fine = match verdict {
            Verdict::Answered(Outcome::Processed) => {
                sent.is_done() || row == Some(Existing::Processed)
            }
            Verdict::Answered(Outcome::Stored) | Verdict::Spooled(_) => row.is_some(),
            Verdict::Dead(_) => row == Some(Existing::Dead),
            Verdict::NotTaken(_) => !sent.is_done() && row.is_none(),
            Verdict::Answered(_) | Verdict::Refused(..) | Verdict::Unknown => true,
        };
        if !fine && !self.forgiven.contains(id) {
            self.break_rule(format!("{id}: told {verdict:?}, but row {row:?}"));
        }
        if matches!(
            verdict,
            Verdict::Refused(..) | Verdict::Spooled(Spooled::Conflict)
        ) {
            self.break_rule(format!("{id}: refused: {verdict:?}"));
        }
    }

    pub(crate) fn starts(&mut self, id: &MessageId, run: Run, file: &File) {
        let sent = &self.messages[id];
        if matches!(sent.verdict, Some(Verdict::NotTaken(_))) {
            self.break_rule(format!("{id}: starts after NotTaken"));
            return;
        }
        if self.forgiven.contains(id) {
            return;
        }
        if file
            .row_of(id)
            .is_some_and(|row| row.state == Existing::Dead)
        {
            self.break_rule(format!("{id}: starts though it is dead"));
            return;
        }
        let sent = &self.messages[id];
        if sent.replayed {
            return;
        }
        let Some(key) = &sent.key else { return };
        // What a file held of stopped keys went with it.
        if file.is_stopped(key) && !self.other_file {
            let text = format!("{id} starts though its key {key} is stopped");
            return self.break_rule(text);
        }
        let lane = &self.lanes[&(sent.sender, key.clone())];
        for earlier in &lane[..sent.place] {
            let other = &self.messages[earlier];
            // One that ended as `Unknown` may be in the consumer still: its sender was told before it went on.
            let gone = matches!(
                other.verdict,
                Some(
                    Verdict::NotTaken(_)
                        | Verdict::Refused(..)
                        | Verdict::Dead(_)
                        | Verdict::Unknown
                )
            );
            let dead = file
                .row_of(earlier)
                .is_some_and(|row| row.state == Existing::Dead);
            let forgiven = self.forgiven.contains(earlier);
            if !(gone || dead || forgiven || other.is_done()) {
                let text = format!("{id} of {key} starts in run {run} before {earlier} is done");
                return self.break_rule(text);
            }
        }
    }

    pub(crate) fn done(&mut self, id: &MessageId, run: Run, file: &File) {
        let sent = self.messages.get_mut(id).expect("a message that was sent");
        let Some(last) = sent.done_in.last().copied() else {
            sent.done_in.push(run);
            return;
        };
        sent.done_in.push(run);
        if self.forgiven.contains(id) {
            return;
        }
        self.doubles += 1;
        // What was said of its earlier runs says nothing of the one that was asked for.
        let told = matches!(sent.verdict, Some(Verdict::Answered(Outcome::Processed)));
        let told = told && !sent.replayed;
        let recorded = match sent.replayed {
            false => file.is_processed(id),
            true => file
                .row_of(id)
                .is_some_and(|row| row.state == Existing::Processed),
        };
        if last == run || !self.killed.contains(&last) || told || recorded {
            self.break_rule(format!(
                "{id}: processed in run {run} and before in {last} (killed {}, told {told}, recorded {recorded})",
                self.killed.contains(&last)
            ));
        }
    }

    /// It is to run at least once again.
    pub(crate) fn replayed(&mut self, id: &MessageId) {
        self.replayed += 1;
        let sent = self.messages.get_mut(id).expect("a message that was sent");
        sent.replayed = true;
        sent.done_in.clear();
    }

    pub(crate) fn killed(&mut self, run: Run) {
        self.killed.insert(run);
    }

    /// The queue file is another one now: what was sent so far may be lost or repeated with it.
    pub(crate) fn forgive(&mut self) {
        self.other_file = true;
        self.forgiven.extend(self.messages.keys().cloned());
    }

    /// Its row was deleted: it may be lost, and the audit must say so.
    pub(crate) fn stolen(&mut self, id: MessageId) {
        self.stolen += 1;
        self.forgiven.insert(id);
    }

    pub(crate) fn break_rule(&mut self, text: String) {
        self.broken.get_or_insert(Broken::Safety(text));
    }

    pub(crate) fn broken(&mut self) -> Option<Broken> {
        self.broken.take()
    }

    /// At the end: everything with `Ok` was processed, or is dead with a reason.
    pub(crate) fn close(&mut self, file: &File) {
        let mut lost: Vec<&MessageId> = Vec::new();
        for (id, sent) in &self.messages {
            let promised = matches!(
                sent.verdict,
                Some(Verdict::Answered(_) | Verdict::Spooled(_) | Verdict::Dead(_))
            );
            let dead = file
                .row_of(id)
                .is_some_and(|row| row.state == Existing::Dead);
            let forgiven = self.forgiven.contains(id);
            if (promised || sent.replayed) && sent.done_in.is_empty() && !dead && !forgiven {
                lost.push(id);
            }
        }
        lost.sort();
        if let Some(id) = lost.first() {
            let text = format!(
                "{} lost, first {id}: {:?}",
                lost.len(),
                self.messages[*id].verdict
            );
            return self.break_rule(text);
        }
        let missing: Vec<_> = file.audit().into_iter().filter(|a| a.missing > 0).collect();
        if let (Some(audit), false) = (missing.first(), self.other_file) {
            self.break_rule(format!("the audit misses what is not lost: {audit:?}"));
        }
    }

    pub(crate) fn processed(&self) -> u64 {
        self.messages.values().filter(|sent| sent.is_done()).count() as u64
    }
}
