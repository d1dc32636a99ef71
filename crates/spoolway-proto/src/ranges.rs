//! A set of sequence numbers as sorted, disjoint, closed ranges: `[[1,64],[66,70]]` on the wire.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// How many ranges are read from the wire. Windows are far smaller, and each range costs at least
/// one number that is not in the set.
pub const RANGES_MAX: usize = 65_536;

/// A set of numbers that come mostly in order: adding at the tail is O(1), anywhere else a binary
/// search and a move of what lies behind.
///
/// Neighbouring ranges are always joined, so equal sets have equal ranges.
#[derive(Clone, Default, PartialEq, Eq, Hash)]
pub struct Ranges(Vec<(u64, u64)>);

impl Ranges {
    /// The empty set.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds one number.
    pub fn insert(&mut self, n: u64) {
        self.insert_range(n, n);
    }

    /// Adds every number from `first` to `last`, both included; nothing when `first > last`.
    pub fn insert_range(&mut self, first: u64, last: u64) {
        if first > last {
            return;
        }
        match self.0.last_mut() {
            None => self.0.push((first, last)),
            Some(tail) if touches(tail.1, first) && tail.0 <= first => tail.1 = tail.1.max(last),
            Some(tail) if tail.1 < first => self.0.push((first, last)),
            Some(_) => self.insert_inside(first, last),
        }
    }

    /// Replaces every range that the new one meets or touches by their union.
    fn insert_inside(&mut self, first: u64, last: u64) {
        let from = self.0.partition_point(|range| !touches(range.1, first));
        let to = self.0.partition_point(|range| touches(last, range.0));
        let union = match self.0.get(from..to) {
            Some([low, .., high]) => (low.0.min(first), high.1.max(last)),
            Some([only]) => (only.0.min(first), only.1.max(last)),
            _ => (first, last),
        };
        self.0.splice(from..to, [union]);
    }

    /// Takes one number out; whether it was there.
    pub fn remove(&mut self, n: u64) -> bool {
        let Some(at) = self.find(n) else { return false };
        self.remove_inside(at, n, n);
        true
    }

    /// Takes out every number below `n`.
    pub fn remove_below(&mut self, n: u64) {
        let gone = self.0.partition_point(|range| range.1 < n);
        self.0.drain(..gone);
        if let Some(head) = self.0.first_mut() {
            head.0 = head.0.max(n);
        }
    }

    /// Takes out every number of `other`.
    pub fn remove_all(&mut self, other: &Self) {
        if other.is_empty() || self.is_empty() {
            return;
        }
        let mut left = Vec::with_capacity(self.0.len());
        let mut holes = other.0.iter().copied().peekable();
        for &(first, last) in &self.0 {
            let mut from = first;
            let mut whole = true;
            while let Some(&(low, high)) = holes.peek() {
                if low > last {
                    break;
                }
                if high >= from {
                    if low > from {
                        left.push((from, low - 1));
                    }
                    if high >= last {
                        // The hole may reach into the next range, so it stays for that one.
                        whole = false;
                        break;
                    }
                    from = high + 1;
                }
                holes.next();
            }
            if whole {
                left.push((from, last));
            }
        }
        self.0 = left;
    }

    /// Takes `first..=last`, which lies within the range at `at`, out of it.
    fn remove_inside(&mut self, at: usize, first: u64, last: u64) {
        let range = self.0[at];
        match (range.0 < first, last < range.1) {
            (false, false) => drop(self.0.remove(at)),
            (false, true) => self.0[at].0 = last + 1,
            (true, false) => self.0[at].1 = first - 1,
            (true, true) => {
                self.0[at].1 = first - 1;
                self.0.insert(at + 1, (last + 1, range.1));
            }
        }
    }

    /// Whether the set has the number.
    pub fn contains(&self, n: u64) -> bool {
        self.find(n).is_some()
    }

    fn find(&self, n: u64) -> Option<usize> {
        let at = self.0.partition_point(|range| range.1 < n);
        self.0
            .get(at)
            .is_some_and(|range| range.0 <= n)
            .then_some(at)
    }

    /// Whether the set has no number.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many numbers the set has, not how many ranges.
    pub fn len(&self) -> u64 {
        self.0.iter().fold(0u64, |sum, (first, last)| {
            sum.saturating_add((last - first).saturating_add(1))
        })
    }

    /// The smallest number.
    pub fn first(&self) -> Option<u64> {
        self.0.first().map(|range| range.0)
    }

    /// The largest number.
    pub fn last(&self) -> Option<u64> {
        self.0.last().map(|range| range.1)
    }

    /// The ranges in ascending order, as (first, last), both included.
    pub fn iter(&self) -> impl DoubleEndedIterator<Item = (u64, u64)> + ExactSizeIterator + '_ {
        self.0.iter().copied()
    }

    /// Every number in ascending order.
    pub fn numbers(&self) -> impl Iterator<Item = u64> + '_ {
        self.0.iter().flat_map(|&(first, last)| first..=last)
    }

    /// Takes everything out and keeps the memory.
    pub fn clear(&mut self) {
        self.0.clear();
    }
}

/// Whether a range that ends at `last` and one that starts at `first` leave no number between.
fn touches(last: u64, first: u64) -> bool {
    last.saturating_add(1) >= first
}

impl fmt::Debug for Ranges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(first, last)| [first, last]))
            .finish()
    }
}

impl Extend<u64> for Ranges {
    fn extend<I: IntoIterator<Item = u64>>(&mut self, numbers: I) {
        numbers.into_iter().for_each(|n| self.insert(n));
    }
}

impl FromIterator<u64> for Ranges {
    fn from_iter<I: IntoIterator<Item = u64>>(numbers: I) -> Self {
        let mut ranges = Self::new();
        ranges.extend(numbers);
        ranges
    }
}

impl From<RangeInclusive<u64>> for Ranges {
    fn from(range: RangeInclusive<u64>) -> Self {
        let mut ranges = Self::new();
        ranges.insert_range(*range.start(), *range.end());
        ranges
    }
}

impl Serialize for Ranges {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Ranges {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_seq(Ascending)
    }
}

struct Ascending;

impl<'de> Visitor<'de> for Ascending {
    type Value = Ranges;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array of ranges [first,last], ascending and disjoint")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Ranges, A::Error> {
        let mut ranges = Ranges::new();
        let mut count = 0;
        while let Some((first, last)) = seq.next_element::<(u64, u64)>()? {
            let ascending = ranges.last().is_none_or(|before| before < first);
            if first > last || !ascending {
                return Err(de::Error::custom(format_args!(
                    "range [{first},{last}] is not ascending and disjoint"
                )));
            }
            count += 1;
            if count > RANGES_MAX {
                return Err(de::Error::custom(format_args!(
                    "more than {RANGES_MAX} ranges"
                )));
            }
            // Ranges that touch are joined: another implementation need not coalesce.
            ranges.insert_range(first, last);
        }
        Ok(ranges)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    fn ranges(pairs: &[(u64, u64)]) -> Ranges {
        let mut ranges = Ranges::new();
        pairs
            .iter()
            .for_each(|&(first, last)| ranges.insert_range(first, last));
        ranges
    }

    #[test]
    fn ranges_join_where_they_meet() {
        for (pairs, joined) in [
            (&[(1, 3), (4, 6)][..], "[[1,6]]"),
            (&[(4, 6), (1, 3)], "[[1,6]]"),
            (&[(1, 3), (5, 6)], "[[1,3],[5,6]]"),
            (&[(5, 6), (1, 3)], "[[1,3],[5,6]]"),
            (&[(1, 1), (3, 3), (5, 5), (2, 4)], "[[1,5]]"),
            (&[(1, 1), (3, 3), (5, 5), (0, 9)], "[[0,9]]"),
            (&[(5, 9), (1, 20)], "[[1,20]]"),
            (&[(5, 9), (6, 7)], "[[5,9]]"),
            (&[(10, 20), (30, 40), (22, 28)], "[[10,20],[22,28],[30,40]]"),
            (&[(10, 20), (30, 40), (21, 29)], "[[10,40]]"),
            (&[(3, 2)], "[]"),
            (
                &[(u64::MAX, u64::MAX), (0, 0)],
                "[[0,0],[18446744073709551615,18446744073709551615]]",
            ),
            (&[(0, u64::MAX), (5, 5)], "[[0,18446744073709551615]]"),
        ] {
            let ranges = ranges(pairs);
            assert_eq!(serde_json::to_string(&ranges).unwrap(), joined, "{pairs:?}");
            assert_eq!(serde_json::from_str::<Ranges>(joined).unwrap(), ranges);
        }
    }

    #[test]
    fn what_is_not_ascending_and_disjoint_is_refused() {
        for bad in [
            "[[2,1]]",
            "[[1,5],[5,6]]",
            "[[5,6],[1,2]]",
            "[[1,2,3]]",
            "[[1]]",
            "[1,2]",
            "[[-1,2]]",
            "[[1.0,2]]",
            "{}",
            "null",
        ] {
            assert!(serde_json::from_str::<Ranges>(bad).is_err(), "{bad}");
        }
        assert_eq!(
            serde_json::from_str::<Ranges>("[[1,2],[3,4]]").unwrap(),
            ranges(&[(1, 4)])
        );
    }

    #[test]
    fn the_number_of_ranges_is_capped() {
        let many = |count: u64| (0..count).map(|n| 2 * n).collect::<Ranges>();
        let text = |count| serde_json::to_string(&many(count)).unwrap();
        assert!(serde_json::from_str::<Ranges>(&text(RANGES_MAX as u64)).is_ok());
        assert!(serde_json::from_str::<Ranges>(&text(RANGES_MAX as u64 + 1)).is_err());
        // Touching ranges join, so the cap must count what was read, not what was kept.
        let touching: Vec<_> = (0..=RANGES_MAX as u64).map(|n| (n, n)).collect();
        let text = serde_json::to_string(&touching).unwrap();
        assert!(serde_json::from_str::<Ranges>(&text).is_err());
    }

    #[test]
    fn the_whole_range_of_numbers_is_usable() {
        let mut all = Ranges::from(0..=u64::MAX);
        assert_eq!(all.len(), u64::MAX);
        assert!(all.remove(u64::MAX) && all.remove(0) && !all.remove(0));
        assert_eq!((all.first(), all.last()), (Some(1), Some(u64::MAX - 1)));
        all.remove_below(u64::MAX);
        assert!(all.is_empty());
    }

    #[test]
    fn it_agrees_with_a_plain_set_on_random_work() {
        const SPAN: u64 = 48;
        for seed in 1..400u64 {
            let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
            let mut draw = |below: u64| {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                state % below
            };
            let (mut ours, mut plain) = (Ranges::new(), BTreeSet::new());
            for _ in 0..60 {
                let (a, b) = (draw(SPAN), draw(SPAN));
                match draw(6) {
                    0 => assert_eq!(ours.remove(a), plain.remove(&a)),
                    1 => {
                        ours.remove_below(a / 4);
                        plain.retain(|&n| n >= a / 4);
                    }
                    2 => {
                        let others: Vec<u64> = (0..draw(9)).map(|_| draw(SPAN)).collect();
                        ours.remove_all(&others.iter().copied().collect());
                        plain.retain(|n| !others.contains(n));
                    }
                    3 => {
                        ours.insert(a);
                        plain.insert(a);
                    }
                    _ => {
                        ours.insert_range(a, b);
                        plain.extend(a..=b);
                    }
                }
                check(&ours, &plain, seed);
            }
        }
    }

    fn check(ours: &Ranges, plain: &BTreeSet<u64>, seed: u64) {
        assert!(
            ours.numbers().eq(plain.iter().copied()),
            "seed {seed}: {ours:?} {plain:?}"
        );
        assert_eq!(ours.len(), plain.len() as u64);
        assert_eq!(
            (ours.first(), ours.last()),
            (plain.first().copied(), plain.last().copied())
        );
        assert!((0..48).all(|n| ours.contains(n) == plain.contains(&n)));
        let pairs: Vec<_> = ours.iter().collect();
        assert!(
            pairs.windows(2).all(|pair| pair[0].1 + 1 < pair[1].0),
            "seed {seed}: {ours:?}"
        );
    }
}
