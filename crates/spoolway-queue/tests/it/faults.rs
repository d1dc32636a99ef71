//! A full disk: an error with a code, and writes go on by themselves when there is room.

use std::fs;
use std::path::Path;
use std::process::Command;

use spoolway_proto::Message;
use spoolway_queue::{QueueError, Role, SqliteQueue};

use crate::support::{consumer, message, row, wait_until};

/// A small file system that goes with this value.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount(size: &str) -> Option<Self> {
        let dir = tempfile::tempdir().unwrap();
        let mounted = Command::new("mount")
            .args([
                "-t",
                "tmpfs",
                "-o",
                &format!("size={size}"),
                "spoolway-test",
            ])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        mounted.then(|| Self(dir))
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        Command::new("umount")
            .arg("-l")
            .arg(self.path())
            .status()
            .ok();
    }
}

fn large(n: usize) -> Message {
    Message::new("task", &"x".repeat(50_000))
        .unwrap()
        .id(format!("m{n}"))
}

#[test]
fn a_full_disk_is_an_error_and_writes_go_on_when_there_is_room() {
    for role in [Role::Producer, Role::Consumer] {
        let Some(disk) = SmallDisk::mount("4m") else {
            println!("skipped: mounting a tmpfs needs root");
            return;
        };
        let options = spoolway_queue::QueueOptions { role, ..consumer() };
        let queue = SqliteQueue::open(disk.path().join("q.db"), options).unwrap();
        fs::write(disk.path().join("ballast"), vec![0; 1 << 20]).unwrap();
        let mut stored = Vec::new();
        let error = loop {
            let n = stored.len();
            match queue.write(vec![row(large(n))]) {
                Ok(_) => stored.push(format!("m{n}")),
                Err(error) => break error,
            }
            assert!(n < 1_000, "the disk never filled");
        };
        assert!(matches!(error, QueueError::Full { .. }), "{error:?}");
        let refused = queue.write(vec![row(large(5_000))]).unwrap_err();
        assert_eq!(refused.code(), "queue_full");

        fs::remove_file(disk.path().join("ballast")).unwrap();
        wait_until("writes go on", || {
            queue.write(vec![row(message("after"))]).is_ok()
        });
        stored.push("after".into());
        let page = queue
            .candidates(spoolway_queue::Cursor::default(), 1_000)
            .unwrap();
        let ids: Vec<_> = page
            .candidates
            .iter()
            .map(|row| row.message.id.to_string())
            .collect();
        let missing: Vec<_> = stored.iter().filter(|id| !ids.contains(id)).collect();
        assert!(missing.is_empty() && page.damaged.is_empty(), "{missing:?}");
        drop(queue);
    }
}

#[test]
fn cleanup_makes_room_on_a_full_disk() {
    for role in [Role::Producer, Role::Consumer] {
        let Some(disk) = SmallDisk::mount("4m") else {
            println!("skipped: mounting a tmpfs needs root");
            return;
        };
        let options = spoolway_queue::QueueOptions { role, ..consumer() };
        let queue = SqliteQueue::open(disk.path().join("q.db"), options).unwrap();
        // Small rows, so that as little as possible is left when no more fits.
        let mut stored = 0;
        while queue
            .write(vec![row(message(&format!("m{stored}")))])
            .is_ok()
        {
            if stored < 2_000 {
                let id = format!("m{stored}").parse().unwrap();
                queue.mark_processed(&id).unwrap();
            }
            stored += 1;
        }
        assert!(stored > 2_500, "{stored}");
        fs::write(disk.path().join("ballast"), vec![0; 1 << 20]).unwrap_err();
        let refused = queue.write(vec![row(large(50_000))]).unwrap_err();
        assert_eq!(refused.code(), "queue_full");

        assert_eq!(queue.cleanup(std::time::Duration::ZERO).unwrap(), 2_000);
        let stats = queue.stats().unwrap();
        assert_eq!(stats.pending, stored - 2_000);
        queue.write(vec![row(message("after"))]).unwrap();
    }
}

#[test]
fn a_directory_that_comes_back_is_written_to_again() {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("home");
    fs::create_dir(&home).unwrap();
    let queue = SqliteQueue::open(home.join("q.db"), consumer()).unwrap();
    fs::remove_dir_all(&home).unwrap();
    let error = queue.write(vec![row(message("a"))]).unwrap_err();
    assert_eq!(error.code(), "queue_io");
    fs::create_dir(&home).unwrap();
    queue.write(vec![row(message("a"))]).unwrap();
    assert_eq!(queue.peek(9).unwrap().len(), 1);
}
