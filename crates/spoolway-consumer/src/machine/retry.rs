//! When a message whose handler failed is tried again.

use std::time::Duration;

use hashbrown::HashMap;

/// How often a message is tried, and how long it waits between two attempts.
///
/// The default is four attempts; the waits are random between nothing and 5 s, 10 s, 20 s, and so on up to 5 min
/// ("full jitter"), so that what failed together is not tried again together.
///
/// ```
/// use std::time::Duration;
/// use spoolway_consumer::RetryPolicy;
///
/// let patient = RetryPolicy { attempts_max: 10, ..RetryPolicy::default() };
/// let regular = RetryPolicy::fixed(Duration::from_secs(5));
/// assert_eq!(regular.attempts_max, patient.attempts_max - 6);
/// ```
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RetryPolicy {
    /// Handler starts before a message is dead. At least 1.
    pub attempts_max: u32,
    /// The wait after the first attempt, at most.
    pub first: Duration,
    /// No wait is longer.
    pub max: Duration,
    /// Whether each wait may be twice as long as the one before.
    pub doubles: bool,
    /// Whether waits are random, between nothing and what they may be.
    pub jitter: bool,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 4,
            first: Duration::from_secs(5),
            max: Duration::from_secs(5 * 60),
            doubles: true,
            jitter: true,
        }
    }
}

impl RetryPolicy {
    /// Four attempts, so long apart.
    pub fn fixed(wait: Duration) -> Self {
        Self {
            first: wait,
            max: wait,
            doubles: false,
            jitter: false,
            ..Self::default()
        }
    }

    /// The wait after so many attempts. The same `draw` gives the same wait.
    fn wait(&self, attempts: u32, draw: u64) -> Duration {
        let doublings = if self.doubles {
            attempts.saturating_sub(1).min(31)
        } else {
            0
        };
        let limit = self.first.saturating_mul(1 << doublings).min(self.max);
        if self.jitter {
            limit.mul_f64(draw as f64 / u64::MAX as f64)
        } else {
            limit
        }
    }
}

/// The policy of each type.
#[derive(Clone, Debug, Default)]
pub struct Retries {
    /// Of every other type.
    pub default: RetryPolicy,
    by_type: HashMap<Box<str>, RetryPolicy>,
    /// Longest first.
    by_prefix: Vec<(Box<str>, RetryPolicy)>,
}

impl From<RetryPolicy> for Retries {
    fn from(default: RetryPolicy) -> Self {
        Self {
            default,
            ..Self::default()
        }
    }
}

impl Retries {
    /// Sets the policy of one type, or, with `*` at the end, of all that begin like that. Of a message the policy of its
    /// own type counts, else that of the longest beginning, else [`default`](Self::default).
    ///
    /// ```
    /// use std::time::Duration;
    /// use spoolway_consumer::{Retries, RetryPolicy};
    ///
    /// let mut retries = Retries::default();
    /// retries.set("candle:*", RetryPolicy::fixed(Duration::from_secs(1)));
    /// retries.set("candle:final", RetryPolicy { attempts_max: 20, ..RetryPolicy::default() });
    /// ```
    pub fn set(&mut self, types: &str, policy: RetryPolicy) {
        let Some(prefix) = types.strip_suffix('*') else {
            self.by_type.insert(types.into(), policy);
            return;
        };
        self.by_prefix.retain(|(other, _)| **other != *prefix);
        self.by_prefix.push((prefix.into(), policy));
        self.by_prefix
            .sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &RetryPolicy> {
        std::iter::once(&self.default)
            .chain(self.by_type.values())
            .chain(self.by_prefix.iter().map(|(_, policy)| policy))
    }

    fn of(&self, r#type: &str) -> &RetryPolicy {
        let by_prefix = || {
            self.by_prefix
                .iter()
                .find(|(prefix, _)| r#type.starts_with(&**prefix))
        };
        match self.by_type.get(r#type) {
            Some(policy) => policy,
            None => by_prefix().map_or(&self.default, |(_, policy)| policy),
        }
    }

    pub(super) fn are_over(&self, r#type: &str, attempts: u32) -> bool {
        attempts >= self.of(r#type).attempts_max
    }

    /// How long a message with this CRC waits. Drawn from what it is, so that a machine needs no source of chance.
    pub(super) fn wait(&self, r#type: &str, attempts: u32, crc: u32) -> Duration {
        let seed = u64::from(crc) << 32 | u64::from(attempts);
        self.of(r#type).wait(attempts, spread(seed))
    }
}

/// The finalizer of SplitMix64 (Steele, Lea, Flood 2014): near seeds, far results.
fn spread(seed: u64) -> u64 {
    let mut z = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: Duration = Duration::from_secs(1);

    #[test]
    fn waits_double_up_to_the_cap_and_are_random_below() {
        let policy = RetryPolicy::default();
        let most = [1, 2, 3, 6, 7, 40].map(|attempts| policy.wait(attempts, u64::MAX));
        assert_eq!(most, [5 * S, 10 * S, 20 * S, 160 * S, 300 * S, 300 * S]);
        assert_eq!(policy.wait(3, 0), Duration::ZERO);
        let draws: Vec<u64> = (0..1_000).map(spread).collect();
        let waits = draws.iter().map(|draw| policy.wait(1, *draw));
        let mean = waits.sum::<Duration>() / 1_000;
        assert!((2 * S..3 * S).contains(&mean), "{mean:?}");
    }

    #[test]
    fn fixed_waits_are_all_the_same() {
        let policy = RetryPolicy::fixed(5 * S);
        assert_eq!(
            [1, 2, 9].map(|n| policy.wait(n, spread(n.into()))),
            [5 * S; 3]
        );
    }

    #[test]
    fn a_type_has_its_own_policy() {
        let mut retries = Retries::default();
        let twice = RetryPolicy {
            attempts_max: 2,
            ..RetryPolicy::fixed(S)
        };
        retries.set("mail", twice);
        assert!(retries.are_over("mail", 2) && !retries.are_over("task", 3));
        assert_eq!(retries.wait("mail", 1, 77), S);
    }

    #[test]
    fn of_a_type_its_own_policy_counts_then_that_of_the_longest_beginning() {
        let mut retries = Retries::default();
        for (types, seconds) in [
            ("a:*", 9),
            ("a:b:*", 2),
            ("a:*", 1),
            ("a:b:c", 3),
            ("z*", 4),
        ] {
            retries.set(types, RetryPolicy::fixed(seconds * S));
        }
        for (r#type, seconds) in [("a:x", 1), ("a:b:x", 2), ("a:b:c", 3), ("a:b", 1), ("z", 4)] {
            assert_eq!(retries.wait(r#type, 1, 77), seconds * S, "{type}");
        }
        assert_eq!(retries.of("a"), &RetryPolicy::default());
        assert_eq!(retries.iter().count(), 5);
    }
}
