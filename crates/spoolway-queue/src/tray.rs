//! What waits for the writer: bounded, first in first out, taken in groups, and the bell for its thread.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::QueueError;
use crate::apply::{Fault, Tx};
use crate::write::{Write, Written};

/// Rows of one commit: at 200,000 rows a second it holds other processes up for 5 ms.
const GROUP_ROWS_MAX: usize = 1_000;

/// Bytes of one commit: about what the WAL holds between checkpoints.
const GROUP_BYTES_MAX: usize = 4 << 20;

/// Rows that may wait: ten times what a consumer holds.
const WAITING_ROWS_MAX: usize = 100_000;

/// Bytes that may wait. A single larger request is taken when nothing else waits.
const WAITING_BYTES_MAX: usize = 64 << 20;

pub(crate) type Answer = Result<Vec<Written>, QueueError>;

type Done = Box<dyn FnOnce(Answer) + Send>;

pub(crate) type Run = Box<dyn FnMut(&mut Tx<'_>) -> Result<(), Fault> + Send>;

/// What a request asks for.
pub(crate) enum Job {
    /// Writes of a caller, who may know the rows of the file of one generation only.
    Writes(Vec<Write>, Option<u64>),
    /// The queue's own upkeep. May run more than once; what counts is the last time.
    Run(Run),
    /// The same, where a power loss may undo it.
    RunUnsynced(Run),
}

impl Job {
    /// Whether a power loss may undo it.
    ///
    /// So it is with claims: what they say is which process held a row when it was killed, and after a power loss the
    /// row is there to be run again. And with what a cleanup deletes: the next one deletes it again.
    pub(crate) fn may_be_undone(&self) -> bool {
        let claims = |write: &Write| matches!(write, Write::Claim(_) | Write::Release(_));
        match self {
            Self::Writes(writes, _) => writes.iter().all(claims),
            Self::Run(_) => false,
            Self::RunUnsynced(_) => true,
        }
    }

    fn weight(&self) -> (usize, usize) {
        match self {
            Self::Run(_) | Self::RunUnsynced(_) => (1, 0),
            Self::Writes(writes, _) => writes
                .iter()
                .map(Write::weight)
                .fold((0, 0), |(rows, bytes), (more_rows, more_bytes)| {
                    (rows + more_rows, bytes + more_bytes)
                }),
        }
    }
}

/// One call, answered exactly once.
pub(crate) struct Request {
    pub(crate) job: Job,
    reply: Reply,
    rows: usize,
    bytes: usize,
}

impl Request {
    pub(crate) fn new(path: &Arc<Path>, job: Job, done: Done) -> Self {
        let (rows, bytes) = job.weight();
        let reply = Reply {
            done: Some(done),
            path: Arc::clone(path),
        };
        Self {
            job,
            reply,
            rows,
            bytes,
        }
    }

    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) fn answer(self, answer: Answer) {
        self.reply.send(answer);
    }
}

/// The caller's callback; told `Closed` if nothing else ever is.
struct Reply {
    done: Option<Done>,
    path: Arc<Path>,
}

impl Reply {
    fn send(mut self, answer: Answer) {
        self.call(answer);
    }

    fn call(&mut self, answer: Answer) {
        if let Some(done) = self.done.take()
            && catch_unwind(AssertUnwindSafe(|| done(answer))).is_err()
        {
            // The writer goes on: others wait for it.
            tracing::error!(queue = %self.path.display(), "a callback of the queue panicked");
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        if self.done.is_some() {
            let path = self.path.to_path_buf();
            self.call(Err(QueueError::Closed { path }));
        }
    }
}

/// What the thread of the writer hears.
pub(crate) enum Call {
    /// Something waits, or did.
    Rung,
    /// Nobody took anything for that long.
    Idle,
    /// Nothing more will come.
    Closed,
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Request>,
    refused: Vec<Request>,
    rows: usize,
    bytes: usize,
    rung: bool,
    closed: bool,
    /// When a group was taken last.
    taken: Option<Instant>,
}

/// The queue in front of the writer.
#[derive(Default)]
pub(crate) struct Tray {
    state: Mutex<State>,
    bell: Condvar,
}

impl Tray {
    /// Puts a request there for the thread, and rings. After [`close`](Self::close) it is answered here and now.
    pub(crate) fn push(&self, request: Request) {
        self.put(request);
        self.ring_if_any();
    }

    /// Puts a request there without a sound: the caller sees to it itself. Closed, as [`push`](Self::push).
    pub(crate) fn put(&self, request: Request) {
        let mut state = self.lock();
        if state.closed {
            drop(state);
            drop(request);
            return;
        }
        let fits = state.waiting.is_empty()
            || (state.rows + request.rows <= WAITING_ROWS_MAX
                && state.bytes + request.bytes <= WAITING_BYTES_MAX);
        if fits {
            state.rows += request.rows;
            state.bytes += request.bytes;
            state.waiting.push_back(request);
        } else {
            // Answered by the writer, like everything else; only the writes are let go now.
            let job = Job::Writes(Vec::new(), None);
            state.refused.push(Request { job, ..request });
        }
    }

    /// Rings for the thread if anything waits.
    pub(crate) fn ring_if_any(&self) {
        let mut state = self.lock();
        let waits = !state.waiting.is_empty() || !state.refused.is_empty();
        let rings = waits && !state.rung;
        state.rung |= rings;
        drop(state);
        if rings {
            self.bell.notify_one();
        }
    }

    /// Waits for the bell, until nobody has taken anything for `limit`.
    pub(crate) fn listen(&self, limit: Duration) -> Call {
        let listens = Instant::now();
        let mut state = self.lock();
        loop {
            if state.closed {
                return Call::Closed;
            }
            if std::mem::take(&mut state.rung) {
                return Call::Rung;
            }
            let since = state.taken.map_or(listens, |taken| taken.max(listens));
            let left = limit.saturating_sub(since.elapsed());
            if left.is_zero() {
                return Call::Idle;
            }
            state = self
                .bell
                .wait_timeout(state, left)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }

    /// Takes a group of what waits; none if nothing does. Answers what was refused.
    pub(crate) fn take(&self) -> Option<Vec<Request>> {
        let mut state = self.lock();
        while !state.refused.is_empty() {
            let refused = std::mem::take(&mut state.refused);
            drop(state);
            for request in refused {
                let path = request.reply.path.to_path_buf();
                request.answer(Err(QueueError::Overloaded { path }));
            }
            state = self.lock();
        }
        if state.waiting.is_empty() {
            return None;
        }
        state.taken = Some(Instant::now());
        let mut group = Vec::new();
        state.fill(&mut group);
        Some(group)
    }

    /// Adds to a group what came while it waited for the lock of the file.
    pub(crate) fn top_up(&self, group: &mut Vec<Request>) {
        self.lock().fill(group);
    }

    /// Nothing more is taken in; what waits is still written.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_all();
    }

    /// Nothing more is taken in, and nobody will write what waits.
    pub(crate) fn abandon(&self) {
        let mut state = self.lock();
        state.closed = true;
        let abandoned = std::mem::take(&mut *state);
        state.closed = true;
        drop(state);
        self.bell.notify_all();
        drop(abandoned);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing that can panic runs under this lock.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn fill(&mut self, group: &mut Vec<Request>) {
        let mut rows: usize = group.iter().map(|request| request.rows).sum();
        let mut bytes: usize = group.iter().map(|request| request.bytes).sum();
        while let Some(next) = self.waiting.front() {
            rows += next.rows;
            bytes += next.bytes;
            if !group.is_empty() && (rows > GROUP_ROWS_MAX || bytes > GROUP_BYTES_MAX) {
                return;
            }
            if let Some(next) = self.waiting.pop_front() {
                self.rows -= next.rows;
                self.bytes -= next.bytes;
                group.push(next);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    fn request(rows: usize, sender: &mpsc::Sender<Answer>) -> Request {
        let sender = sender.clone();
        let job = Job::Writes(vec![Write::Claim((0..).take(rows).collect())], None);
        let done = Box::new(move |answer| sender.send(answer).unwrap());
        Request::new(&Path::new("/q.db").into(), job, done)
    }

    fn group(tray: &Tray) -> usize {
        tray.take().map_or(0, |group| group.len())
    }

    #[test]
    fn the_bell_rings_once_for_what_waits_and_is_heard_later() {
        let (sender, _answers) = mpsc::channel();
        let tray = Tray::default();
        tray.put(request(1, &sender));
        assert!(matches!(tray.listen(Duration::ZERO), Call::Idle));
        tray.ring_if_any();
        tray.push(request(1, &sender));
        assert!(matches!(tray.listen(Duration::MAX), Call::Rung));
        assert!(matches!(tray.listen(Duration::ZERO), Call::Idle));
        assert_eq!(group(&tray), 2);
        tray.ring_if_any();
        assert!(matches!(tray.listen(Duration::ZERO), Call::Idle));
        tray.close();
        assert!(matches!(tray.listen(Duration::MAX), Call::Closed));
    }

    #[test]
    fn groups_end_at_their_bound_and_take_at_least_one() {
        let (sender, _answers) = mpsc::channel();
        let tray = Tray::default();
        for rows in [600, 400, 1, 5_000, 1] {
            tray.push(request(rows, &sender));
        }
        assert_eq!(
            [
                group(&tray),
                group(&tray),
                group(&tray),
                group(&tray),
                group(&tray)
            ],
            [2, 1, 1, 1, 0]
        );
    }

    #[test]
    fn over_its_bound_it_refuses_through_the_writer() {
        let (sender, answers) = mpsc::channel();
        let tray = Tray::default();
        tray.push(request(WAITING_ROWS_MAX, &sender));
        tray.push(request(1, &sender));
        assert!(answers.try_recv().is_err(), "not on the caller's thread");
        assert_eq!(group(&tray), 1);
        assert_eq!(
            answers.recv().unwrap().unwrap_err().code(),
            "queue_overloaded"
        );
    }

    #[test]
    fn whatever_happens_each_request_is_answered() {
        let (sender, answers) = mpsc::channel();
        let tray = Tray::default();
        tray.push(request(1, &sender));
        tray.close();
        tray.push(request(1, &sender));
        assert_eq!(
            answers.try_recv().unwrap().unwrap_err().code(),
            "queue_closed"
        );
        assert_eq!(group(&tray), 1, "what waited is still served");
        assert_eq!(
            answers.try_recv().unwrap().unwrap_err().code(),
            "queue_closed"
        );
        assert_eq!(group(&tray), 0);

        let tray = Tray::default();
        tray.push(request(1, &sender));
        tray.abandon();
        assert_eq!(
            answers.try_recv().unwrap().unwrap_err().code(),
            "queue_closed"
        );
    }
}
