//! How long a connection may take over what it is at.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use super::HttpConfig;

/// What a connection is at, and since when. Noting it costs no timer: one looks now and then.
pub(super) struct Pace {
    phase: Mutex<Phase>,
    head_max: Duration,
    idle_max: Duration,
}

#[derive(Clone, Copy)]
enum Phase {
    /// Between two requests, or reading an answer.
    Idle(Instant),
    /// A request has begun.
    Head(Instant),
    /// Its head is there; what follows has times of its own.
    Answering,
}

impl Pace {
    /// For a connection whose first request has begun.
    pub(super) fn new(config: &HttpConfig) -> Self {
        Self {
            phase: Mutex::new(Phase::Head(Instant::now())),
            head_max: config.head_max,
            idle_max: config.idle_max,
        }
    }

    fn phase(&self) -> MutexGuard<'_, Phase> {
        self.phase.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Bytes arrived.
    pub(super) fn read(&self) {
        let mut phase = self.phase();
        if let Phase::Idle(_) = *phase {
            *phase = Phase::Head(Instant::now());
        }
    }

    pub(super) fn answering(&self) {
        *self.phase() = Phase::Answering;
    }

    pub(super) fn answered(&self) {
        *self.phase() = Phase::Idle(Instant::now());
    }

    /// Returns once its time is over.
    ///
    /// Whatever it is at next has at least the shorter of the two times, so looking that often is never late.
    pub(super) async fn lapsed(&self) {
        loop {
            let now = Instant::now();
            let next = now + self.head_max.min(self.idle_max);
            let deadline = match *self.phase() {
                Phase::Idle(since) => since + self.idle_max,
                Phase::Head(since) => since + self.head_max,
                Phase::Answering => next,
            };
            if deadline <= now {
                return;
            }
            sleep_until(deadline.min(next)).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace() -> Pace {
        Pace::new(&HttpConfig::default())
    }

    async fn after(pace: &Pace) -> Duration {
        let began = Instant::now();
        pace.lapsed().await;
        began.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_has_10_s_and_a_pause_75_s() {
        let pace = pace();
        assert_eq!(after(&pace).await.as_secs(), 10);
        pace.answering();
        pace.answered();
        assert_eq!(after(&pace).await.as_secs(), 75);
    }

    #[tokio::test(start_paused = true)]
    async fn the_bytes_of_a_head_do_not_win_it_time() {
        let pace = pace();
        pace.answering();
        pace.answered();
        let trickle = async {
            loop {
                tokio::time::sleep(Duration::from_secs(3)).await;
                pace.read();
            }
        };
        tokio::select! {
            () = trickle => {}
            late = after(&pace) => assert_eq!(late.as_secs(), 13, "10 s from the first of them"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_handler_may_take_its_time() {
        let pace = pace();
        pace.answering();
        let hour = Duration::from_secs(3_600);
        assert!(tokio::time::timeout(hour, pace.lapsed()).await.is_err());
    }
}
