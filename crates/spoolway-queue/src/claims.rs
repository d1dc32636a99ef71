//! Which rows this process holds, and which claim row of the file covers each.
//!
//! A claim row is a range of `seq`. A row that is processed writes nothing to the claim table until
//! the last one of its range is; one that stays pending, or dies and may be requeued, cuts its range
//! in two, because whoever takes over makes a suspect of every unprocessed row in a range.
//!
//! Invariant: ranges do not overlap, and each holds at least one row.
//!
//! Changes are made while a transaction runs and undone with it.

use std::collections::BTreeMap;

/// The claims of this process.
#[derive(Debug, Default)]
pub(crate) struct ClaimBook {
    // By first seq.
    ranges: BTreeMap<i64, Range>,
    undo: Vec<Undo>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Range {
    /// Its row in the claim table.
    id: i64,
    last: i64,
    /// One bit for each seq from the first: still held.
    held: Vec<u64>,
    held_count: usize,
}

#[derive(Debug)]
enum Undo {
    Added { first: i64 },
    Removed { first: i64, range: Range },
    Set { first: i64, seq: i64 },
    Cleared { first: i64, seq: i64 },
}

/// How many changes were made: what to come back to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mark(usize);

/// What giving back a row does to the claim table.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// The row was not held.
    NotHeld,
    /// Its range is over.
    End { id: i64 },
    /// Its range is now shorter.
    Shrink { id: i64, first: i64, last: i64 },
}

impl Range {
    fn new(id: i64, first: i64, last: i64) -> Self {
        let len = usize::try_from(last - first + 1).unwrap_or(0);
        let mut held = vec![u64::MAX; len.div_ceil(64)];
        if let (Some(word), rest @ 1..) = (held.last_mut(), len % 64) {
            *word = (1 << rest) - 1;
        }
        Self {
            id,
            last,
            held,
            held_count: len,
        }
    }

    fn place(first: i64, seq: i64) -> (usize, u64) {
        let offset = usize::try_from(seq - first).unwrap_or(0);
        (offset / 64, 1 << (offset % 64))
    }

    fn holds(&self, first: i64, seq: i64) -> bool {
        let (word, bit) = Self::place(first, seq);
        self.held[word] & bit != 0
    }

    fn flip(&mut self, first: i64, seq: i64) {
        let (word, bit) = Self::place(first, seq);
        self.held[word] ^= bit;
        if self.held[word] & bit != 0 {
            self.held_count += 1;
        } else {
            self.held_count -= 1;
        }
    }

    /// The part from `from` to `to`, cut to what is held in it.
    fn part(&self, first: i64, from: i64, to: i64) -> Option<(i64, i64)> {
        let start = (from..=to).find(|&seq| self.holds(first, seq))?;
        let end = (from..=to).rev().find(|&seq| self.holds(first, seq))?;
        Some((start, end))
    }

    fn copy_held(&self, first: i64, id: i64, from: i64, to: i64) -> Self {
        let mut part = Self::new(id, from, to);
        for seq in from..=to {
            if !self.holds(first, seq) {
                part.flip(from, seq);
            }
        }
        part
    }
}

impl ClaimBook {
    #[cfg(test)]
    fn holds(&self, seq: i64) -> bool {
        self.range_of(seq)
            .is_some_and(|(first, range)| range.holds(first, seq))
    }

    /// Marks as held what lies in ranges that exist, and returns the runs that need a new one.
    pub(crate) fn take(&mut self, seqs: &[i64]) -> Vec<(i64, i64)> {
        let sorted: Vec<i64>;
        let seqs = if seqs.is_sorted() {
            seqs
        } else {
            let mut copy = seqs.to_vec();
            copy.sort_unstable();
            sorted = copy;
            &sorted
        };
        let mut runs: Vec<(i64, i64)> = Vec::new();
        for &seq in seqs {
            if self.retake(seq) {
                continue;
            }
            match runs.last_mut() {
                Some((_, last)) if *last == seq => {}
                Some((_, last)) if *last + 1 == seq => *last = seq,
                _ => runs.push((seq, seq)),
            }
        }
        runs
    }

    /// A seq in a range that exists: settled there, and since then pending again.
    fn retake(&mut self, seq: i64) -> bool {
        let Some((first, range)) = self.range_of_mut(seq) else {
            return false;
        };
        if !range.holds(first, seq) {
            range.flip(first, seq);
            self.undo.push(Undo::Set { first, seq });
        }
        true
    }

    /// Adds the range of a new claim row.
    pub(crate) fn add(&mut self, id: i64, first: i64, last: i64) {
        self.ranges.insert(first, Range::new(id, first, last));
        self.undo.push(Undo::Added { first });
    }

    /// The row is settled: `Some` is the claim row that is over with it.
    pub(crate) fn settle(&mut self, seq: i64) -> Option<i64> {
        let (first, range) = self.range_of_mut(seq)?;
        if !range.holds(first, seq) {
            return None;
        }
        if range.held_count > 1 {
            range.flip(first, seq);
            self.undo.push(Undo::Cleared { first, seq });
            return None;
        }
        self.remove(first).map(|range| range.id)
    }

    /// The row stays pending and is no longer held. What lies behind a cut is held by no range
    /// until the caller has made a claim row for it and calls [`add_behind`](Self::add_behind).
    pub(crate) fn give_back(&mut self, seq: i64) -> (Cut, Option<Behind>) {
        let Some((first, range)) = self.range_of(seq) else {
            return (Cut::NotHeld, None);
        };
        if !range.holds(first, seq) {
            return (Cut::NotHeld, None);
        }
        let (id, before) = (range.id, range.part(first, first, seq - 1));
        let behind = range.part(first, seq + 1, range.last);
        let Some(whole) = self.remove(first) else {
            return (Cut::NotHeld, None);
        };
        let (kept, behind) = match (before, behind) {
            (None, None) => return (Cut::End { id }, None),
            (Some(before), behind) => (before, behind),
            (None, Some(behind)) => (behind, None),
        };
        let range = whole.copy_held(first, id, kept.0, kept.1);
        self.ranges.insert(kept.0, range);
        self.undo.push(Undo::Added { first: kept.0 });
        let cut = Cut::Shrink {
            id,
            first: kept.0,
            last: kept.1,
        };
        (
            cut,
            behind.map(|(from, to)| Behind {
                whole,
                first,
                from,
                to,
            }),
        )
    }

    /// Adds what lay behind a cut, under its new claim row.
    pub(crate) fn add_behind(&mut self, id: i64, behind: &Behind) {
        let Behind {
            whole,
            first,
            from,
            to,
        } = behind;
        let range = whole.copy_held(*first, id, *from, *to);
        self.ranges.insert(*from, range);
        self.undo.push(Undo::Added { first: *from });
    }

    /// Where to come back to if what follows fails.
    pub(crate) fn mark(&self) -> Mark {
        Mark(self.undo.len())
    }

    /// Undoes every change since `mark`, newest first.
    pub(crate) fn undo_to(&mut self, mark: Mark) {
        while self.undo.len() > mark.0 {
            match self.undo.pop() {
                Some(Undo::Added { first }) => {
                    self.ranges.remove(&first);
                }
                Some(Undo::Removed { first, range }) => {
                    self.ranges.insert(first, range);
                }
                Some(Undo::Set { first, seq } | Undo::Cleared { first, seq }) => {
                    if let Some(range) = self.ranges.get_mut(&first) {
                        range.flip(first, seq);
                    }
                }
                None => {}
            }
        }
    }

    /// Undoes every change since the last commit.
    pub(crate) fn undo_all(&mut self) {
        self.undo_to(Mark(0));
    }

    /// The changes are committed.
    pub(crate) fn commit(&mut self) {
        self.undo.clear();
    }

    /// Forgets everything: the file is another one.
    pub(crate) fn forget(&mut self) {
        self.ranges.clear();
        self.undo.clear();
    }

    /// Gives up every range.
    pub(crate) fn drop_all(&mut self) {
        while let Some((first, range)) = self.ranges.pop_first() {
            self.undo.push(Undo::Removed { first, range });
        }
    }

    /// Every range, as (first, last).
    pub(crate) fn ranges(&self) -> Vec<(i64, i64)> {
        self.ranges
            .iter()
            .map(|(&first, range)| (first, range.last))
            .collect()
    }

    /// Gives the range that starts at `first` another claim row.
    pub(crate) fn renumber(&mut self, first: i64, id: i64) {
        if let Some(range) = self.ranges.get_mut(&first) {
            let mut renumbered = range.clone();
            renumbered.id = id;
            let range = std::mem::replace(range, renumbered);
            self.undo.push(Undo::Removed { first, range });
        }
    }

    fn remove(&mut self, first: i64) -> Option<Range> {
        let range = self.ranges.remove(&first)?;
        let copy = range.clone();
        self.undo.push(Undo::Removed { first, range });
        Some(copy)
    }

    fn range_of(&self, seq: i64) -> Option<(i64, &Range)> {
        let (&first, range) = self.ranges.range(..=seq).next_back()?;
        (seq <= range.last).then_some((first, range))
    }

    fn range_of_mut(&mut self, seq: i64) -> Option<(i64, &mut Range)> {
        let (&first, range) = self.ranges.range_mut(..=seq).next_back()?;
        (seq <= range.last).then_some((first, range))
    }
}

/// What lay behind a cut, until it has a claim row of its own.
#[derive(Debug)]
pub(crate) struct Behind {
    whole: Range,
    first: i64,
    from: i64,
    to: i64,
}

impl Behind {
    /// The first and the last seq of the claim row it needs.
    pub(crate) fn bounds(&self) -> (i64, i64) {
        (self.from, self.to)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn book(runs: &[(i64, i64)]) -> ClaimBook {
        let mut book = ClaimBook::default();
        for (id, &(first, last)) in (1..).zip(runs) {
            book.add(id, first, last);
        }
        book.commit();
        book
    }

    #[test]
    fn one_range_for_each_contiguous_run() {
        let mut book = ClaimBook::default();
        assert_eq!(
            book.take(&[5, 6, 7, 9, 10, 12]),
            [(5, 7), (9, 10), (12, 12)]
        );
        assert_eq!(book.take(&[10, 9, 9, 3]), [(3, 3), (9, 10)]);
    }

    #[test]
    fn a_claim_row_ends_with_the_last_row_settled() {
        let mut book = book(&[(1, 130)]);
        for seq in (1..=129).rev() {
            assert_eq!(book.settle(seq), None, "{seq}");
        }
        assert!(!book.holds(1) && book.holds(130) && !book.holds(131));
        assert_eq!(book.settle(1), None, "settled before");
        assert_eq!(book.settle(130), Some(1));
        assert_eq!(book.settle(130), None);
        assert!(book.ranges().is_empty());
    }

    #[test]
    fn giving_back_a_row_cuts_its_range() {
        let mut book = book(&[(1, 10)]);
        let (cut, behind) = book.give_back(5);
        assert_eq!(
            cut,
            Cut::Shrink {
                id: 1,
                first: 1,
                last: 4
            }
        );
        let behind = behind.unwrap();
        assert_eq!(behind.bounds(), (6, 10));
        book.add_behind(2, &behind);
        assert_eq!(book.ranges(), [(1, 4), (6, 10)]);
        assert!(!book.holds(5));
        assert_eq!(book.give_back(5).0, Cut::NotHeld);

        book.settle(7);
        let shrink = Cut::Shrink {
            id: 2,
            first: 8,
            last: 10,
        };
        assert_eq!(
            book.give_back(6).0,
            shrink,
            "7 is settled and needs no cover"
        );
        book.settle(1);
        book.settle(2);
        book.settle(3);
        assert_eq!(book.give_back(4).0, Cut::End { id: 1 });
    }

    #[test]
    fn a_row_that_came_back_is_covered_by_the_range_it_was_in() {
        let mut book = book(&[(1, 3)]);
        book.settle(2);
        assert_eq!(book.take(&[2]), []);
        assert!(book.holds(2));
    }

    #[test]
    fn renumbering_is_undone_too() {
        let mut book = book(&[(1, 3)]);
        book.renumber(1, 9);
        book.undo_all();
        assert_eq!(book.settle(1), None);
        assert_eq!(book.settle(2), None);
        assert_eq!(book.settle(3), Some(1));
    }

    /// Random changes against a plain set, half of them undone.
    #[test]
    fn it_agrees_with_a_set_and_undo_restores_it() {
        let mut state = 42_u64;
        let mut next = |below: u64| {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            (state >> 33) % below
        };
        let (mut book, mut held, mut id) = (ClaimBook::default(), BTreeSet::new(), 0);
        for _ in 0..20_000 {
            let (before, ranges) = (held.clone(), book.ranges.clone());
            for _ in 0..next(4) {
                let seq = i64::try_from(next(200)).unwrap();
                match next(3) {
                    0 => {
                        let seqs: Vec<i64> =
                            (seq..=seq + i64::try_from(next(9)).unwrap()).collect();
                        for (first, last) in book.take(&seqs) {
                            id += 1;
                            book.add(id, first, last);
                        }
                        held.extend(seqs);
                    }
                    1 => {
                        book.settle(seq);
                        held.remove(&seq);
                    }
                    _ => {
                        if let (_, Some(behind)) = book.give_back(seq) {
                            id += 1;
                            book.add_behind(id, &behind);
                        }
                        held.remove(&seq);
                    }
                }
            }
            if next(2) == 0 {
                book.undo_all();
                held = before;
                assert_eq!(book.ranges, ranges);
            } else {
                book.commit();
            }
            for seq in 0..210 {
                assert_eq!(book.holds(seq), held.contains(&seq), "{seq}");
            }
        }
    }
}
