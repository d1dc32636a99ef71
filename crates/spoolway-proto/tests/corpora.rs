//! Runs every file of the corpora of `tests/fuzz` through the checks of its target, without a fuzzer.

#![allow(
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "a test: a panic is the report"
)]

#[path = "../../../tests/fuzz/checks/chunks.rs"]
mod chunks;
#[path = "../../../tests/fuzz/checks/envelope.rs"]
mod envelope;
#[path = "../../../tests/fuzz/checks/frames.rs"]
mod frames;
#[path = "../../../tests/fuzz/checks/lines.rs"]
mod lines;

/// Calls `check` with every file of a corpus; the output of a test that fails ends with the file at fault.
fn replay(target: &str, check: impl Fn(&[u8])) {
    let corpus = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/fuzz/corpus");
    let files = std::fs::read_dir(format!("{corpus}/{target}")).unwrap();
    let mut replayed = 0;
    for file in files {
        let path = file.unwrap().path();
        println!("{}", path.display());
        check(&std::fs::read(path).unwrap());
        replayed += 1;
    }
    assert!(replayed >= 10, "{replayed} files");
}

#[test]
fn the_corpus_of_envelope_holds() {
    replay("envelope", envelope::check);
}

#[test]
fn the_corpus_of_frames_holds() {
    replay("frames", frames::check);
}

#[test]
fn the_corpus_of_lines_holds() {
    replay("lines", lines::check);
}
