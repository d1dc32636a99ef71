//! `serve --spool-dir`: files of programs that know nothing but files, and what a kill leaves of them.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::json;

use crate::support::{Place, SPOOLWAY, eventually, text};

const DOCUMENT: &str = include_str!("../../docs/spool-directory.md");

fn messages(place: &Place) -> PathBuf {
    place.path("spool/orders/messages")
}

fn left(place: &Place) -> usize {
    fs::read_dir(messages(place)).map_or(0, Iterator::count)
}

/// Writes files the way programs are told to; what is durable does not matter here.
fn write(place: &Place, names: impl Iterator<Item = String>) -> Vec<String> {
    let messages = messages(place);
    fs::create_dir_all(&messages).expect("a folder");
    let put = |name: String| {
        let temporary = messages.join(format!(".{name}"));
        let message = json!({"type": "event", "payload": {"of": name}});
        fs::write(&temporary, message.to_string()).expect("a file");
        fs::rename(temporary, messages.join(format!("{name}.json"))).expect("a name");
        name
    };
    names.map(put).collect()
}

fn in_order(place: &Place) -> Vec<String> {
    let lines = place.lines();
    let ids = lines.iter().map(|line| line["id"].as_str().expect("an id"));
    ids.map(str::to_owned).collect()
}

#[test]
fn ten_thousand_files_at_the_start_are_each_processed_once_in_order() {
    let place = Place::new();
    let names = write(&place, (0..10_000).map(|n| format!("m{n:05}")));
    let began = Instant::now();
    let serve = place.serve_with(&["--spool-dir", "spool"]);
    eventually("all are processed", || place.lines_so_far() >= names.len());
    eventually("all are removed", || left(&place) == 0);
    println!("10,000 files in {:?}", began.elapsed());
    assert_eq!(in_order(&place), names);
    let acks = fs::read_dir(place.path("spool/orders/acks")).expect("acks");
    assert_eq!(acks.count(), names.len());
    assert!(serve.terminate().success());
}

#[test]
fn a_consumer_killed_again_and_again_loses_no_file_and_doubles_none() {
    let place = Place::new();
    let mut names = Vec::new();
    for round in 0..6 {
        let before = place.lines_so_far();
        let serve = place.serve_with(&["--spool-dir", "spool"]);
        names.extend(write(&place, (0..300).map(|n| format!("m{round}-{n:03}"))));
        eventually("some are processed", || place.lines_so_far() > before + 20);
        serve.kill();
    }
    let serve = place.serve_with(&["--spool-dir", "spool"]);
    eventually("all are settled", || left(&place) == 0);
    place.drained();
    assert!(serve.terminate().success());
    // The sink knows its own lines, so not even what ran at a kill is there twice.
    place.found().is_exactly(&names);
    for name in &names {
        let ack = fs::read(place.path(&format!("spool/orders/acks/{name}.ack"))).expect("an ack");
        let ack: serde_json::Value = serde_json::from_slice(&ack).expect("it is whole");
        assert_eq!(ack["id"], name.as_str());
    }
}

#[test]
fn what_is_left_alone_is_warned_of_once_for_each_kind() {
    let place = Place::new();
    let messages = messages(&place);
    fs::create_dir_all(messages.join("directory.json")).expect("a folder");
    for name in ["a.txt", "b.txt"] {
        fs::write(messages.join(name), "").expect("a file");
    }
    std::os::unix::fs::symlink("a.txt", messages.join("link\u{1b}[31m.json")).expect("a link");
    let serve = place.serve_with(&["--spool-dir", "spool"]);
    write(&place, ["m1".to_owned()].into_iter());
    eventually("the message is processed", || place.lines_so_far() == 1);
    // It was looked at everything again before this one is taken.
    write(&place, ["m2".to_owned()].into_iter());
    eventually("the other one is", || left(&place) == 4);
    assert!(serve.terminate().success());
    let log = place.said("serve.log");
    let warnings: Vec<_> = log
        .lines()
        .filter(|line| line.contains("left alone"))
        .collect();
    assert_eq!(warnings.len(), 3, "{log}");
    for why in ["is a directory", "is a link", "does not end in `.json`"] {
        assert!(log.contains(why), "{why}: {log}");
    }
    assert!(
        !warnings.concat().contains("\u{1b}[31m"),
        "control characters are escaped"
    );
}

#[test]
fn the_shell_recipe_of_the_document_runs_as_it_is_written() {
    let place = Place::new();
    let _serve = place.serve_with(&["--spool-dir", "spool"]);
    let recipe = DOCUMENT.split("```sh\n").nth(1).expect("the recipe");
    let recipe = recipe.split("```").next().expect("its end");
    let shell = Command::new("sh")
        .args(["-eu", "-c", recipe])
        .current_dir(place.dir.path())
        .env("DIR", place.path("spool"))
        .env(
            "PATH",
            format!(
                "{}:{}",
                PathBuf::from(SPOOLWAY)
                    .parent()
                    .expect("a directory")
                    .display(),
                std::env::var("PATH").expect("a PATH")
            ),
        )
        .stdin(Stdio::null())
        .output()
        .expect("a shell");
    assert!(shell.status.success(), "{}", text(&shell.stderr));
    let said = text(&shell.stdout);
    assert!(said.contains(r#""outcome":"processed""#), "{said}");
    assert_eq!(place.lines()[0]["payload"], json!({"id": 1}));
}
