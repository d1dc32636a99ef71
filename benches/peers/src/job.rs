//! The job, the same for every system: its sending half, its receiving half, and the clocks of both.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use spoolway_benches::{histogram, monotonic};

use crate::Result;
use crate::process::{self, Server};

/// Bytes of a message.
pub const BYTES: usize = 200;
/// Digits at the start of its text: when it was sent, in nanoseconds, and its number.
const SENT: usize = 20;
const NUMBER: usize = 10;
const PADDING: &str = match str::from_utf8(&[b'x'; BYTES]) {
    Ok(padding) => padding,
    Err(_) => panic!("x is ASCII"),
};

/// The sending half: an iterator of messages, with the window and the clocks.
pub struct Job {
    messages: usize,
    window: usize,
    every: Duration,
    server: Option<Server>,
    next: usize,
    due: Instant,
    /// Nanoseconds of [`monotonic`], and CPU time of this process and the server.
    pub began: (u64, Duration, Duration),
    /// When the last answer came.
    pub acked: u64,
}

impl Job {
    /// So many messages, with at most `window` unanswered, and no two within `every`.
    pub fn new(messages: usize, window: usize, every: Duration, server: Option<Server>) -> Self {
        Self {
            messages,
            window,
            every,
            server,
            next: 0,
            due: Instant::now(),
            began: Default::default(),
            acked: 0,
        }
    }

    /// Messages that may be unanswered.
    pub fn window(&self) -> usize {
        self.window
    }

    /// Lets at most so many be unanswered.
    pub fn narrow(&mut self, window: usize) {
        self.window = self.window.min(window);
    }

    /// Starts the clocks: the connection stands.
    pub fn begin(&mut self) {
        self.began = (monotonic(), process::own_cpu(), self.server_cpu());
        self.due = Instant::now();
    }

    /// Stops the clock: everything is answered.
    pub fn end(&mut self) {
        self.acked = monotonic();
    }

    /// The server's CPU time until now.
    pub fn server_cpu(&self) -> Duration {
        self.server.as_ref().map_or(Duration::ZERO, Server::cpu)
    }

    /// Ends the server.
    pub fn end_server(&mut self) {
        self.server = None;
    }

    /// The next text of so many bytes; waits until it is due.
    pub fn text(&mut self, bytes: usize) -> Option<String> {
        if self.next == self.messages {
            return None;
        }
        if !self.every.is_zero() {
            std::thread::sleep(self.due.saturating_duration_since(Instant::now()));
            self.due = self.due.max(Instant::now() - self.every) + self.every;
        }
        let mut text = String::with_capacity(bytes);
        put_digits(&mut text, monotonic(), SENT);
        put_digits(&mut text, self.next as u64, NUMBER);
        text.push_str(&PADDING[..bytes - text.len()]);
        self.next += 1;
        Some(text)
    }

    /// The next messages, at most so many.
    fn batch(&mut self, most: usize) -> Vec<String> {
        std::iter::from_fn(|| self.text(BYTES)).take(most).collect()
    }

    /// Sends everything by blocking calls: `send` writes a batch, `receive` waits for so many answers.
    pub fn block<C>(
        &mut self,
        connection: &mut C,
        mut send: impl FnMut(&mut C, &[String]) -> Result<()>,
        mut receive: impl FnMut(&mut C, usize) -> Result<()>,
    ) -> Result<()> {
        let most = self.window.div_ceil(2);
        let mut sent = VecDeque::new();
        self.begin();
        loop {
            let batch = self.batch(most);
            if !batch.is_empty() {
                send(connection, &batch)?;
                sent.push_back(batch.len());
            }
            if batch.is_empty() || (sent.len() + 1) * most > self.window {
                let Some(count) = sent.pop_front() else { break };
                receive(connection, count)?;
            }
        }
        self.end();
        Ok(())
    }

    /// Sends everything in batches of `most`: `send` starts one, and what it returns is its answer.
    pub async fn stream<F: Future<Output = Result<()>>>(
        &mut self,
        most: usize,
        mut send: impl AsyncFnMut(Vec<String>) -> Result<F>,
    ) -> Result<()> {
        let most = most.min(self.window);
        let mut sent = VecDeque::new();
        self.begin();
        loop {
            let batch = self.batch(most);
            if batch.is_empty() {
                break;
            }
            sent.push_back(send(batch).await?);
            if sent.len() * most >= self.window {
                for answer in sent.drain(..sent.len().div_ceil(2)) {
                    answer.await?;
                }
            }
        }
        for answer in sent {
            answer.await?;
        }
        self.end();
        Ok(())
    }
}

fn put_digits(text: &mut String, mut value: u64, count: usize) {
    let mut digits = [b'0'; SENT];
    for digit in digits[..count].iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    text.push_str(str::from_utf8(&digits[..count]).expect("digits"));
}

/// The receiving half: what has come, and when.
pub struct Seen {
    numbers: Vec<bool>,
    left: usize,
    twice: u64,
    times: Histogram<u64>,
    began: Duration,
}

/// What the receiving half tells when everything has come.
#[derive(Clone, Copy, Deserialize, Serialize)]
pub struct Told {
    /// When that was, in nanoseconds of [`monotonic`].
    pub ended: u64,
    /// CPU time since it was ready, in nanoseconds.
    pub cpu: u64,
    /// From sending to receiving, in nanoseconds.
    pub p50: u64,
    /// The same.
    pub p99: u64,
    /// Messages that came more than once.
    pub twice: u64,
}

impl Seen {
    /// Waits for so many messages.
    pub fn new(messages: usize) -> Self {
        Self {
            numbers: vec![false; messages],
            left: messages,
            twice: 0,
            times: histogram(),
            began: Duration::ZERO,
        }
    }

    /// Says that messages may come, and starts the clock.
    pub fn ready(&mut self) {
        self.began = process::own_cpu();
        println!("ready");
    }

    /// Notes a message by its text.
    pub fn take(&mut self, text: &[u8]) {
        let number = |digits: &[u8]| {
            digits
                .iter()
                .fold(0, |sum, digit| sum * 10 + u64::from(digit - b'0'))
        };
        let time = monotonic().saturating_sub(number(&text[..SENT]));
        self.times.saturating_record(time);
        let seen = &mut self.numbers[number(&text[SENT..SENT + NUMBER]) as usize];
        if std::mem::replace(seen, true) {
            self.twice += 1;
        } else {
            self.left -= 1;
        }
    }

    /// Whether every message has come.
    pub fn is_over(&self) -> bool {
        self.left == 0
    }

    /// Tells the figures, once every message is settled.
    pub fn tell(&self) {
        let told = Told {
            ended: monotonic(),
            cpu: (process::own_cpu() - self.began).as_nanos() as u64,
            p50: self.times.value_at_quantile(0.5),
            p99: self.times.value_at_quantile(0.99),
            twice: self.twice,
        };
        println!("{}", serde_json::to_string(&told).expect("plain JSON"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_of_one_size_and_known_by_their_number() {
        let mut job = Job::new(3, 2, Duration::ZERO, None);
        let texts = job.batch(5);
        assert_eq!(texts.len(), 3);
        let mut seen = Seen::new(3);
        for text in [&texts[0], &texts[0], &texts[2]] {
            assert_eq!(text.len(), BYTES);
            seen.take(text.as_bytes());
        }
        assert!(!seen.is_over());
        seen.take(texts[1].as_bytes());
        assert!(seen.is_over());
        assert_eq!(seen.twice, 1);
    }

    #[test]
    fn no_more_than_the_window_is_unanswered() {
        for window in [1, 2, 7, 1_024] {
            let mut job = Job::new(3_000, window, Duration::ZERO, None);
            let (mut unanswered, mut most) = (0, 0);
            let send = |unanswered: &mut usize, batch: &[String]| {
                *unanswered += batch.len();
                most = most.max(*unanswered);
                Ok(())
            };
            let receive = |unanswered: &mut usize, count| {
                *unanswered -= count;
                Ok(())
            };
            job.block(&mut unanswered, send, receive).expect("sent");
            assert_eq!(unanswered, 0);
            assert!(most <= window && most > window / 2, "{most} of {window}");
        }
    }
}
