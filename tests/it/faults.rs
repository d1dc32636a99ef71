//! What the user sees when something is wrong.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::{Duration, Instant};

use spoolway::Path;
use spoolway::client::Fate;

use crate::support::{Place, eventually, exists, is_root, message, skip, text};

#[tokio::test]
async fn a_send_without_a_socket_says_so_and_is_stored() {
    let place = Place::new();
    let sent = place.run(&["send", "--type", "order", "{\"id\":2}"]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    let said = text(&sent.stdout);
    assert!(
        said.contains("stored by queue") && said.contains("consumer not running"),
        "{said}"
    );

    // A socket file that nobody listens on: what a killed consumer leaves.
    drop(std::os::unix::net::UnixListener::bind(place.socket()).expect("a socket"));
    let sent = place.run(&["send", "--type", "order", "{\"id\":3}"]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
    assert_eq!(place.pending(), 2);
}

#[test]
fn a_second_consumer_refuses_and_names_the_first() {
    let place = Place::new();
    let serve = place.serve();
    let second = place.run(&["serve"]);
    assert!(!second.status.success());
    let said = text(&second.stderr);
    assert!(
        said.contains(&serve.child.id().to_string()),
        "names no pid: {said}"
    );
}

#[test]
fn a_socket_path_that_is_too_long_is_refused_with_its_length() {
    let place = Place::new();
    let long = place.path(&"x".repeat(108));
    for command in [&["serve"][..], &["send", "--type", "t", "1"]] {
        let mut run = place.command(command);
        let run = run
            .env("SPOOLWAY_SOCKET", &long)
            .output()
            .expect("the binary runs");
        assert!(!run.status.success());
        assert!(text(&run.stderr).contains("107"), "{}", text(&run.stderr));
    }
}

#[test]
fn a_socket_of_another_user_is_named_with_its_owner_and_the_message_is_stored() {
    if !is_root() {
        return skip("only root can become another user");
    }
    let place = Place::new();
    let _serve = place.serve();
    let nobody = 65_534;
    let world = std::fs::Permissions::from_mode(0o777);
    std::fs::set_permissions(place.dir.path(), world).expect("our own directory");
    let binary = place.path("spoolway");
    std::fs::copy(crate::support::SPOOLWAY, &binary).expect("a copy that nobody may run");
    let mut send = Command::new(&binary);
    send.args(["send", "--type", "t", "1"])
        .env("SPOOLWAY_SOCKET", place.socket())
        .env("SPOOLWAY_DATABASE", place.path("own.db"))
        .current_dir(place.dir.path())
        .uid(nobody)
        .gid(nobody);
    let sent = send.output().expect("the binary runs");
    let said = format!("{}{}", text(&sent.stdout), text(&sent.stderr));
    assert!(
        said.contains("permission denied") && said.contains("65534"),
        "{said}"
    );
    assert!(sent.status.success(), "{said}");
}

#[tokio::test]
async fn a_queue_file_deleted_under_a_spooling_producer_takes_no_ok_with_it() {
    let place = Place::new();
    let producer = place.producer().await;
    assert_eq!(
        producer.send(message(None, 1)).await.expect("stored").path,
        Path::Queue
    );
    for suffix in ["", "-wal", "-shm"] {
        let mut name = place.database().into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
    let receipt = producer
        .send(message(None, 2))
        .await
        .expect("stored in a new file");
    assert!(exists(&place.database()), "Ok, but no file");
    let sql = format!(
        "SELECT count(*) FROM message_queue WHERE message_id = '{}'",
        receipt.id
    );
    assert_eq!(place.count(&sql), 1);
}

#[tokio::test]
async fn a_queue_file_deleted_under_an_idle_consumer_is_made_again_and_drained() {
    let place = Place::new();
    let serve = place.serve();
    for suffix in ["", "-wal", "-shm"] {
        let mut name = place.database().into_os_string();
        name.push(suffix);
        let _ = std::fs::remove_file(name);
    }
    eventually("the file is there again", || exists(&place.database()));
    eventually("a foreign row is processed", || {
        let file = rusqlite::Connection::open(place.database()).expect("the new file");
        let insert = "INSERT OR IGNORE INTO message_queue(message_id, type, payload, timestamp)
                      VALUES ('again', 'event', '{\"n\":1}', 1)";
        file.execute(insert, ()).is_ok() && place.found().ids.contains_key("again")
    });
    assert!(serve.terminate().success());
}

#[tokio::test]
async fn on_a_full_disk_without_a_consumer_the_message_is_handed_back_with_both_reasons() {
    if !is_root() {
        return skip("only root can mount a small file system");
    }
    let place = Place::new();
    let small = place.path("small");
    std::fs::create_dir(&small).expect("a directory");
    let mounted = Command::new("mount")
        .args(["-t", "tmpfs", "-o", "size=400k", "tmpfs"])
        .arg(&small)
        .output()
        .expect("mount runs");
    if !mounted.status.success() {
        return skip(&format!(
            "no tmpfs can be mounted: {}",
            text(&mounted.stderr)
        ));
    }
    let _unmount = Unmount(small.clone());
    let producer = spoolway::Producer::open(place.socket(), small.join("queue.db"));
    let producer = producer.await.expect("a producer");
    let mut refused = None;
    for n in 0..10_000 {
        if let Err(error) = producer.send(message(None, n)).await {
            refused = Some((n, error));
            break;
        }
    }
    let (n, error) = refused.expect("400 KiB hold less than 10,000 messages");
    assert!(n > 0, "nothing was stored at all: {error}");
    assert_eq!(error.fate, Fate::NotTaken);
    assert!(error.socket.is_some() && error.queue.is_some(), "{error:?}");
    assert_eq!(error.message.payload.as_str(), format!("{{\"n\":{n}}}"));
}

struct Unmount(std::path::PathBuf);

impl Drop for Unmount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

#[tokio::test]
async fn the_send_after_a_kill_is_stored_soon_and_the_fast_path_is_back_soon_after_the_consumer() {
    let place = Place::new();
    let serve = place.serve();
    let producer = place.producer().await;
    let first = producer.send(message(None, 0)).await.expect("taken");
    assert_eq!(first.path, Path::Socket);
    serve.kill();
    let start = Instant::now();
    let stored = producer.send(message(None, 1)).await.expect("stored");
    println!("stored {:?} after the kill", start.elapsed());
    assert_eq!(stored.path, Path::Queue);
    let _serve = place.serve();
    let back = Instant::now();
    let deadline = back + Duration::from_secs(20);
    loop {
        let receipt = producer.send(message(None, 2)).await.expect("taken");
        if receipt.path == Path::Socket {
            break;
        }
        assert!(
            Instant::now() < deadline,
            "the fast path does not come back"
        );
    }
    println!(
        "fast path in use {:?} after the consumer listens",
        back.elapsed()
    );
}

#[test]
fn a_bad_line_is_named_and_does_not_stop_the_others() {
    let place = Place::new();
    let input = place.path("events.jsonl");
    let lines = "{\"type\":\"a\",\"payload\":1}\nnot JSON\n{\"payload\":1}\n{\"type\":\"b\",\"payload\":2}\n";
    std::fs::write(&input, lines).expect("an input file");
    let sent = place.run(&["send", "--file", input.to_str().expect("UTF-8")]);
    assert_eq!(sent.status.code(), Some(65), "{}", text(&sent.stderr));
    let said = text(&sent.stderr);
    assert!(
        said.contains("line 2") && said.contains("line 3") && said.contains("type"),
        "{said}"
    );
    assert_eq!(place.pending(), 2);
}

#[test]
fn empty_input_sends_nothing_and_is_no_error() {
    let place = Place::new();
    let input = place.path("empty.jsonl");
    std::fs::write(&input, "").expect("an input file");
    let sent = place.run(&["send", "--file", input.to_str().expect("UTF-8")]);
    assert!(sent.status.success(), "{}", text(&sent.stderr));
}
