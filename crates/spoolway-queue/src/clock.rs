//! The two clocks of a queue file: the wall clock, and time since boot, which no one sets.

use std::sync::LazyLock;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// One reading of both clocks.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Now {
    /// Milliseconds since the Unix epoch.
    pub(crate) wall_ms: i64,
    /// Milliseconds of `CLOCK_BOOTTIME`: since boot, suspend included.
    pub(crate) boot_ms: i64,
}

impl Now {
    /// Reads both clocks.
    pub(crate) fn read() -> Self {
        Self {
            wall_ms: wall_ms(),
            boot_ms: boot_ms(),
        }
    }

    /// Seconds since the Unix epoch: the unit of `processed_at` and `created_at`.
    pub(crate) fn wall_s(self) -> i64 {
        self.wall_ms.div_euclid(1_000)
    }
}

/// The id of this boot; `None` where the system has none, and times then go by the wall clock.
pub(crate) fn boot_id() -> Option<&'static str> {
    static BOOT: LazyLock<Option<String>> = LazyLock::new(|| {
        let text = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    });
    BOOT.as_deref()
}

/// A duration in whole milliseconds, rounded up so that nothing comes early.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_nanos().div_ceil(1_000_000)).unwrap_or(i64::MAX)
}

fn wall_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(before) => -millis(before.duration()),
    }
}

#[cfg(target_os = "linux")]
fn boot_ms() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    time.tv_sec * 1_000 + time.tv_nsec / 1_000_000
}

/// Never stored where there is no boot id.
#[cfg(not(target_os = "linux"))]
fn boot_ms() -> i64 {
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_round_up() {
        assert_eq!(millis(Duration::ZERO), 0);
        assert_eq!(millis(Duration::from_nanos(1)), 1);
        assert_eq!(millis(Duration::from_millis(7)), 7);
        assert_eq!(millis(Duration::MAX), i64::MAX);
    }

    #[test]
    fn both_clocks_run_forward() {
        let (one, two) = (Now::read(), Now::read());
        assert!(two.boot_ms >= one.boot_ms);
        assert!(one.wall_ms > 1_700_000_000_000);
        assert_eq!(one.wall_s(), one.wall_ms / 1_000);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn the_boot_has_an_id() {
        assert_eq!(boot_id().map(str::len), Some(36));
    }
}
