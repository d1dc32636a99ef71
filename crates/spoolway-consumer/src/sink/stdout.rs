//! Lines on the standard output.

use std::io::{self, Write};

use spoolway_proto::Message;

use super::Target;

/// The standard output of the process.
pub(super) struct StdoutTarget;

impl Target for StdoutTarget {
    fn has(&self, _: &Message) -> bool {
        false
    }

    fn append(&mut self, lines: &[u8], _: usize) -> io::Result<()> {
        let mut stdout = io::stdout().lock();
        stdout.write_all(lines)?;
        stdout.flush()
    }

    fn close(&mut self, _: bool) {}
}
