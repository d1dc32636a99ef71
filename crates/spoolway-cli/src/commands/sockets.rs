//! `spoolway sockets`: which consumers listen, and whether they answer.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;
use spoolway::socket::{Absence, Found, Health, socket_directory, sockets};

use crate::args::Sockets;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::paths::{Named, homeless};
use crate::people::user_name;
use crate::units::span;

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    directory: &'a Path,
    sockets: Vec<Shown>,
}

#[derive(Debug, Serialize)]
struct Shown {
    name: String,
    path: PathBuf,
    channel: String,
    instance: String,
    state: &'static str,
    /// Why it is not simply `live`, with a stable code.
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    uid: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    user: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pid: Option<u32>,
    age_s: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    answer_ms: Option<f64>,
}

pub(crate) async fn run(named: Named, args: Sockets) -> Result<u8, Failure> {
    let directory = match args.dir {
        Some(directory) => directory,
        None => socket_directory().ok_or_else(homeless)?,
    };
    let found = sockets(&directory, args.timeout).await.map_err(|error| {
        Failure::io(format!("cannot list {}", directory.display()), &error)
            .help("name another directory with --dir, or start `spoolway serve`")
    })?;
    let is_meant = |found: &Found| {
        let is = |given: &Option<String>, part| given.as_deref().is_none_or(|one| one == part);
        is(&named.channel, found.name.channel()) && is(&named.instance, found.name.instance())
    };
    let sockets: Vec<Shown> = found
        .into_iter()
        .filter(is_meant)
        .map(Shown::from)
        .collect();
    if args.json {
        print_json(&Report {
            directory: &directory,
            sockets,
        })?;
    } else if sockets.is_empty() {
        print(format!("no sockets in {}", directory.display()))?;
    } else {
        print(table(&sockets))?;
    }
    Ok(exit::OK)
}

impl From<Found> for Shown {
    fn from(found: Found) -> Self {
        let Found {
            name,
            path,
            uid,
            age,
            health,
        } = found;
        let state = health.as_str();
        let (pid, answer, why) = match health {
            Health::Live { pid, answer, full } => {
                let full = full.then(|| ("busy", "no room for another connection".to_owned()));
                (pid, Some(answer), full)
            }
            Health::NotAnswering { pid, why } => (pid, None, Some(said(&why))),
            Health::NotPermitted(denial) => (None, None, Some(said(&Absence::Denied(denial)))),
            Health::Stale(why) => (None, None, Some(said(&why))),
        };
        let (code, reason) = why.unzip();
        Self {
            name: name.to_string(),
            path,
            channel: name.channel().to_owned(),
            instance: name.instance().to_owned(),
            state,
            code,
            reason,
            uid,
            user: user_name(uid),
            pid,
            age_s: age.as_secs(),
            answer_ms: answer.map(|answer| (answer.as_secs_f64() * 1e6).round() / 1e3),
        }
    }
}

fn said(why: &Absence) -> (&'static str, String) {
    (why.code(), why.to_string())
}

fn table(sockets: &[Shown]) -> String {
    let heads = [
        "name", "channel", "instance", "state", "owner", "pid", "age", "answer",
    ];
    let mut rows = vec![heads.map(str::to_owned)];
    rows.extend(sockets.iter().map(row));
    let widths: [usize; 8] = std::array::from_fn(|column| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    });
    let line = |row: &[String; 8]| {
        let cells = row
            .iter()
            .zip(widths)
            .map(|(cell, width)| format!("{cell:<width$}"));
        cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    };
    rows.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn row(shown: &Shown) -> [String; 8] {
    let answer = match (&shown.reason, shown.answer_ms) {
        (Some(reason), _) => reason.clone(),
        (None, Some(ms)) => span(Duration::from_secs_f64(ms / 1e3)),
        (None, None) => String::new(),
    };
    [
        shown.name.clone(),
        shown.channel.clone(),
        shown.instance.clone(),
        shown.state.replace('_', " "),
        match &shown.user {
            Some(user) => format!("{user} ({})", shown.uid),
            None => shown.uid.to_string(),
        },
        shown.pid.map_or("-".to_owned(), |pid| pid.to_string()),
        match shown.age_s {
            seconds @ 0..60 => format!("{seconds} s"),
            seconds => span(Duration::from_secs(seconds)),
        },
        answer,
    ]
}

#[cfg(test)]
mod tests {
    use spoolway::SocketName;

    use super::*;

    #[test]
    fn the_table_has_a_line_for_each_with_why_it_is_not_live() {
        let found = |instance: &str, health| Found {
            name: SocketName::new("orders", instance).unwrap(),
            path: "/x".into(),
            uid: 0,
            age: Duration::from_secs(125),
            health,
        };
        let live = Health::Live {
            pid: Some(7),
            answer: Duration::from_micros(212),
            full: false,
        };
        let shown = [
            found("1", live),
            found("2", Health::Stale(Absence::Refused)),
        ]
        .map(Shown::from);
        assert_eq!(
            table(&shown),
            "name           channel  instance  state  owner     pid  age        answer\n\
             orders-1.sock  orders   1         live   root (0)  7    2 min 5 s  0.2 ms\n\
             orders-2.sock  orders   2         stale  root (0)  -    2 min 5 s  \
             consumer not running (connection refused)"
        );
    }
}
