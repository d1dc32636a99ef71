//! What was asked of the queue and what it answered, by the position of the disk's log.

use spoolway_proto::Message;

/// A call that changes something: the operations it made lie behind `begun`, and once it was
/// answered `Ok`, before `answered`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) begun: usize,
    pub(crate) answered: Option<usize>,
}

impl Span {
    /// Answered before the cut: it must have happened.
    pub(crate) fn is_sure(self, cut: usize) -> bool {
        self.answered.is_some_and(|answered| answered <= cut)
    }

    /// Begun before the cut: it can have happened.
    pub(crate) fn is_possible(self, cut: usize) -> bool {
        self.begun < cut
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    Processed,
    Dead,
    Retry,
}

#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) message: Message,
    pub(crate) stored: Span,
    /// Those of one sender are sent one after the other, a batch at once.
    pub(crate) sender: u64,
    /// What is committed together.
    pub(crate) batch: u64,
    pub(crate) ends: Vec<(End, Span)>,
}

/// Everything that was asked for, in the order of its senders.
#[derive(Clone, Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) entries: Vec<Entry>,
    pub(crate) cleanups: Vec<Span>,
}

/// What may be in the file of one message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Expected {
    /// The row has to be there,
    pub(crate) present: bool,
    /// or must not be,
    pub(crate) absent: bool,
    /// and if it is, it may be pending,
    pub(crate) pending: bool,
    /// processed,
    pub(crate) processed: bool,
    /// dead,
    pub(crate) dead: bool,
    /// and has at least so many attempts.
    pub(crate) attempts: u32,
}

type Holds = fn(Span, usize) -> bool;

impl Ledger {
    /// Whether something was stored for sure behind a cleanup, which waits for no sync of its own.
    fn is_sealed(&self, cleanup: &Span, cut: usize) -> bool {
        let mut stored = self.entries.iter().map(|entry| entry.stored);
        let Some(cleaned) = cleanup.answered else {
            return false;
        };
        stored.any(|stored| stored.begun >= cleaned && stored.is_sure(cut))
    }

    /// What the file may say of a message after a power cut.
    pub(crate) fn expected(&self, entry: &Entry, cut: usize) -> Expected {
        let ends = |end: End, holds: Holds| {
            let of_kind = entry.ends.iter().filter(move |(kind, _)| *kind == end);
            of_kind
                .map(|(_, span)| *span)
                .filter(move |span| holds(*span, cut))
        };
        let (sure, possible) = (Span::is_sure as Holds, Span::is_possible as Holds);
        let settled = |end| ends(end, sure).next().is_some();
        let cleaned = ends(End::Processed, possible).any(|end| {
            let mut cleanups = self.cleanups.iter();
            cleanups.any(|cleanup| cleanup.is_possible(cut) && cleanup.begun >= end.begun)
        });
        let surely_cleaned = ends(End::Processed, sure).any(|end| {
            let mut cleanups = self.cleanups.iter();
            cleanups.any(|cleanup| {
                self.is_sealed(cleanup, cut) && end.answered.is_some_and(|at| at <= cleanup.begun)
            })
        });
        Expected {
            present: entry.stored.is_sure(cut) && !cleaned,
            absent: !entry.stored.is_possible(cut) || surely_cleaned,
            pending: !settled(End::Processed) && !settled(End::Dead),
            processed: ends(End::Processed, possible).next().is_some(),
            dead: ends(End::Dead, possible).next().is_some(),
            attempts: u32::try_from(ends(End::Retry, sure).count()).unwrap(),
        }
    }
}
