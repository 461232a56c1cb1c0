//! One picture on its way through fetch, decode and encode, and the jobs that wait for it.

use sha2::{Digest, Sha256};

/// SHA-256, lower-case hex.
pub fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|b| format!("{b:02x}")).collect()
}

/// A picture.
pub struct Picture;

impl Picture {
    /// Still being worked on.
    pub fn is_pending(&self) -> bool {
        false
    }
}
