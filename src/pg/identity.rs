//! Switches the current user for a short time: to the extension's owner for the extension's tables,
//! to a table's owner for that table.
//!
//! Called by the API functions, the hooks and the worker. Code of a table's owner never runs as the
//! extension's owner.

use crate::pg::guc_scope::GucScope;
use pgrx::pg_sys;

/// Restores the previous user when dropped. After an error the transaction restores it.
pub struct ActingRole {
    previous_user: pg_sys::Oid,
    previous_context: i32,
    scope: Option<GucScope>,
}

fn switch(user: pg_sys::Oid, flags: u32) -> ActingRole {
    let (mut previous_user, mut previous_context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads and sets the current user as PostgreSQL's maintenance commands do; Drop or the
    // end of the transaction restores it.
    unsafe {
        pg_sys::GetUserIdAndSecContext(&mut previous_user, &mut previous_context);
        pg_sys::SetUserIdAndSecContext(user, previous_context | flags as i32);
    }
    ActingRole { previous_user, previous_context, scope: None }
}

/// Acts as the superuser that owns the extension. Only for statements on the extension's tables
/// that no `search_path` can redirect.
pub fn as_extension() -> ActingRole {
    switch(pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID), pg_sys::SECURITY_LOCAL_USERID_CHANGE)
}

/// Whether the current code runs under [`as_extension`]. An apply worker of logical replication
/// never sets that flag.
pub fn is_extension() -> bool {
    let (mut user, mut context) = (pg_sys::InvalidOid, 0);
    // SAFETY: reads the current user.
    unsafe { pg_sys::GetUserIdAndSecContext(&mut user, &mut context) };
    user == pg_sys::Oid::from(pg_sys::BOOTSTRAP_SUPERUSERID)
        && context as u32 & pg_sys::SECURITY_LOCAL_USERID_CHANGE != 0
}

/// Acts as the owner of a table, in a security-restricted context. The owner's code (triggers,
/// defaults, index expressions, casts) gets the owner's rights and leaves no state in the session.
pub fn as_owner(owner: pg_sys::Oid) -> ActingRole {
    let restricted = pg_sys::SECURITY_RESTRICTED_OPERATION | pg_sys::SECURITY_LOCAL_USERID_CHANGE;
    let mut role = switch(owner, restricted);
    role.scope = Some(GucScope::sealed());
    role
}

/// The current user.
pub fn caller() -> pg_sys::Oid {
    // SAFETY: reads a global.
    unsafe { pg_sys::GetUserId() }
}

impl Drop for ActingRole {
    fn drop(&mut self) {
        // During an error the abort of the (sub)transaction restores the user.
        if std::thread::panicking() {
            return;
        }
        self.scope = None;
        // SAFETY: restores what `switch` read.
        unsafe { pg_sys::SetUserIdAndSecContext(self.previous_user, self.previous_context) };
    }
}
