//! The ids of messages whose callers were told that the fate is unknown: a resend attaches to them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use spoolway_proto::{Message, MessageId};

use crate::Receipt;
use crate::receipt::{Answer, Waiter};

/// How many settled ids are remembered. The unsettled ones are bounded by the route.
const SETTLED_MAX: usize = 10_000;

/// What is remembered of the ids.
#[derive(Debug, Default)]
pub(crate) struct Told {
    ids: HashMap<MessageId, Known>,
    /// Settled ids, oldest first.
    settled: VecDeque<MessageId>,
    /// When attached callers stop waiting, in the order they came.
    timeouts: VecDeque<(Instant, MessageId)>,
}

#[derive(Debug)]
enum Known {
    Unsettled {
        message: Arc<Message>,
        attached: Vec<(Instant, Waiter)>,
    },
    Settled {
        crc: u32,
        receipt: Receipt,
    },
}

/// What a resend meets.
#[derive(Debug)]
pub(crate) enum Resend {
    /// The id is not remembered: it is a message like any other.
    New(Option<Waiter>),
    /// The caller waits for the message that is on its way.
    Attached,
    /// It was settled since.
    Settled(Option<Waiter>, Receipt),
    /// It is another message under the same id.
    Conflict,
}

impl Told {
    /// Remembers a message whose caller was told.
    pub(crate) fn remember(&mut self, message: &Arc<Message>) {
        let id = message.id.clone();
        let message = Arc::clone(message);
        let attached = Vec::new();
        self.ids.insert(id, Known::Unsettled { message, attached });
    }

    /// A message is sent.
    pub(crate) fn resend(
        &mut self,
        message: &Message,
        waiter: Option<Waiter>,
        deadline: Instant,
    ) -> Resend {
        match self.ids.get_mut(&message.id) {
            None => Resend::New(waiter),
            Some(Known::Unsettled { message: known, .. }) if known.crc() != message.crc() => {
                Resend::Conflict
            }
            Some(Known::Settled { crc, .. }) if *crc != message.crc() => Resend::Conflict,
            Some(Known::Settled { receipt, .. }) => {
                let mut receipt = receipt.clone();
                receipt.duplicate = true;
                Resend::Settled(waiter, receipt)
            }
            Some(Known::Unsettled { attached, .. }) => {
                if let Some(waiter) = waiter {
                    attached.push((deadline, waiter));
                    self.timeouts.push_back((deadline, message.id.clone()));
                }
                Resend::Attached
            }
        }
    }

    /// A remembered message is settled; returns who attached to it.
    pub(crate) fn settle(&mut self, message: &Message, answer: &Answer) -> Vec<Waiter> {
        let id = &message.id;
        let Some(Known::Unsettled { attached, .. }) = self.ids.remove(id) else {
            return Vec::new();
        };
        // Of what failed nobody holds anything: its next resend is a new message.
        if let Ok(receipt) = answer {
            let crc = message.crc();
            let receipt = receipt.clone();
            self.ids.insert(id.clone(), Known::Settled { crc, receipt });
            self.settled.push_back(id.clone());
            if self.settled.len() > SETTLED_MAX
                && let Some(oldest) = self.settled.pop_front()
            {
                self.ids.remove(&oldest);
            }
        }
        attached.into_iter().map(|(_, waiter)| waiter).collect()
    }

    /// When the next attached caller stops waiting.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.timeouts.front().map(|(deadline, _)| *deadline)
    }

    /// Takes out the attached callers whose time is over.
    pub(crate) fn late(&mut self, now: Instant) -> Vec<(Arc<Message>, Waiter)> {
        let mut late = Vec::new();
        while let Some((_, id)) = self.timeouts.pop_front_if(|(deadline, _)| *deadline <= now) {
            if let Some(Known::Unsettled { message, attached }) = self.ids.get_mut(&id) {
                let over = attached.extract_if(.., |(deadline, _)| *deadline <= now);
                late.extend(over.map(|(_, waiter)| (Arc::clone(message), waiter)));
            }
        }
        late
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use spoolway_proto::Outcome;
    use tokio::sync::oneshot;

    use super::*;
    use crate::Path;

    fn message(id: &str, payload: &str) -> Arc<Message> {
        Arc::new(Message::new("task", payload).unwrap().id(id))
    }

    fn receipt(message: &Message) -> Receipt {
        Receipt {
            id: message.id.clone(),
            path: Path::Socket,
            outcome: Outcome::Processed,
            duplicate: false,
            reason: None,
        }
    }

    #[test]
    fn a_resend_attaches_and_later_ones_get_the_outcome() {
        let (mut told, now) = (Told::default(), Instant::now());
        let first = message("a", "x");
        assert!(matches!(told.resend(&first, None, now), Resend::New(None)));
        told.remember(&first);
        let (waiter, _answer) = oneshot::channel();
        assert!(matches!(
            told.resend(&first, Some(Waiter::Alone(waiter)), now),
            Resend::Attached
        ));
        assert!(matches!(
            told.resend(&message("a", "y"), None, now),
            Resend::Conflict
        ));
        assert_eq!(told.settle(&first, &Ok(receipt(&first))).len(), 1);
        let Resend::Settled(None, again) = told.resend(&first, None, now) else {
            panic!()
        };
        assert!(again.duplicate);
    }

    #[test]
    fn an_attached_caller_waits_no_longer_than_its_own_time() {
        let (mut told, now) = (Told::default(), Instant::now());
        let first = message("a", "x");
        told.remember(&first);
        let later = now + Duration::from_secs(1);
        for deadline in [now, later] {
            let (waiter, _answer) = oneshot::channel();
            told.resend(&first, Some(Waiter::Alone(waiter)), deadline);
        }
        assert_eq!(told.late(now).len(), 1);
        assert_eq!(told.next_deadline(), Some(later));
        assert_eq!(told.settle(&first, &Ok(receipt(&first))).len(), 1);
    }

    #[test]
    fn settled_ids_are_forgotten_oldest_first_over_the_limit() {
        let (mut told, now) = (Told::default(), Instant::now());
        for n in 0..=SETTLED_MAX {
            let message = message(&n.to_string(), "x");
            told.remember(&message);
            told.settle(&message, &Ok(receipt(&message)));
        }
        let resend = |told: &mut Told, id: &str| told.resend(&message(id, "x"), None, now);
        assert!(matches!(resend(&mut told, "0"), Resend::New(_)));
        assert!(matches!(resend(&mut told, "1"), Resend::Settled(..)));
    }
}
