//! Reads of the file are snapshots: what left memory after a read began is not what the read says it is.

use std::collections::BTreeSet;

use hashbrown::HashMap;

/// The reads under way, and the rows that left memory meanwhile.
#[derive(Debug, Default)]
pub(super) struct Reads {
    next: u64,
    under_way: BTreeSet<u64>,
    left: HashMap<i64, Left>,
    /// Reads below this number began before the file was replaced.
    void_below: u64,
}

#[derive(Clone, Copy, Debug)]
struct Left {
    /// Reads below this number began before.
    before: u64,
    settled: bool,
}

impl Reads {
    /// The number of the read that begins next.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Whether one that began before this one is under way.
    pub(super) fn any_before(&self, read: u64) -> bool {
        self.under_way.first().is_some_and(|first| *first < read)
    }

    /// A read begins.
    pub(super) fn begin(&mut self) -> u64 {
        let read = self.next;
        self.next += 1;
        self.under_way.insert(read);
        read
    }

    /// The result of a read was used.
    pub(super) fn end(&mut self, read: u64) {
        self.under_way.remove(&read);
        match self.under_way.first().copied() {
            None => self.left.clear(),
            Some(oldest) if self.left.len() > 1_024 => {
                self.left.retain(|_, left| left.before > oldest);
            }
            Some(_) => {}
        }
    }

    /// The row is settled, or back in the file for later: reads under way do not show it.
    pub(super) fn left(&mut self, row: i64, settled: bool) {
        if !self.under_way.is_empty() {
            self.left.insert(
                row,
                Left {
                    before: self.next,
                    settled,
                },
            );
        }
    }

    /// The file was replaced: what is known is of rows that are gone, and a read under way may be of either file.
    pub(super) fn replaced(&mut self) {
        self.left.clear();
        self.void_below = self.next;
    }

    /// Whether nothing that this read says can be used.
    pub(super) fn is_void(&self, read: u64) -> bool {
        read < self.void_below
    }

    /// Whether what this read says of the row is out of date.
    pub(super) fn is_stale(&self, read: u64, row: i64) -> bool {
        self.left.get(&row).is_some_and(|left| read < left.before)
    }

    /// Whether the row was settled after this read began.
    pub(super) fn is_settled(&self, read: u64, row: i64) -> bool {
        self.left
            .get(&row)
            .is_some_and(|left| left.settled && read < left.before)
    }
}
