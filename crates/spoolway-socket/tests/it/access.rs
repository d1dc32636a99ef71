//! Who may connect: peers of other users, which only root can be.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::Command;

use spoolway_socket::{Access, UnixSocketClient, UnixSocketServer, UnixSocketServerConfig};
use tokio::task::spawn_blocking;

use crate::support::{Rig, asking};

/// Where the peer of another user is to connect.
const SOCKET: &str = "SPOOLWAY_TEST_SOCKET";
const UID: u32 = 61_001;
const GID: u32 = 62_001;
/// How many connections a peer keeps open before the one that sends.
const HELD: &str = "SPOOLWAY_TEST_HELD";

/// Not a test: the peer of another user, which says what it is told.
#[tokio::test]
async fn peer_of_another_user() {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return;
    };
    let held: usize = std::env::var(HELD).map_or(0, |held| held.parse().unwrap());
    let mut open = Vec::new();
    for _ in 0..held {
        let client = UnixSocketClient::open(&socket).await.unwrap();
        client.send(&asking("held")).await.unwrap();
        open.push(client);
    }
    let told = match UnixSocketClient::open(&socket).await {
        Ok(client) => client.send(&asking("tea")).await.map(drop),
        Err(error) => Err(error),
    };
    match told {
        Ok(()) => println!("told: taken"),
        Err(error) => println!("told: {}: {error}", error.code()),
    }
}

/// What a peer with these users and groups is told; the last group is a supplementary one.
async fn told(path: &Path, uid: u32, gid: u32, also: Option<u32>, held: usize) -> String {
    let mut setpriv = Command::new("setpriv");
    setpriv.args([format!("--reuid={uid}"), format!("--regid={gid}")]);
    match also {
        Some(also) => setpriv.arg(format!("--groups={also}")),
        None => setpriv.arg("--clear-groups"),
    };
    setpriv
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", "access::peer_of_another_user"])
        .env(SOCKET, path)
        .env(HELD, held.to_string());
    let output = spawn_blocking(move || setpriv.output()).await.unwrap();
    let said = String::from_utf8(output.unwrap().stdout).unwrap();
    let told = said.lines().find_map(|line| line.split_once("told: "));
    told.unwrap_or_else(|| panic!("{said}")).1.to_owned()
}

fn may_change_user() -> bool {
    let may = rustix::process::geteuid().is_root()
        && Command::new("setpriv").arg("--version").output().is_ok();
    if !may {
        assert!(
            std::env::var_os("SPOOLWAY_CI").is_none(),
            "CI requires the tests of other users"
        );
        eprintln!("SKIPPED: only root with `setpriv` can be a peer of another user");
    }
    may
}

async fn listening(rig: &Rig, access: Access) -> UnixSocketServer {
    fs::set_permissions(rig.path().parent().unwrap(), Permissions::from_mode(0o755)).unwrap();
    let mut server = UnixSocketServer::new(UnixSocketServerConfig {
        access,
        max_connections: 10,
        max_connections_per_uid: Some(3),
        ..UnixSocketServerConfig::new(rig.path())
    });
    server.set_message_handler(|_| async { Ok::<(), String>(()) });
    server.start().await.unwrap();
    server
}

fn open_to_all(path: &Path) {
    fs::set_permissions(path, Permissions::from_mode(0o666)).unwrap();
}

#[tokio::test]
async fn another_user_is_refused_in_the_same_words_by_the_file_and_by_the_server() {
    if !may_change_user() {
        return;
    }
    let rig = Rig::new();
    let mut server = listening(&rig, Access::default()).await;
    assert_eq!(
        told(&rig.path(), UID, GID, None, 0).await,
        format!(
            "permission_denied: cannot connect to {}: permission denied (socket mode 0600, owner uid 0, \
             you are uid {UID}); see whether its server runs, and may be used",
            rig.path().display()
        )
    );
    open_to_all(&rig.path());
    assert_eq!(
        told(&rig.path(), UID, GID, None, 0).await,
        format!(
            "forbidden: ended by the server (forbidden: permission denied (socket mode 0666, owner uid 0, \
             you are uid {UID}))"
        )
    );
    server.stop().await;
}

#[tokio::test]
async fn one_group_has_the_socket_and_its_members_may_send() {
    if !may_change_user() {
        return;
    }
    let rig = Rig::new();
    let gids = vec![GID];
    let mut server = listening(&rig, Access { uids: vec![], gids }).await;
    let file = fs::metadata(rig.path()).unwrap();
    assert_eq!((file.mode() & 0o777, file.gid()), (0o660, GID));
    let path = rig.path();
    assert_eq!(told(&path, UID, GID, None, 0).await, "taken");
    assert_eq!(told(&path, UID, UID, Some(GID), 0).await, "taken");
    let refused = told(&path, UID, UID, None, 0).await;
    assert!(
        refused.contains("socket mode 0660, owner uid 0"),
        "{refused}"
    );
    // What the file no longer says is not known of a supplementary group.
    open_to_all(&path);
    let refused = told(&path, UID, UID, None, 0).await;
    assert!(refused.starts_with("forbidden"), "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn users_and_several_groups_are_on_the_list_of_the_file() {
    if !may_change_user() {
        return;
    }
    let rig = Rig::new();
    let (uids, gids) = (vec![UID], vec![GID, GID + 1]);
    let mut server = listening(&rig, Access { uids, gids }).await;
    assert_eq!(fs::metadata(rig.path()).unwrap().mode() & 0o777, 0o660);
    let path = rig.path();
    assert_eq!(told(&path, UID, UID, None, 0).await, "taken");
    for gid in [GID, GID + 1] {
        assert_eq!(told(&path, UID + 1, gid, None, 0).await, "taken");
        assert_eq!(told(&path, UID + 1, UID + 1, Some(gid), 0).await, "taken");
    }
    let refused = told(&path, UID + 1, UID + 1, None, 0).await;
    assert!(refused.starts_with("permission_denied"), "{refused}");
    server.stop().await;
}

#[tokio::test]
async fn a_user_has_its_share_of_the_connections_and_others_find_room() {
    if !may_change_user() {
        return;
    }
    let rig = Rig::new();
    let (uids, gids) = (vec![UID], vec![]);
    let mut server = listening(&rig, Access { uids, gids }).await;
    let path = rig.path();
    assert_eq!(told(&path, UID, UID, None, 2).await, "taken");
    let refused = told(&path, UID, UID, None, 3).await;
    assert!(refused.starts_with("busy"), "{refused}");
    assert!(refused.contains("max_connections_per_uid"), "{refused}");
    let own = [
        rig.client().await,
        rig.client().await,
        rig.client().await,
        rig.client().await,
    ];
    for client in own {
        client.send(&asking("tea")).await.unwrap();
    }
    server.stop().await;
}
