//! `spoolway dead`: what will not be tried again by itself.

use std::io::{self, IsTerminal as _, Write as _};

use spoolway::queue::{ConsumerLock, DeadLetter, Filter, QueueOptions};
use spoolway::{SqliteQueue, Timestamp};

use crate::args::{DeadLs, DeadPurge, DeadRequeue, DeadShow};
use crate::failure::{Failure, exit};
use crate::output::{print, print_json, tell};
use crate::paths::Places;
use crate::units::plural;

/// Characters of an error that the table shows.
const ERROR_SHOWN: usize = 60;

pub(crate) fn list(places: &Places, args: &DeadLs) -> Result<u8, Failure> {
    let queue = open(places)?;
    let letters = queue.dead_letters(&args.which.filter(None), args.limit)?;
    if args.json {
        print_json(&serde_json::json!({ "dead": letters }))?;
    } else if letters.is_empty() {
        print("no dead letters")?;
    } else {
        print(table(&letters))?;
        if letters.len() == args.limit {
            tell("there may be more: see --limit");
        }
    }
    Ok(exit::OK)
}

pub(crate) fn show(places: &Places, args: &DeadShow) -> Result<u8, Failure> {
    let queue = open(places)?;
    let letter = queue.dead_letter(&args.id)?;
    let letter = letter.ok_or_else(|| not_found(&args.id))?;
    if args.json {
        print_json(&letter)?;
    } else {
        print(text(&letter))?;
    }
    Ok(exit::OK)
}

pub(crate) fn requeue(places: &Places, args: &DeadRequeue) -> Result<u8, Failure> {
    let queue = open(places)?;
    let filter = args.which.filter(args.id.clone());
    let requeued = queue.requeue(&filter)?;
    found(&filter, requeued)?;
    if args.json {
        print_json(&serde_json::json!({ "requeued": requeued }))?;
    } else {
        print(format!("{} requeued", plural(requeued, "dead letter")))?;
    }
    if requeued > 0 && !ConsumerLock::is_held(&queue.lock_path())? {
        tell("no consumer runs: they are delivered when one starts");
    }
    Ok(exit::OK)
}

pub(crate) fn purge(places: &Places, args: &DeadPurge) -> Result<u8, Failure> {
    let queue = open(places)?;
    let filter = args.which.filter(args.id.clone());
    let meant = queue.count_dead(&filter)?;
    found(&filter, meant)?;
    if !args.yes && !confirmed(meant)? {
        print("nothing was deleted")?;
        return Ok(exit::OK);
    }
    let purged = queue.purge(&filter)?;
    if args.json {
        print_json(&serde_json::json!({ "purged": purged }))?;
    } else {
        print(format!("{} purged", plural(purged, "dead letter")))?;
    }
    Ok(exit::OK)
}

fn open(places: &Places) -> Result<SqliteQueue, Failure> {
    let path = places.existing_database()?;
    Ok(SqliteQueue::open(path, QueueOptions::default())?)
}

/// Asks whoever sits at the terminal.
fn confirmed(meant: u64) -> Result<bool, Failure> {
    if !io::stdin().is_terminal() {
        let what = format!("{} would be deleted for good", plural(meant, "dead letter"));
        return Err(Failure::new(exit::USAGE, "not_confirmed", what)
            .because("there is no terminal to ask at")
            .help("give --yes, or look first: `spoolway dead ls` takes the same filters"));
    }
    let mut stderr = io::stderr().lock();
    let question = format!("delete {} for good? [y/N] ", plural(meant, "dead letter"));
    let mut answer = String::new();
    stderr
        .write_all(question.as_bytes())
        .and_then(|()| stderr.flush())
        .and_then(|()| io::stdin().read_line(&mut answer))
        .map_err(|error| Failure::io("cannot ask", &error))?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// An id that was named has to be there; a filter may match nothing.
fn found(filter: &Filter, letters: u64) -> Result<(), Failure> {
    match filter.ids.first() {
        Some(id) if letters == 0 => Err(not_found(id.as_str())),
        _ => Ok(()),
    }
}

fn not_found(id: &str) -> Failure {
    let what = format!("{id} is not a dead letter");
    Failure::new(exit::NOT_FOUND, "dead_letter_not_found", what)
        .help("`spoolway dead ls` lists those that are")
}

fn table(letters: &[DeadLetter]) -> String {
    let width = |of: &dyn Fn(&DeadLetter) -> usize, least: usize| {
        letters.iter().map(of).max().unwrap_or(0).max(least)
    };
    let id = width(&|letter| letter.id.chars().count(), 2);
    let kind = width(&|letter| letter.r#type.chars().count(), 4);
    let why = width(&|letter| reason(letter).chars().count(), 6);
    let line = |name: &str, r#type: &str, died: &str, reason: &str, tries: &str, error: &str| {
        let line =
            format!("{name:<id$}  {type:<kind$}  {died:<24}  {reason:<why$}  {tries:>8}  {error}");
        line.trim_end().to_owned()
    };
    let mut lines = vec![line("id", "type", "died", "reason", "attempts", "error")];
    for letter in letters {
        lines.push(line(
            &plain(&letter.id),
            &plain(&letter.r#type),
            &moment(letter.died_at),
            &plain(reason(letter)),
            &letter.attempts.to_string(),
            &plain(&shortened(letter.error.as_deref().unwrap_or(""))),
        ));
    }
    lines.join("\n")
}

fn text(letter: &DeadLetter) -> String {
    let or_none = |text: &Option<String>| text.clone().unwrap_or_else(|| "none".to_owned());
    let lines = [
        ("id", letter.id.clone()),
        ("type", letter.r#type.clone()),
        ("key", or_none(&letter.key)),
        ("made", moment(letter.timestamp)),
        ("died", moment(letter.died_at)),
        ("reason", reason(letter).to_owned()),
        ("error", or_none(&letter.error)),
        ("attempts", letter.attempts.to_string()),
        ("first attempt", moment(letter.first_attempt_at)),
        ("last attempt", moment(letter.last_attempt_at)),
        ("delivery", letter.delivery.to_string()),
        ("attributes", or_none(&letter.attributes)),
        ("payload", or_none(&letter.payload)),
    ];
    let lines = lines.iter();
    let lines: Vec<String> = lines
        .map(|(name, value)| format!("{name:<15}{}", plain(value)))
        .collect();
    lines.join("\n")
}

fn reason(letter: &DeadLetter) -> &str {
    letter.reason.as_deref().unwrap_or("unknown")
}

fn moment(at: Option<Timestamp>) -> String {
    at.map_or_else(|| "none".to_owned(), Timestamp::to_rfc3339)
}

/// Without what a terminal would obey: what is damaged, or of another program, may hold anything.
pub(super) fn plain(text: &str) -> String {
    let plain = |c: char| match c.is_control() && c != '\n' && c != '\t' {
        true => '\u{fffd}',
        false => c,
    };
    text.chars().map(plain).collect()
}

/// One line of at most so many characters.
fn shortened(error: &str) -> String {
    let line = error.lines().next().unwrap_or("");
    match line.char_indices().nth(ERROR_SHOWN) {
        Some((end, _)) => format!("{}…", &line[..end]),
        None => line.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_shown_in_one_short_line_that_no_terminal_obeys() {
        assert_eq!(shortened("first\nsecond"), "first");
        let long = "é".repeat(ERROR_SHOWN + 1);
        assert_eq!(shortened(&long).chars().count(), ERROR_SHOWN + 1);
        assert_eq!(plain("a\u{1b}[2J\tb"), "a\u{fffd}[2J\tb");
    }
}
