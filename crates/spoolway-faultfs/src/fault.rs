//! Which call fails, and how.

use std::ffi::c_int;

use rusqlite::ffi;

/// What SQLite asks of a VFS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Call {
    /// Is there such a file?
    Access,
    /// Unlink a file.
    Delete,
    /// Take a lock on a file.
    Lock,
    /// Open a file.
    Open,
    /// Read from a file.
    Read,
    /// Lock a part of the shared memory.
    ShmLock,
    /// Map a part of the shared memory.
    ShmMap,
    /// Ask for the size of a file.
    Size,
    /// Make durable what was written.
    Sync,
    /// Shorten a file.
    Truncate,
    /// Write to a file.
    Write,
}

impl Call {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Access,
        Self::Delete,
        Self::Lock,
        Self::Open,
        Self::Read,
        Self::ShmLock,
        Self::ShmMap,
        Self::Size,
        Self::Sync,
        Self::Truncate,
        Self::Write,
    ];
}

/// What the call says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// The device fails: EIO.
    Io,
    /// No room: ENOSPC.
    Full,
    /// Of a write only half is written, and then there is no room.
    Short,
}

/// One call that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Which kind of call.
    pub call: Call,
    /// Which of them, from the moment the fault is set; 0 is the next.
    pub nth: u64,
    /// Whether all that follow fail too.
    pub lasting: bool,
    /// How.
    pub error: Error,
}

/// The code SQLite's own VFS answers with in such a case.
pub(crate) fn code(call: Call, error: Error) -> c_int {
    match (call, error) {
        (_, Error::Full | Error::Short) => ffi::SQLITE_FULL,
        (Call::Access, Error::Io) => ffi::SQLITE_IOERR_ACCESS,
        (Call::Delete, Error::Io) => ffi::SQLITE_IOERR_DELETE,
        (Call::Lock, Error::Io) => ffi::SQLITE_IOERR_LOCK,
        (Call::Open, Error::Io) => ffi::SQLITE_CANTOPEN,
        (Call::Read, Error::Io) => ffi::SQLITE_IOERR_READ,
        (Call::ShmLock, Error::Io) => ffi::SQLITE_IOERR_SHMLOCK,
        (Call::ShmMap, Error::Io) => ffi::SQLITE_IOERR_SHMMAP,
        (Call::Size, Error::Io) => ffi::SQLITE_IOERR_FSTAT,
        (Call::Sync, Error::Io) => ffi::SQLITE_IOERR_FSYNC,
        (Call::Truncate, Error::Io) => ffi::SQLITE_IOERR_TRUNCATE,
        (Call::Write, Error::Io) => ffi::SQLITE_IOERR_WRITE,
    }
}
