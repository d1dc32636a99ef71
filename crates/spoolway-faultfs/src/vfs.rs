//! The C side: a VFS that is the platform's own, but for files under a [`Disk`](crate::Disk).
//!
//! A file elsewhere is opened by the platform's VFS in place, and never comes back here. A file of
//! ours has this layout, in the memory SQLite gives for it:
//!
//! ```text
//!  ┌──────────────────────────┬─────────────────────────────────┐
//!  │ File: base, disk, id, …  │ the platform's file, its methods │
//!  └──────────────────────────┴─────────────────────────────────┘
//! ```
#![allow(
    unsafe_code,
    reason = "a VFS is a table of C functions over raw memory that SQLite owns"
)]

use std::ffi::{CStr, OsStr, c_char, c_int, c_void};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;
use std::sync::{Arc, Once, OnceLock};

use rusqlite::ffi::{self, sqlite3_file, sqlite3_int64, sqlite3_io_methods, sqlite3_vfs};

use crate::disk::{FileId, Op, Shared, is_recorded};
use crate::fault::{Call, Error};

/// The VFS of the platform. It is never unregistered and does not change.
struct Platform(*mut sqlite3_vfs);

// SAFETY: the table is constant for the life of the process, and its functions may be called from
// any thread.
unsafe impl Send for Platform {}
// SAFETY: the same.
unsafe impl Sync for Platform {}

static PLATFORM: OnceLock<Platform> = OnceLock::new();

/// A file of a disk. `repr(C)` with `base` first: SQLite knows it as a `sqlite3_file`.
#[repr(C)]
struct File {
    base: sqlite3_file,
    disk: Arc<Shared>,
    id: FileId,
    /// Its first sync is to make its name durable too, as the platform's VFS does for journals.
    syncs_directory: bool,
}

/// Makes the VFS the default one of this process, once.
pub(crate) fn register() {
    static REGISTERED: Once = Once::new();
    REGISTERED.call_once(|| {
        // SAFETY: both calls are allowed at any time from any thread; with a null name `find`
        // returns the default VFS, which is registered for ever.
        let platform = unsafe {
            ffi::sqlite3_initialize();
            ffi::sqlite3_vfs_find(ptr::null())
        };
        assert!(!platform.is_null(), "SQLite has no default VFS");
        // SAFETY: not null, and constant from here on.
        let mut vfs = unsafe { *platform };
        PLATFORM.get_or_init(|| Platform(platform));
        let size = c_int::try_from(size_of::<File>()).unwrap_or(c_int::MAX);
        vfs.szOsFile += size;
        vfs.zName = c"spoolway-faultfs".as_ptr();
        vfs.pNext = ptr::null_mut();
        vfs.xOpen = Some(open);
        vfs.xDelete = Some(delete);
        vfs.xAccess = Some(access);
        // SAFETY: the table is leaked, so it stays valid as long as SQLite may use it. What was
        // copied ignores which VFS it is called with.
        let code = unsafe { ffi::sqlite3_vfs_register(Box::leak(Box::new(vfs)), 1) };
        assert_eq!(code, ffi::SQLITE_OK, "SQLite refused the VFS");
    });
}

fn platform() -> *mut sqlite3_vfs {
    // Set before the functions of this file were given to anyone.
    PLATFORM
        .get()
        .map_or(ptr::null_mut(), |platform| platform.0)
}

/// Calls a function of a table of SQLite's that the platform always fills in.
macro_rules! call {
    ($table:expr, $function:ident ( $($argument:expr),* )) => {
        match (*$table).$function {
            Some(function) => function($($argument),*),
            None => ffi::SQLITE_IOERR,
        }
    };
}

/// The path that SQLite passes, absolute by then.
///
/// # Safety
///
/// `name` is null or a C string.
unsafe fn path<'a>(name: *const c_char) -> Option<&'a Path> {
    if name.is_null() {
        return None;
    }
    // SAFETY: a C string by the contract of this function; SQLite keeps it for the whole call.
    let name = unsafe { CStr::from_ptr(name) };
    Some(Path::new(OsStr::from_bytes(name.to_bytes())))
}

unsafe extern "C" fn open(
    _: *mut sqlite3_vfs,
    name: ffi::sqlite3_filename,
    file: *mut sqlite3_file,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes null or a C string.
    let known = unsafe { path(name) }.and_then(|path| Some((path, Shared::of(path)?)));
    let Some((path, (disk, name_here))) = known.filter(|(_, (_, name))| is_recorded(name)) else {
        // SAFETY: `file` has room for a file of the platform's and more, and `xOpen` is given its
        // own table.
        return unsafe { call!(platform(), xOpen(platform(), name, file, flags, out)) };
    };
    // SAFETY: `szOsFile` says how much room SQLite gives: a `File`, and behind it one of the
    // platform's. Without methods SQLite does not close what could not be opened.
    unsafe { (*file).pMethods = ptr::null() };
    let mut state = disk.lock();
    if let Err((_, code)) = state.enter(Call::Open) {
        return code;
    }
    // SAFETY: as above; it starts as nothing but zeros, as SQLite would give it.
    let code = unsafe {
        let inner = inner(file);
        ptr::write_bytes(inner.cast::<u8>(), 0, (*platform()).szOsFile as usize);
        call!(platform(), xOpen(platform(), name, inner, flags, out))
    };
    if code != ffi::SQLITE_OK {
        return code;
    }
    let id = state.opened(&name_here, path);
    drop(state);
    let journal =
        ffi::SQLITE_OPEN_WAL | ffi::SQLITE_OPEN_MAIN_JOURNAL | ffi::SQLITE_OPEN_SUPER_JOURNAL;
    let opened = File {
        base: sqlite3_file {
            pMethods: &raw const METHODS,
        },
        disk,
        id,
        syncs_directory: flags & ffi::SQLITE_OPEN_CREATE != 0 && flags & journal != 0,
    };
    // SAFETY: room and alignment as above; nothing is there that would have to be dropped.
    unsafe { ptr::write(file.cast::<File>(), opened) };
    ffi::SQLITE_OK
}

unsafe extern "C" fn delete(_: *mut sqlite3_vfs, name: *const c_char, sync: c_int) -> c_int {
    // SAFETY: SQLite passes a C string.
    let known = unsafe { path(name) }.and_then(Shared::of);
    let mut state = known.as_ref().map(|(disk, _)| disk.lock());
    if let Some(state) = &mut state
        && let Err((_, code)) = state.enter(Call::Delete)
    {
        return code;
    }
    // The platform is not asked to sync: the log says what is durable.
    let real_sync = if state.is_some() { 0 } else { sync };
    // SAFETY: the platform's function with its own table and the string it was meant for.
    let code = unsafe { call!(platform(), xDelete(platform(), name, real_sync)) };
    if let (Some(state), Some((_, name)), ffi::SQLITE_OK) = (&mut state, &known, code) {
        state.unlinked(name);
        if sync != 0 {
            state.log.push(Op::SyncDirectory);
        }
    }
    code
}

unsafe extern "C" fn access(
    _: *mut sqlite3_vfs,
    name: *const c_char,
    flags: c_int,
    out: *mut c_int,
) -> c_int {
    // SAFETY: SQLite passes a C string.
    if let Some((disk, _)) = unsafe { path(name) }.and_then(Shared::of)
        && let Err((_, code)) = disk.lock().enter(Call::Access)
    {
        return code;
    }
    // SAFETY: the platform's function with its own table and the arguments it was meant for.
    unsafe { call!(platform(), xAccess(platform(), name, flags, out)) }
}

static METHODS: sqlite3_io_methods = sqlite3_io_methods {
    // 2: with shared memory, without memory-mapped files.
    iVersion: 2,
    xClose: Some(close),
    xRead: Some(read),
    xWrite: Some(write),
    xTruncate: Some(truncate),
    xSync: Some(sync),
    xFileSize: Some(file_size),
    xLock: Some(lock),
    xUnlock: Some(unlock),
    xCheckReservedLock: Some(check_reserved_lock),
    xFileControl: Some(file_control),
    xSectorSize: Some(sector_size),
    xDeviceCharacteristics: Some(device_characteristics),
    xShmMap: Some(shm_map),
    xShmLock: Some(shm_lock),
    xShmBarrier: Some(shm_barrier),
    xShmUnmap: Some(shm_unmap),
    xFetch: None,
    xUnfetch: None,
};

/// Our part of a file.
///
/// # Safety
///
/// `file` was opened by [`open`] with [`METHODS`], and is not closed while the result lives. Of one
/// file SQLite makes one call at a time.
unsafe fn ours<'a>(file: *mut sqlite3_file) -> &'a mut File {
    // SAFETY: by the contract of this function a `File` lies there.
    unsafe { &mut *file.cast::<File>() }
}

/// The platform's part of a file: right behind ours.
///
/// # Safety
///
/// `file` points to as much memory as `szOsFile` of our table says.
unsafe fn inner(file: *mut sqlite3_file) -> *mut sqlite3_file {
    // SAFETY: within that memory; `File` is a multiple of its alignment long, which is a pointer's.
    unsafe { file.cast::<File>().add(1).cast() }
}

/// Calls a method of the platform's part.
macro_rules! forward {
    ($file:expr, $method:ident ( $($argument:expr),* )) => {{
        // SAFETY: SQLite passes a file that `open` opened, with the arguments of this very method;
        // the platform's part has its own table of methods since then.
        unsafe {
            let inner = inner($file);
            match (*(*inner).pMethods).$method {
                Some(method) => method(inner $(, $argument)*),
                None => ffi::SQLITE_IOERR,
            }
        }
    }};
}

/// Counts a call; returns its code when it is to fail.
macro_rules! enter {
    ($file:expr, $call:expr) => {{
        // SAFETY: SQLite passes a file that `open` opened.
        let ours = unsafe { ours($file) };
        if let Err((_, code)) = ours.disk.lock().enter($call) {
            return code;
        }
    }};
}

unsafe extern "C" fn close(file: *mut sqlite3_file) -> c_int {
    let code = forward!(file, xClose());
    // SAFETY: opened by `open`, and SQLite does not use it after this call.
    unsafe { ptr::drop_in_place(file.cast::<File>()) };
    code
}

unsafe extern "C" fn read(
    file: *mut sqlite3_file,
    buffer: *mut c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    enter!(file, Call::Read);
    forward!(file, xRead(buffer, amount, offset))
}

unsafe extern "C" fn write(
    file: *mut sqlite3_file,
    buffer: *const c_void,
    amount: c_int,
    offset: sqlite3_int64,
) -> c_int {
    // SAFETY: SQLite passes a file that `open` opened.
    let ours = unsafe { ours(file) };
    let mut state = ours.disk.lock();
    let failure = match state.enter(Call::Write) {
        Err((Error::Short, code)) => Some(code),
        Err((_, code)) => return code,
        Ok(()) => None,
    };
    let amount = if failure.is_some() {
        amount / 2
    } else {
        amount
    };
    let code = forward!(file, xWrite(buffer, amount, offset));
    if code == ffi::SQLITE_OK {
        // SAFETY: SQLite passes a buffer of at least that size.
        let data = unsafe { std::slice::from_raw_parts(buffer.cast::<u8>(), amount as usize) };
        state.log.push(Op::Write {
            file: ours.id,
            offset: offset as usize,
            data: data.into(),
        });
    }
    failure.unwrap_or(code)
}

unsafe extern "C" fn truncate(file: *mut sqlite3_file, size: sqlite3_int64) -> c_int {
    // SAFETY: SQLite passes a file that `open` opened.
    let ours = unsafe { ours(file) };
    let mut state = ours.disk.lock();
    if let Err((_, code)) = state.enter(Call::Truncate) {
        return code;
    }
    let code = forward!(file, xTruncate(size));
    if code == ffi::SQLITE_OK {
        let (file, len) = (ours.id, size as usize);
        state.log.push(Op::Truncate { file, len });
    }
    code
}

/// Nothing is really synced: the log says what is durable, and thousands of cuts take seconds.
unsafe extern "C" fn sync(file: *mut sqlite3_file, _flags: c_int) -> c_int {
    // SAFETY: SQLite passes a file that `open` opened.
    let ours = unsafe { ours(file) };
    let file = ours.id;
    let mut state = ours.disk.lock();
    if let Err((_, code)) = state.enter(Call::Sync) {
        state.log.push(Op::FailedSync { file });
        return code;
    }
    state.log.push(Op::Sync { file });
    if std::mem::take(&mut ours.syncs_directory) {
        state.log.push(Op::SyncDirectory);
    }
    ffi::SQLITE_OK
}

unsafe extern "C" fn file_size(file: *mut sqlite3_file, size: *mut sqlite3_int64) -> c_int {
    enter!(file, Call::Size);
    forward!(file, xFileSize(size))
}

unsafe extern "C" fn lock(file: *mut sqlite3_file, level: c_int) -> c_int {
    enter!(file, Call::Lock);
    forward!(file, xLock(level))
}

unsafe extern "C" fn unlock(file: *mut sqlite3_file, level: c_int) -> c_int {
    forward!(file, xUnlock(level))
}

unsafe extern "C" fn check_reserved_lock(file: *mut sqlite3_file, out: *mut c_int) -> c_int {
    forward!(file, xCheckReservedLock(out))
}

unsafe extern "C" fn file_control(file: *mut sqlite3_file, op: c_int, arg: *mut c_void) -> c_int {
    forward!(file, xFileControl(op, arg))
}

unsafe extern "C" fn sector_size(file: *mut sqlite3_file) -> c_int {
    forward!(file, xSectorSize())
}

unsafe extern "C" fn device_characteristics(file: *mut sqlite3_file) -> c_int {
    forward!(file, xDeviceCharacteristics())
}

unsafe extern "C" fn shm_map(
    file: *mut sqlite3_file,
    page: c_int,
    size: c_int,
    extend: c_int,
    out: *mut *mut c_void,
) -> c_int {
    enter!(file, Call::ShmMap);
    forward!(file, xShmMap(page, size, extend, out))
}

unsafe extern "C" fn shm_lock(
    file: *mut sqlite3_file,
    offset: c_int,
    count: c_int,
    flags: c_int,
) -> c_int {
    // Giving a lock back cannot fail.
    if flags & ffi::SQLITE_SHM_LOCK != 0 {
        enter!(file, Call::ShmLock);
    }
    forward!(file, xShmLock(offset, count, flags))
}

unsafe extern "C" fn shm_barrier(file: *mut sqlite3_file) {
    // SAFETY: as in `forward`, for the one method that returns nothing.
    unsafe {
        let inner = inner(file);
        if let Some(barrier) = (*(*inner).pMethods).xShmBarrier {
            barrier(inner);
        }
    }
}

unsafe extern "C" fn shm_unmap(file: *mut sqlite3_file, delete: c_int) -> c_int {
    forward!(file, xShmUnmap(delete))
}
