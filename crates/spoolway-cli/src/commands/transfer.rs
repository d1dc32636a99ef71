//! `spoolway queue export` and `queue import`: messages with their states, from file to file.

use std::error::Error as _;
use std::fs::{File, OpenOptions};
use std::io::{self, BufReader, BufWriter, IsTerminal as _, Read};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use indicatif::ProgressBar;
use spoolway::SqliteQueue;
use spoolway::queue::{Exported, ImportEvent, Imported, QueueError, QueueOptions, Take};

use crate::args::{Export, Import};
use crate::failure::{Failure, exit};
use crate::output::{print, print_json, tell};
use crate::paths::Places;
use crate::units::{count, plural};

/// How every SQLite database begins.
const SQLITE: &[u8] = b"SQLite format 3\0";

pub(crate) fn export(places: &Places, args: &Export, quiet: bool) -> Result<u8, Failure> {
    let queue = SqliteQueue::open(places.existing_database()?, QueueOptions::default())?;
    let bar = match quiet || args.file.is_none() && io::stdout().is_terminal() {
        true => ProgressBar::hidden(),
        false => ProgressBar::new_spinner(),
    };
    let show = |exported: &Exported| {
        bar.set_message(format!("{} written", plural(exported.messages, "message")));
        bar.tick();
    };
    let exported = match &args.file {
        None => {
            let mut out = BufWriter::new(io::stdout().lock());
            match queue.export(&mut out, show) {
                // A reader that went away (`| head`) is the end of it.
                Err(error) if is_broken_pipe(&error) => return Ok(exit::OK),
                exported => exported.map_err(Failure::from),
            }
        }
        Some(path) => to_file(&queue, path, show),
    };
    bar.finish_and_clear();
    let exported = exported?;
    if exported.damaged > 0 {
        tell(format_args!(
            "{} written as far as readable, and cannot be imported",
            plural(exported.damaged, "damaged row")
        ));
    }
    match (&args.file, args.json) {
        (None, _) => {}
        (Some(_), true) => print_json(&exported)?,
        (Some(path), false) => print(format!(
            "{} in {}",
            plural(exported.messages, "message"),
            path.display()
        ))?,
    }
    Ok(exit::OK)
}

fn is_broken_pipe(error: &QueueError) -> bool {
    let cause = error.source().and_then(|cause| cause.downcast_ref());
    cause.is_some_and(|cause: &io::Error| cause.kind() == io::ErrorKind::BrokenPipe)
}

/// Into a file that is whole and synced, or not there.
fn to_file(
    queue: &SqliteQueue,
    path: &Path,
    show: impl FnMut(&Exported),
) -> Result<Exported, Failure> {
    let failed = |error: &io::Error| Failure::io(format!("cannot write {}", path.display()), error);
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => failed(&error)
                .because("it is there already")
                .help("choose another name, or move it away: nothing is overwritten"),
            _ => failed(&error),
        })?;
    let write = || {
        let mut out = BufWriter::new(file);
        let exported = queue.export(&mut out, show)?;
        let synced = out
            .into_inner()
            .map_err(io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all());
        synced.map_err(|error| failed(&error))?;
        Ok(exported)
    };
    write().inspect_err(|_| {
        // Half an export is none; where it cannot be removed, the error was told all the same.
        let _ = std::fs::remove_file(path);
    })
}

pub(crate) fn import(places: &Places, args: &Import, quiet: bool) -> Result<u8, Failure> {
    let from_stdin = args.file.as_os_str() == "-";
    // Before the queue is opened: closing a plain descriptor of its file would drop its locks.
    let database = !from_stdin && is_database(&args.file)?;
    if args.moves && !database {
        let what = format!("{} is not a database", args.file.display());
        return Err(Failure::new(exit::USAGE, "nothing_to_move", what)
            .help("leave --move away: lines of JSON are only read"));
    }
    places.make_database_directory()?;
    let queue = SqliteQueue::open(&places.database, QueueOptions::default())?;
    let bar = match quiet {
        true => ProgressBar::hidden(),
        false => ProgressBar::new_spinner(),
    };
    let unit = if database { "row" } else { "line" };
    let on = |event: ImportEvent| match event {
        ImportEvent::Refused { at, why } => {
            bar.suspend(|| tell(format_args!("{unit} {at}: refused: {why}")))
        }
        ImportEvent::Conflict { at, id } => bar.suspend(|| {
            tell(format_args!(
                "{unit} {at}: conflict: {id} is here with another content"
            ));
        }),
        ImportEvent::Committed(imported) => {
            bar.set_message(sentence(&imported));
            bar.tick();
        }
        _ => {}
    };
    let imported = if database {
        let take = if args.moves { Take::Move } else { Take::Copy };
        queue.import_database(&args.file, take, on)
    } else {
        lines(&queue, &args.file, from_stdin, on)?
    };
    bar.finish_and_clear();
    let imported = imported?;
    if args.json {
        print_json(&imported)?;
    } else {
        print(sentence(&imported))?;
    }
    match imported.conflict + imported.refused {
        0 => Ok(exit::OK),
        _ => Ok(exit::BAD_DATA),
    }
}

fn lines(
    queue: &SqliteQueue,
    path: &Path,
    from_stdin: bool,
    on: impl FnMut(ImportEvent),
) -> Result<Result<Imported, QueueError>, Failure> {
    if from_stdin {
        return Ok(queue.import(io::stdin().lock(), on));
    }
    let file = File::open(path).map_err(|error| unreadable(path, &error))?;
    Ok(queue.import(BufReader::new(file), on))
}

fn is_database(path: &Path) -> Result<bool, Failure> {
    let mut start = Vec::new();
    let found = std::fs::metadata(path).map_err(|error| unreadable(path, &error))?;
    if !found.is_file() {
        // What is read from a pipe is gone from it.
        return Ok(false);
    }
    File::open(path)
        .and_then(|file| file.take(SQLITE.len() as u64).read_to_end(&mut start))
        .map_err(|error| unreadable(path, &error))?;
    Ok(start == SQLITE)
}

fn unreadable(path: &Path, error: &io::Error) -> Failure {
    Failure::io(format!("cannot read {}", path.display()), error)
}

fn sentence(imported: &Imported) -> String {
    let mut text = format!("{} inserted", count(imported.inserted));
    for (number, word) in [
        (imported.duplicate, "duplicate"),
        (imported.conflict, "conflict"),
        (imported.refused, "refused"),
        (imported.moved, "moved"),
    ] {
        if number > 0 {
            text += &format!(", {} {word}", count(number));
        }
    }
    text
}
