//! Where a test puts code of its own in the decoder's place, to see what somebody could do who took
//! the engine over through a picture.
//!
//! The installed program never sets it, and nothing it reads or is told can: only another program
//! that links this library (`tests/src/bin/test_hook_engine.rs`), named by a superuser in
//! `pg_caption.engine`.

use std::sync::OnceLock;

/// Called with each file on a decode thread, before it is decoded.
pub static DECODER: OnceLock<fn(&[u8])> = OnceLock::new();
