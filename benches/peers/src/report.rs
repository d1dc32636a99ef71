//! What was found: a table for the terminal, one JSON object, and the page in `docs/`.

use std::fmt::Write as _;
use std::io::Write as _;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::Result;
use crate::peers::{Peer, Promise};
use crate::run::Figures;

/// What became of a peer.
pub enum Found {
    /// Its version and figures.
    Measured(String, Figures),
    /// It could not be had; why.
    Skipped(String),
    /// It did not do the job; why.
    Failed(String),
}

/// The machine, as far as it matters to the figures.
#[derive(Serialize)]
pub struct Machine {
    /// The processor.
    pub processor: String,
    /// Its cores.
    pub cores: usize,
    /// Linux's version.
    pub linux: String,
    /// What an append of 4 KiB and its sync take in that directory: the median, in microseconds.
    pub sync_us: f64,
    /// Processes that wanted to run in the minute before.
    pub load: f64,
}

impl Machine {
    /// Looks at it.
    pub fn look(dir: &Path) -> Result<Self> {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let processors = read("/proc/cpuinfo");
        let name = processors
            .lines()
            .find(|line| line.starts_with("model name"));
        let load = read("/proc/loadavg");
        let mut file = tempfile::tempfile_in(dir)?;
        let mut syncs = Vec::new();
        for _ in 0..200 {
            let start = Instant::now();
            file.write_all(&[0; 4_096])?;
            file.sync_data()?;
            syncs.push(start.elapsed().as_secs_f64() * 1e6);
        }
        Ok(Self {
            processor: name
                .and_then(|line| Some(line.split_once(": ")?.1.into()))
                .unwrap_or_default(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            linux: read("/proc/sys/kernel/osrelease").trim().into(),
            sync_us: spoolway_benches::median(syncs),
            load: load
                .split(' ')
                .next()
                .and_then(|load| load.parse().ok())
                .unwrap_or_default(),
        })
    }

    /// Whether others used it.
    fn is_busy(&self) -> bool {
        self.load > 0.5
    }
}

/// All that was found.
pub struct Report<'a> {
    /// The machine.
    pub machine: Machine,
    /// The arguments.
    pub command: String,
    /// The peers in their order.
    pub found: Vec<(&'a Peer, Found)>,
}

const HEAD: [&str; 6] = [
    "",
    "hand-offs/s",
    "p50",
    "p99",
    "CPU a message",
    "Spoolway is",
];

impl Report<'_> {
    /// Whether a peer did not do the job.
    pub fn has_failed(&self) -> bool {
        self.found
            .iter()
            .any(|(_, found)| matches!(found, Found::Failed(_)))
    }

    fn measured(&self, promise: Promise) -> impl Iterator<Item = (&Peer, &Figures)> {
        self.found
            .iter()
            .filter_map(move |(peer, found)| match found {
                Found::Measured(_, figures) if peer.promise == promise => Some((*peer, figures)),
                _ => None,
            })
    }

    /// One line for each peer of this promise, the fastest first.
    fn rows(&self, promise: Promise) -> Vec<[String; 6]> {
        let mut measured: Vec<_> = self.measured(promise).collect();
        measured.sort_by(|one, other| other.1.rate.total_cmp(&one.1.rate));
        let best = measured.iter().find(|(peer, _)| peer.is_ours());
        let best = best.map(|(_, figures)| figures.rate);
        let row = |(peer, figures): &(&Peer, &Figures)| {
            let ratio = best
                .filter(|_| !peer.is_ours())
                .map(|best| best / figures.rate);
            [
                peer.title.into(),
                thousands(figures.rate),
                time(figures.p50_us),
                time(figures.p99_us),
                format!("{:.1} µs", figures.cpu()),
                ratio.map_or("".into(), |ratio| format!("{ratio:.2}×")),
            ]
        };
        measured.iter().map(row).collect()
    }

    /// Each peer that is ahead of one of ours with the same promise.
    fn losses(&self) -> Vec<String> {
        let mut losses = Vec::new();
        for promise in Promise::ALL {
            for (ours, own) in self.measured(promise).filter(|(peer, _)| peer.is_ours()) {
                for (peer, figures) in self.measured(promise).filter(|(peer, _)| !peer.is_ours()) {
                    let mut ways = Vec::new();
                    if figures.rate > own.rate {
                        ways.push(format!("{:.2} of the rate", own.rate / figures.rate));
                    }
                    let dearer = [
                        ("quiet p50", own.p50_us, figures.p50_us),
                        ("quiet p99", own.p99_us, figures.p99_us),
                        ("CPU time", own.cpu(), figures.cpu()),
                    ];
                    for (what, own, other) in
                        dearer.into_iter().filter(|(_, own, other)| own > other)
                    {
                        ways.push(format!("{:.1} times the {what}", own / other));
                    }
                    if !ways.is_empty() {
                        losses.push(format!(
                            "{} against {}: {}",
                            ours.title,
                            peer.title,
                            ways.join(", ")
                        ));
                    }
                }
            }
        }
        losses
    }

    /// Lines about those that have no figures.
    fn missing(&self) -> Vec<String> {
        let line = |(peer, found): &(&Peer, Found)| match found {
            Found::Measured(..) => None,
            Found::Skipped(why) => Some(format!("SKIPPED {}: {why}", peer.name)),
            Found::Failed(why) => Some(format!("FAILED {}: {why}", peer.name)),
        };
        self.found.iter().filter_map(line).collect()
    }

    /// The table for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for promise in Promise::ALL {
            let rows = self.rows(promise);
            if rows.is_empty() {
                continue;
            }
            let _ = writeln!(text, "\n{}", promise.name());
            for row in std::iter::once(HEAD.map(String::from)).chain(rows) {
                let [name, cells @ ..] = row.map(|cell: String| cell.replace('`', ""));
                let _ = write!(text, "  {name:<44}");
                for cell in cells {
                    let _ = write!(text, "{cell:>15}");
                }
                let _ = writeln!(text);
            }
        }
        for (title, lines) in [
            ("where Spoolway loses", self.losses()),
            ("not measured", self.missing()),
        ] {
            if !lines.is_empty() {
                let _ = writeln!(text, "\n{title}\n  {}", lines.join("\n  ").replace('`', ""));
            }
        }
        text
    }

    /// One object on one line.
    pub fn json(&self) -> String {
        let peer = |(peer, found): &(&Peer, Found)| {
            let mut value = match found {
                Found::Measured(version, figures) => {
                    let mut value = serde_json::json!(figures);
                    value["version"] = version.as_str().into();
                    value
                }
                Found::Skipped(why) => serde_json::json!({ "skipped": why }),
                Found::Failed(why) => serde_json::json!({ "failed": why }),
            };
            value["name"] = peer.name.into();
            value["promise"] = peer.promise.name().into();
            value
        };
        let peers: Vec<_> = self.found.iter().map(peer).collect();
        serde_json::json!({ "machine": self.machine, "peers": peers }).to_string()
    }

    /// The page.
    pub fn markdown(&self) -> String {
        let machine = &self.machine;
        let mut page = include_str!("benchmarks.md").to_owned();
        let _ = writeln!(
            page,
            "## Measured\n\n{}, {} cores, Linux {}; an append of 4 KiB and its sync take {:.0} µs. Spoolway {}.\n\n```sh\n{}\n```",
            machine.processor,
            machine.cores,
            machine.linux,
            machine.sync_us,
            env!("CARGO_PKG_VERSION"),
            self.command,
        );
        if machine.is_busy() {
            let _ = writeln!(
                page,
                "\n**Provisional**: the machine was busy (load {:.1} at the start).",
                machine.load
            );
        }
        for promise in Promise::ALL {
            let rows = self.rows(promise);
            if rows.is_empty() {
                continue;
            }
            let name = promise.name();
            let _ = writeln!(page, "\n### {}{}\n", name[..1].to_uppercase(), &name[1..]);
            let _ = writeln!(
                page,
                "| {} |\n|---|---:|---:|---:|---:|---:|",
                HEAD.join(" | ")
            );
            for row in rows {
                let _ = writeln!(page, "| {} |", row.join(" | "));
            }
        }
        for (title, lines) in [
            ("Where Spoolway loses", self.losses()),
            ("Not measured", self.missing()),
        ] {
            if !lines.is_empty() {
                let _ = writeln!(page, "\n### {title}\n\n- {}", lines.join("\n- "));
            }
        }
        page.push_str("\n## Set up\n\n| | version | how |\n|---|---|---|\n");
        for (peer, found) in &self.found {
            if let Found::Measured(version, _) = found {
                let _ = writeln!(page, "| {} | {version} | {} |", peer.title, peer.remark);
            }
        }
        page
    }
}

fn thousands(value: f64) -> String {
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn time(micros: f64) -> String {
    match micros {
        ..1_000.0 => format!("{micros:.0} µs"),
        ..1_000_000.0 => format!("{:.1} ms", micros / 1e3),
        _ => format!("{:.1} s", micros / 1e6),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_are_written_to_be_read() {
        let written = [0.0, 999.0, 1_000.0, 12_345.6, 1_234_567.0].map(thousands);
        assert_eq!(written, ["0", "999", "1,000", "12,346", "1,234,567"]);
        assert_eq!(
            [7.4, 1_234.0, 2_500_000.0].map(time),
            ["7 µs", "1.2 ms", "2.5 s"]
        );
    }
}
