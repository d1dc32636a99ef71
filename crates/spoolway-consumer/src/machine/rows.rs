//! What comes from the queue file: pages of candidates, and which of them are taken.

use std::sync::Arc;

use spoolway_proto::{Key, Outcome};
use spoolway_queue::{Before, Candidate, Page, Write};

use super::commit::{Doing, settle_copy};
use super::{
    Action, Entry, LANE_ROWS_MAX, Machine, PASSED_MAX, SUSPECTS_MAX, Step, Ticket, Verdict,
};

impl Machine {
    pub(super) fn mark_backlog(&mut self) {
        self.backlog.maybe = true;
        self.backlog.version += 1;
    }

    /// The file has, or may have, something to take.
    pub(super) fn want_poll(&mut self) {
        self.poll.wanted = true;
        self.poll.again = true;
    }

    /// Reads on, if there is room for what may come.
    pub(super) fn poll(&mut self) {
        let room = self.config.claimed_max.saturating_sub(self.by_row.len());
        if !self.poll.wanted || self.poll.under_way.is_some() || self.draining || room == 0 {
            return;
        }
        // Small pages only when the memory is small: a page costs a read and a commit.
        let limit = self.config.page.min(self.config.claimed_max);
        if room < limit {
            return;
        }
        self.poll.under_way = Some(self.reads.begin());
        self.poll.again &= self.poll.cursor != Default::default();
        let cursor = self.poll.cursor;
        self.actions.push_back(Action::Poll { cursor, limit });
    }

    pub(super) fn polled(&mut self, page: Option<Page>) {
        let Some(read) = self.poll.under_way.take() else {
            return;
        };
        self.poll.at = self.now.mono + self.config.poll_every;
        let Some(page) = page else {
            self.poll.wanted = false;
            return self.reads.end(read);
        };
        if self.poll.cursor == Default::default() {
            self.poll.passed_other = false;
        }
        if !self.is_of_this_file(read, &page) {
            self.poll.cursor = Default::default();
            return self.reads.end(read);
        }
        if let Some(stopped) = &page.held {
            self.keys_are_held(read, stopped);
        }
        let empty = page.candidates.is_empty() && page.damaged.is_empty();
        let (end, cursor, next_due_in) = (page.end, page.cursor, page.next_due_in);
        self.take_page(read, page);
        self.reads.end(read);
        if end {
            self.poll.cursor = Default::default();
            self.poll.wanted = std::mem::take(&mut self.poll.again);
            if let Some(due) = next_due_in {
                self.poll.at = self.poll.at.min(self.now.mono + due);
            }
            if empty && !self.poll.wanted && self.backlog.maybe && self.by_row.is_empty() {
                self.ask(None, None);
            }
        } else {
            self.poll.cursor = cursor;
        }
    }

    pub(super) fn polled_key(&mut self, key: &Key, read: u64, page: Option<Page>) {
        let Some(page) = page else {
            self.reads.end(read);
            return self.pass_over(Some(key));
        };
        let more = !page.end;
        if self.is_of_this_file(read, &page) {
            self.take_page(read, page);
        }
        self.reads.end(read);
        if more {
            self.pass_over(Some(key));
        }
    }

    fn is_of_this_file(&self, read: u64, page: &Page) -> bool {
        page.generation == self.generation && !self.reads.is_void(read)
    }

    /// Reads on in a key of which rows were passed over.
    pub(super) fn refill(&mut self, key: &Key) {
        // Mostly there are none, and then the key need not be hashed.
        if !self.poll.passed.is_empty() && self.poll.passed.remove(key) && !self.draining {
            let limit = LANE_ROWS_MAX / 2;
            let read = self.reads.begin();
            self.actions.push_back(Action::PollKey {
                key: key.clone(),
                read,
                limit,
            });
        }
    }

    /// Reads on among the suspects, when few of them are left in memory.
    pub(super) fn poll_suspects(&mut self) {
        let Some(after) = self.poll.suspects else {
            return;
        };
        let limit = SUSPECTS_MAX / 2;
        if self.poll.reads_suspects || self.draining || self.suspects_held() > limit {
            return;
        }
        self.poll.reads_suspects = true;
        let read = self.reads.begin();
        self.actions
            .push_back(Action::PollSuspects { after, read, limit });
    }

    pub(super) fn polled_suspects(&mut self, read: u64, page: Option<Page>) {
        self.poll.reads_suspects = false;
        self.poll.suspects = None;
        match page {
            Some(page) if self.is_of_this_file(read, &page) => {
                let behind = (!page.end).then(|| page.cursor.seq());
                self.take_page(read, page);
                if let Some(seq) = behind {
                    self.suspects_wait_behind(seq);
                }
            }
            Some(_) => {}
            // Found again by the next look at everything.
            None => self.pass_over(None),
        }
        self.reads.end(read);
    }

    fn suspects_wait_behind(&mut self, seq: i64) {
        let first = self.poll.suspects.unwrap_or(seq);
        self.poll.suspects = Some(first.min(seq));
    }

    fn suspects_held(&self) -> usize {
        let tickets = self.by_row.values();
        tickets
            .filter(|ticket| self.entries[*ticket].suspect)
            .count()
    }

    fn pass_over(&mut self, key: Option<&Key>) {
        match key {
            Some(key) if self.poll.passed.len() < PASSED_MAX => {
                if !self.poll.passed.contains(key) {
                    self.poll.passed.insert(key.clone());
                }
            }
            _ => self.poll.passed_other = true,
        }
    }

    fn take_page(&mut self, read: u64, page: Page) {
        let mut writes: Vec<(Write, Doing)> = Vec::new();
        for damaged in page.damaged {
            let (seq, reason) = (damaged.seq, damaged.reason.to_owned());
            let write = Write::Dead {
                seq,
                attempts: 0,
                reason,
                error: Some(damaged.error),
            };
            writes.push((write, Doing::Row { seq, key: None }));
        }
        let (mut rows, mut tickets) = (Vec::new(), Vec::new());
        if !self.draining {
            for candidate in page.candidates {
                let seq = candidate.seq;
                if let Some(ticket) = self.consider(read, candidate, &mut writes) {
                    rows.push(seq);
                    tickets.push(ticket);
                }
            }
        }
        if !rows.is_empty() {
            rows.sort_unstable();
            writes.push((Write::Claim(rows), Doing::Claim(tickets)));
        }
        if !writes.is_empty() {
            self.commit(writes);
        }
    }

    /// Takes a row into memory, settles it as a copy, or passes it over. The page is a snapshot: what is in
    /// memory, and what was submitted since, counts more.
    fn consider(
        &mut self,
        read: u64,
        row: Candidate,
        writes: &mut Vec<(Write, Doing)>,
    ) -> Option<Ticket> {
        if self.by_row.contains_key(&row.seq) || self.reads.is_stale(read, row.seq) {
            return None;
        }
        if let Some(origin) = row.origin
            && let Some(producer) = self.producers.get_mut(&origin.producer)
            && origin.epoch > producer.epoch
        {
            producer.epoch = origin.epoch;
            self.fence(origin.producer);
        }
        if row.delivery == 0 {
            if let Some(ticket) = self.ids.ticket(&row.message.id) {
                return self.meet(read, ticket, &row, writes);
            }
            if let Some(verdict) = self.outcome_of(&row) {
                let doing = Doing::Row {
                    seq: row.seq,
                    key: row.message.key.clone(),
                };
                writes.push((settle_copy(&row.message.id, row.crc, verdict), doing));
                return None;
            }
        }
        if row.suspect && self.suspects_held() >= SUSPECTS_MAX {
            self.suspects_wait_behind(row.seq - 1);
            return None;
        }
        if !self.has_place(read, &row) {
            let key = row.message.key.as_ref().filter(|_| row.delivery == 0);
            self.pass_over(key);
            return None;
        }
        let mut entry = Entry::new(Arc::clone(&row.message), row.crc);
        entry.row = Some(row.seq);
        entry.suspect = row.suspect;
        entry.attempts = row.attempts;
        entry.delivery = row.delivery;
        entry.step = Step::Claiming;
        let ticket = self.insert(entry);
        self.enter_lane_by_row(ticket);
        Some(ticket)
    }

    /// A row of a message that is in memory: a copy joins it and is settled with it.
    fn meet(
        &mut self,
        read: u64,
        ticket: Ticket,
        row: &Candidate,
        writes: &mut Vec<(Write, Doing)>,
    ) -> Option<Ticket> {
        let entry = self.entries.get_mut(&ticket)?;
        if entry.crc != row.crc {
            let reason = "conflict".to_owned();
            let error = Some("a message of this id with other content is in progress".to_owned());
            let write = Write::Dead {
                seq: row.seq,
                attempts: row.attempts,
                reason,
                error,
            };
            writes.push((
                write,
                Doing::Row {
                    seq: row.seq,
                    key: row.message.key.clone(),
                },
            ));
            return None;
        }
        // Its own insert is on the way, and will find the row.
        let on_its_way = matches!(entry.step, Step::Leaving | Step::Settling | Step::Burying);
        let written = entry.storing || on_its_way;
        if entry.row.is_some() || written {
            return None;
        }
        let asking = entry.step == Step::Asking;
        let leaving = self.key_of(ticket).is_some_and(|key| self.is_leaving(&key));
        if asking && leaving {
            // What is before it is on its way to the file; its lookup follows.
            self.pass_over(row.message.key.as_ref());
            return None;
        }
        let entry = self.entries.get_mut(&ticket)?;
        entry.row = Some(row.seq);
        entry.attempts = entry.attempts.max(row.attempts);
        entry.suspect |= row.suspect;
        self.by_row.insert(row.seq, ticket);
        let held = row
            .message
            .key
            .as_ref()
            .is_some_and(|key| self.held.contains(key));
        if asking && (held || self.is_preceded(read, row)) {
            // It is better taken from the file, in its turn: rows before it are not here, or its key is stopped.
            self.leave(ticket);
            return None;
        }
        if asking {
            self.set_step(ticket, Step::Waiting);
            self.enter_lane_by_row(ticket);
            if let Some(key) = self.key_of(ticket) {
                self.advance(&key);
            }
        }
        Some(ticket)
    }

    /// The outcome that settles this row without running it.
    fn outcome_of(&self, row: &Candidate) -> Option<Verdict> {
        let settles =
            |(outcome, _): &Verdict| matches!(outcome, Outcome::Processed | Outcome::Dead);
        let by_pair = row.origin.and_then(|origin| {
            let kept = self
                .producers
                .get(&origin.producer)?
                .kept(origin.sequence)?;
            (kept.id == row.message.id).then(|| kept.verdict())
        });
        let by_id = || {
            let (crc, verdict) = self.ids.get(&row.message.id)?.kept.as_ref()?;
            (*crc == row.crc).then(|| verdict.clone())
        };
        let by_file = || {
            row.kept
                .clone()
                .map(|(outcome, why)| (outcome, why.map(Into::into)))
        };
        [by_pair, by_id(), by_file()]
            .into_iter()
            .flatten()
            .find(settles)
    }

    /// Whether the row could run soon: a blocked key is left in the file, and so is one that is not all here.
    fn has_place(&self, read: u64, row: &Candidate) -> bool {
        let Some(key) = row.message.key.as_ref().filter(|_| row.delivery == 0) else {
            return true;
        };
        if self.held.contains(key) {
            return false;
        }
        if self.is_preceded(read, row) {
            return false;
        }
        let Some(lane) = self.lanes.get(key) else {
            return true;
        };
        let blocks = |ticket| matches!(self.step(ticket), Some(Step::Leaving | Step::Delayed(_)));
        lane.len() < LANE_ROWS_MAX && !lane.iter().any(blocks)
    }

    /// Whether an earlier unprocessed row of its key is not in memory.
    fn is_preceded(&self, read: u64, row: &Candidate) -> bool {
        match &row.before {
            Before::None => false,
            Before::Many => true,
            Before::Rows(rows) => rows.iter().any(|seq| {
                match self.by_row.get(seq).and_then(|ticket| self.step(*ticket)) {
                    Some(step) => step == Step::Leaving,
                    None => !self.reads.is_settled(read, *seq),
                }
            }),
        }
    }
}
