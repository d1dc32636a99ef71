//! Power cuts and I/O errors for SQLite, without a hook in the code under test.
//!
//! [`Disk::under`] takes charge of a directory. From then on every SQLite file in it is opened
//! through a VFS that wraps the one of the platform and is the default of this process, so the
//! code under test opens its files as it always does. The files are real; what is modelled is what
//! a disk would still hold after a power cut.
//!
//! ```text
//!  SQLite ─► vfs.rs ─┬─► the platform's VFS ─► real files, for everyone who reads
//!                    └─► Log: every write, truncation, sync, link and unlink
//!                          │
//!                          ▼
//!              Replay: step, step, … image ─► another directory: power is back
//! ```
//!
//! A power cut is not an event but a question: the [`Log`] is replayed up to any of its operations
//! and [`Replay::image`] answers with what may be on disk then. So one run of a workload is cut
//! anywhere, as often as wanted, and each image is opened and looked at.
//!
//! **What survives** is what was synced, and of the rest a random part, by a seed: each sector that
//! was written is there, or not, or torn at a byte with the old content or noise behind it; sizes lie
//! between; names appear and vanish only for certain when the directory was synced. A sync that
//! failed leaves what it should have written lost for good unless it is written anew, as kernels do.
//!
//! **I/O errors** come from [`Disk::fail`]: the n-th call of a kind fails, once or for ever.
//!
//! Not modelled: `-shm` files (memory: no image has one), memory-mapped files (the VFS says it cannot),
//! temporary files without a name, and sectors that rot where nothing was written.

mod disk;
mod fault;
mod replay;
mod vfs;

pub use disk::{Disk, Log};
pub use fault::{Call, Error, Fault};
pub use replay::{Image, Loss, Replay};
