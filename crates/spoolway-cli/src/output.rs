//! The two streams: data to the standard output, talk to the standard error stream.

use std::fmt::Display;
use std::io::{self, Write as _};

use serde::Serialize;

use crate::failure::Failure;

/// Writes lines of data. A reader that went away (`| head`) is the end of it, not an error.
pub(crate) fn print(text: impl Display) -> Result<(), Failure> {
    let mut stdout = io::stdout().lock();
    let written = writeln!(stdout, "{text}").and_then(|()| stdout.flush());
    match written {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(Failure::io("cannot write to the standard output", &error))
        }
        _ => Ok(()),
    }
}

/// Writes one line of JSON as data.
pub(crate) fn print_json(value: &impl Serialize) -> Result<(), Failure> {
    let text = serde_json::to_string(value)
        .map_err(|error| Failure::io("cannot write JSON", &io::Error::from(error)))?;
    print(text)
}

/// Says something to the person. When nobody listens, nothing can be done about it.
pub(crate) fn tell(text: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}
