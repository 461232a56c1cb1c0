//! Fingerprints, to compare with the reference implementation (`pixels_sha256` of the command
//! line).

use sha2::{Digest, Sha256};

/// SHA-256 of the values as little-endian float32, in lower-case hexadecimal.
pub fn sha256_f32(values: &[f32]) -> String {
    let mut hash = Sha256::new();
    let mut block = Vec::with_capacity(64 * 1024);
    for chunk in values.chunks(16 * 1024) {
        block.clear();
        block.extend(chunk.iter().flat_map(|value| value.to_le_bytes()));
        hash.update(&block);
    }
    format!("{:x}", hash.finalize())
}

/// SHA-256 of bytes, in lower-case hexadecimal.
pub fn sha256_bytes(bytes: &[u8]) -> String {
    format!("{:x}", Sha256::digest(bytes))
}
