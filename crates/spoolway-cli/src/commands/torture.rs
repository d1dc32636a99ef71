//! `spoolway torture`: kills, stops and cuts real processes on the user's own disk, and counts what
//! that did to the messages.
//!
//! ```text
//! producers ──[proxy, with `flap`]──► consumer ──► sink's file ─┐
//!     │   └──────── queue file ──────────┘ └─ dead letters ─────┼─► check ─► report
//!     └── journals: what each `send` returned ──────────────────┘
//! ```

mod check;
mod content;
mod evidence;
mod journal;
mod plan;
pub(crate) mod producer;
mod proxy;
mod report;
mod rig;

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use rand::RngExt as _;
use tokio::runtime::Handle;

use crate::args::Torture;
use crate::failure::{Failure, exit};
use crate::output::{print, print_json, tell};
use crate::signals::stoppable;

use report::Report;
use rig::Rig;

pub(crate) async fn run(args: Torture, quiet: bool) -> Result<u8, Failure> {
    let runtime = Handle::current();
    stoppable("torture", move |stop| perform(&args, quiet, runtime, stop)).await
}

fn perform(args: &Torture, quiet: bool, runtime: Handle, stop: &AtomicBool) -> Result<u8, Failure> {
    // 32 bits are enough to choose from, and easy to type again.
    let seed = args
        .seed
        .unwrap_or_else(|| rand::rng().random::<u32>().into());
    let above = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let directory = tempfile::Builder::new()
        .prefix("spoolway-torture-")
        .tempdir_in(&above)
        .map_err(|error| {
            Failure::io(
                format!("cannot make a directory in {}", above.display()),
                &error,
            )
            .help("name another with --dir")
        })?;
    let outcome = torture(args, seed, quiet, runtime, directory.path(), stop);
    let good = matches!(&outcome, Ok(report) if report.ok);
    // Whoever looks for the reason needs the files.
    let kept = (!good && !stop.load(Ordering::Relaxed)).then(|| directory.keep());
    let mut report = match (outcome, &kept) {
        (Err(failure), Some(kept)) => {
            tell(format_args!(
                "seed {seed}; the files are in {}",
                kept.display()
            ));
            return Err(failure);
        }
        (outcome, _) => outcome?,
    };
    report.directory = kept;
    if args.json {
        print_json(&report)?;
    } else {
        print(&report)?;
    }
    Ok(if report.ok { exit::OK } else { exit::BROKEN })
}

fn torture(
    args: &Torture,
    seed: u64,
    quiet: bool,
    runtime: Handle,
    directory: &Path,
    stop: &AtomicBool,
) -> Result<Report, Failure> {
    let mut rig = Rig::new(args, seed, quiet, runtime, directory, stop)?;
    rig.start()?;
    rig.disturb()?;
    rig.settle()?;
    rig.end()?;
    rig.report()
}
