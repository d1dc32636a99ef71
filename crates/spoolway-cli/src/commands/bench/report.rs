//! What the bench found: a line of a table, or one JSON object.

use std::fmt;
use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use super::side::{Told, histogram};
use crate::args::{Bench, Work};
use crate::units::count;

/// One side of the comparison.
pub(super) struct Figures {
    messages: u64,
    seconds: f64,
    times: Histogram<u64>,
    /// Nanoseconds of processor time, and KiB at the peak, of all who send and of who takes.
    senders: (u64, u64),
    taker: (u64, u64),
    /// Messages of a transaction.
    pub(super) group: Option<u64>,
}

impl Figures {
    /// Of clients and of a server, or of a server alone.
    pub(super) fn new(clients: &[Told], server: Option<&Told>) -> Self {
        let spans: Vec<&Told> = match clients {
            [] => server.into_iter().collect(),
            clients => clients.iter().collect(),
        };
        let start = spans.iter().map(|told| told.start).min().unwrap_or(0);
        let end = spans.iter().map(|told| told.end).max().unwrap_or(0);
        let messages = spans.iter().map(|told| told.messages).sum();
        let mut times = histogram();
        for (value, count) in clients.iter().flat_map(|told| &told.times) {
            times.saturating_record_n(*value, *count);
        }
        let commits = server
            .and_then(|told| told.commits)
            .filter(|commits| *commits > 0);
        Self {
            messages,
            seconds: end.saturating_sub(start) as f64 / 1e9,
            times,
            senders: (
                clients.iter().map(|told| told.cpu).sum(),
                clients.iter().map(|told| told.peak_kib).max().unwrap_or(0),
            ),
            taker: server.map_or((0, 0), |told| (told.cpu, told.peak_kib)),
            // Each message is in two: its insert or claim, and its outcome.
            group: commits.map(|commits| (2 * messages).div_ceil(commits)),
        }
    }

    pub(super) fn plain(messages: u64, time: Duration, group: u64, times: Histogram<u64>) -> Self {
        Self {
            messages,
            seconds: time.as_secs_f64(),
            times,
            senders: (0, 0),
            taker: (0, 0),
            group: Some(group),
        }
    }

    pub(super) fn is_better(&self, other: &Self, work: Work) -> bool {
        match work {
            Work::Rtt => self.micros(0.5) < other.micros(0.5),
            _ => self.rate() > other.rate(),
        }
    }

    fn rate(&self) -> f64 {
        self.messages as f64 / self.seconds.max(1e-9)
    }

    fn micros(&self, quantile: f64) -> f64 {
        self.times.value_at_quantile(quantile) as f64 / 1e3
    }
}

/// One kind of work, measured. Times are microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    work: Work,
    messages: u64,
    bytes: usize,
    producers: u32,
    window: usize,
    /// Messages a second.
    rate: f64,
    p50_us: f64,
    p99_us: f64,
    p999_us: f64,
    max_us: f64,
    /// Messages a second of the ceiling, and its times.
    ceiling: f64,
    ceiling_p50_us: f64,
    ceiling_p99_us: f64,
    /// Our rate over the ceiling's; for `rtt` our p50 over its p50.
    ratio: f64,
    /// Processor time a message.
    producer_cpu_us: f64,
    consumer_cpu_us: f64,
    ceiling_cpu_us: f64,
    producer_peak_kib: u64,
    consumer_peak_kib: u64,
    /// Messages of a transaction, where the queue file is used.
    group: Option<u64>,
}

impl Report {
    pub(super) fn new(args: &Bench, work: Work, ours: &Figures, ceiling: &Figures) -> Self {
        let cpu =
            |(nanos, _): (u64, u64), of: &Figures| nanos as f64 / 1e3 / of.messages.max(1) as f64;
        let ratio = match work {
            Work::Rtt => ours.micros(0.5) / ceiling.micros(0.5),
            _ => ours.rate() / ceiling.rate(),
        };
        Self {
            work,
            messages: ours.messages,
            bytes: args.bytes,
            producers: args.producers,
            window: args.window_of(work),
            rate: ours.rate(),
            p50_us: ours.micros(0.5),
            p99_us: ours.micros(0.99),
            p999_us: ours.micros(0.999),
            max_us: ours.times.max() as f64 / 1e3,
            ceiling: ceiling.rate(),
            ceiling_p50_us: ceiling.micros(0.5),
            ceiling_p99_us: ceiling.micros(0.99),
            ratio,
            producer_cpu_us: cpu(ours.senders, ours),
            consumer_cpu_us: cpu(ours.taker, ours),
            ceiling_cpu_us: cpu(ceiling.senders, ceiling) + cpu(ceiling.taker, ceiling),
            producer_peak_kib: ours.senders.1,
            consumer_peak_kib: ours.taker.1,
            group: ours.group.or(ceiling.group),
        }
    }
}

/// Over the table: the version and the machine, then the columns.
pub(super) fn heading() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    format!(
        "spoolway {}, {cores} cores; times in µs, processor time a message, memory at the peak in MiB\n\
         {:<7}{:>11}{:>9}{:>9}{:>9}{:>10}  {:>11}{:>7}  {:>16}  {:>16}",
        env!("CARGO_PKG_VERSION"),
        "work",
        "rate/s",
        "p50",
        "p99",
        "p99.9",
        "max",
        "ceiling/s",
        "ratio",
        "µs send/consume",
        "MiB send/consume"
    )
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |kib: u64| kib as f64 / 1_024.0;
        let costs = format!("{:.2} / {:.2}", self.producer_cpu_us, self.consumer_cpu_us);
        let memory = format!(
            "{:.1} / {:.1}",
            mib(self.producer_peak_kib),
            mib(self.consumer_peak_kib)
        );
        write!(
            f,
            "{:<7}{:>11}{:>9.1}{:>9.1}{:>9.1}{:>10.1}  {:>11}{:>7.2}  {costs:>16}  {memory:>16}",
            self.work.to_string(),
            count(self.rate.round() as u64),
            self.p50_us,
            self.p99_us,
            self.p999_us,
            self.max_us,
            count(self.ceiling.round() as u64),
            self.ratio,
        )
    }
}
