//! The place of a connection: whether its peer says anything, and who gives way when there is no room for another.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use spoolway_socket::{Lack, Pass, Peer};
use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// What the task of a connection notes about it. A connection that said hello or speaks HTTP is left alone
/// from there on.
pub(crate) struct Seat {
    pass: Pass,
    began: Instant,
    /// How long a message may take to arrive.
    arrival_max: Duration,
    left_alone: AtomicBool,
    /// Since when the peer is to go on with what it has begun, the connection included; 0: it is not.
    awaited_ms: AtomicU64,
    /// When the last message or op was whole; 0: none was.
    heard_ms: AtomicU64,
    /// It is to give way to another.
    unwanted: AtomicBool,
    /// Notified when it is.
    pub(crate) news: Notify,
}

impl Seat {
    pub(crate) fn new(pass: Pass, arrival_max: Duration) -> Self {
        Self {
            pass,
            began: Instant::now(),
            arrival_max,
            left_alone: AtomicBool::new(false),
            awaited_ms: AtomicU64::new(1),
            heard_ms: AtomicU64::new(0),
            unwanted: AtomicBool::new(false),
            news: Notify::new(),
        }
    }

    pub(crate) fn peer(&self) -> &Peer {
        self.pass.peer()
    }

    /// Milliseconds since it was taken, and never 0.
    fn now_ms(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_millis()).map_or(u64::MAX, |ms| ms.saturating_add(1))
    }

    /// It said hello, so that its silence is one of no messages, or is looked after elsewhere.
    pub(crate) fn leave_alone(&self) {
        self.left_alone.store(true, Ordering::Relaxed);
    }

    /// A message or an op was whole.
    pub(crate) fn heard(&self) {
        self.heard_ms.store(self.now_ms(), Ordering::Relaxed);
        self.awaited_ms.store(0, Ordering::Relaxed);
    }

    /// Nothing was ever whole.
    pub(crate) fn is_silent(&self) -> bool {
        self.heard_ms.load(Ordering::Relaxed) == 0
    }

    /// Whether it is the peer's turn to go on: it has connected and said nothing, or what it says is not whole.
    pub(crate) fn await_peer(&self, awaited: bool) {
        let since = &self.awaited_ms;
        match awaited {
            false => since.store(0, Ordering::Relaxed),
            true if since.load(Ordering::Relaxed) == 0 => {
                since.store(self.now_ms(), Ordering::Relaxed);
            }
            true => {}
        }
    }

    /// Ready when it has taken too long, or is to give way: nothing more is to be read than what has arrived.
    pub(crate) async fn over(&self) {
        let since = self.awaited_ms.load(Ordering::Relaxed);
        if self.unwanted.load(Ordering::Relaxed) {
            return;
        }
        if self.left_alone.load(Ordering::Relaxed) || since == 0 {
            return self.news.notified().await;
        }
        let end = self.began + Duration::from_millis(since - 1) + self.arrival_max;
        tokio::select! {
            () = sleep_until(end) => {}
            () = self.news.notified() => {}
        }
    }

    /// Why it ends, in a sentence.
    pub(crate) fn reason(&self) -> String {
        match self.unwanted.load(Ordering::Relaxed) {
            true => "there is no room for a connection that says nothing".to_owned(),
            false => format!("a message takes more than {:?} to arrive", self.arrival_max),
        }
    }

    /// How much it may be missed: the more, the longer it has said nothing whole. `None`: it stays.
    fn idle(&self, idle_max: Duration) -> Option<(bool, u64)> {
        let [heard, now] = [self.heard_ms.load(Ordering::Relaxed), self.now_ms()];
        let quiet = now.saturating_sub(heard);
        let stays = self.left_alone.load(Ordering::Relaxed)
            || heard > 0 && Duration::from_millis(quiet) < idle_max;
        (!stays).then_some((heard == 0, quiet))
    }

    fn give_way(&self) {
        self.unwanted.store(true, Ordering::Relaxed);
        self.pass.give_back();
        self.news.notify_one();
    }
}

/// All that are taken, oldest first.
#[derive(Default)]
pub(crate) struct Seats(Vec<Weak<Seat>>);

impl Seats {
    pub(crate) fn add(&mut self, seat: &Arc<Seat>) {
        self.0.retain(|seat| seat.strong_count() > 0);
        self.0.push(Arc::downgrade(seat));
    }

    /// Ends the connection that is least missed, of those whose end would make room: first one that never said anything,
    /// the oldest; then one without hello that has said nothing for `idle_max`.
    pub(crate) fn make_room(&self, lack: Lack, idle_max: Duration) -> bool {
        let would_help = |seat: &Arc<Seat>| match lack {
            Lack::All => true,
            Lack::Share(uid) => seat.peer().uid == uid,
        };
        let unwanted = |seat: &Arc<Seat>| seat.unwanted.load(Ordering::Relaxed);
        let least = self
            .0
            .iter()
            .rev() // Of equals the last counts, which is the oldest then.
            .filter_map(Weak::upgrade)
            .filter(|seat| would_help(seat) && !unwanted(seat))
            .filter_map(|seat| Some((seat.idle(idle_max)?, seat)))
            .max_by_key(|(idle, _)| *idle);
        match least {
            Some((_, seat)) => {
                seat.give_way();
                true
            }
            None => false,
        }
    }
}
