//! What a supervisor is told, and the units in `examples/systemd`.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use crate::support::{Place, SPOOLWAY, Serve, skip, text};

/// The supervisor's end: what it was told, one datagram a time.
struct Told(UnixDatagram);

impl Told {
    fn next(&self) -> String {
        let mut buffer = [0; 4_096];
        let length = self.0.recv(&mut buffer).expect("it says something in time");
        text(&buffer[..length])
    }

    /// Passes over other words until this one.
    fn until(&self, word: &str) -> String {
        loop {
            let told = self.next();
            if told.lines().any(|line| line == word) {
                return told;
            }
        }
    }
}

#[test]
fn a_supervisor_hears_when_it_listens_that_it_lives_and_when_it_goes() {
    let place = Place::new();
    let path = place.path("notify");
    let told = Told(UnixDatagram::bind(&path).expect("a socket"));
    let patience = Some(Duration::from_secs(60));
    told.0.set_read_timeout(patience).expect("a time");
    let child = Command::new(SPOOLWAY)
        .args(["--quiet", "serve"])
        .env("SPOOLWAY_SOCKET", place.socket())
        .env("SPOOLWAY_DATABASE", place.database())
        .env("NOTIFY_SOCKET", &path)
        .env("WATCHDOG_USEC", "100000")
        .spawn()
        .expect("the program");
    let serve = Serve { child };
    let ready = told.until("READY=1");
    let listens = format!("STATUS=listening on {}", place.socket().display());
    assert!(ready.contains(&listens), "{ready}");
    assert!(place.socket().exists(), "said before it listened");
    for _ in 0..3 {
        told.until("WATCHDOG=1");
    }
    assert!(serve.terminate().success());
    told.until("STOPPING=1");
}

#[test]
fn the_units_are_valid_and_leave_the_consumer_little_to_do_harm_with() {
    let units = Path::new(concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../examples/systemd"
    ));
    let analyze = |args: &[&str], unit: &Path| {
        let run = Command::new("systemd-analyze")
            .args(args)
            .arg(unit)
            .output();
        run.map(|run| (run.status.success(), text(&run.stdout) + &text(&run.stderr)))
    };
    let service = units.join("spoolway.service");
    // The threshold is in tenths.
    let security = ["security", "--offline=true", "--threshold=15", "--no-pager"];
    let (safe, said) = match analyze(&security, &service) {
        Ok(analyzed) => analyzed,
        Err(error) => return skip(&format!("systemd-analyze: {error}")),
    };
    assert!(safe, "{said}");
    // The program is not where it will be; anything else that is said is a fault.
    for unit in [service, units.join("spoolway.socket")] {
        let (_, said) = analyze(&["verify"], &unit).expect("it ran before");
        let faults: Vec<_> = said
            .lines()
            .filter(|line| line.contains("spoolway") && !line.contains("is not executable"))
            .collect();
        assert!(faults.is_empty(), "{faults:?}");
    }
}
