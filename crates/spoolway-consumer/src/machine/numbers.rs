//! A map by rising number: nearly all come in order and leave near the front, so a queue with holes beats a tree.
//!
//! The place of a number is its distance from an end while there is no gap, else it is searched for. Holes are closed
//! when they are more than what is left.

use std::collections::VecDeque;
use std::ops::Index;

/// Holes that are never worth closing.
const HOLES_MIN: usize = 64;

/// Things by their number, in its order.
#[derive(Debug)]
pub(super) struct Numbers<T> {
    /// Ascending. What has left is a hole, except at both ends.
    places: VecDeque<(u64, Option<T>)>,
    len: usize,
}

impl<T> Default for Numbers<T> {
    fn default() -> Self {
        Self {
            places: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> Numbers<T> {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn get(&self, n: &u64) -> Option<&T> {
        let place = self.place(*n).ok()?;
        self.places[place].1.as_ref()
    }

    pub(super) fn get_mut(&mut self, n: &u64) -> Option<&mut T> {
        let place = self.place(*n).ok()?;
        self.places[place].1.as_mut()
    }

    pub(super) fn contains_key(&self, n: &u64) -> bool {
        self.get(n).is_some()
    }

    /// Gives back the room of what has left.
    pub(super) fn shrink_to_fit(&mut self) {
        self.places.retain(|(_, value)| value.is_some());
        self.places.shrink_to_fit();
    }

    /// In the place of what had the number before.
    pub(super) fn insert(&mut self, n: u64, value: T) {
        let place = self.make_place(n);
        let new = place.is_none();
        *place = Some(value);
        self.len += usize::from(new);
    }

    /// The place of the number, a new one if need be.
    fn make_place(&mut self, n: u64) -> &mut Option<T> {
        let place = match self.place(n) {
            Ok(place) => place,
            Err(place) if place == self.places.len() => {
                self.places.push_back((n, None));
                place
            }
            Err(place) => {
                self.places.insert(place, (n, None));
                place
            }
        };
        &mut self.places[place].1
    }

    pub(super) fn remove(&mut self, n: &u64) -> Option<T> {
        let place = self.place(*n).ok()?;
        let value = self.places[place].1.take()?;
        self.len -= 1;
        while let Some((_, None)) = self.places.front() {
            self.places.pop_front();
        }
        while let Some((_, None)) = self.places.back() {
            self.places.pop_back();
        }
        if self.places.len() > 2 * self.len + HOLES_MIN {
            self.places.retain(|(_, value)| value.is_some());
        }
        Some(value)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&u64, &T)> {
        self.places
            .iter()
            .filter_map(|(n, value)| Some((n, value.as_ref()?)))
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &u64> {
        self.iter().map(|(n, _)| n)
    }

    pub(super) fn values(&self) -> impl Iterator<Item = &T> {
        self.iter().map(|(_, value)| value)
    }

    /// The first number from `first` to `last`, both included, that is there.
    pub(super) fn first_in(&self, first: u64, last: u64) -> Option<u64> {
        let (Ok(from) | Err(from)) = self.place(first);
        let mut places = self.places.range(from..);
        let (n, _) = places.find(|(n, value)| *n > last || value.is_some())?;
        (*n <= last).then_some(*n)
    }

    /// Where the number is, or where it belongs.
    fn place(&self, n: u64) -> Result<usize, usize> {
        let (Some((front, _)), Some((back, _))) = (self.places.front(), self.places.back()) else {
            return Err(0);
        };
        if n < *front {
            return Err(0);
        }
        if n > *back {
            return Err(self.places.len());
        }
        let from_front = usize::try_from(n - front).unwrap_or(usize::MAX);
        let from_back = usize::try_from(back - n).unwrap_or(usize::MAX);
        let places = [
            Some(from_front),
            (self.places.len() - 1).checked_sub(from_back),
        ];
        for place in places.into_iter().flatten() {
            if self.places.get(place).is_some_and(|(there, _)| *there == n) {
                return Ok(place);
            }
        }
        self.places.binary_search_by_key(&n, |(there, _)| *there)
    }
}

impl<T> Index<&u64> for Numbers<T> {
    type Output = T;

    fn index(&self, n: &u64) -> &T {
        self.get(n).expect("a number that is there")
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    /// The same steps on a tree.
    fn compare(seed: u64, steps: usize, next: impl Fn(u64, u64) -> u64) {
        let mut state = seed;
        let mut draw = move || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1_442_695_040_888_963_407);
            state >> 33
        };
        let (mut numbers, mut tree) = (Numbers::default(), BTreeMap::new());
        let mut newest = 0;
        for step in 0..steps {
            let chance = draw();
            if chance % 8 < 4 {
                newest = next(newest, draw());
                numbers.insert(newest, step);
                tree.insert(newest, step);
            } else {
                let nth = usize::try_from(draw()).unwrap() % tree.len().max(1);
                let near = tree.keys().nth(nth).copied().unwrap_or(draw() % 100);
                let n = near + u64::from(chance % 16 == 15);
                assert_eq!(numbers.get(&n), tree.get(&n));
                assert_eq!(
                    numbers.first_in(n, n + 5),
                    tree.range(n..=n + 5).next().map(|(n, _)| *n)
                );
                assert_eq!(numbers.remove(&n), tree.remove(&n));
            }
            assert_eq!(numbers.len(), tree.len());
        }
        assert!(numbers.iter().eq(tree.iter()));
    }

    #[test]
    fn it_holds_what_a_tree_holds_whatever_the_order() {
        for seed in 0..200 {
            compare(seed, 400, |newest, _| newest + 1);
            compare(seed, 400, |newest, draw| newest + 1 + draw % 3);
            compare(seed, 400, |_, draw| draw % 100);
            compare(seed, 400, |newest, draw| match draw % 50 {
                0 => newest / 2,
                1 => newest + (1 << 40),
                _ => newest + 1,
            });
        }
    }

    #[test]
    fn one_that_stays_keeps_no_room_for_those_that_left() {
        let mut numbers = Numbers::default();
        numbers.insert(1, ());
        for n in 2..10_000 {
            numbers.insert(n, ());
            if n > 2 {
                numbers.remove(&(n - 1));
            }
            assert!(numbers.places.len() <= 2 * numbers.len() + HOLES_MIN);
            assert!(numbers.contains_key(&1) && numbers.contains_key(&n));
        }
        assert_eq!(numbers.len(), 2);
    }

    #[test]
    fn the_ends_of_all_numbers_are_numbers() {
        let mut numbers = Numbers::default();
        for n in [u64::MAX, 0, 7] {
            numbers.insert(n, n);
        }
        assert!(numbers.keys().eq(&[0, 7, u64::MAX]));
        assert_eq!(numbers.first_in(8, u64::MAX), Some(u64::MAX));
        assert_eq!(numbers.first_in(1, 6), None);
        assert_eq!(numbers.remove(&u64::MAX), Some(u64::MAX));
        assert_eq!(numbers[&0], 0);
    }
}
