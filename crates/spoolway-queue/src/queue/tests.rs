//! A handle in a forked child.

use std::fs;
use std::sync::atomic::Ordering;
use std::sync::mpsc;

use super::*;
use crate::Watch;

#[test]
fn in_a_forked_child_a_handle_says_so_and_touches_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("q.db");
    let queue = SqliteQueue::open(&path, QueueOptions::default()).unwrap();
    let message = spoolway_proto::Message::new("t", &1).unwrap().id("a");
    queue.enqueue(&message).unwrap();
    let watch = Watch::start(&queue, || {}).unwrap();
    // Forking is not possible from a test with threads; this is what the child of one finds.
    queue.shared().pid.store(0, Ordering::Relaxed);
    let log = side_file(&path, "-wal");
    let before = (fs::read(&path).unwrap(), fs::read(&log).unwrap());

    let (sender, answer) = mpsc::channel();
    queue.submit(Vec::new(), move |written| sender.send(written).unwrap());
    for error in [
        answer.recv().unwrap().unwrap_err(),
        queue.write(Vec::new()).unwrap_err(),
        queue.enqueue(&message).unwrap_err(),
        queue.dequeue(1).unwrap_err(),
        queue.stats().unwrap_err(),
        queue.cleanup(Duration::ZERO).unwrap_err(),
        queue.shutdown_clean(Vec::new()).unwrap_err(),
    ] {
        assert_eq!(error.code(), "queue_forked");
        assert!(error.to_string().contains("open it again"), "{error}");
    }
    queue.close();
    let shared = Arc::clone(queue.shared());
    drop(queue);
    assert_eq!((fs::read(&path).unwrap(), fs::read(&log).unwrap()), before);
    // The parent's writer is still there.
    shared.pid.store(std::process::id(), Ordering::Relaxed);
    shared.tray.close();
    drop(watch);
}
