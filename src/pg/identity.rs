//! Acting as somebody else for a moment: as the extension's owner on our own tables, as a table's
//! owner on theirs.

use crate::pg::guc_scope::Level;
use pgrx::pg_sys;

/// Restores the previous user when dropped; an error restores it with the transaction anyway.
pub struct As {
    user: pg_sys::Oid,
    context: i32,
    level: Option<Level>,
}

fn switch(user: pg_sys::Oid, flags: u32) -> As {
    let (mut before, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads and sets the current user as PostgreSQL's own maintenance commands do; restored
    // by Drop or by the end of the transaction.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut before, &mut context);
        pg_sys::SetUserIdAndSecContext(user, context | flags as i32);
    }
    As { user: before, context, level: None }
}

/// As the superuser that owns the extension; only for statements on our own tables, every name in
/// them qualified.
pub fn as_extension() -> As {
    switch(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID), pg_sys::SECURITY_LOCAL_USERID_CHANGE)
}

/// Whether what runs now was begun under [`as_extension`]. Nothing that applies replicated rows
/// sets that flag.
pub fn is_extension() -> bool {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads who the current user is.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
    user == pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID)
        && context as u32 & pg_sys::SECURITY_LOCAL_USERID_CHANGE != 0
}

/// As the owner of a table, in a security-restricted context: what the owner planted (triggers,
/// defaults, index expressions, casts) runs with the owner's rights at most and cannot leave
/// anything behind in this session.
pub fn as_owner(owner: pg_sys::Oid) -> As {
    let mut guard =
        switch(owner, pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_LOCAL_USERID_CHANGE);
    // A user's code may change settings only within it.
    guard.level = Some(Level::sealed());
    guard
}

/// Who calls.
pub fn caller() -> pg_sys::Oid {
    // SAFETY: reads a global.
    unsafe { pg_sys::GetUserId() }
}

impl Drop for As {
    fn drop(&mut self) {
        // While an error is unwinding the subtransaction's or transaction's abort restores all of
        // it.
        if std::thread::panicking() {
            return;
        }
        self.level = None;
        // SAFETY: as above.
        unsafe { pg_sys::SetUserIdAndSecContext(self.user, self.context) };
    }
}
