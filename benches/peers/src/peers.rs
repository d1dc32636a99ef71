//! Who is compared, what each promises, and how it is set up.

use std::path::{Path, PathBuf};

use crate::Result;
use crate::job::{Job, Seen};
use crate::process::Server;

mod beanstalkd;
mod flowtrace;
mod jetstream;
mod postgres;
mod redis;
mod spoolway;
mod zeromq;

/// What an answer is worth. Only what promises the same is compared.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// Nothing is on disk: what is not answered may be lost with a process.
    Memory,
    /// Given to the operating system: survives the kill of any process.
    Kill,
    /// Synced before the answer: survives power loss.
    Power,
}

impl Promise {
    /// All of them, weakest first.
    pub const ALL: [Self; 3] = [Self::Memory, Self::Kill, Self::Power];

    /// Its heading.
    pub fn name(self) -> &'static str {
        match self {
            Self::Memory => "in memory: may be lost on a kill",
            Self::Kill => "survives a process kill",
            Self::Power => "survives power loss: synced before the answer",
        }
    }
}

/// A run's server and its version; those without a server have only the latter.
pub struct Served {
    /// The server, if there is one.
    pub server: Option<Server>,
    /// The version of the server or library.
    pub version: String,
}

/// Why a peer was not measured.
#[derive(Debug)]
pub struct Skipped(pub String);

impl std::fmt::Display for Skipped {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Skipped {}

/// One way to do the job.
pub struct Peer {
    /// Its name for `--only`.
    pub name: &'static str,
    /// Its name in the table.
    pub title: &'static str,
    /// What an answer means.
    pub promise: Promise,
    /// How it is set up, and what that leaves out.
    pub remark: &'static str,
    /// More messages than that take too long.
    pub most: usize,
    /// Starts its server.
    pub serve: fn(&Place) -> Result<Served>,
    /// Sends the job.
    pub produce: fn(&Path, &mut Job) -> Result<()>,
    /// Receives it, and settles each message.
    pub consume: fn(&Path, Seen) -> Result<()>,
}

impl Peer {
    /// Whether it is what others are compared with.
    pub fn is_ours(&self) -> bool {
        self.name.starts_with("spoolway")
    }
}

/// Where a run takes place.
pub struct Place {
    /// A directory of its own.
    pub dir: PathBuf,
    /// The `nats-server` to start.
    pub nats_server: PathBuf,
}

/// The path of the one Unix socket in a run's directory.
pub fn socket(dir: &Path) -> PathBuf {
    dir.join("s.sock")
}

/// A runtime as every async client here uses it: on one thread.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

const ANY: usize = usize::MAX;

/// All of them.
pub const PEERS: &[Peer] = &[
    Peer {
        name: "spoolway-processed",
        title: "Spoolway, `processed`",
        promise: Promise::Memory,
        remark: "fast path; the answer says that the handler ran, and what is not answered is sent again or spooled",
        most: ANY,
        serve: spoolway::serve,
        produce: spoolway::produce_processed,
        consume: spoolway::consume_full,
    },
    Peer {
        name: "spoolway-batches",
        title: "Spoolway, `processed`, batches of 64",
        promise: Promise::Memory,
        remark: "the same by `send_batch`",
        most: ANY,
        serve: spoolway::serve,
        produce: spoolway::produce_batches,
        consume: spoolway::consume_full,
    },
    Peer {
        name: "zeromq-ranges",
        title: "ZeroMQ `ipc://`, acks in ranges",
        promise: Promise::Memory,
        remark: "DEALER to DEALER; the receiver answers all that had come at once; what is not answered is the program's to send again",
        most: ANY,
        serve: zeromq::serve,
        produce: zeromq::produce,
        consume: zeromq::consume_ranges,
    },
    Peer {
        name: "zeromq-each",
        title: "ZeroMQ `ipc://`, an ack each",
        promise: Promise::Memory,
        remark: "the same with an answer of its own for each message",
        most: ANY,
        serve: zeromq::serve,
        produce: zeromq::produce,
        consume: zeromq::consume_each,
    },
    Peer {
        name: "flowtrace-socket",
        title: "FlowTrace's socket (never acked)",
        promise: Promise::Memory,
        remark: "fire and forget, a write each: promises nothing, so its rate is that of the receiver",
        most: ANY,
        serve: flowtrace::serve,
        produce: flowtrace::produce_socket,
        consume: flowtrace::consume_socket,
    },
    Peer {
        name: "spoolway-stored-process",
        title: "Spoolway, `stored`, `process`",
        promise: Promise::Kill,
        remark: "over the socket, group commit without syncs, then the handler, and the row is marked",
        most: ANY,
        serve: spoolway::serve,
        produce: spoolway::produce_stored_process,
        consume: spoolway::consume_process,
    },
    Peer {
        name: "spoolway-file-process",
        title: "Spoolway, through the file, `process`",
        promise: Promise::Kill,
        remark: "spooled by one process while the other drains, without syncs",
        most: ANY,
        serve: spoolway::serve,
        produce: spoolway::produce_file_process,
        consume: spoolway::consume_process,
    },
    Peer {
        name: "redis-everysec",
        title: "Redis Streams, AOF `everysec`",
        promise: Promise::Kill,
        remark: "Unix socket, pipelines of 512 `XADD`; `XREADGROUP` of 512 with the `XACK` of those before; nothing deleted, no AOF rewrite",
        most: ANY,
        serve: redis::serve_everysec,
        produce: redis::produce,
        consume: redis::consume,
    },
    Peer {
        name: "jetstream-default",
        title: "NATS JetStream, file",
        promise: Promise::Kill,
        remark: "loopback, asynchronous publishes; pull consumer, one ack for all that had come; synced every 2 minutes by default",
        most: ANY,
        serve: jetstream::serve_default,
        produce: jetstream::produce,
        consume: jetstream::consume,
    },
    Peer {
        name: "beanstalkd-default",
        title: "beanstalkd `-b`",
        promise: Promise::Kill,
        remark: "at most 256 puts unanswered, since it stops reading once its replies fill the socket; Unix socket, `put` pipelined; `reserve` and `delete` in pipelines of 256; synced every 50 ms",
        most: ANY,
        serve: beanstalkd::serve_default,
        produce: beanstalkd::produce,
        consume: beanstalkd::consume,
    },
    Peer {
        name: "spoolway-stored",
        title: "Spoolway, `stored`",
        promise: Promise::Power,
        remark: "over the socket, group commit, then the handler, and the row is marked",
        most: ANY,
        serve: spoolway::serve,
        produce: spoolway::produce_stored,
        consume: spoolway::consume_full,
    },
    Peer {
        name: "spoolway-file",
        title: "Spoolway, through the file",
        promise: Promise::Power,
        remark: "spooled by one process while the other drains; unique ids, rows kept for replay",
        most: ANY,
        serve: spoolway::serve,
        produce: spoolway::produce_file,
        consume: spoolway::consume_full,
    },
    Peer {
        name: "redis-always",
        title: "Redis Streams, AOF `always`",
        promise: Promise::Power,
        remark: "as with `everysec`",
        most: ANY,
        serve: redis::serve_always,
        produce: redis::produce,
        consume: redis::consume,
    },
    Peer {
        name: "jetstream-always",
        title: "NATS JetStream, file, `sync_interval: always`",
        promise: Promise::Power,
        remark: "as by default",
        most: 100_000,
        serve: jetstream::serve_always,
        produce: jetstream::produce,
        consume: jetstream::consume,
    },
    Peer {
        name: "beanstalkd-f0",
        title: "beanstalkd `-b -f0`",
        promise: Promise::Power,
        remark: "at most 256 puts unanswered; as by default",
        most: 30_000,
        serve: beanstalkd::serve_f0,
        produce: beanstalkd::produce,
        consume: beanstalkd::consume,
    },
    Peer {
        name: "postgres-single",
        title: "PostgreSQL `SKIP LOCKED`, singly",
        promise: Promise::Power,
        remark: "Unix socket, a transaction a message on both sides, over 8 connections each; `synchronous_commit` on; rows deleted, no unique id",
        most: 30_000,
        serve: postgres::serve,
        produce: postgres::produce_single,
        consume: postgres::consume_single,
    },
    Peer {
        name: "postgres-batches",
        title: "PostgreSQL `SKIP LOCKED`, batches of 512",
        promise: Promise::Power,
        remark: "the same over one connection each, a transaction for up to 512",
        most: ANY,
        serve: postgres::serve,
        produce: postgres::produce_batches,
        consume: postgres::consume_batches,
    },
    Peer {
        name: "flowtrace-file",
        title: "FlowTrace's file (50 a second)",
        promise: Promise::Power,
        remark: "a transaction an insert in a rollback journal; the reader takes 50 each second",
        most: 200,
        serve: flowtrace::serve,
        produce: flowtrace::produce_file,
        consume: flowtrace::consume_file,
    },
];
