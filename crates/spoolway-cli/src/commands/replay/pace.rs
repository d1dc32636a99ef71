//! How many messages may be replayed by now.

use std::time::Duration;

/// Time without a pace between two transactions, so that others write too.
const PAUSE: Duration = Duration::from_millis(2);
/// What a stall leaves to catch up with: so many messages at most, and at least one.
const BURST_S: f64 = 0.1;

/// A bucket that fills at a rate; what it holds may go. In any time at most `rate` a second go, and
/// a tenth of a second's worth more.
#[derive(Debug)]
pub(super) struct Pace {
    rate: Option<f64>,
    held: f64,
    at: Duration,
}

impl Pace {
    pub(super) fn new(rate: Option<u32>) -> Self {
        Self {
            rate: rate.map(f64::from),
            held: 1.0,
            at: Duration::ZERO,
        }
    }

    /// How many may go at `now`, counted from the start.
    pub(super) fn may(&mut self, now: Duration) -> usize {
        let Some(rate) = self.rate else {
            return usize::MAX;
        };
        let passed = now.saturating_sub(self.at).as_secs_f64();
        self.at = self.at.max(now);
        self.held = (self.held + passed * rate).min(most(rate));
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "whole messages, and never fewer than none"
        )]
        let whole = self.held as usize;
        whole
    }

    pub(super) fn took(&mut self, messages: u64) {
        self.held -= messages as f64;
    }

    /// How long to wait until half a burst may go: a commit for each message would be a waste.
    pub(super) fn wait(&self) -> Duration {
        let Some(rate) = self.rate else {
            return PAUSE;
        };
        let enough = (most(rate) / 2.0).max(1.0);
        Duration::from_secs_f64(((enough - self.held) / rate).max(0.0))
    }
}

fn most(rate: f64) -> f64 {
    (rate * BURST_S).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Replays as fast as it may, with a stall of `stall` once, and says how many went in `seconds`.
    fn replayed(rate: u32, seconds: u64, stall: Duration) -> u64 {
        let mut pace = Pace::new(Some(rate));
        let (mut now, mut gone) = (Duration::ZERO, 0);
        while now < Duration::from_secs(seconds) {
            let may = pace.may(now) as u64;
            pace.took(may);
            gone += may;
            let before = now;
            now += pace.wait() + Duration::from_micros(700);
            if before.as_secs() < 3 && now.as_secs() >= 3 {
                now += stall;
            }
        }
        gone
    }

    #[test]
    fn a_rate_is_kept_and_reached() {
        for rate in [1, 7, 500, 100_000] {
            let gone = replayed(rate, 10, Duration::ZERO);
            let most = u64::from(rate) * 10 + u64::from(rate / 10).max(1);
            assert!((most * 9 / 10..=most).contains(&gone), "{rate}: {gone}");
        }
    }

    #[test]
    fn a_stall_is_not_caught_up_with() {
        let gone = replayed(100, 10, Duration::from_secs(5));
        assert!(gone <= 520, "{gone}");
    }

    #[test]
    fn without_a_rate_all_may_go() {
        let mut pace = Pace::new(None);
        assert_eq!(pace.may(Duration::ZERO), usize::MAX);
        assert_eq!(pace.wait(), PAUSE);
    }
}
