//! `spoolway queue check` and `queue migrate status`: whether the file is what it should be.

use indicatif::ProgressBar;
use serde::Serialize;
use spoolway::queue::{self, Checked, Finding, MigrationStatus, Severity};

use crate::args::{Check, MigrateStatus};
use crate::failure::{Failure, exit};
use crate::output::{print, print_json};
use crate::paths::Places;
use crate::units::{count, plural};

/// What `--json` prints.
#[derive(Debug, Serialize)]
struct Report<'a> {
    #[serde(flatten)]
    checked: &'a Checked,
    ok: bool,
}

pub(crate) fn run(places: &Places, args: &Check, quiet: bool) -> Result<u8, Failure> {
    let bar = match quiet {
        true => ProgressBar::hidden(),
        false => ProgressBar::new_spinner(),
    };
    let checked = queue::check(places.existing_database()?, args.full, |rows| {
        bar.set_message(format!("{} looked at", plural(rows, "row")));
        bar.tick();
    });
    bar.finish_and_clear();
    let checked = checked?;
    let ok = checked.is_ok();
    if args.json {
        let checked = &checked;
        print_json(&Report { checked, ok })?;
    } else {
        print(text(&checked))?;
    }
    match ok {
        true => Ok(exit::OK),
        false => {
            let faults = plural(checked.faults() as u64, "fault");
            let what = format!("{} in {}", faults, checked.path.display());
            Err(Failure::new(exit::BROKEN, "check_failed", what)
                .help("each says above what to do next"))
        }
    }
}

fn text(checked: &Checked) -> String {
    let mut lines = vec![checked.path.display().to_string()];
    for Finding {
        severity,
        code,
        what,
        help,
    } in &checked.findings
    {
        let word = match severity {
            Severity::Fault => "FAULT",
            Severity::Note => "note",
        };
        lines.push(format!("{word:<5}  {code}: {what}; {help}"));
    }
    let looked = match (checked.full, checked.version.is_some()) {
        (true, true) => format!("every page and {}", plural(checked.rows, "row")),
        (false, true) => "every page, no rows (see --full)".to_owned(),
        (_, false) => "not a queue file that this program knows".to_owned(),
    };
    lines.push(match checked.is_ok() {
        true => format!("ok: {looked}"),
        false => format!("{} faults: {looked}", count(checked.faults() as u64)),
    });
    lines.join("\n")
}

pub(crate) fn migrations(places: &Places, args: &MigrateStatus) -> Result<u8, Failure> {
    let status = queue::migration_status(places.existing_database()?)?;
    if args.json {
        print_json(&status)?;
    } else {
        print(sentence(&status))?;
    }
    Ok(exit::OK)
}

fn sentence(status: &MigrationStatus) -> String {
    let version = |version: i64| format!("{}.{}", version / 1_000, version % 1_000);
    let file = status.file.map_or_else(|| "none yet".to_owned(), version);
    let next = match (&*status.pending, status.usable) {
        (_, false) => "this program is too old for it: upgrade it".to_owned(),
        ([], true) => "nothing to apply".to_owned(),
        (pending, true) => format!("to be applied by the next consumer: {}", pending.join(", ")),
    };
    format!("file {file}, program {}: {next}", version(status.program))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sentence_says_what_happens_next() {
        let status = |file, pending: &[&'static str], usable| MigrationStatus {
            file,
            program: 1_001,
            pending: pending.to_vec(),
            usable,
        };
        for (status, said) in [
            (
                status(Some(1_001), &[], true),
                "file 1.1, program 1.1: nothing to apply",
            ),
            (
                status(Some(1_000), &["0002_x"], true),
                "file 1.0, program 1.1: to be applied by the next consumer: 0002_x",
            ),
            (
                status(Some(2_000), &[], false),
                "file 2.0, program 1.1: this program is too old for it: upgrade it",
            ),
        ] {
            assert_eq!(sentence(&status), said);
        }
    }
}
