//! A queue file that is damaged, and one that FlowTrace made: what `serve` does about it by itself.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use crate::support::{Place, eventually, message, skip, text, wait};

fn flowtrace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/flowtrace")
}

/// Overwrites the last leaf of the index of ids: every insert comes to it. Nobody has the file open.
fn damage(place: &Place) {
    let conn = rusqlite::Connection::open(place.database()).expect("the queue file");
    let last = "SELECT pageno FROM dbstat WHERE name = 'sqlite_autoindex_message_queue_1' \
                AND pagetype = 'leaf' ORDER BY path DESC LIMIT 1";
    let page: u64 = conn
        .query_row(last, (), |row| row.get(0))
        .expect("an index");
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", (), |_| Ok(()))
        .expect("copied");
    conn.close().expect("closed");
    let file = std::fs::OpenOptions::new()
        .write(true)
        .open(place.database())
        .expect("the queue file");
    file.write_all_at(&[0xaa; 4_096], (page - 1) * 4_096)
        .expect("written");
}

#[tokio::test]
async fn serve_sets_a_damaged_file_aside_says_so_and_loses_nothing_that_can_be_read() {
    let place = Place::new();
    let producer = place.producer().await;
    let mut sent = Vec::new();
    for n in 0..2_000 {
        let receipt = producer.send(message(Some("k"), n)).await.expect("stored");
        sent.push(receipt.id.to_string());
    }
    producer.close(std::time::Duration::from_secs(20)).await;
    drop(producer);
    damage(&place);

    let refused = place.run(&["send", "--type", "t", "1"]);
    assert_eq!(refused.status.code(), Some(74), "{}", text(&refused.stderr));
    let said = text(&refused.stderr);
    assert!(
        said.contains("damaged") && said.contains("start its consumer"),
        "{said}"
    );

    let serve = place.serve();
    eventually("it says what it saved", || {
        place.said("serve.log").contains("saved 2000 messages")
    });
    let said = place.said("serve.log");
    assert!(
        said.contains(".corrupt-") && said.contains("is set aside"),
        "{said}"
    );
    place.drained();
    eventually("all are processed", || place.lines_so_far() == sent.len());
    assert!(serve.terminate().success());
    place.found().is_exactly(&sent);
    let sent = place.run(&["send", "--type", "t", "1"]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
}

#[test]
fn what_is_no_database_at_all_is_set_aside_by_serve_and_refused_by_stats() {
    let place = Place::new();
    std::fs::write(place.database(), "no database".repeat(1_000)).expect("a file");
    let stats = place.run(&["queue", "stats"]);
    assert_eq!(stats.status.code(), Some(74));
    let said = text(&stats.stderr);
    assert!(
        said.contains("error[queue_corrupt]") && said.contains("start its consumer"),
        "{said}"
    );
    let _serve = place.serve();
    let stats = place.run(&["queue", "stats"]);
    assert!(stats.status.success(), "{}", text(&stats.stderr));
    assert!(place.said("serve.log").contains("is set aside"));
}

#[test]
fn the_tables_of_another_program_are_refused_with_what_to_do() {
    let place = Place::new();
    let other = rusqlite::Connection::open(place.database()).expect("a database");
    other
        .execute_batch("CREATE TABLE users (id)")
        .expect("a table");
    other.close().expect("closed");
    let serve = place.run(&["serve"]);
    assert_eq!(serve.status.code(), Some(78));
    let said = text(&serve.stderr);
    assert!(
        said.contains("users") && said.contains("choose another path"),
        "{said}"
    );
}

#[test]
fn a_flowtrace_file_is_adopted_by_serve_and_drained_in_its_order() {
    let place = Place::new();
    std::fs::copy(flowtrace().join("queue.sqlite"), place.database()).expect("the fixture");
    let stats = place.run(&["queue", "stats"]);
    assert_eq!(stats.status.code(), Some(78));
    assert!(
        text(&stats.stderr).contains("spoolway serve"),
        "{}",
        text(&stats.stderr)
    );
    let _serve = place.serve();
    place.drained();
    eventually("all are processed", || place.lines_so_far() == 28);
    let numbers: Vec<u64> = place
        .lines()
        .iter()
        .map(|line| line["payload"]["n"].as_u64().expect("a number"))
        .collect();
    assert!(numbers.is_sorted(), "{numbers:?}");
}

/// FlowTrace's side, by its own library; `None`, said loudly, where that is not installed.
fn node(place: &Place, args: &[&str]) -> Option<Command> {
    let probe = Command::new("node")
        .args(["-e", "require('better-sqlite3')"])
        .current_dir(flowtrace())
        .output();
    if !probe.is_ok_and(|probe| probe.status.success()) {
        skip("no node with better-sqlite3: run `npm install` in tests/flowtrace");
        return None;
    }
    let mut command = Command::new("node");
    command
        .arg("flowtrace.js")
        .arg(args[0])
        .arg(place.database());
    command.args(&args[1..]).current_dir(flowtrace());
    Some(command)
}

/// A program of FlowTrace's that inserts all the time, and the ids it has inserted.
struct Theirs {
    child: Child,
    lines: std::io::Lines<BufReader<std::process::ChildStdout>>,
    inserted: Vec<String>,
}

impl Theirs {
    fn start(mut command: Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("node runs");
        let lines = BufReader::new(child.stdout.take().expect("piped")).lines();
        Self {
            child,
            lines,
            inserted: Vec::new(),
        }
    }

    fn inserts(&mut self, count: usize) {
        for _ in 0..count {
            let line = self.lines.next().expect("it goes on");
            self.inserted.push(line.expect("a line"));
        }
    }

    fn end(mut self) -> Vec<String> {
        let mut stdin = self.child.stdin.take().expect("piped");
        stdin.flush().expect("flushed");
        drop(stdin);
        for line in self.lines {
            self.inserted.push(line.expect("a line"));
        }
        assert!(wait(&mut self.child).success(), "it failed");
        self.inserted
    }
}

#[test]
fn flowtrace_s_own_library_writes_and_reads_before_while_and_after_its_file_is_adopted() {
    let place = Place::new();
    let (Some(mut make), Some(produce)) =
        (node(&place, &["make"]), node(&place, &["produce", "live"]))
    else {
        return;
    };
    assert!(make.status().expect("node runs").success());
    let read = |command: &str| -> Vec<String> {
        let run = node(&place, &[command])
            .expect("node was there")
            .output()
            .expect("node runs");
        assert!(run.status.success(), "{}", text(&run.stderr));
        text(&run.stdout).lines().map(str::to_owned).collect()
    };
    let mut expected = read("read");
    assert_eq!(expected.len(), 28);

    // One program with its connection open all the time: before, while it is adopted, and while it is consumed.
    let mut theirs = Theirs::start(produce);
    theirs.inserts(50);
    let serve = place.serve();
    theirs.inserts(200);
    eventually("the consumer takes what they insert", || {
        place.found().ids.contains_key("live-150")
    });
    expected.extend(theirs.end());
    place.drained();
    eventually("all are processed", || {
        place.lines_so_far() == expected.len()
    });
    assert!(
        read("read").is_empty(),
        "their reader sees what is processed"
    );
    assert!(serve.terminate().success());
    place.found().is_exactly(&expected);

    // And their reader takes what their programs insert, with no consumer of ours.
    let produce = node(&place, &["produce", "later"]).expect("node was there");
    let mut theirs = Theirs::start(produce);
    theirs.inserts(10);
    let inserted = theirs.end();
    let taken = read("take");
    assert_eq!(taken, inserted[..taken.len()]);
    assert_eq!(taken.len(), inserted.len().min(50));
}
