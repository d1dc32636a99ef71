//! What the model gives out, in which order, and how that ends.

use std::collections::BTreeMap;

use spoolway_queue::BEFORE_MAX;

use crate::answer::{Answer, Peeked};
use crate::model::{Flaw, Model};
use crate::row::{Row, State, Wait};
use crate::steps::{By, End};

/// What a dequeue gave out, until it is settled.
#[derive(Clone, Debug)]
pub(crate) struct Held {
    pub(crate) seq: usize,
    pub(crate) attempts: u32,
    pub(crate) suspect: bool,
}

impl Model {
    /// Places of the rows that are due, in the order they run.
    fn due(&self) -> Vec<usize> {
        let mut due: Vec<usize> = (0..self.rows.len())
            .filter(|&at| self.rows[at].state == State::Pending)
            .filter(|&at| self.rows[at].wait == Wait::Over)
            .collect();
        due.sort_by_key(|&at| (std::cmp::Reverse(self.rows[at].priority), at));
        if self.has(Flaw::Reversed) {
            due.reverse();
        }
        due
    }

    /// Places of what is before a row in its lane.
    fn before(&self, at: usize) -> Vec<usize> {
        let row = &self.rows[at];
        let in_lane = |row: &Row| row.state == State::Pending && row.delivery == 0;
        if row.key.is_none() || row.delivery > 0 || self.has(Flaw::NoLanes) {
            return Vec::new();
        }
        (0..at)
            .filter(|&earlier| in_lane(&self.rows[earlier]) && self.rows[earlier].key == row.key)
            .collect()
    }

    pub(crate) fn dequeue(&mut self, limit: usize) -> Answer {
        if !self.owned {
            self.owned = true;
            self.clean = false;
            let claimed = std::mem::take(&mut self.claimed);
            let suspect = !self.has(Flaw::NoSuspects);
            for row in &mut self.rows {
                if claimed.contains(&row.seq) && row.state == State::Pending {
                    row.suspect = suspect;
                }
            }
        }
        let before: Vec<Vec<usize>> = (0..self.rows.len()).map(|at| self.before(at)).collect();
        let mut taken: Vec<usize> = Vec::new();
        for page in self.due().chunks(limit.max(64)) {
            for &at in page {
                self.bury_if_hopeless(at);
            }
            for &at in page {
                if taken.len() < limit && self.comes(at, &before[at], &taken) {
                    taken.push(at);
                }
            }
            if taken.len() >= limit {
                break;
            }
        }
        let mut answer = Vec::new();
        for at in taken {
            let row = &mut self.rows[at];
            let (seq, attempts, suspect) = (row.seq, row.attempts, row.suspect);
            row.attempts += u32::from(suspect);
            answer.push((row.id.clone(), attempts, suspect));
            self.claimed.insert(seq);
            self.held.push(Held {
                seq,
                attempts,
                suspect,
            });
        }
        Answer::Claimed(answer)
    }

    fn comes(&self, at: usize, before: &[usize], taken: &[usize]) -> bool {
        let row = &self.rows[at];
        let is_clear = |&at: &usize| taken.contains(&at) || self.rows[at].state != State::Pending;
        let suspect_is_out = self.held.iter().any(|held| held.suspect)
            || taken.iter().any(|&taken| self.rows[taken].suspect);
        let waits = row.suspect && suspect_is_out && !self.has(Flaw::SuspectsTogether);
        row.state == State::Pending
            && self.held.iter().all(|held| held.seq != row.seq)
            && before.len() <= BEFORE_MAX
            && before.iter().all(is_clear)
            && !waits
    }

    fn bury_if_hopeless(&mut self, at: usize) {
        let row = &self.rows[at];
        let held = self.held.iter().any(|held| held.seq == row.seq);
        if row.damaged {
            let reason = if row.foreign { "invalid" } else { "corrupt" };
            self.bury(at, 0, reason, Some("damaged"));
        } else if row.expired && row.delivery == 0 && !held {
            self.bury(at, 0, "expired", None);
        }
    }

    pub(crate) fn peek(&self, limit: usize) -> Answer {
        let due = self.due().into_iter().take(limit);
        let whole = due.filter(|&at| !self.rows[at].damaged);
        let peeked = whole.map(|at| {
            let row = &self.rows[at];
            let before = self.before(at).into_iter();
            let before: Vec<_> = before.map(|at| self.rows[at].id.clone()).collect();
            Peeked {
                id: row.id.clone(),
                attempts: row.attempts,
                delivery: row.delivery,
                suspect: row.suspect,
                before: (before.len() <= BEFORE_MAX).then_some(before),
            }
        });
        Answer::Peeked(peeked.collect())
    }

    /// Which of what is held is meant, by place.
    pub(crate) fn places(held: usize, ends: &[(usize, End)]) -> Vec<(usize, End)> {
        let mut places: BTreeMap<usize, End> = BTreeMap::new();
        for (place, end) in ends {
            places.entry(place % held).or_insert_with(|| end.clone());
        }
        places.into_iter().collect()
    }

    pub(crate) fn settle(&mut self, ends: &[(usize, End)]) -> Answer {
        for (place, end) in Self::places(self.held.len(), ends).into_iter().rev() {
            let held = self.held.remove(place);
            self.claimed.remove(&held.seq);
            let rows = self.rows.iter();
            let pending = rows.clone().position(|row| row.seq == held.seq);
            let Some(at) = pending.filter(|&at| self.rows[at].state == State::Pending) else {
                continue;
            };
            let attempts = held.attempts + 1;
            match end {
                End::Processed => self.process(at, attempts),
                End::Dead { reason, error } => {
                    self.bury(at, attempts, reason, error.then_some("dead"));
                }
                End::Retry { later } => {
                    let row = &mut self.rows[at];
                    row.attempts = row.attempts.max(attempts);
                    row.wait = if later { Wait::Retry } else { Wait::Over };
                    row.error = Some("again");
                    row.suspect = false;
                }
                End::Release => {
                    self.rows[at].attempts += u32::from(self.has(Flaw::ReleaseCounts));
                }
            }
        }
        Answer::Done
    }

    pub(crate) fn mark_processed(&mut self, by: By, id: &str) -> Answer {
        let Some(at) = self.rows.iter().position(|row| row.id == id) else {
            return Answer::Marked(false);
        };
        let seq = self.rows[at].seq;
        let mut begun = false;
        if by == By::Consumer {
            let place = self.held.iter().position(|held| held.seq == seq);
            begun = place.is_some_and(|place| self.held.remove(place).suspect);
            if place.is_some() {
                self.claimed.remove(&seq);
            }
        }
        if self.rows[at].state != State::Pending {
            return Answer::Marked(false);
        }
        let attempts = self.rows[at].attempts + u32::from(!begun);
        self.process(at, attempts);
        Answer::Marked(true)
    }

    fn bury(
        &mut self,
        at: usize,
        attempts: u32,
        reason: &'static str,
        error: Option<&'static str>,
    ) {
        let row = &mut self.rows[at];
        row.state = State::Dead;
        row.attempts = row.attempts.max(attempts);
        row.reason = Some(reason);
        row.error = error.or(row.error);
        row.suspect = false;
        if let Some(producer) = row.producer {
            self.balance(producer).dead += 1;
        }
    }

    fn process(&mut self, at: usize, attempts: u32) {
        let row = &mut self.rows[at];
        row.state = State::Processed;
        row.attempts = row.attempts.max(attempts);
        row.suspect = false;
        if let Some(producer) = row.producer {
            self.balance(producer).processed += 1;
        }
    }
}
