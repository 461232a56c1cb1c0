//! The lock that makes a worker the only one of its database, and the check whether another session
//! needs that database exclusively.

use pgrx::pg_sys;

/// Distinguishes this lock from others of its method: no SQL function can take a lock with this tag
/// type there.
const SUB_OBJECT: u16 = 0x7063;

/// The lock method whose session locks survive a failed transaction and end with the process in
/// every case. (A process that is terminated between two transactions leaves session locks of the
/// default method behind.)
const LEASE_METHOD: u32 = pg_sys::USER_LOCKMETHOD;

fn tag(method: u32, database: u32, class: pg_sys::Oid, object: u32, sub: u16) -> pg_sys::LOCKTAG {
    pg_sys::LOCKTAG {
        locktag_field1: database,
        locktag_field2: class.to_u32(),
        locktag_field3: object,
        locktag_field4: sub,
        locktag_type: pg_sys::LockTagType::LOCKTAG_OBJECT as u8,
        locktag_lockmethodid: method as u8,
    }
}

fn acquire(tag: &pg_sys::LOCKTAG, mode: u32) -> bool {
    // SAFETY: a well-formed tag; session-level, without waiting: needs no transaction and cannot
    // deadlock.
    let result = unsafe { pg_sys::LockAcquire(tag, mode as i32, true, true) };
    result != pg_sys::LockAcquireResult::LOCKACQUIRE_NOT_AVAIL
}

/// Takes the lease of this database, for the life of the process. `false`: another worker has it.
pub fn take() -> bool {
    // SAFETY: reads a global.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    acquire(
        &tag(LEASE_METHOD, database, pg_sys::ExtensionRelationId, 1, SUB_OBJECT),
        pg_sys::ExclusiveLock,
    )
}

/// Releases what a table's own code has locked for the session (`pg_advisory_lock`), and takes the
/// lease again, which that code may have released (`pg_advisory_unlock_all`). `false`: another
/// worker has it now.
pub fn renew() -> bool {
    // SAFETY: releases session locks of this process; called between transactions.
    unsafe { pg_sys::LockReleaseSession(LEASE_METHOD as u16) };
    take()
}

/// Whether no session drops, renames or copies this database, which requires an exclusive lock.
pub fn database_is_free() -> bool {
    // SAFETY: reads a global.
    let database = unsafe { pg_sys::MyDatabaseId }.to_u32();
    let tag = tag(pg_sys::DEFAULT_LOCKMETHOD, 0, pg_sys::DatabaseRelationId, database, 0);
    let free = acquire(&tag, pg_sys::RowExclusiveLock);
    if free {
        // SAFETY: releases the lock acquired above.
        unsafe { pg_sys::LockRelease(&tag, pg_sys::RowExclusiveLock as i32, true) };
    }
    free
}
