//! What a message of the torture holds: a function of seed, run and number, so that whoever finds
//! one can say whether it is what was sent.

use rand::rngs::SmallRng;
use rand::{RngExt as _, SeedableRng as _};
use serde::{Deserialize, Serialize};
use spoolway::wire::Invalid;
use spoolway::{Message, MessageId};

/// One message in this many has no key.
const KEYLESS_ONE_IN: u32 = 8;
/// One message in this many is large.
const LARGE_ONE_IN: u32 = 1_024;
/// Bytes that fill a large message, and any other.
const LARGE_BYTES: usize = 16 * 1_024;
const SMALL_BYTES: usize = 96;

/// The messages of all runs of producers under one seed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Content {
    pub(super) seed: u64,
    pub(super) keys: u32,
}

/// What is drawn for one message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Draw {
    pub(super) key: Option<u32>,
    fill_bytes: usize,
}

/// The payload.
#[derive(Debug, Deserialize, Serialize)]
struct Body {
    /// Which run of which producer.
    run: u32,
    /// Which of its messages, from 0.
    n: u32,
    /// Which of its key, from 0.
    of_key: u32,
    fill: String,
}

impl Content {
    pub(super) fn draw(&self, run: u32, n: u32) -> Draw {
        let which = u64::from(run) << 32 | u64::from(n);
        let mut rng = SmallRng::seed_from_u64(self.seed.rotate_left(32) ^ which);
        let keyed = !rng.random_ratio(1, KEYLESS_ONE_IN);
        let key = rng.random_range(0..self.keys);
        let most = match rng.random_ratio(1, LARGE_ONE_IN) {
            true => LARGE_BYTES,
            false => SMALL_BYTES,
        };
        Draw {
            key: keyed.then_some(key),
            fill_bytes: rng.random_range(0..=most),
        }
    }

    /// Message `n` of a run, the `of_key`th of its key.
    pub(super) fn message(&self, run: u32, n: u32, of_key: u32) -> Result<Message, Invalid> {
        let Draw { key, fill_bytes } = self.draw(run, n);
        let fill = "x".repeat(fill_bytes);
        let message = Message::new(
            "torture",
            &Body {
                run,
                n,
                of_key,
                fill,
            },
        )?;
        let message = message.id(format!("{run}-{n}"));
        Ok(match key {
            Some(key) => message.key(key_text(key)),
            None => message,
        })
    }

    /// Whether this message is what was sent under its id.
    pub(super) fn is_whole(&self, message: &Message, (run, n): (u32, u32)) -> bool {
        let Draw { key, fill_bytes } = self.draw(run, n);
        let found = message.key.as_ref().map(|key| key.as_str());
        let same_key = found == key.map(key_text).as_deref();
        serde_json::from_str::<Body>(message.payload.as_str()).is_ok_and(|body| {
            same_key && (body.run, body.n) == (run, n) && body.fill.len() == fill_bytes
        })
    }
}

/// The run and number that an id stands for.
pub(super) fn place(id: &MessageId) -> Option<(u32, u32)> {
    let (run, n) = id.as_str().split_once('-')?;
    Some((run.parse().ok()?, n.parse().ok()?))
}

fn key_text(key: u32) -> String {
    format!("k{key}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_known_again_and_anything_else_is_not() {
        let content = Content { seed: 7, keys: 50 };
        for n in 0..3_000 {
            let message = content.message(3, n, 0).unwrap();
            assert_eq!(place(&message.id), Some((3, n)));
            assert!(content.is_whole(&message, (3, n)));
            assert!(!content.is_whole(&message, (4, n)));
            assert!(!content.is_whole(&message.clone().key("other"), (3, n)));
        }
        let keys = (0..3_000).filter_map(|n| content.draw(3, n).key);
        assert_eq!(keys.collect::<std::collections::HashSet<_>>().len(), 50);
        let other = Content { seed: 8, keys: 50 };
        assert!((0..9).any(|n| content.draw(3, n) != other.draw(3, n)));
    }
}
