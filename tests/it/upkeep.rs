//! Checking, copying and moving queue files beside a running consumer.

use std::process::Command;

use crate::support::{Place, eventually, stream, text};

/// The same command on another queue file of the place.
fn on(place: &Place, database: &str, args: &[&str]) -> Command {
    let mut command = place.command(args);
    command.env("SPOOLWAY_DATABASE", place.path(database));
    command
}

fn succeeds(command: &mut Command) -> String {
    let run = command.output().expect("the binary runs");
    assert!(run.status.success(), "{command:?}: {}", text(&run.stderr));
    text(&run.stdout)
}

fn spool(place: &Place, database: &str, count: u64) {
    for n in 0..count {
        let payload = format!("{{\"n\":{n}}}");
        let mut send = on(place, database, &["send", "--type", "event", &payload]);
        succeeds(send.env("SPOOLWAY_SOCKET", place.path("nobody.sock")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn all_of_upkeep_goes_on_beside_a_consumer_under_load_and_nothing_is_lost() {
    let place = Place::new();
    let _serve = place.serve();
    let sending = stream(&place, 0, 20_000);
    let upkeep = async {
        let tend = |round: u32| {
            let file = |kind: &str| place.path(&format!("{round}.{kind}"));
            let (copy, lines) = (file("db"), file("jsonl"));
            let (copy, lines) = (
                copy.to_str().expect("UTF-8"),
                lines.to_str().expect("UTF-8"),
            );
            for args in [
                &["queue", "check", "--full"][..],
                &["queue", "backup", copy],
                &["queue", "export", lines],
                &["queue", "compact"],
                &["queue", "stats"],
                &["queue", "migrate", "status"],
                &["dead", "ls"],
            ] {
                succeeds(&mut place.command(args));
            }
            let checked = succeeds(&mut on(&place, &format!("{round}.db"), &["queue", "check"]));
            assert!(checked.contains("ok: every page"), "{checked}");
        };
        tokio::task::block_in_place(|| (0..3).for_each(tend));
    };
    let (sent, ()) = tokio::join!(sending, upkeep);
    place.drained();
    eventually("all are in the sink", || place.lines_so_far() >= sent.len());
    place.found().is_exactly(&sent);
}

#[test]
fn a_backup_never_overwrites_and_no_producer_takes_it_for_the_queue() {
    let place = Place::new();
    spool(&place, "queue.db", 3);
    let _serve = place.serve();
    place.drained();
    let made = place.json(&["queue", "backup", "copy.db", "--json"]);
    assert_eq!(made["messages"], 3);
    let again = place.run(&["queue", "backup", "copy.db"]);
    assert_eq!(again.status.code(), Some(73), "{}", text(&again.stderr));
    let send = ["send", "--type", "event", "1"];
    let other = on(&place, "copy.db", &send)
        .output()
        .expect("the binary runs");
    assert_eq!(other.status.code(), Some(78), "{}", text(&other.stderr));
    succeeds(&mut place.command(&send));
    assert_eq!(place.lines().len(), 4);
}

#[test]
fn an_export_is_imported_elsewhere_and_delivered_there() {
    let place = Place::new();
    spool(&place, "stray.db", 5);
    let mut exported = on(&place, "stray.db", &["queue", "export", "lines.jsonl"]);
    assert!(succeeds(&mut exported).starts_with("5 messages in"));
    let again = exported.output().expect("the binary runs");
    assert_eq!(again.status.code(), Some(73), "{}", text(&again.stderr));

    let _serve = place.serve();
    let imported = place.run(&["queue", "import", "lines.jsonl"]);
    assert_eq!(text(&imported.stdout), "5 inserted\n");
    eventually("all are delivered", || place.lines().len() == 5);
    let imported = place.run(&["queue", "import", "lines.jsonl"]);
    assert_eq!(text(&imported.stdout), "0 inserted, 5 duplicate\n");
    std::fs::write(
        place.path("bad.jsonl"),
        "{\"type\":\"t\",\"payload\":1}\nnothing\n",
    )
    .expect("a file");
    let bad = place.run(&["queue", "import", "bad.jsonl", "--json"]);
    assert_eq!(bad.status.code(), Some(65));
    assert!(
        text(&bad.stderr).contains("line 2: refused"),
        "{}",
        text(&bad.stderr)
    );
    eventually("the good one is delivered", || place.lines().len() == 6);
    let moved = place.run(&["queue", "import", "--move", "lines.jsonl"]);
    assert_eq!(moved.status.code(), Some(2));
}

#[test]
fn a_stray_queue_file_is_moved_into_the_one_that_is_consumed() {
    let place = Place::new();
    spool(&place, "stray.db", 20);
    let _serve = place.serve();
    let moved = place.json(&["queue", "import", "--move", "stray.db", "--json"]);
    assert_eq!(
        (&moved["inserted"], &moved["moved"]),
        (&20.into(), &20.into())
    );
    eventually("all are delivered", || place.lines().len() == 20);
    let left = succeeds(&mut on(&place, "stray.db", &["queue", "stats", "--json"]));
    assert!(left.contains("\"pending\":0"), "{left}");
    let audit = on(&place, "stray.db", &["audit"])
        .output()
        .expect("the binary runs");
    assert!(audit.status.success(), "{}", text(&audit.stdout));
    // The consumed one is not to be emptied under its consumer.
    let mut other = on(
        &place,
        "stray.db",
        &["queue", "import", "--move", "queue.db"],
    );
    let refused = other.output().expect("the binary runs");
    assert_eq!(refused.status.code(), Some(75), "{}", text(&refused.stderr));
}

#[test]
fn a_damaged_row_fails_the_check_with_what_to_do() {
    let place = Place::new();
    spool(&place, "queue.db", 2);
    let file = rusqlite::Connection::open(place.database()).expect("the queue file");
    file.execute("UPDATE message_queue SET payload = '7' WHERE seq = 1", ())
        .expect("a row");
    drop(file);
    let quick = place.run(&["queue", "check"]);
    assert!(quick.status.success(), "{}", text(&quick.stdout));
    let full = place.run(&["queue", "check", "--full", "--json"]);
    assert_eq!(full.status.code(), Some(70));
    let found: serde_json::Value = serde_json::from_slice(&full.stdout).expect("one JSON object");
    assert_eq!(found["ok"], false);
    assert_eq!(found["findings"][0]["code"], "row_corrupt", "{found}");
    let said = text(&place.run(&["queue", "check", "--full"]).stdout);
    assert!(said.contains("FAULT  row_corrupt: seq 1"), "{said}");
    let status = place.json(&["queue", "migrate", "status", "--json"]);
    assert_eq!(
        (&status["file"], &status["usable"]),
        (&1_000.into(), &true.into())
    );
    let lines = text(&place.run(&["queue", "export"]).stdout);
    assert_eq!(lines.lines().count(), 2);
}

#[test]
fn a_full_queue_file_says_which_limit_it_was_and_what_to_do() {
    let place = Place::new();
    let send = |limit: &[&str]| {
        let mut args = vec!["send", "--type", "event", "{}"];
        args.extend(limit);
        let run = place.run(&args);
        (run.status.code(), text(&run.stderr))
    };
    let room = ["--queue-messages-max", "2", "--queue-bytes-max", "1GiB"];
    for _ in 0..2 {
        assert_eq!(send(&room).0, Some(0));
    }
    let (code, said) = send(&room);
    assert_eq!(code, Some(75), "{said}");
    for part in [
        "error[queue_limit]",
        "queue_messages_max",
        "help:  start a consumer that empties it, or raise the limit",
    ] {
        assert!(said.contains(part), "{part}: {said}");
    }
    let (_, said) = send(&["--queue-bytes-max", "1KiB"]);
    assert!(said.contains("its limit queue_bytes_max"), "{said}");
    // A consumer with the same limit empties it, and what is processed makes room.
    let serve = place.serve_with(&["--queue-messages-max", "2", "--wal-bytes-alarm", "1MiB"]);
    place.drained();
    serve.kill();
    assert_eq!(send(&room).0, Some(0));
}
