//! The report of the torture, as a table and as JSON.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::check::{Counts, Found};
use crate::args::{Fault, Torture};
use crate::units::{count, span};

/// What was done to the processes.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Done {
    /// Times the consumer was killed, and stopped.
    pub(super) kills: u64,
    pub(super) stops: u64,
    pub(super) producer_kills: u64,
    /// Connections that were cut while the consumer lived.
    pub(super) cuts: u64,
    /// Times the producers were slowed down, since the backlog was long.
    pub(super) brakes: u64,
}

/// What the torture found. Every number is counted, none is assumed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Report {
    seed: u64,
    faults: Vec<Fault>,
    producers: u32,
    /// Producer processes: one more for each that was killed.
    runs: u32,
    keys: u32,
    #[serde(flatten)]
    done: Done,
    #[serde(flatten)]
    counts: Counts,
    /// Messages with an `Ok` a second, while the producers sent.
    rate: f64,
    p50_ms: f64,
    p99_ms: f64,
    p99_9_ms: f64,
    worst_send_ms: f64,
    /// How long the backlog took once the producers had ended.
    drain_seconds: f64,
    seconds: f64,
    /// What is not as it should be.
    pub(super) broken: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) examples: Vec<String>,
    /// Where the files are, if something is broken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) directory: Option<PathBuf>,
    pub(super) ok: bool,
}

/// How long the parts took.
pub(super) struct Times {
    pub(super) sending: Duration,
    pub(super) draining: Duration,
    pub(super) all: Duration,
}

impl Report {
    /// `also` is broken beside what the counts say.
    pub(super) fn new(
        args: &Torture,
        seed: u64,
        (done, runs): (Done, u32),
        found: Found,
        also: Vec<String>,
        times: &Times,
    ) -> Self {
        let ms = |micros: u64| micros as f64 / 1e3;
        let latency = &found.latency;
        let mut broken = also;
        for (what, number) in found.counts.broken() {
            broken.push(format!("{} {what}", count(number)));
        }
        if found.counts.sent == 0 {
            broken.push("nothing was sent".to_owned());
        }
        Self {
            seed,
            faults: args.faults.clone(),
            producers: args.producers,
            runs,
            keys: args.keys,
            done,
            rate: found.counts.sent as f64 / times.sending.as_secs_f64(),
            p50_ms: ms(latency.value_at_quantile(0.5)),
            p99_ms: ms(latency.value_at_quantile(0.99)),
            p99_9_ms: ms(latency.value_at_quantile(0.999)),
            worst_send_ms: ms(latency.max()),
            counts: found.counts,
            drain_seconds: times.draining.as_secs_f64(),
            seconds: times.all.as_secs_f64(),
            ok: broken.is_empty(),
            broken,
            examples: found.examples,
            directory: None,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { counts, done, .. } = self;
        let mut line = |name: &str, value: String, what: &str| {
            let text = format!("{name:<20}{value:>12}   {what}");
            writeln!(f, "{}", text.trim_end())
        };
        let ms = |ms: f64| span(Duration::try_from_secs_f64(ms / 1e3).unwrap_or_default());
        let runs = format!("by {} producer processes", self.runs);
        line(
            "sent",
            count(counts.sent),
            &format!("`send` returned Ok, {runs}"),
        )?;
        line("  by socket", count(counts.by_socket), "")?;
        line("  by queue", count(counts.by_queue), "")?;
        line(
            "  processed",
            count(counts.told_processed),
            "the outcome it returned",
        )?;
        line("  stored", count(counts.told_stored), "")?;
        line(
            "not taken",
            count(counts.not_taken),
            "`send` returned an error",
        )?;
        line("unknown", count(counts.unknown), "")?;
        line("rate", count(self.rate as u64), "a second")?;
        line("send p50", ms(self.p50_ms), "")?;
        line("  p99", ms(self.p99_ms), "")?;
        line("  p99.9", ms(self.p99_9_ms), "")?;
        line("  worst", ms(self.worst_send_ms), "")?;
        line("consumer killed", count(done.kills), "times, with SIGKILL")?;
        line(
            "consumer stopped",
            count(done.stops),
            "times, for 50 ms to 7 s",
        )?;
        line("producers killed", count(done.producer_kills), "")?;
        line("connections cut", count(done.cuts), "")?;
        line(
            "processed",
            count(counts.processed),
            "ids in the consumer's file",
        )?;
        line(
            "  untold",
            count(counts.processed_untold),
            "their `send` has not returned Ok, or not before its process was killed",
        )?;
        line("dead", count(counts.dead), "dead letters")?;
        line("lost", count(counts.lost), "")?;
        line("doubled", count(counts.doubled), "")?;
        line("out of order", count(counts.out_of_order), "")?;
        line(
            "audit missing",
            count(counts.audit_missing),
            "what `spoolway audit` says",
        )?;
        let all = span(Duration::try_from_secs_f64(self.seconds).unwrap_or_default());
        if self.ok {
            let what = "ok: nothing lost, nothing doubled, in order per producer and key";
            return write!(f, "\n{what} (seed {}, {all})", self.seed);
        }
        for example in &self.examples {
            writeln!(f, "  {example}")?;
        }
        write!(
            f,
            "\nBROKEN: {} (seed {}, {all})",
            self.broken.join(", "),
            self.seed
        )?;
        match &self.directory {
            Some(directory) => write!(
                f,
                "\nthe files are in {}; the same options with --seed {} do the same again",
                directory.display(),
                self.seed
            ),
            None => Ok(()),
        }
    }
}
