//! The one call that rusqlite does not offer: has the file under a connection been moved?
#![allow(
    unsafe_code,
    reason = "sqlite3_file_control has no safe wrapper; only SQLite knows the inode it has open"
)]

use std::ffi::c_int;

use rusqlite::{Connection, ffi};

/// Whether the path of the main database now names another file, or none.
pub(crate) fn has_moved(conn: &Connection) -> bool {
    let mut moved: c_int = 0;
    // SAFETY: the handle is valid for as long as `conn` is borrowed and not closed by this call;
    // HAS_MOVED writes one int through its argument and keeps no pointer.
    let code = unsafe {
        ffi::sqlite3_file_control(
            conn.handle(),
            c"main".as_ptr(),
            ffi::SQLITE_FCNTL_HAS_MOVED,
            (&raw mut moved).cast(),
        )
    };
    code == ffi::SQLITE_OK && moved != 0
}
