//! What PostgreSQL calls in every backend: trigger functions, the executor hook, the utility hook
//! and the object-access hook.

pub mod enqueue;
pub mod object_access;
pub mod utility;

/// Installs the hooks; in the postmaster, while preloading: backends inherit them.
pub fn init() {
    object_access::init();
    enqueue::trigger_skip::init();
}
