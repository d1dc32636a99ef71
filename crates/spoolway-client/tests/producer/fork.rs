//! What a producer does in a child of the process that opened it.

use std::time::Duration;

use fork::{Fork, fork};
use rustix::process::{Pid, WaitOptions, waitpid};
use spoolway_client::{Producer, SendCode};

use crate::support::{Bed, message, soon, until};

/// The child's verdict is its exit code, since only that reaches the parent.
#[tokio::test]
async fn the_child_of_a_fork_gets_errors_and_leaves_everything_alone() {
    let bed = Bed::new();
    let producer = soon(bed.builder().open()).await.unwrap();
    soon(producer.send(message(1))).await.unwrap();
    match fork().unwrap() {
        Fork::Child => std::process::exit(seen_from_the_child(producer)),
        Fork::Parent(child) => {
            let child = Pid::from_raw(child).unwrap();
            let mut code = None;
            until("the child ends", || {
                let ended = waitpid(Some(child), WaitOptions::NOHANG).unwrap();
                code = ended.map(|(_, status)| status.exit_status());
                code.is_some()
            })
            .await;
            assert_eq!(code.unwrap(), Some(0), "how many things it saw");
        }
    }
    // Whatever the child did, and its end: the parent's producer goes on.
    soon(producer.send(message(2))).await.unwrap();
    assert_eq!(bed.ids(), ["1", "2"]);
    let closed = soon(producer.close(Duration::from_secs(10))).await;
    assert!(closed.returned.is_empty());
}

/// 0, or which step went wrong. Nothing here may wait: of all threads only this one is there.
fn seen_from_the_child(producer: Producer) -> i32 {
    let error = producer.send_later(message("child")).unwrap_err();
    if error.code != SendCode::Forked {
        return 1;
    }
    if !error
        .to_string()
        .starts_with("not taken: the producer belongs to the parent")
    {
        return 2;
    }
    match producer.send(message("child")).wait() {
        Err(error) if error.code == SendCode::Forked => {}
        _ => return 3,
    }
    if producer.try_send(message("child")).is_ok() {
        return 4;
    }
    drop(producer);
    0
}
