//! How a sender answers for a message it was given.

use std::fmt::Display;
use std::sync::mpsc::Sender;
use std::time::Instant;

/// What the relay's thread is told.
#[derive(Debug)]
pub(crate) enum Event {
    /// What became of a message.
    Answered(Answered),
    /// Hand nothing out any more, and wait for answers until then.
    Stop(Instant),
}

/// What became of the message of a row.
#[derive(Debug)]
pub(crate) struct Answered {
    pub(crate) seq: i64,
    /// The file that `seq` belongs to.
    pub(crate) generation: u64,
    pub(crate) verdict: Verdict,
}

#[derive(Debug)]
pub(crate) enum Verdict {
    Sent,
    Later(String),
    Refused(String),
}

/// The duty to say what became of a message, on any thread and at any time. One that is dropped
/// unused says that the message is to be tried again.
#[derive(Debug)]
#[must_use = "the message is sent again unless its ticket says that it was sent"]
pub struct Ticket {
    seq: i64,
    generation: u64,
    events: Option<Sender<Event>>,
}

impl Ticket {
    pub(crate) fn new(seq: i64, generation: u64, events: Sender<Event>) -> Self {
        let events = Some(events);
        Self {
            seq,
            generation,
            events,
        }
    }

    /// Somebody else answers for the message now: it is deleted from the outbox.
    pub fn sent(mut self) {
        self.answer(Verdict::Sent);
    }

    /// It could not be sent now: it stays, is tried again under the same id after 50 ms, doubling
    /// up to 5 s, and holds up its key until then.
    pub fn later(mut self, error: impl Display) {
        self.answer(Verdict::Later(error.to_string()));
    }

    /// It will never be sent as it is: it is kept aside with the error, and holds up nothing. See
    /// [`Outbox::failed`](crate::Outbox::failed).
    pub fn refused(mut self, error: impl Display) {
        self.answer(Verdict::Refused(error.to_string()));
    }

    fn answer(&mut self, verdict: Verdict) {
        let (seq, generation) = (self.seq, self.generation);
        if let Some(events) = self.events.take() {
            let answered = Answered {
                seq,
                generation,
                verdict,
            };
            // A relay that is gone has left the message where it is, to be sent again.
            let _ = events.send(Event::Answered(answered));
        }
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.answer(Verdict::Later("its sender gave no answer".into()));
    }
}
