//! Who makes the requests of one connection, and the messages in them.

use std::io;
use std::net::Shutdown;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use hashbrown::HashMap;
use smallvec::SmallVec;
use spoolway_proto::{Code, Invalid, Message, MessageId, Reply};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};

use super::answer::Refusal;
use super::pace::Pace;
use crate::machine::{ConnId, Event};
use crate::outbox::Outbox;
use crate::shared::{Life, Shared, wall};

/// One HTTP connection. It has one request at a time, whose messages are all that it has in the consumer.
pub(crate) struct Caller {
    pub(super) shared: Arc<Shared>,
    pub(super) outbox: Arc<Outbox>,
    pub(super) pace: Pace,
    conn: ConnId,
    /// Dropped once nothing that a shutdown waits for can come from here.
    unread: Mutex<Option<mpsc::Sender<()>>>,
    /// The consumer is going away.
    leaving: AtomicBool,
    /// Messages went unanswered: a reply that comes late must find nobody.
    spoiled: AtomicBool,
}

impl Caller {
    pub(crate) fn new(
        shared: Arc<Shared>,
        outbox: Arc<Outbox>,
        conn: ConnId,
        unread: Option<mpsc::Sender<()>>,
    ) -> Self {
        Self {
            pace: Pace::new(&shared.config.http),
            shared,
            outbox,
            conn,
            unread: Mutex::new(unread),
            leaving: AtomicBool::new(false),
            spoiled: AtomicBool::new(false),
        }
    }

    pub(super) fn conn(&self) -> ConnId {
        self.conn
    }

    pub(super) fn shutdown(&self, how: Shutdown) -> io::Result<()> {
        let how = match how {
            Shutdown::Read => rustix::net::Shutdown::Read,
            Shutdown::Write => rustix::net::Shutdown::Write,
            Shutdown::Both => rustix::net::Shutdown::Both,
        };
        Ok(rustix::net::shutdown(self.outbox.stream(), how)?)
    }

    /// The consumer goes away: what has arrived is read and answered, and nothing more can come.
    pub(super) fn leave(&self) {
        self.leaving.store(true, Ordering::Relaxed);
        if let Err(error) = self.shutdown(Shutdown::Read) {
            tracing::debug!(conn = self.conn, "cannot close the reading side: {error}");
        }
        if self.outbox.is_awaited() {
            self.is_read();
        }
    }

    /// Nothing is read from here any more.
    fn is_read(&self) {
        let mut unread = self.unread.lock().unwrap_or_else(PoisonError::into_inner);
        *unread = None;
    }

    /// Whether the answer to this request is the last one.
    pub(super) fn is_last(&self) -> bool {
        self.leaving.load(Ordering::Relaxed) || self.spoiled.load(Ordering::Relaxed)
    }

    pub(super) fn close(&self) {
        self.shared.disconnect(self.conn);
        self.shared.drive([Event::Closed { conn: self.conn }]);
    }

    /// Hands messages in, and returns a reply to each, in their order.
    ///
    /// # Errors
    ///
    /// When the consumer is full and stays so: none of them was taken.
    pub(super) async fn deliver(
        &self,
        messages: Vec<Result<Message, Invalid>>,
    ) -> Result<Vec<Reply>, Refusal> {
        self.wait_for_room().await?;
        let mut replies = Replies::with_capacity(messages.len());
        self.hand_in(messages, &mut replies);
        if self.leaving.load(Ordering::Relaxed) {
            self.is_read();
        }
        let (some, mut more) = self.outbox.replies();
        replies.fill(some);
        if more {
            let all = async {
                while more {
                    self.outbox.wake.notified().await;
                    let (some, still) = self.outbox.replies();
                    replies.fill(some);
                    more = still;
                }
            };
            // What has no reply by then is said to have none.
            let _ = timeout(self.shared.config.http.answer_max, all).await;
        }
        Ok(replies.finish(|| self.spoiled.store(true, Ordering::Relaxed)))
    }

    fn hand_in(&self, messages: Vec<Result<Message, Invalid>>, replies: &mut Replies) {
        let now = wall();
        let mut turn = self.shared.turn();
        for message in messages {
            match message {
                Err(invalid) => replies.put(Reply::from(&invalid)),
                Ok(message) => {
                    let message = self.shared.stamp(message, now);
                    replies.wait(&message.id);
                    self.outbox.owe(1);
                    turn.tell(Event::Arrived {
                        conn: self.conn,
                        message: Ok(message),
                        answer: true,
                    });
                }
            }
        }
        turn.end();
    }

    async fn wait_for_room(&self) -> Result<(), Refusal> {
        if !self.shared.is_full() || self.leaving.load(Ordering::Relaxed) {
            return Ok(());
        }
        tokio::select! {
            () = self.shared.has_room() => Ok(()),
            () = self.shared.reached(Life::Draining) => Ok(()),
            () = sleep(self.shared.config.http.full_max) => Err(Refusal::full()),
        }
    }
}

/// The replies to some messages, in the order of the messages; they come in any.
struct Replies {
    places: Vec<Place>,
    /// Where a reply to each id goes, the last place first; made when a reply is not the next one.
    by_id: HashMap<MessageId, SmallVec<[usize; 1]>>,
    next: usize,
}

enum Place {
    Waiting(MessageId),
    Taken(Reply),
}

impl Replies {
    fn with_capacity(messages: usize) -> Self {
        Self {
            places: Vec::with_capacity(messages),
            by_id: HashMap::new(),
            next: 0,
        }
    }

    fn wait(&mut self, id: &MessageId) {
        self.places.push(Place::Waiting(id.clone()));
    }

    fn put(&mut self, reply: Reply) {
        self.places.push(Place::Taken(reply));
    }

    fn fill(&mut self, replies: Vec<Reply>) {
        for reply in replies {
            if let Some(at) = self.place_of(&reply.id) {
                self.places[at] = Place::Taken(reply);
            }
        }
    }

    /// The first place that waits for a reply to this id. Handlers that end at once reply in order.
    fn place_of(&mut self, id: &MessageId) -> Option<usize> {
        if self.by_id.is_empty() {
            while let Some(Place::Taken(_)) = self.places.get(self.next) {
                self.next += 1;
            }
            match self.places.get(self.next) {
                Some(Place::Waiting(next)) if next == id => return Some(self.next),
                _ => self.sort(),
            }
        }
        self.by_id.get_mut(id)?.pop()
    }

    fn sort(&mut self) {
        for (at, place) in self.places.iter().enumerate().rev() {
            if let Place::Waiting(id) = place {
                self.by_id.entry(id.clone()).or_default().push(at);
            }
        }
    }

    /// All of them; calls `missing` if one did not come.
    fn finish(self, missing: impl Fn()) -> Vec<Reply> {
        let places = self.places.into_iter();
        let reply = |place| match place {
            Place::Taken(reply) => reply,
            Place::Waiting(id) => {
                missing();
                let code = Code::Unavailable;
                let error = format!(
                    "{code}: no outcome in time, it may have been taken; send it again with this id"
                );
                Reply::refused(id, code, error)
            }
        };
        places.map(reply).collect()
    }
}

#[cfg(test)]
mod tests {
    use spoolway_proto::Outcome;

    use super::*;

    #[test]
    fn replies_find_their_messages_in_whatever_order_they_come() {
        let id = |id: &str| MessageId::new(id).unwrap();
        let taken = |name: &str| Reply::taken(id(name), Outcome::Processed);
        let refused = Reply::refused(id("no"), Code::Invalid, "no");
        for order in [
            ["a", "b", "a", "c"],
            ["c", "a", "a", "b"],
            ["b", "c", "a", "a"],
        ] {
            let mut replies = Replies::with_capacity(6);
            replies.wait(&id("a"));
            replies.wait(&id("b"));
            replies.put(refused.clone());
            replies.wait(&id("a"));
            replies.wait(&id("lost"));
            replies.wait(&id("c"));
            for name in order {
                replies.fill(vec![taken(name)]);
            }
            replies.fill(vec![taken("stray")]);
            let all = replies.finish(|| {});
            let names: Vec<_> = all.iter().map(|reply| reply.id.as_str()).collect();
            assert_eq!(names, ["a", "b", "no", "a", "lost", "c"]);
            let codes: Vec<_> = all.iter().map(|reply| reply.code).collect();
            let (invalid, lost) = (Some(Code::Invalid), Some(Code::Unavailable));
            assert_eq!(codes, [None, None, invalid, None, lost, None]);
        }
    }
}
