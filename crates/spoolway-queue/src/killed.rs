//! What a kill leaves: this test binary again, as a child that ends itself with SIGKILL at a named step.

use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const STEP: &str = "SPOOLWAY_TEST_KILL_AT";
const FILE: &str = "SPOOLWAY_TEST_KILL_FILE";

/// Ends the process, like a kill from outside, if it is a child that is to end at this step.
pub(crate) fn at(step: &str) {
    if std::env::var(STEP).is_ok_and(|wanted| wanted == step) {
        rustix::process::kill_process(rustix::process::getpid(), rustix::process::Signal::KILL)
            .unwrap();
    }
}

/// The file that this process works on, if it is such a child.
pub(crate) fn file() -> Option<PathBuf> {
    std::env::var_os(FILE).map(PathBuf::from)
}

/// Runs an ignored test as a child on that file; it must be killed at the step.
pub(crate) fn child(part: &str, step: &str, file: &Path) {
    let status = Command::new(std::env::current_exe().unwrap())
        .args([part, "--exact", "--ignored", "--quiet"])
        .env(STEP, step)
        .env(FILE, file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .unwrap();
    assert_eq!(status.signal(), Some(9), "{part} never came to {step:?}");
}
