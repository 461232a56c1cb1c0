//! A limit for the memory of a table's own code. A trigger that allocates without end gets "out of
//! memory" like any other error, and the kernel has no reason to kill the worker: PostgreSQL would
//! restart all sessions.
//!
//! The limit is the kernel's `RLIMIT_DATA` (setrlimit(2)): private writable memory. Shared memory
//! and the stack do not count, so the stack can always grow. The worker's own statements run
//! without it.

use std::cell::Cell;

/// Memory that a table's own code may allocate, bytes.
const LIMIT: u64 = 512 << 20;
/// Added with each error, bytes: reporting an error needs some memory, also where none is left.
const SLACK: u64 = 4 << 20;
/// Memory is allocated in blocks, at least of this size where much is needed, bytes.
const MARGIN: u64 = 8 << 20;
/// Errors that add [`SLACK`].
const MAX_SLACKS: u32 = 32;

thread_local! {
    static SLACKS: Cell<u32> = const { Cell::new(0) };
    /// An allocation failed because of this limit, rather than for lack of memory.
    static HIT: Cell<bool> = const { Cell::new(false) };
}

/// The limit, until it is dropped.
pub struct MemoryLimit {
    before: Option<libc::rlimit>,
}

impl MemoryLimit {
    /// From now on, [`LIMIT`] more than this process has allocated so far.
    pub fn new() -> MemoryLimit {
        SLACKS.set(0);
        HIT.set(false);
        let before = current().filter(|before| {
            let soft = allocated().saturating_add(LIMIT);
            // A lower limit of the system stays.
            soft < before.rlim_cur && set(&libc::rlimit { rlim_cur: soft, ..*before })
        });
        MemoryLimit { before }
    }
}

impl Drop for MemoryLimit {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            set(before);
        }
    }
}

/// An error is being reported.
pub fn grant_slack() {
    if SLACKS.get() < MAX_SLACKS
        && let Some(limit) = current()
    {
        SLACKS.set(SLACKS.get() + 1);
        let soft = limit.rlim_cur.saturating_add(SLACK).min(limit.rlim_max);
        set(&libc::rlimit { rlim_cur: soft, ..limit });
    }
}

/// An allocation of that size has failed.
pub fn allocation_failed(bytes: u64) {
    let needed = allocated().saturating_add(bytes).saturating_add(MARGIN);
    if current().is_some_and(|limit| needed > limit.rlim_cur) {
        HIT.set(true);
    }
}

/// Whether an allocation has failed because of the latest limit.
pub fn was_hit() -> bool {
    HIT.get()
}

fn current() -> Option<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: fills a plain structure.
    (unsafe { libc::getrlimit(libc::RLIMIT_DATA, &mut limit) } == 0).then_some(limit)
}

fn set(limit: &libc::rlimit) -> bool {
    // SAFETY: reads a plain structure; only this process is affected.
    unsafe { libc::setrlimit(libc::RLIMIT_DATA, limit) == 0 }
}

/// Private writable memory of this process, bytes; the stack included. proc_pid_statm(5), field 6.
fn allocated() -> u64 {
    // Into the stack: there may be no memory left.
    let mut text = [0; 256];
    let pages = std::fs::File::open("/proc/self/statm")
        .and_then(|mut file| std::io::Read::read(&mut file, &mut text))
        .ok()
        .and_then(|read| str::from_utf8(&text[..read]).ok())
        .and_then(|fields| fields.split(' ').nth(5)?.parse::<u64>().ok());
    // SAFETY: reads a constant of the system.
    let page_size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) }.max(1) as u64;
    // Where it is unknown, there is no limit.
    pages.map_or(u64::MAX, |pages| pages.saturating_mul(page_size))
}
