//! The socket that a supervisor hands over (systemd's socket activation: `LISTEN_FDS`, `LISTEN_PID`).

use std::os::unix::net::UnixListener;

use listenfd::ListenFd;

use crate::failure::{Failure, exit};

/// The listening socket that was handed to this process, if one was. To be asked once, before there are threads: it
/// takes the variables out of the environment.
pub(crate) fn inherited() -> Result<Option<UnixListener>, Failure> {
    let mut handed = ListenFd::from_env();
    let refused = |what: String| {
        Failure::new(exit::CONFIG, "activation", what)
            .help("give the socket unit one `ListenStream=` with a path")
    };
    if handed.len() > 1 {
        let what = format!("{} sockets were handed over, one is used", handed.len());
        return Err(refused(what));
    }
    handed
        .take_unix_listener(0)
        .map_err(|error| refused(format!("what was handed over cannot be used: {error}")))
}
