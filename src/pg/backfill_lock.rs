//! The lock of a running `caption.backfill`: the worker fills the table only while a session holds
//! it, so that a cancelled call, a lost session or a crash pauses the backfill.
//!
//! A session lock, because the procedure commits. It uses the method of advisory locks, whose
//! session locks end with the process in every case, under a tag that no SQL function can take.
//! Taken by `api::watch::backfill`, checked by the worker. Never waits for another transaction.

use crate::pg::latch;
use crate::shared;
use pgrx::prelude::*;
use std::cell::Cell;
use std::time::Duration;

/// Distinguishes this lock from others of its method.
const SUB_OBJECT: u16 = 0x7062;
const MODE: i32 = pg_sys::ExclusiveLock as i32;
/// A worker holds the lock for a moment when it checks it.
const ATTEMPTS: usize = 10;
const PAUSE: Duration = Duration::from_millis(20);

/// What this session holds.
#[derive(Clone, Copy, Default)]
struct HeldLock {
    relation: Option<pg_sys::Oid>,
    /// It is released at the end of the transaction, also at a commit.
    ends: bool,
    /// The callbacks are registered, once per process.
    is_registered: bool,
}

thread_local! {
    static HELD: Cell<HeldLock> = const {
        Cell::new(HeldLock { relation: None, ends: false, is_registered: false })
    };
}

fn tag(relation: pg_sys::Oid) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        // SAFETY: reads a global.
        locktag_field1: unsafe { pg_sys::MyDatabaseId }.to_u32(),
        locktag_field2: pg_sys::RelationRelationId.to_u32(),
        locktag_field3: relation.to_u32(),
        locktag_field4: SUB_OBJECT,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: pg_sys::USER_LOCKMETHOD as u8,
    }
}

fn try_take(relation: pg_sys::Oid, for_session: bool) -> bool {
    // SAFETY: a well-formed tag; without waiting it cannot deadlock.
    let result = unsafe { pg_sys::LockAcquire(&tag(relation), MODE, for_session, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Takes the lock of a table until [`release_at_commit`], an error or the end of the session.
/// `false`: another session has it.
pub fn take(relation: pg_sys::Oid) -> bool {
    register();
    // From an earlier call that was not ended: it would be counted twice.
    release();
    for _ in 0..ATTEMPTS {
        if try_take(relation, true) {
            HELD.set(HeldLock { relation: Some(relation), ends: false, is_registered: true });
            return true;
        }
        latch::wait(None, Some(PAUSE));
    }
    false
}

/// The lock ends with the running transaction.
pub fn release_at_commit() {
    HELD.set(HeldLock { ends: true, ..HELD.get() });
}

/// Whether a session has the lock of a table. Called by the worker, in a transaction.
pub fn is_taken(relation: pg_sys::Oid) -> bool {
    if !try_take(relation, false) {
        return true;
    }
    // SAFETY: releases the lock acquired above.
    unsafe { pg_sys::LockRelease(&tag(relation), MODE, false) };
    false
}

fn register() {
    if HELD.get().is_registered {
        return;
    }
    HELD.set(HeldLock { is_registered: true, ..HELD.get() });
    // SAFETY: registers functions that live as long as the library, once per process.
    unsafe {
        pg_sys::RegisterXactCallback(Some(on_transaction), std::ptr::null_mut());
        pg_sys::before_shmem_exit(Some(on_exit), pg_sys::Datum::from(0));
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_transaction(
    event: pg_sys::XactEvent::Type,
    _argument: *mut core::ffi::c_void,
) {
    match event {
        pg_sys::XactEvent::XACT_EVENT_ABORT => release(),
        pg_sys::XactEvent::XACT_EVENT_COMMIT if HELD.get().ends => release(),
        _ => {}
    }
}

#[pg_guard]
unsafe extern "C-unwind" fn on_exit(_code: i32, _argument: pg_sys::Datum) {
    release();
}

/// Releases the lock, and wakes the worker, which pauses what no session waits for.
fn release() {
    let held = HELD.replace(HeldLock { relation: None, ends: false, ..HELD.get() });
    let Some(relation) = held.relation else { return };
    // SAFETY: releases a lock of this session.
    unsafe { pg_sys::LockRelease(&tag(relation), MODE, true) };
    // SAFETY: reads a global.
    shared::announce_work(unsafe { pg_sys::MyDatabaseId }.to_u32(), false);
}
