//! Remembers, across the death of the worker, which row it was writing. A worker that the kernel
//! kills takes shared memory with it, since PostgreSQL restarts all processes. So the row is noted
//! in a file, which costs two short system calls a row.
//!
//! The file survives processes, not the system: after a restart of the postmaster it says nothing.

use pgrx::pg_sys;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{IntoRawFd, RawFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::atomic::{AtomicI32, Ordering};

/// Postmaster and row.
const LENGTH: usize = 12;

/// The open file; -1: none. Read by a signal handler.
static FILE: AtomicI32 = AtomicI32::new(-1);

/// Next to the launcher's socket; base backups skip the folder.
fn path(database: u32) -> String {
    format!("pg_stat_tmp/pg_caption.{database}.writing")
}

fn postmaster() -> u32 {
    // SAFETY: a global that is set before any child of the postmaster exists.
    unsafe { pg_sys::PostmasterPid as u32 }
}

/// Opens the file of a database. Returns the row that the previous worker was writing when it died,
/// if it did under this postmaster.
///
/// # Errors
/// The file cannot be opened or read: rows are not remembered.
pub fn open(database: u32) -> io::Result<Option<u64>> {
    let mut options = OpenOptions::new();
    let file: File =
        options.read(true).write(true).create(true).mode(0o600).open(path(database))?;
    let mut mark = [0; LENGTH];
    let row = match file.read_exact_at(&mut mark, 0) {
        Ok(()) => parse(&mark),
        // A new file.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => None,
        Err(error) => return Err(error),
    };
    FILE.store(file.into_raw_fd(), Ordering::Relaxed);
    clear();
    Ok(row)
}

fn parse(mark: &[u8; LENGTH]) -> Option<u64> {
    let (postmaster_then, row) = mark.split_first_chunk::<4>()?;
    let row = u64::from_le_bytes(*row.first_chunk::<8>()?);
    (u32::from_le_bytes(*postmaster_then) == postmaster()).then_some(row)
}

/// Notes a row, by its number.
pub fn set(row: u64) {
    let mut mark = [0; LENGTH];
    mark[..4].copy_from_slice(&postmaster().to_le_bytes());
    mark[4..].copy_from_slice(&row.to_le_bytes());
    write(&mark);
}

/// The write has ended. Safe in a signal handler.
pub fn clear() {
    write(&[0; LENGTH]);
}

fn write(mark: &[u8; LENGTH]) {
    let file: RawFd = FILE.load(Ordering::Relaxed);
    if file >= 0 {
        // SAFETY: a system call with a buffer of this length. After an error the mark is stale: it
        // may protect a row too much or too little, never change one.
        unsafe { libc::pwrite(file, mark.as_ptr().cast(), LENGTH, 0) };
    }
}
