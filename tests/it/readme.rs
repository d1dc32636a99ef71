//! Every command of the README runs. The two `cargo` commands are the gate's own steps.

use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::support::{Place, SPOOLWAY, text};

const README: &str = include_str!("../../README.md");

#[test]
fn the_quick_start_of_the_readme_runs_as_it_is_written() {
    let place = Place::new();
    let blocks = blocks("sh");
    assert!(blocks.len() >= 2, "the README has lost its commands");
    let mut expected = vec![1, 2];
    for block in blocks {
        if block.contains("nc -NU") {
            if lacks(&["curl", "nc"]) {
                continue;
            }
            expected.extend([4, 5, 6]);
        }
        let binaries = std::path::Path::new(SPOOLWAY)
            .parent()
            .expect("a directory");
        let path = format!(
            "{}:{}",
            binaries.display(),
            std::env::var("PATH").expect("a PATH")
        );
        let shell = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &block])
            .current_dir(place.dir.path())
            .env("PATH", path)
            .env("SPOOLWAY_SOCKET", place.socket())
            .env("SPOOLWAY_DATABASE", place.database())
            .stdin(Stdio::null())
            .process_group(0)
            .output()
            .expect("bash runs");
        let said = format!("{}{}", text(&shell.stdout), text(&shell.stderr));
        assert!(shell.status.success(), "{}\n{block}\n{said}", shell.status);
    }
    let ids: Vec<_> = std::fs::read_to_string(place.path("orders.jsonl"))
        .expect("the sink's file")
        .lines()
        .map(|line| {
            serde_json::from_str::<serde_json::Value>(line).expect("a line")["payload"]["id"]
                .clone()
        })
        .collect();
    for id in expected {
        assert!(ids.contains(&id.into()), "{id}: {ids:?}");
    }
}

/// Whether one of these programs is not installed. Said loudly, and not accepted by the gate.
fn lacks(programs: &[&str]) -> bool {
    let lacks = |program: &&str| {
        let found = Command::new("bash")
            .args(["-c", &format!("command -v {program}")])
            .stdout(Stdio::null())
            .status();
        !found.expect("bash runs").success()
    };
    let missing: Vec<_> = programs.iter().copied().filter(lacks).collect();
    let skipped = format!("SKIPPED: {missing:?} not installed");
    if !missing.is_empty() {
        assert!(std::env::var_os("SPOOLWAY_CI").is_none(), "{skipped}");
        // Past the test's own capture.
        writeln!(std::io::stderr(), "{skipped}").expect("said");
    }
    !missing.is_empty()
}

#[test]
fn the_two_commands_of_the_readme_are_what_the_gate_runs() {
    let gate = include_str!("../../.ci/run");
    let commands = blocks("console");
    let commands: Vec<&str> = commands[0]
        .lines()
        .filter_map(|line| line.strip_prefix("$ "))
        .collect();
    assert_eq!(commands.len(), 2);
    for command in commands {
        let quiet = command.replace("cargo run ", "cargo run --quiet ");
        assert!(
            gate.contains(command) || gate.contains(&quiet),
            "not in the gate: {command}"
        );
    }
}

fn blocks(language: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut parts = README.split("```");
    parts.next();
    while let (Some(block), _) = (parts.next(), parts.next()) {
        if let Some(body) = block
            .strip_prefix(language)
            .and_then(|body| body.strip_prefix('\n'))
        {
            found.push(body.to_owned());
        }
    }
    found
}
