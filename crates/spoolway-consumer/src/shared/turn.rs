//! One turn: some events, and all that follows from them at once.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Shared, Work};
use crate::machine::Event;
use crate::reads;

/// Events the machine is told together: enough to share a lock, few enough that what one message takes of memory is
/// near at hand again for the next. Allocators keep about as many blocks of a size ready.
const TOGETHER_MAX: usize = 8;
/// How long one turn runs handlers itself; the rest get tasks of their own, so that other cores take them.
const INLINE_MAX: Duration = Duration::from_micros(200);
/// How long answers may wait for others to join them while handlers run.
const FLUSH_EVERY: Duration = Duration::from_millis(1);

/// What is done without waiting, on one thread, between two waits of a task.
pub(crate) struct Turn<'a> {
    shared: &'a Arc<Shared>,
    events: Vec<Event>,
    work: Work,
    flushed: Instant,
    /// How long handlers ran here.
    handled: Duration,
}

impl Shared {
    pub(crate) fn turn(self: &Arc<Self>) -> Turn<'_> {
        Turn {
            shared: self,
            events: Vec::new(),
            work: Work::default(),
            flushed: Instant::now(),
            handled: Duration::ZERO,
        }
    }
}

impl Turn<'_> {
    /// Tells the machine of an event, at the latest when the turn ends.
    pub(crate) fn tell(&mut self, event: Event) {
        self.events.push(event);
        if self.events.len() >= TOGETHER_MAX {
            self.follow();
        }
    }

    /// Tells the rest, and has answers written.
    pub(crate) fn end(mut self) {
        self.follow();
        self.flush();
    }

    /// Tells the machine, and does what it asks for until it asks for nothing more.
    fn follow(&mut self) {
        loop {
            self.shared.tell(&mut self.events, &mut self.work);
            if !self.work.reads.is_empty() {
                reads::start(std::mem::take(&mut self.work.reads), self.shared);
            }
            if self.work.runs.is_empty() {
                return;
            }
            self.run();
            if self.events.is_empty() {
                return;
            }
        }
    }

    fn run(&mut self) {
        let mut began = Instant::now();
        for run in self.work.runs.drain(..) {
            let inline = self.handled < INLINE_MAX;
            let ticket = run.ticket;
            if let Some(finish) = self.shared.run(run, inline) {
                self.events.push(Event::Finished { ticket, finish });
            }
            let now = Instant::now();
            self.handled += now - began;
            began = now;
        }
        if began - self.flushed > FLUSH_EVERY {
            self.flushed = began;
            self.flush();
        }
    }

    fn flush(&mut self) {
        let told = self.work.told.drain(..);
        told.for_each(|(_, outbox)| outbox.flush());
        let replies = self.work.replies.drain(..);
        replies.for_each(|(caller, reply)| caller(reply));
    }
}
