//! What PostgreSQL calls in every backend: the trigger functions, the executor hook and the
//! object-access hook.

pub mod enqueue;
pub mod object_access;
