//! A socket that belongs to whoever started the consumer, as with systemd.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixListener;
use std::process::{Command, Stdio};
use std::time::Duration;

use spoolway::client::Path;
use spoolway::{Message, Producer, UnixSocketClient};

use crate::support::{Place, SPOOLWAY, Serve, eventually};

const DEADLINE: Duration = Duration::from_secs(60);

/// Starts `serve` with the socket as its descriptor 3. The shell stands in for systemd: the process that it becomes keeps
/// its id.
fn activate(place: &Place, socket: OwnedFd) -> Serve {
    let script = r#"exec 3<&0 </dev/null; exec env LISTEN_PID=$$ LISTEN_FDS=1 "$@""#;
    let sink = format!("file:{}", place.out().display());
    let child = Command::new("sh")
        .args(["-c", script, "sh", SPOOLWAY, "serve", "--sink", &sink])
        // Its own path is another one: that of the socket counts.
        .env("SPOOLWAY_SOCKET", place.path("unused.sock"))
        .env("SPOOLWAY_DATABASE", place.database())
        .stdin(Stdio::from(socket))
        .stderr(File::create(place.path("serve.log")).expect("a log file"))
        .spawn()
        .expect("a shell");
    Serve { child }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_who_connects_while_no_consumer_runs_is_lost() {
    let place = Place::new();
    let listener = UnixListener::bind(place.socket()).expect("a socket");
    let socket = || OwnedFd::from(listener.try_clone().expect("a descriptor"));
    let message = |kind| Message::new(kind, &1).expect("a message");
    for round in 1..=3 {
        // One that writes and is gone, one that waits for its answer, and a producer.
        let gone = UnixSocketClient::connect(place.socket(), DEADLINE).await;
        gone.expect("the backlog")
            .send(&message("gone"))
            .await
            .expect("the backlog");
        let waits = UnixSocketClient::connect(place.socket(), DEADLINE).await;
        let waits = waits.expect("the backlog");
        let waiting = tokio::spawn(async move {
            let message = message("waits").requires_ack(true);
            waits.send(&message).await
        });
        let opening = Producer::builder(place.socket(), place.database())
            .connect_timeout(DEADLINE)
            .send_timeout(DEADLINE)
            .open();
        let sending = tokio::spawn(async move {
            let producer = opening.await.expect("a producer");
            producer.send(message("produced")).await
        });
        let serve = activate(&place, socket());
        let reply = waiting.await.expect("no panic").expect("an answer");
        assert!(reply.is_some_and(|reply| reply.success));
        let receipt = sending.await.expect("no panic").expect("a receipt");
        assert_eq!(receipt.path, Path::Socket);
        eventually("all three are processed", || {
            place.lines_so_far() == round * 3
        });
        assert!(serve.terminate().success(), "{}", place.said("serve.log"));
        assert!(place.socket().exists(), "the socket is not its own");
    }
    let said = place.said("serve.log");
    assert!(
        said.contains("s.sock") && !said.contains("unused"),
        "{said}"
    );
    assert!(!place.path("unused.sock.lock").exists());
}

#[test]
fn what_is_no_socket_is_refused() {
    let place = Place::new();
    let file = File::create(place.path("file")).expect("a file");
    let mut serve = activate(&place, file.into());
    let status = crate::support::wait(&mut serve.child);
    let said = place.said("serve.log");
    assert!(said.contains("error[activation]"), "{status}: {said}");
}
