//! With a filter: makes processed messages or dead letters pending again, and waits for them.

use std::collections::BTreeMap;
use std::time::Instant;

use indicatif::ProgressBar;
use serde::Serialize;
use spoolway::queue::{ConsumerLock, Filter, Replay, Replayed, Settled};
use spoolway::{MessageId, SqliteQueue};

use super::pace::Pace;
use super::{Held, LOOK_FIRST, LOOK_MAX, Stop, next_look, not_running, progress};
use crate::args;
use crate::commands::dead::plain;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json, tell};
use crate::paths::Places;
use crate::units::{count, plural};

const TEMPLATE: &str = "{bar:30} {human_pos} of {human_len}, {eta} left {msg}";
/// Types that a dry run names as text; as JSON it names all.
const TYPES_SHOWN: usize = 20;
/// Ids that an error names.
const IDS_SHOWN: usize = 5;

/// How a replay ended, if nothing failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Done,
    Stopped(u8),
}

#[derive(Debug, Serialize)]
struct Report {
    #[serde(flatten)]
    so_far: Replayed,
    seconds: f64,
    /// Where to go on, if there is anything ahead.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<i64>,
    /// The command that goes on.
    #[serde(skip_serializing_if = "Option::is_none")]
    resume: Option<String>,
}

pub(super) fn run(
    queue: &SqliteQueue,
    filter: Filter,
    places: &Places,
    args: &args::Replay,
    stop: &Stop,
    quiet: bool,
) -> Result<u8, Failure> {
    let started = Instant::now();
    let generation = queue.generation();
    if args.after == 0 {
        are_there(queue, args.from(), &filter)?;
    }
    let mut replay = queue.replay(args.from(), filter, args.after)?;
    if args.dry_run {
        dry_run(&replay.count()?, args.json)?;
        return Ok(exit::OK);
    }
    let mut held = Held::new(queue);
    if !args.no_wait && !replay.is_done() {
        while !held.was_seen() {
            if !held.is_held()? {
                return Err(not_running(0, queue.path())
                    .help("start `spoolway serve` with this --database, or give --no-wait"));
            }
            if let Some(code) = stop.rest(LOOK_FIRST) {
                return Ok(code);
            }
        }
    }
    let bar = progress(0, TEMPLATE, quiet);
    let ended = drive(&mut replay, args, &mut held, stop, &bar);
    bar.finish_and_clear();
    // Numbers of another file say nothing of this one.
    let goes_on = !replay.is_done() && queue.generation() == generation;
    let resume = goes_on.then(|| resume(&replay, places, args));
    if let (Err(_), Some(resume)) = (&ended, &resume) {
        tell(format!("go on with: {resume}"));
    }
    let end = ended?;
    let report = Report {
        so_far: replay.so_far(),
        seconds: started.elapsed().as_secs_f64(),
        after: resume.as_ref().map(|_| replay.after()),
        resume,
    };
    tell_of(&report, queue, args)?;
    Ok(match end {
        End::Done => exit::OK,
        End::Stopped(code) => code,
    })
}

/// Replays at its pace, and looks what becomes of it.
fn drive(
    replay: &mut Replay,
    args: &args::Replay,
    held: &mut Held,
    stop: &Stop,
    bar: &ProgressBar,
) -> Result<End, Failure> {
    if !bar.is_hidden() {
        bar.set_length(replay.count()?.values().sum());
    }
    // After the count, so that neither its time nor its messages are caught up with.
    let started = Instant::now();
    let mut pace = Pace::new(args.rate);
    let mut look = LOOK_FIRST;
    let mut looked = started;
    loop {
        if replay.is_done() && (args.no_wait || replay.so_far().pending == 0) {
            return Ok(End::Done);
        }
        if !args.no_wait && !held.is_held()? {
            return Err(not_running(replay.so_far().pending, held.queue.path()));
        }
        if args.timeout.is_some_and(|limit| started.elapsed() >= limit) {
            return Err(too_long(replay));
        }
        let rest = if replay.is_done() {
            look = next_look(look);
            look
        } else {
            let replayed = replay.step(pace.may(started.elapsed()))?;
            pace.took(replayed);
            pace.wait()
        };
        if let Some(code) = stop.rest(rest) {
            return Ok(End::Stopped(code));
        }
        if !args.no_wait && (replay.is_done() || looked.elapsed() >= LOOK_MAX) {
            looked = Instant::now();
            replay.look()?;
        }
        let so_far = replay.so_far();
        bar.set_position(match args.no_wait {
            true => so_far.replayed,
            false => so_far.delivered + so_far.dead,
        });
    }
}

/// An id that was named has to be there, before anything is changed; a filter may match nothing.
fn are_there(queue: &SqliteQueue, from: Settled, filter: &Filter) -> Result<(), Failure> {
    let mut absent: Vec<&MessageId> = Vec::new();
    for id in &filter.ids {
        let one = Filter {
            ids: vec![id.clone()],
            ..filter.clone()
        };
        if queue.replay(from, one, 0)?.count()?.is_empty() {
            absent.push(id);
        }
    }
    let Some(first) = absent.first() else {
        return Ok(());
    };
    let state = match from {
        Settled::Processed => "a processed message that is kept",
        Settled::Dead => "a dead letter",
    };
    let mut what = format!("{first} is not {state}");
    let others = absent.iter().skip(1).take(IDS_SHOWN);
    what.extend(others.map(|id| format!("; nor is {id}")));
    Err(Failure::new(exit::NOT_FOUND, "message_not_found", what)
        .because("it is pending, was deleted after its retention, or never was in the queue file")
        .help("nothing was changed; `spoolway replay --since 1h --dry-run` counts what can be replayed"))
}

fn dry_run(by_type: &BTreeMap<String, u64>, json: bool) -> Result<(), Failure> {
    let messages: u64 = by_type.values().sum();
    if json {
        return print_json(&serde_json::json!({ "messages": messages, "by_type": by_type }));
    }
    print(table(messages, by_type))
}

fn table(messages: u64, by_type: &BTreeMap<String, u64>) -> String {
    let mut types: Vec<(String, u64)> = by_type
        .iter()
        .map(|(name, messages)| (plain(name), *messages))
        .collect();
    types.sort_by_key(|(_, messages)| std::cmp::Reverse(*messages));
    let others = types.split_off(types.len().min(TYPES_SHOWN));
    if !others.is_empty() {
        let name = format!("({} more types)", count(others.len() as u64));
        types.push((name, others.iter().map(|(_, messages)| messages).sum()));
    }
    let width = types.iter().map(|(name, _)| name.chars().count());
    let width = width.max().unwrap_or(0);
    let mut lines = vec![format!("{} would be replayed", plural(messages, "message"))];
    lines.extend(
        types
            .iter()
            .map(|(name, messages)| format!("  {name:<width$}  {:>9}", count(*messages))),
    );
    lines.join("\n")
}

fn tell_of(report: &Report, queue: &SqliteQueue, args: &args::Replay) -> Result<(), Failure> {
    if args.json {
        print_json(report)?;
    } else {
        print(sentence(&report.so_far, args.from()))?;
    }
    if let Some(resume) = &report.resume {
        tell(format!("stopped; go on with: {resume}"));
    } else if report.so_far.replayed == 0 && args.from() == Settled::Processed {
        tell(
            "only what went through the queue file can be replayed, for as long as `serve --retention` keeps it",
        );
    }
    if report.so_far.pending > 0 && !ConsumerLock::is_held(&queue.lock_path())? {
        tell("no consumer runs: they are delivered when one starts");
    }
    Ok(())
}

fn sentence(so_far: &Replayed, from: Settled) -> String {
    if so_far.replayed == 0 {
        return "nothing to replay".to_owned();
    }
    let dead = match from {
        Settled::Processed => "became dead letters",
        Settled::Dead => "dead again",
    };
    let parts: Vec<String> = [
        (so_far.delivered, "delivered"),
        (so_far.dead, dead),
        (so_far.pending, "pending"),
    ]
    .iter()
    .filter(|(messages, _)| *messages > 0)
    .map(|(messages, what)| format!("{} {what}", count(*messages)))
    .collect();
    let replayed = plural(so_far.replayed, "message");
    format!("{replayed} replayed: {}", parts.join(", "))
}

fn too_long(replay: &Replay) -> Failure {
    let so_far = replay.so_far();
    let what = match replay.is_done() {
        true => format!(
            "{} still pending",
            plural(so_far.pending, "replayed message")
        ),
        false => format!("{} replayed by now", plural(so_far.replayed, "message")),
    };
    Failure::new(exit::TRY_AGAIN, "timeout", what)
        .because("it needs longer than --timeout")
        .help("what was replayed is delivered all the same; see `spoolway queue stats`")
}

/// The command that goes on where this one stopped, with times that no longer move, on the same queue file.
fn resume(replay: &Replay, places: &Places, args: &args::Replay) -> String {
    let filter = replay.filter();
    let mut words = vec!["spoolway replay".to_owned()];
    let mut option = |name: &str, value: &str| words.push(format!("{name} {}", quoted(value)));
    for (name, path) in places.given() {
        option(name, &path.to_string_lossy());
    }
    for id in &filter.ids {
        option("--id", id.as_str());
    }
    for kind in &filter.types {
        option("--type", kind);
    }
    if let Some(key) = &filter.key {
        option("--key", key.as_str());
    }
    if let Some(since) = filter.since {
        option("--since", &since.to_rfc3339());
    }
    if let Some(until) = filter.until {
        option("--until", &until.to_rfc3339());
    }
    if args.from() == Settled::Dead {
        option("--state", "dead");
    }
    if let Some(rate) = args.rate {
        option("--rate", &rate.to_string());
    }
    option("--after", &replay.after().to_string());
    if args.no_wait {
        words.push("--no-wait".to_owned());
    }
    words.join(" ")
}

/// As a shell reads it back.
fn quoted(text: &str) -> String {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "-_.:/+".contains(c);
    match !text.is_empty() && text.chars().all(is_plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_says_what_became_of_them() {
        let mut so_far = Replayed::default();
        assert_eq!(sentence(&so_far, Settled::Processed), "nothing to replay");
        so_far.replayed = 1;
        so_far.delivered = 1;
        let said = sentence(&so_far, Settled::Processed);
        assert_eq!(said, "1 message replayed: 1 delivered");
        so_far = Replayed {
            replayed: 1_203,
            delivered: 1_200,
            dead: 2,
            pending: 1,
        };
        assert_eq!(
            sentence(&so_far, Settled::Dead),
            "1,203 messages replayed: 1,200 delivered, 2 dead again, 1 pending"
        );
    }

    #[test]
    fn a_dry_run_shows_the_most_frequent_types_first() {
        let by_type = |name: &str, messages| (name.to_owned(), messages);
        let few = BTreeMap::from([by_type("a", 1), by_type("candle", 1_200)]);
        assert_eq!(
            table(1_201, &few),
            "1,201 messages would be replayed\n  candle      1,200\n  a               1"
        );
        let many = (0..30).map(|n| (format!("t{n:02}"), 2)).collect();
        let shown = table(60, &many);
        assert!(shown.ends_with("(10 more types)         20"), "{shown}");
        assert_eq!(table(0, &BTreeMap::new()), "0 messages would be replayed");
    }

    #[test]
    fn what_a_shell_would_read_otherwise_is_quoted() {
        assert_eq!(
            quoted("2026-11-21T09:30:00.000Z"),
            "2026-11-21T09:30:00.000Z"
        );
        assert_eq!(quoted("candle:*"), "'candle:*'");
        assert_eq!(quoted("it's"), r"'it'\''s'");
        assert_eq!(quoted(""), "''");
    }
}
