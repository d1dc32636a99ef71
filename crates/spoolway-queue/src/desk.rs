//! Who writes: the writer's thread, or a caller that waits for its answer anyway and finds the desk free.
//!
//! ```text
//!  submit ─► tray, bell ─► thread ──┐
//!                                   ├─► the desk, if nobody sits there ─► serve what waits ─► leave, ring if more waits
//!  write ──► tray ──────► caller ───┘
//!               └─ somebody sits there: wait for the answer
//! ```
//!
//! A caller that writes itself costs no thread a wake-up; what waits beside its own it takes along. One sits at the desk
//! at a time, so there is one writer, whichever thread it is on. Who sits there wakes the callers before it leaves: if
//! it left first, the first of them would sit down with its own next message alone, and the others wait for that sync.
//!
//! Invariant: of what waits in the tray knows the thread, which was rung for, or who sits at the desk, or a caller
//! that is about to try it.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, PoisonError, TryLockError};
use std::thread::{self, Thread};
use std::time::Duration;

use crate::shared::Shared;
use crate::tray::{Answer, Call, Job, Request};
use crate::writer::Writer;

/// How often an idle writer looks whether its file is still the one that the path names.
const TICK: Duration = Duration::from_millis(1_000);

thread_local! {
    /// Whether this thread sits at a desk: what runs on it then is a callback of the queue.
    static SITS: Cell<bool> = const { Cell::new(false) };
}

/// Whether the caller is a callback of a queue, on the thread that writes.
pub(crate) fn is_callback() -> bool {
    SITS.get()
}

pub(crate) struct Desk {
    shared: Arc<Shared>,
    /// None when the queue is closed, or the writer has panicked.
    writer: Mutex<Option<Writer>>,
}

impl Desk {
    pub(crate) fn new(shared: Arc<Shared>, writer: Writer) -> Self {
        let writer = Mutex::new(Some(writer));
        Self { shared, writer }
    }

    /// What the thread does until the queue is closed.
    pub(crate) fn attend(&self) {
        loop {
            match self.shared.tray.listen(TICK) {
                Call::Rung => self.sit(|writer| while writer.serve_next() {}),
                Call::Idle => self.sit(Writer::tick),
                Call::Closed => break,
            }
        }
        // Somebody may still sit there.
        let mut seat = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(writer) = seat.take() {
            self.finish(writer);
        }
    }

    /// Serves what is left, and closes the file: the writer's connection last, since only that one can empty the log.
    fn finish(&self, writer: Writer) {
        let writer = at_work(writer, |writer| while writer.serve_next() {});
        self.shared.close_readers();
        drop(writer);
    }

    /// Hands a job over and waits for its answer, writing itself where nobody else does.
    pub(crate) fn call(&self, job: Job) -> Answer {
        let slot = Arc::new(Slot {
            answer: Mutex::new(None),
            caller: thread::current(),
        });
        let filled = Arc::clone(&slot);
        let done = Box::new(move |answer| filled.fill(answer));
        let request = Request::new(&self.shared.path, job, done);
        self.shared.tray.put(request);
        self.sit(|writer| while !slot.is_filled() && writer.serve_next() {});
        slot.wait()
    }

    /// Does something at the desk, unless somebody sits there: they will see what waits.
    fn sit(&self, work: impl FnOnce(&mut Writer)) {
        let mut seat = match self.writer.try_lock() {
            Ok(seat) => seat,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return,
        };
        if let Some(writer) = seat.take() {
            *seat = at_work(writer, work);
        }
        drop(seat);
        // Looked at after leaving: who found the desk taken before that has put something there.
        self.shared.tray.ring_if_any();
    }
}

/// The writer when it is done; none if it panicked. Dropped, it has answered whoever waits for it.
fn at_work(mut writer: Writer, work: impl FnOnce(&mut Writer)) -> Option<Writer> {
    let sat = SITS.replace(true);
    let done = catch_unwind(AssertUnwindSafe(move || {
        work(&mut writer);
        writer
    }));
    SITS.set(sat);
    if done.is_err() {
        tracing::error!("the writer of a queue panicked");
    }
    done.ok()
}

/// Where the answer of a caller is put that waits for it.
struct Slot {
    answer: Mutex<Option<Answer>>,
    caller: Thread,
}

impl Slot {
    fn fill(&self, answer: Answer) {
        *self.answer.lock().unwrap_or_else(PoisonError::into_inner) = Some(answer);
        self.caller.unpark();
    }

    fn is_filled(&self) -> bool {
        let answer = self.answer.lock();
        answer.unwrap_or_else(PoisonError::into_inner).is_some()
    }

    fn wait(&self) -> Answer {
        loop {
            let answer = self.answer.lock();
            if let Some(answer) = answer.unwrap_or_else(PoisonError::into_inner).take() {
                return answer;
            }
            thread::park();
        }
    }
}
