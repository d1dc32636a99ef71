//! What a socket directory shows.

use std::fs;
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};

use spoolway_socket::{
    Found, Health, SocketName, UnixSocketServer, UnixSocketServerConfig, sockets,
};

use crate::support::DEADLINE;

async fn serving(path: std::path::PathBuf, max_connections: usize) -> UnixSocketServer {
    let mut server = UnixSocketServer::new(UnixSocketServerConfig {
        max_connections,
        ..UnixSocketServerConfig::new(path)
    });
    server.set_message_handler(|_| async { Ok::<(), String>(()) });
    server.start().await.unwrap();
    server
}

#[tokio::test]
async fn live_stale_and_silent_sockets_are_told_apart_and_left_alone() {
    let directory = tempfile::tempdir().unwrap();
    let path = |channel, instance| {
        let name = SocketName::new(channel, instance).unwrap();
        name.path_in(directory.path()).unwrap()
    };
    let mut server = serving(path("orders", "1"), 9).await;
    drop(UnixListener::bind(path("orders", "2")).unwrap());
    // Connections wait in its backlog, as they do at a process that is stopped.
    let _silent = UnixListener::bind(path("market-data", "eu")).unwrap();
    let mut full = serving(path("full", "1"), 0).await;
    drop(UnixListener::bind(directory.path().join("nameless.sock")).unwrap());
    fs::write(path("file", "1"), "").unwrap();

    let began = Instant::now();
    let found = sockets(directory.path(), Duration::from_millis(200))
        .await
        .unwrap();
    assert!(began.elapsed() < DEADLINE);
    let shown: Vec<(String, String)> = found
        .iter()
        .map(|Found { name, health, .. }| (name.to_string(), shown(health)))
        .collect();
    let expected = [
        ("full-1.sock", "live, full"),
        (
            "market-data-eu.sock",
            "not_answering: not responding (timeout)",
        ),
        ("orders-1.sock", "live"),
        (
            "orders-2.sock",
            "stale: consumer not running (connection refused)",
        ),
    ];
    assert_eq!(
        shown,
        expected.map(|(name, state)| (name.into(), state.into()))
    );
    let own = rustix::process::geteuid().as_raw();
    assert!(found.iter().all(|one| one.uid == own && one.age < DEADLINE));
    let live = &found[2];
    assert_eq!((live.name.channel(), live.name.instance()), ("orders", "1"));
    let pid = std::process::id();
    assert!(matches!(live.health, Health::Live { pid: Some(found), .. } if found == pid));
    assert!(path("orders", "2").exists());
    server.stop().await;
    full.stop().await;
}

fn shown(health: &Health) -> String {
    let state = health.as_str();
    match health {
        Health::Live { full: true, .. } => format!("{state}, full"),
        Health::Live { .. } => state.to_owned(),
        Health::Stale(why) | Health::NotAnswering { why, .. } => format!("{state}: {why}"),
        other => format!("{state}: {other:?}"),
    }
}

#[tokio::test]
async fn a_directory_that_is_not_there_is_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let error = sockets(directory.path().join("no"), DEADLINE)
        .await
        .unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::NotFound);
}
