//! Files in, acks out.

use std::fs::{self, File};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime};

use rustix::fs::{CWD, FileType, Mode, mknodat};
use serde_json::{Value, json};
use spoolway_consumer::{Builder, ConsumerError, Delivery, Finish};
use tokio::sync::Semaphore;

use crate::support::{PATIENCE, Rig, Seen, message, until};

const HOUR: Duration = Duration::from_secs(60 * 60);

impl Rig {
    fn root(&self) -> PathBuf {
        self.path("spool")
    }

    fn with_directory(&self) -> Builder {
        self.builder().spool_directory(self.root())
    }

    fn folder(&self, folder: &str) -> Folder {
        let root = self.root().join(folder);
        fs::create_dir_all(root.join("messages")).unwrap();
        Folder { root }
    }
}

struct Folder {
    root: PathBuf,
}

impl Folder {
    fn message(&self, name: &str) -> PathBuf {
        self.root.join("messages").join(format!("{name}.json"))
    }

    /// Writes a file the way programs are told to.
    fn put(&self, name: &str, content: impl AsRef<[u8]>) {
        let temporary = self.root.join("messages").join(format!(".{name}"));
        fs::write(&temporary, content).unwrap();
        fs::rename(temporary, self.message(name)).unwrap();
    }

    fn send(&self, id: &str) {
        self.put(id, message(id).to_string());
    }

    fn ack_path(&self, name: &str) -> PathBuf {
        self.root.join("acks").join(format!("{name}.ack"))
    }

    fn ack(&self, name: &str) -> Option<Value> {
        let text = fs::read(self.ack_path(name)).ok()?;
        Some(serde_json::from_slice(&text).expect("an ack is whole"))
    }

    /// Waits until the file is settled: its ack is there, and the file is gone.
    async fn settled(&self, name: &str) -> Value {
        until(&format!("{name} is settled"), || {
            self.ack_path(name).exists() && !self.message(name).exists()
        })
        .await;
        self.ack(name).unwrap()
    }

    fn names(&self, place: &str) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.root.join(place)) else {
            return Vec::new();
        };
        let mut names: Vec<_> = entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    /// The only error that there is.
    fn error(&self) -> Value {
        let names = self.names("errors");
        let records: Vec<_> = names
            .iter()
            .filter(|name| name.ends_with(".json"))
            .collect();
        assert_eq!(records.len(), 1, "{names:?}");
        let text = fs::read(self.root.join("errors").join(records[0])).unwrap();
        serde_json::from_slice(&text).unwrap()
    }
}

fn made_before(path: &Path, age: Duration) {
    let file = File::options().write(true).open(path).unwrap();
    file.set_modified(SystemTime::now() - age).unwrap();
}

#[tokio::test]
async fn a_file_renamed_into_place_is_handled_acked_and_removed() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    until("the directory is made", || rig.root().exists()).await;
    let mode = fs::metadata(rig.root()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700, "for its owner only");

    // A folder that comes while it runs, and what is in it at once.
    let folder = rig.folder("orders");
    folder.send("m1");
    let ack = folder.settled("m1").await;
    assert_eq!(
        (&ack["id"], &ack["outcome"]),
        (&json!("m1"), &json!("processed"))
    );
    assert!(ack["time"].is_i64() && ack["reason"].is_null(), "{ack}");
    folder.put("unnamed", r#"{"type":"t","payload":7}"#);
    assert_eq!(folder.settled("unnamed").await["id"], "unnamed");
    folder.put("file-1", message("other").to_string());
    assert_eq!(
        folder.settled("file-1").await["id"],
        "other",
        "acked by its name"
    );

    let all = seen.all();
    assert_eq!(seen.ids(), ["m1", "unnamed", "other"]);
    assert!(
        all.iter()
            .all(|delivery| delivery.folder.as_deref() == Some("orders"))
    );
    assert!(all.iter().all(|delivery| delivery.timestamp.is_some()));
    assert_eq!(folder.names("messages"), [""; 0]);
    assert_eq!(folder.names("errors"), [""; 0]);
    assert_eq!(
        folder.names("acks"),
        ["file-1.ack", "m1.ack", "unnamed.ack"]
    );
    running.stop().await;
}

#[tokio::test]
async fn what_is_there_at_the_start_is_taken_in_the_order_of_its_names() {
    let rig = Rig::new();
    let folder = rig.folder("a");
    // More than are in hand at a time, and more than one slice of names.
    let names: Vec<String> = (0..2_500).map(|n| format!("m{n:05}")).collect();
    // Without a key nothing is promised of the order in which handlers run.
    names.iter().rev().for_each(|name| {
        let mut message = message(name);
        message["key"] = "k".into();
        folder.put(name, message.to_string());
    });
    rig.folder("b").send("elsewhere");
    let seen = Seen::default();
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    seen.until_count(names.len() + 1).await;
    let mut ids = seen.ids();
    ids.retain(|id| id != "elsewhere");
    let odd = ids.iter().zip(&names).find(|(id, name)| id != name);
    assert!(odd.is_none() && ids.len() == names.len(), "{odd:?}");
    until("all are settled", || folder.names("messages").is_empty()).await;
    assert_eq!(folder.names("acks").len(), names.len());
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_noticed_when_it_comes_not_when_everything_is_looked_at() {
    let rig = Rig::new();
    let seen = Seen::default();
    let folder = rig.folder("a");
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    folder.send("first");
    seen.until_count(1).await;
    let mut took = Vec::new();
    for n in 0..31 {
        let began = Instant::now();
        folder.send(&format!("m{n}"));
        while seen.all().len() < n + 2 {
            assert!(began.elapsed() < PATIENCE);
            tokio::task::yield_now().await;
        }
        took.push(began.elapsed());
    }
    took.sort();
    // Looking once a second would take half of one.
    assert!(
        took[15] < Duration::from_millis(100),
        "median {:?}",
        took[15]
    );
    running.stop().await;
}

#[tokio::test]
async fn what_is_no_message_is_refused_with_its_reason_and_its_content() {
    let mut rig = Rig::new();
    rig.config.message_bytes_max = 1_000;
    let too_large = json!({"type": "t", "payload": "x".repeat(1_000)}).to_string();
    let huge = vec![b' '; 17 << 20];
    for (content, code, kept) in [
        (b"{\"type\":\"t\"".to_vec(), "bad_json", true),
        (b"{\"payload\":1}".to_vec(), "invalid", true),
        (
            b"[{\"type\":\"t\",\"payload\":1}]".to_vec(),
            "invalid",
            true,
        ),
        (
            b"{\"type\":\"t\",\"payload\":\"\xff\"}".to_vec(),
            "bad_json",
            false,
        ),
        (too_large.into_bytes(), "too_large", true),
        (huge, "too_large", false),
    ] {
        let folder = rig.folder(&format!("{code}-{}", content.len()));
        let seen = Seen::default();
        let running = rig
            .start(rig.with_directory().default(seen.handler()))
            .await;
        folder.put("m", &content);
        let ack = folder.settled("m").await;
        assert_eq!(
            (&ack["id"], &ack["outcome"], &ack["code"]),
            (&json!("m"), &json!("refused"), &json!(code))
        );
        let error = folder.error();
        assert_eq!(
            (&error["code"], &error["folder"]),
            (
                &ack["code"],
                &json!(folder.root.file_name().unwrap().to_str().unwrap())
            )
        );
        assert!(
            error["reason"].as_str().unwrap().starts_with(code),
            "{error}"
        );
        let original = match error["original"].as_str() {
            Some(name) => fs::read(folder.root.join("errors").join(name)).unwrap(),
            None => error["content"].as_str().unwrap().into(),
        };
        assert_eq!(original, content);
        assert_eq!(error["original"].is_null(), kept);
        assert!(seen.all().is_empty());
        running.stop().await;
    }
}

#[tokio::test]
async fn a_dead_message_is_acked_as_dead_and_is_among_the_errors() {
    let rig = Rig::new();
    let folder = rig.folder("a");
    let running = rig.start(rig.with_directory()).await;
    folder.send("m1");
    let ack = folder.settled("m1").await;
    assert_eq!(
        (&ack["outcome"], &ack["reason"]),
        (&json!("dead"), &json!("no_route"))
    );
    let error = folder.error();
    assert_eq!(
        (&error["id"], &error["reason"]),
        (&json!("m1"), &json!("no_route"))
    );
    assert_eq!(error["content"], message("m1").to_string());
    assert_eq!(rig.row("m1").unwrap().reason.as_deref(), Some("no_route"));
    running.stop().await;
}

#[tokio::test]
async fn what_is_not_done_in_time_is_stored_and_acked_so() {
    let rig = Rig::new();
    let folder = rig.folder("a");
    let gate = Arc::new(Semaphore::new(0));
    let held = Arc::clone(&gate);
    let handler = move |_: Delivery| {
        let gate = Arc::clone(&held);
        async move { drop(gate.acquire().await) }
    };
    let running = rig.start(rig.with_directory().default(handler)).await;
    folder.send("m1");
    assert_eq!(folder.settled("m1").await["outcome"], "stored");
    assert_eq!(rig.row("m1").unwrap().processed, 0);
    gate.add_permits(1);
    until("its row is processed", || {
        rig.row("m1").unwrap().processed == 1
    })
    .await;
    running.stop().await;
}

#[tokio::test]
async fn everything_but_message_files_is_left_alone() {
    let rig = Rig::new();
    let folder = rig.folder("a");
    let messages = folder.root.join("messages");
    let outside = rig.path("outside.json");
    fs::write(&outside, message("outside").to_string()).unwrap();
    symlink(&outside, messages.join("link.json")).unwrap();
    mknodat(
        CWD,
        messages.join("pipe.json"),
        FileType::Fifo,
        Mode::RWXU,
        0,
    )
    .unwrap();
    fs::create_dir(messages.join("directory.json")).unwrap();
    fs::write(messages.join(".half.json"), "{").unwrap();
    fs::write(messages.join("half.json.tmp"), "{").unwrap();
    fs::write(messages.join("README"), "what").unwrap();
    fs::write(
        messages.join(format!("{}.json", "n".repeat(129))),
        message("n").to_string(),
    )
    .unwrap();
    let names = folder.names("messages");
    // No folders: a link, a file, a name with a dot; and a folder without messages.
    let elsewhere = rig.path("elsewhere");
    fs::create_dir_all(elsewhere.join("messages")).unwrap();
    fs::write(
        elsewhere.join("messages/m.json"),
        message("linked").to_string(),
    )
    .unwrap();
    symlink(&elsewhere, rig.root().join("link")).unwrap();
    fs::write(rig.root().join("file"), "").unwrap();
    fs::create_dir_all(rig.root().join(".hidden/messages")).unwrap();
    fs::write(
        rig.root().join(".hidden/messages/m.json"),
        message("hidden").to_string(),
    )
    .unwrap();
    fs::create_dir(rig.root().join("empty")).unwrap();

    let seen = Seen::default();
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    folder.send("z");
    folder.settled("z").await;
    assert_eq!(seen.ids(), ["z"]);
    assert_eq!(folder.names("messages"), names);
    assert_eq!(folder.names("errors"), [""; 0]);
    assert!(elsewhere.join("messages/m.json").exists() && outside.exists());
    running.stop().await;
}

#[tokio::test]
async fn a_file_that_is_written_in_place_is_taken_when_it_is_whole() {
    let rig = Rig::new();
    let seen = Seen::default();
    let folder = rig.folder("a");
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    let text = message("slow").to_string();
    let (first, rest) = text.split_at(10);
    fs::write(folder.message("slow"), first).unwrap();
    // Somebody else is taken meanwhile, so this one was looked at.
    folder.send("z");
    folder.settled("z").await;
    let whole = format!("{first}{rest}");
    fs::write(folder.message("slow"), whole).unwrap();
    assert_eq!(folder.settled("slow").await["outcome"], "processed");
    assert_eq!(folder.names("errors"), [""; 0]);
    running.stop().await;
}

#[tokio::test]
async fn a_kill_between_the_ack_and_the_removal_runs_nothing_again() {
    let rig = Rig::new();
    let seen = Seen::default();
    let folder = rig.folder("a");
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    folder.send("m1");
    let ack = folder.settled("m1").await;
    running.kill().await;
    // What such a kill leaves: the ack, and the file.
    folder.send("m1");
    folder.send("m2");
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    folder.settled("m2").await;
    until("the copy is gone", || !folder.message("m1").exists()).await;
    let again = folder.ack("m1").unwrap();
    assert_eq!(
        (&again["outcome"], &again["crc"]),
        (&ack["outcome"], &ack["crc"])
    );
    assert_eq!(seen.ids(), ["m1", "m2"]);
    // The same name with another content is another message.
    folder.put(
        "m1",
        json!({"type": "t", "payload": "new", "id": "m1-again"}).to_string(),
    );
    seen.until_count(3).await;
    assert_eq!(seen.ids()[2], "m1-again");
    running.stop().await;
}

#[tokio::test]
async fn a_kill_between_the_commit_and_the_ack_stores_nothing_again() {
    let rig = Rig::new();
    let folder = rig.folder("a");
    let stuck = |_: Delivery| std::future::pending::<()>();
    let running = rig.start(rig.with_directory().default(stuck)).await;
    for id in ["m1", "m2"] {
        folder.send(id);
        assert_eq!(folder.settled(id).await["outcome"], "stored");
    }
    running.kill().await;
    for id in ["m1", "m2"] {
        fs::remove_file(folder.ack_path(id)).unwrap();
    }
    // The file is taken before its row, or beside it.
    folder.send("m1");
    let seen = Seen::default();
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    let ack = folder.settled("m1").await;
    let outcome = ack["outcome"].as_str().unwrap();
    assert!(["stored", "processed"].contains(&outcome), "{ack}");
    let processed = |id: &str| rig.row(id).unwrap().processed == 1;
    until("the rows are processed", || {
        processed("m1") && processed("m2")
    })
    .await;
    // The row is processed before the file is taken.
    folder.send("m2");
    assert_eq!(folder.settled("m2").await["outcome"], "processed");
    let mut ids = seen.ids();
    ids.sort();
    assert_eq!(ids, ["m1", "m2"], "once each");
    running.stop().await;
}

#[tokio::test]
async fn a_kill_between_the_error_and_the_ack_leaves_one_error() {
    let rig = Rig::new();
    let folder = rig.folder("a");
    let running = rig.start(rig.with_directory()).await;
    let temporary = rig.path("kept");
    fs::write(&temporary, "no JSON").unwrap();
    made_before(&temporary, HOUR);
    let again = rig.path("again");
    fs::hard_link(&temporary, &again).unwrap();
    fs::rename(&temporary, folder.message("m1")).unwrap();
    folder.settled("m1").await;
    running.kill().await;
    fs::remove_file(folder.ack_path("m1")).unwrap();
    fs::rename(&again, folder.message("m1")).unwrap();
    let running = rig.start(rig.with_directory()).await;
    assert_eq!(folder.settled("m1").await["outcome"], "refused");
    assert_eq!(folder.error()["content"], "no JSON", "the only one");
    running.stop().await;
}

#[tokio::test]
async fn the_same_message_by_the_socket_and_as_a_file_runs_once() {
    let rig = Rig::new();
    let seen = Seen::default();
    let folder = rig.folder("a");
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    let mut peer = rig.peer().await;
    let mut asked = message("m1");
    asked["requires_ack"] = json!(true);
    peer.send(asked).await;
    assert_eq!(peer.recv().await["outcome"], "processed");
    folder.send("m1");
    assert_eq!(folder.settled("m1").await["outcome"], "processed");
    // In two folders, at once.
    let other = rig.folder("b");
    folder.send("m2");
    other.send("m2");
    folder.settled("m2").await;
    other.settled("m2").await;
    assert_eq!(seen.ids(), ["m1", "m2"]);
    // With another content it is another message, whose id is taken.
    folder.put(
        "m3",
        json!({"id": "m2", "type": "t", "payload": "other"}).to_string(),
    );
    let ack = folder.settled("m3").await;
    assert_eq!(
        (&ack["outcome"], &ack["code"]),
        (&json!("refused"), &json!("conflict"))
    );
    assert_eq!(folder.error()["file"], "m3");
    running.stop().await;
}

#[tokio::test]
async fn a_file_stays_until_its_ack_can_be_written() {
    let rig = Rig::new();
    let seen = Seen::default();
    let folder = rig.folder("a");
    fs::write(folder.root.join("acks"), "no directory").unwrap();
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    folder.send("m1");
    seen.until_count(1).await;
    folder.send("m2");
    seen.until_count(2).await;
    assert!(folder.message("m1").exists(), "nobody was told");
    fs::remove_file(folder.root.join("acks")).unwrap();
    assert_eq!(folder.settled("m1").await["outcome"], "processed");
    folder.settled("m2").await;
    assert_eq!(seen.ids(), ["m1", "m2"]);
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shutdown_leaves_each_file_settled_or_untouched() {
    let rig = Rig::new();
    let folder = rig.folder("a");
    let names: Vec<String> = (0..3_000).map(|n| format!("m{n:05}")).collect();
    names.iter().for_each(|name| folder.send(name));
    let count = Arc::new(AtomicUsize::new(0));
    let handler = || {
        let count = Arc::clone(&count);
        move |_: Delivery| {
            let count = Arc::clone(&count);
            async move {
                count.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    };
    let mut starts = 0;
    while !folder.names("messages").is_empty() {
        starts += 1;
        let before = count.load(Ordering::Relaxed);
        let running = rig.start(rig.with_directory().default(handler())).await;
        until("some are handled", || {
            count.load(Ordering::Relaxed) > before
        })
        .await;
        running.stop().await;
        let (left, acked) = (folder.names("messages").len(), folder.names("acks").len());
        assert_eq!(left + acked, names.len(), "no file is both, none neither");
        assert_eq!(count.load(Ordering::Relaxed), acked, "each ran once");
    }
    assert!(starts > 1, "it was never stopped in the middle");
}

#[tokio::test]
async fn old_acks_and_errors_are_removed_and_young_ones_stay() {
    let mut rig = Rig::new();
    rig.config.retention = 2 * HOUR;
    let folder = rig.folder("a");
    for (place, name) in [
        ("acks", "old.ack"),
        ("errors", "1-old.json"),
        ("errors", "1-old.original"),
        ("acks", ".tmp-1"),
    ] {
        fs::create_dir_all(folder.root.join(place)).unwrap();
        for (name, age) in [
            (name.to_owned(), 3 * HOUR),
            (format!("{name}.mine"), 3 * HOUR),
            (name.replace("old", "young").replace('1', "2"), HOUR),
        ] {
            let path = folder.root.join(place).join(name);
            fs::write(&path, "").unwrap();
            made_before(&path, age);
        }
    }
    let running = rig.start(rig.with_directory()).await;
    until("the old ones are gone", || {
        !folder.root.join("errors/1-old.original").exists() && !folder.ack_path("old").exists()
    })
    .await;
    running.stop().await;
    assert_eq!(
        folder.names("acks"),
        [".tmp-2", "old.ack.mine", "young.ack"]
    );
    assert_eq!(
        folder.names("errors"),
        [
            "1-old.json.mine",
            "1-old.original.mine",
            "2-young.json",
            "2-young.original"
        ]
    );
}

#[tokio::test]
async fn a_second_consumer_of_the_directory_is_refused() {
    let rig = Rig::new();
    let running = rig.start(rig.with_directory()).await;
    let second = spoolway_consumer::Consumer::builder(rig.path("2.sock"), rig.path("2.db"));
    let error = second
        .spool_directory(rig.root())
        .build()
        .await
        .err()
        .unwrap();
    let ConsumerError::Owned { path, .. } = &error else {
        panic!("{error:?}")
    };
    assert!(path.starts_with(rig.root()), "{path:?}");
    let nowhere = rig.path("file");
    fs::write(&nowhere, "").unwrap();
    let second = spoolway_consumer::Consumer::builder(rig.path("2.sock"), rig.path("2.db"));
    let error = second.spool_directory(nowhere).build().await.err().unwrap();
    assert_eq!(error.code(), "spool_directory");
    running.stop().await;
}

#[tokio::test]
async fn a_folder_that_is_made_anew_is_taken_from_again() {
    let rig = Rig::new();
    let seen = Seen::default();
    let running = rig
        .start(rig.with_directory().default(seen.handler()))
        .await;
    for n in 0..3 {
        let folder = rig.folder("a");
        folder.send(&format!("m{n}"));
        folder.settled(&format!("m{n}")).await;
        fs::remove_dir_all(&folder.root).unwrap();
    }
    assert_eq!(seen.ids(), ["m0", "m1", "m2"]);
    running.stop().await;
}

#[tokio::test]
async fn messages_of_a_key_run_in_the_order_of_their_names() {
    let rig = Rig::new();
    let folder = rig.folder("a");
    for n in (0..200).rev() {
        let message = json!({"type": "t", "payload": n, "key": "k"});
        folder.put(&format!("{n:04}"), message.to_string());
    }
    let seen = Seen::default();
    let failed = Arc::new(AtomicUsize::new(0));
    let (noted, once) = (seen.clone(), Arc::clone(&failed));
    let handler = move |delivery: Delivery| {
        let fails = delivery.id.as_str() == "0050" && once.fetch_add(1, Ordering::Relaxed) == 0;
        if !fails {
            noted.note(&delivery);
        }
        async move {
            if fails {
                Finish::Failed("once".into())
            } else {
                Finish::Done
            }
        }
    };
    let running = rig.start(rig.with_directory().default(handler)).await;
    seen.until_count(200).await;
    let names: Vec<String> = (0..200).map(|n| format!("{n:04}")).collect();
    assert_eq!(
        seen.ids(),
        names,
        "also behind one that had to be tried again"
    );
    running.stop().await;
}
