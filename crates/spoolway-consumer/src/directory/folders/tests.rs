//! Slices of real directories.

use std::thread;

use super::*;

struct Rig {
    dir: tempfile::TempDir,
    hand: Arc<Hand>,
    folders: Folders,
    folder: Arc<Folder>,
}

impl Rig {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("a/messages")).unwrap();
        let hand = Arc::new(Hand::default());
        let news = Arc::default();
        let mut folders = Folders::new(dir.path().into(), Arc::clone(&hand), &news);
        news.note_all();
        let changed = news.take().unwrap();
        let folder = folders.look(&changed).pop().unwrap();
        Self {
            dir,
            hand,
            folders,
            folder,
        }
    }

    fn slice(&mut self, passed: &[&str]) -> Slice {
        let passed = passed.iter().map(|name| Box::from(*name)).collect();
        self.folders.slice(&self.folder, &passed)
    }
}

#[test]
fn a_slice_has_the_first_names_of_those_that_are_neither_in_hand_nor_passed_over() {
    let mut rig = Rig::new();
    let names: Vec<String> = (0..NAMES_MAX + 10).map(|n| format!("{n:05}")).collect();
    for name in names.iter().rev() {
        fs::write(rig.folder.message(name), "").unwrap();
    }
    let slice = rig.slice(&[]);
    assert_eq!(slice.names.len(), NAMES_MAX);
    assert!(slice.more);
    assert!(
        slice
            .names
            .iter()
            .zip(&names)
            .all(|(found, name)| **found == **name)
    );

    for name in &names[1..NAMES_MAX] {
        rig.hand.take(rig.folder.message(name), 0);
    }
    let slice = rig.slice(&["00000"]);
    let left: Vec<Box<str>> = names[NAMES_MAX..]
        .iter()
        .map(|name| (**name).into())
        .collect();
    assert_eq!(slice.names, left);
    assert!(!slice.more);
    rig.hand.release(&rig.folder.message("00007"), 0);
    assert_eq!(rig.slice(&[]).names[..2], ["00000".into(), "00007".into()]);
}

/// A directory that was read once while it changed had the later of two files, and not the one before it.
#[test]
fn names_that_rise_are_never_overtaken_while_the_directory_is_read() {
    const COUNT: usize = 4_000;
    let mut rig = Rig::new();
    // So many that the system takes several calls to list them; in between others come.
    for n in 0..6_000 {
        fs::write(rig.folder.messages().join(format!("{n}.txt")), "").unwrap();
    }
    let folder = Arc::clone(&rig.folder);
    let temporary = rig.dir.path().join("temporary");
    let writer = thread::spawn(move || {
        for n in 0..COUNT {
            fs::write(&temporary, "").unwrap();
            fs::rename(&temporary, folder.message(&format!("{n:05}"))).unwrap();
        }
    });
    let mut taken = Vec::new();
    while taken.len() < COUNT {
        let slice = rig.slice(&[]);
        // Taken one at a time, so that many stay and each reading takes its time.
        let some = if writer.is_finished() { COUNT } else { 3 };
        for name in slice.names.into_iter().take(some) {
            fs::remove_file(rig.folder.message(&name)).unwrap();
            taken.push(name);
        }
    }
    writer.join().unwrap();
    assert!(
        taken.is_sorted(),
        "a later name was taken before an earlier one"
    );
}

#[test]
fn a_folder_is_known_while_it_is_there_and_takes_once_it_has_messages() {
    let mut rig = Rig::new();
    let all = Changed {
        all: true,
        ..Changed::default()
    };
    fs::create_dir(rig.dir.path().join("b")).unwrap();
    let names = |found: Vec<Arc<Folder>>| -> Vec<Box<str>> {
        found.iter().map(|folder| folder.name.clone()).collect()
    };
    assert_eq!(names(rig.folders.look(&all)), ["a".into()]);
    fs::create_dir(rig.dir.path().join("b/messages")).unwrap();
    let changed = Changed {
        paths: [rig.dir.path().join("b")].into(),
        ..Changed::default()
    };
    assert_eq!(
        names(rig.folders.look(&changed)),
        ["b".into()],
        "that one alone"
    );
    assert!(rig.dir.path().join("b/acks").is_dir() && rig.dir.path().join("b/errors").is_dir());
    fs::remove_dir_all(rig.dir.path().join("a")).unwrap();
    assert_eq!(names(rig.folders.look(&all)), ["b".into()]);
}
