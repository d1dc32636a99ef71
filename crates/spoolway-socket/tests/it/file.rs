//! The socket's file and its lock.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;

use spoolway_socket::{ListenError, SocketFile};

use crate::support::{Rig, asking};

#[tokio::test]
async fn a_socket_is_private_and_a_second_server_is_refused() {
    let rig = Rig::new();
    let (mut first, _) = rig.hearing();
    first.start().await.unwrap();
    assert_eq!(fs::metadata(rig.path()).unwrap().mode() & 0o777, 0o600);
    let (mut second, _) = rig.hearing();
    let error = second.start().await.unwrap_err();
    assert!(matches!(error, ListenError::Occupied { .. }), "{error:?}");
    rig.client().await.send(&asking("tea")).await.unwrap();
    first.stop().await;
    second.start().await.unwrap();
    rig.client().await.send(&asking("tea")).await.unwrap();
    second.stop().await;
}

#[tokio::test]
async fn only_a_stale_socket_is_replaced() {
    let rig = Rig::new();
    let (mut server, _) = rig.hearing();
    fs::write(rig.path(), "text").unwrap();
    let error = server.start().await.unwrap_err();
    assert!(matches!(error, ListenError::Occupied { .. }), "{error:?}");
    fs::remove_file(rig.path()).unwrap();
    let foreign = UnixListener::bind(rig.path()).unwrap();
    let error = server.start().await.unwrap_err();
    assert!(matches!(error, ListenError::Occupied { .. }), "{error:?}");
    drop(foreign);
    server.start().await.unwrap();
    server.stop().await;
}

#[tokio::test]
async fn an_inherited_socket_is_neither_removed_nor_closed_to_those_who_wait() {
    let rig = Rig::new();
    let made = UnixListener::bind(rig.path()).unwrap();
    let inherited = SocketFile::inherited(made.try_clone().unwrap(), &rig.path()).unwrap();
    let mut listener = inherited.listener().unwrap();
    let _early = rig.peer().await;
    listener.accept().await;
    let mut late = rig.peer().await;
    late.write("{}").await;
    listener.close(|_| panic!("it is the next one's"));
    drop(inherited);
    assert!(rig.path().exists());
    // The one that waits is there for the next, and so is the socket.
    let _later = rig.peer().await;
    made.set_nonblocking(true).unwrap();
    assert!(made.accept().is_ok() && made.accept().is_ok());
}
