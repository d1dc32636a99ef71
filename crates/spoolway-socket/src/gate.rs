//! Who comes in: peers that may, as many as may be, and no user but our own so many that others find no room.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rustix::net::{SendFlags, send};
use spoolway_proto::{Code, ConsumerOp};
use tokio::net::UnixStream;

use crate::absence::Denial;
use crate::access::{Access, Peer};

/// Connections that are kept for those who may administer, of a limit that is large enough.
const KEPT_MAX: usize = 8;
/// Of a smaller limit this part, rounded down.
const KEPT_PART: usize = 4;
/// At most one refusal in this time is logged.
const LOG_EVERY: Duration = Duration::from_secs(1);

/// How many connections may be open.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// In all.
    pub max: usize,
    /// Of one user other than our own and root.
    pub share: usize,
    /// What `max` is called where it is set.
    pub max_is: &'static str,
    /// What `share` is called where it is set.
    pub share_is: &'static str,
}

/// Decides about each new connection. Made by [`SocketFile::gate`](crate::SocketFile::gate).
#[derive(Debug)]
pub struct Gate {
    access: Access,
    room: Room,
    path: PathBuf,
    /// The file was made for this access.
    ours: bool,
    open: Arc<Mutex<Open>>,
    log: Mutex<Log>,
}

/// A connection that came in. Dropped, its place is free again.
#[derive(Debug)]
pub struct Pass {
    peer: Peer,
    open: Arc<Mutex<Open>>,
    /// It still takes a place.
    counted: Mutex<bool>,
}

/// Why a connection is refused: an `error` for its peer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Refusal {
    /// [`Code::Forbidden`] or [`Code::Busy`].
    pub code: Code,
    /// Why, for people.
    pub message: String,
    /// What would make room, if there is none.
    pub lack: Option<Lack>,
    peer: Option<Peer>,
}

/// Whose connections take up the room.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Lack {
    /// Those of everybody.
    All,
    /// Those of one user.
    Share(u32),
}

#[derive(Debug, Default)]
struct Open {
    all: usize,
    /// Of users that may not administer.
    by_uid: HashMap<u32, usize>,
}

#[derive(Debug, Default)]
struct Log {
    last: Option<Instant>,
    untold: u64,
}

impl Room {
    /// Where the next connection of that peer lacks room.
    fn lack(&self, open: &Open, peer: &Peer) -> Option<Lack> {
        let (all, own) = (open.all, open.by_uid.get(&peer.uid).copied());
        let kept = KEPT_MAX.min(self.max / KEPT_PART);
        match peer.may_administer {
            true => (all >= self.max).then_some(Lack::All),
            false if own.unwrap_or(0) >= self.share => Some(Lack::Share(peer.uid)),
            false => (all + kept >= self.max).then_some(Lack::All),
        }
    }
}

impl Gate {
    pub(crate) fn new(path: &Path, ours: bool, access: Access, room: Room) -> Self {
        Self {
            access,
            room,
            path: path.to_owned(),
            ours,
            open: Arc::default(),
            log: Mutex::default(),
        }
    }

    /// Lets a connection in, or not.
    ///
    /// # Errors
    ///
    /// Why not, to be [told](Self::refuse).
    pub fn admit(&self, stream: &UnixStream) -> Result<Pass, Refusal> {
        let peer = Peer::of(stream).map_err(|error| Refusal {
            code: Code::Forbidden,
            message: format!("the peer cannot be identified: {error}"),
            lack: None,
            peer: None,
        })?;
        if !self.access.admits(&peer, &self.path, self.ours) {
            return Err(Refusal {
                code: Code::Forbidden,
                message: Denial::of(&self.path, peer.uid).to_string(),
                lack: None,
                peer: Some(peer),
            });
        }
        let mut open = lock(&self.open);
        match self.room.lack(&open, &peer) {
            Some(lack) => Err(Refusal {
                code: Code::Busy,
                message: self.full(&open, lack),
                lack: Some(lack),
                peer: Some(peer),
            }),
            None => {
                open.enter(&peer);
                drop(open);
                Ok(Pass {
                    peer,
                    open: Arc::clone(&self.open),
                    counted: Mutex::new(true),
                })
            }
        }
    }

    fn full(&self, open: &Open, lack: Lack) -> String {
        let Room {
            max,
            share,
            max_is,
            share_is,
        } = self.room;
        match lack {
            Lack::All => format!(
                "{} connections are open, {max} are allowed (`{max_is}`)",
                open.all
            ),
            Lack::Share(uid) => {
                format!(
                    "{share} connections of uid {uid} are open, no more are allowed (`{share_is}`)"
                )
            }
        }
    }

    /// Tells a connection to which nothing has been written why it is refused, and the log, once a second at most.
    pub fn refuse(&self, refusal: Refusal, stream: &UnixStream) {
        let Refusal {
            code,
            message,
            peer,
            lack: _,
        } = refusal;
        if let Some(untold) = lock(&self.log).next(Instant::now()) {
            let (uid, pid) = (peer.map(|peer| peer.uid), peer.and_then(|peer| peer.pid));
            let code = code.as_str();
            tracing::warn!(code, uid, pid, untold, "connection refused: {message}");
        }
        let mut out = BytesMut::new();
        let n = None;
        ConsumerOp::Error { code, message, n }.put(&mut out);
        // It has room for this, which the runtime may not know yet; who is gone need not hear it.
        let _ = send(stream, &out, SendFlags::DONTWAIT | SendFlags::NOSIGNAL);
    }
}

impl Pass {
    /// Who came in.
    pub fn peer(&self) -> &Peer {
        &self.peer
    }

    /// Frees its place before its connection has ended: that is on its way.
    pub fn give_back(&self) {
        if std::mem::take(&mut *lock(&self.counted)) {
            lock(&self.open).leave(&self.peer);
        }
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        self.give_back();
    }
}

impl Open {
    fn enter(&mut self, peer: &Peer) {
        self.all += 1;
        if !peer.may_administer {
            *self.by_uid.entry(peer.uid).or_default() += 1;
        }
    }

    fn leave(&mut self, peer: &Peer) {
        self.all -= 1;
        if let Some(own) = self.by_uid.get_mut(&peer.uid) {
            *own -= 1;
            if *own == 0 {
                self.by_uid.remove(&peer.uid);
            }
        }
    }
}

impl Log {
    /// How many were not logged since the last one that was; `None`: nor is this one.
    fn next(&mut self, now: Instant) -> Option<u64> {
        if self.last.is_some_and(|last| now < last + LOG_EVERY) {
            self.untold += 1;
            return None;
        }
        self.last = Some(now);
        Some(std::mem::take(&mut self.untold))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // No state is left half-changed: nothing in between panics.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(uid: u32) -> Peer {
        Peer {
            uid,
            gid: uid,
            pid: Some(1),
            may_administer: uid == 0,
        }
    }

    fn room(max: usize, share: usize) -> Room {
        Room {
            max,
            share,
            max_is: "max",
            share_is: "share",
        }
    }

    #[test]
    fn a_user_gets_its_share_and_leaves_room_for_another() {
        let room = room(100, 50);
        let mut open = Open::default();
        for _ in 0..50 {
            assert_eq!(room.lack(&open, &peer(7)), None);
            open.enter(&peer(7));
        }
        assert_eq!(room.lack(&open, &peer(7)), Some(Lack::Share(7)));
        assert_eq!(room.lack(&open, &peer(8)), None);
        open.leave(&peer(7));
        assert_eq!(room.lack(&open, &peer(7)), None);
    }

    #[test]
    fn the_last_places_are_for_those_who_may_administer() {
        let room = room(100, 50);
        let mut open = Open::default();
        for n in 0..92 {
            let next = peer(7 + n % 2);
            assert_eq!(room.lack(&open, &next), None);
            open.enter(&next);
        }
        assert_eq!(room.lack(&open, &peer(7)), Some(Lack::All));
        for _ in 92..100 {
            assert_eq!(room.lack(&open, &peer(0)), None);
            open.enter(&peer(0));
        }
        assert_eq!(room.lack(&open, &peer(0)), Some(Lack::All));
    }

    #[test]
    fn what_leaves_is_forgotten() {
        let mut open = Open::default();
        for uid in [0, 7, 7, 8] {
            open.enter(&peer(uid));
        }
        for uid in [7, 8, 0, 7] {
            open.leave(&peer(uid));
        }
        assert_eq!((open.all, open.by_uid.len()), (0, 0));
    }

    #[test]
    fn one_refusal_a_second_is_logged_with_how_many_were_not() {
        let mut log = Log::default();
        let now = Instant::now();
        assert_eq!(log.next(now), Some(0));
        assert_eq!(log.next(now), None);
        assert_eq!(log.next(now + LOG_EVERY / 2), None);
        assert_eq!(log.next(now + LOG_EVERY), Some(2));
        assert_eq!(log.next(now + 3 * LOG_EVERY), Some(0));
    }
}
