//! The crash suite that comes with the program, for a few seconds; and that nothing outlives it.

use std::process::Stdio;

use rustix::process::Signal;

use crate::support::{Place, Serve, eventually, text, wait};

#[test]
fn a_torture_of_a_few_seconds_finds_nothing_and_its_counts_agree() {
    let place = Place::new();
    let dir = place.dir.path().to_str().expect("UTF-8");
    let run = place.run(&[
        "torture",
        "--seconds=4",
        "--producers=2",
        "--keys=50",
        "--faults=kill,stop,flap",
        "--seed=4",
        "--json",
        "--dir",
        dir,
    ]);
    let said = format!("{}{}", text(&run.stdout), text(&run.stderr));
    assert_eq!(run.status.code(), Some(0), "{said}");
    let report: serde_json::Value = serde_json::from_slice(&run.stdout).expect("one object");
    let number = |name: &str| {
        report[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name}: {said}"))
    };

    assert!(number("by_socket") > 0 && number("by_queue") > 0, "{said}");
    assert_eq!(number("sent"), number("by_socket") + number("by_queue"));
    let told = number("told_processed") + number("told_stored") + number("told_dead");
    assert_eq!(number("sent"), told);
    // All that had an Ok is in the consumer's file or dead, and nothing else but what nobody was told.
    let found = number("processed") + number("dead");
    assert_eq!(found, number("sent") + number("processed_untold"), "{said}");
    for fault in ["kills", "stops", "producer_kills", "cuts"] {
        assert!(number(fault) > 0, "no {fault}: {said}");
    }
    assert_eq!(number("runs"), 2 + number("producer_kills"));
    assert!(number("lost") + number("doubled") + number("out_of_order") == 0);
    assert_eq!(number("audit_missing"), 0, "{said}");
    assert_eq!((&report["ok"], &report["seed"]), (&true.into(), &4.into()));
    assert_eq!(remains(&place), 0, "files are left");
}

#[test]
fn an_interrupted_torture_leaves_no_file_and_no_process() {
    let (place, mut torture, children) = interrupted("interrupt", Signal::INT);
    assert_eq!(wait(&mut torture.child).code(), Some(130));
    assert_eq!(remains(&place), 0, "files are left");
    assert!(!children.iter().any(|pid| is_alive(pid)), "{children:?}");
}

#[test]
fn the_children_of_a_killed_torture_end_too() {
    let (_place, mut torture, children) = interrupted("kill", Signal::KILL);
    wait(&mut torture.child);
    eventually("its children end", || {
        !children.iter().any(|pid| is_alive(pid))
    });
}

/// Starts a torture and signals it once its processes run; returns their ids.
fn interrupted(name: &str, signal: Signal) -> (Place, Serve, Vec<String>) {
    let place = Place::new();
    let log = std::fs::File::create(place.path(name)).expect("a log file");
    let dir = place.path("dir");
    std::fs::create_dir(&dir).expect("a directory");
    let child = place
        .command(&[
            "torture",
            "--seconds=60",
            "--producers=2",
            "--faults=stop",
            "--dir",
        ])
        .arg(&dir)
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the binary runs");
    let torture = Serve { child };
    let mut children = Vec::new();
    eventually("a consumer and two producers run", || {
        children = children_of(torture.child.id());
        children.len() == 3
    });
    torture.signal(signal);
    (place, torture, children)
}

/// Directories of tortures below the place.
fn remains(place: &Place) -> usize {
    let count = |dir| {
        let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let names = entries.map(|entry| entry.file_name());
        names
            .filter(|name| name.to_string_lossy().starts_with("spoolway-torture-"))
            .count()
    };
    count(place.dir.path().to_path_buf()) + count(place.path("dir"))
}

fn children_of(pid: u32) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").expect("Linux").flatten();
    processes
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .filter(|child| stat(child).is_some_and(|(_, parent)| parent == pid.to_string()))
        .collect()
}

/// A zombie has ended; that it is not waited for is the business of whoever adopted it.
fn is_alive(pid: &str) -> bool {
    stat(pid).is_some_and(|(state, _)| state != "Z")
}

/// State and parent of a process.
fn stat(pid: &str) -> Option<(String, String)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut words = stat
        .rsplit_once(')')?
        .1
        .split_whitespace()
        .map(str::to_owned);
    Some((words.next()?, words.next()?))
}
