//! The tests that the guarantees name are there: a promise whose test was renamed or deleted is only a sentence.

use std::collections::BTreeMap;
use std::path::Path;

const GUARANTEES: &str = include_str!("../../docs/guarantees.md");

/// Where the tests of a place are, as the document has it in its first table. `sim` stands for all of its tests.
const PLACES: [(&str, &str); 9] = [
    ("client", "crates/spoolway-client/tests/producer"),
    ("consumer", "crates/spoolway-consumer/tests/it"),
    ("faultfs", "crates/spoolway-queue/tests/faultfs"),
    ("it", "tests/it"),
    ("machine", "crates/spoolway-consumer/src/machine/tests.rs"),
    ("queue", "crates/spoolway-queue/tests/it"),
    ("spoolway", "crates/spoolway/tests/it"),
    ("torture", "crates/spoolway-cli/src/commands/torture"),
    ("unit", "crates/spoolway-queue/src"),
];

#[test]
fn every_test_that_the_guarantees_name_is_there() {
    for (name, place) in PLACES {
        let row = format!("| {name} | `{place}`");
        assert!(GUARANTEES.contains(&row), "not in the first table: {row}");
    }
    assert!(names(GUARANTEES).len() > 50, "the document is read wrongly");
    assert_eq!(wrong(GUARANTEES), Vec::<String>::new());
}

#[test]
fn a_name_that_is_no_test_s_is_found_and_so_is_one_without_a_place() {
    let text = "kept (sim; it: `a_made_up_name_…`, `the_demo_loses_nothing_…`, `under_load`; `nobody_says_where_…`)";
    assert_eq!(
        wrong(text),
        [
            "it: a_made_up_name_… is the name of 0 tests",
            "it: under_load is the name of 0 tests",
            "nobody_says_where_… without a place",
        ]
    );
}

/// The test names of a text, each with its place: what is quoted after `place:`, or after a comma behind such a name.
fn names(text: &str) -> Vec<(Option<&'static str>, &str)> {
    let mut found = Vec::new();
    let mut place = None;
    let mut parts = text.split('`');
    while let (Some(before), Some(quoted)) = (parts.next(), parts.next()) {
        let before = before.trim();
        if before != "," {
            let word = before.strip_suffix(':').unwrap_or_default();
            let word = word.rsplit(|c: char| !c.is_alphanumeric()).next();
            place = PLACES
                .iter()
                .find(|(name, _)| Some(*name) == word)
                .map(|(name, _)| *name);
        }
        let looks_like_one = quoted.ends_with("_…") || quoted.matches('_').count() > 2;
        if place.is_some() || looks_like_one {
            found.push((place, quoted));
        }
    }
    found
}

/// What is wrong with the test names of a text. One that is abbreviated stands for one test alone.
fn wrong(text: &str) -> Vec<String> {
    let tests: BTreeMap<_, _> = PLACES.map(|(name, place)| (name, tests(place))).into();
    let of = |(place, name): (Option<&str>, &str)| {
        let Some(place) = place else {
            return Some(format!("{name} without a place"));
        };
        let is_meant = |test: &&String| match name.strip_suffix('…') {
            Some(start) => test.starts_with(start),
            None => *test == name,
        };
        let count = tests[place].iter().filter(is_meant).count();
        (count != 1).then(|| format!("{place}: {name} is the name of {count} tests"))
    };
    names(text).into_iter().filter_map(of).collect()
}

/// The names of the tests in a file, or in the files under a directory.
fn tests(place: &str) -> Vec<String> {
    let mut paths = vec![
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../..")
            .join(place),
    ];
    let mut found = Vec::new();
    while let Some(path) = paths.pop() {
        if path.is_dir() {
            let entries = std::fs::read_dir(&path).expect("a directory");
            paths.extend(entries.map(|entry| entry.expect("an entry").path()));
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source file");
        let mut is_test = false;
        for line in text.lines().map(str::trim) {
            is_test |= line == "#[test]" || line.starts_with("#[tokio::test");
            if let Some((_, name)) = line.split_once("fn ")
                && std::mem::take(&mut is_test)
            {
                let end = name.find(|c: char| c != '_' && !c.is_alphanumeric());
                found.push(name[..end.unwrap_or(name.len())].to_owned());
            }
        }
    }
    found
}
