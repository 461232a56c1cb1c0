//! Whether bytes start like a picture. Called by `body` if a server announces a content coding that
//! the bytes may not have. The decoder decides what is a picture.

/// Number of bytes that are examined.
pub(crate) const LENGTH: u64 = 16;

/// The signatures of the formats in `crates/pixels`. None is a valid start of gzip or another
/// coding.
pub(crate) fn begins_a_picture(head: &[u8]) -> bool {
    matches!(
        head,
        [0xFF, 0xD8, 0xFF, ..]
            | [0x89, b'P', b'N', b'G', b'\r', b'\n', ..]
            | [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..]
            | [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..]
            // Followed by the size of the header, which text does not match.
            | [b'B', b'M', _, _, _, _, _, _, _, _, _, _, _, _, _, 0, ..]
            | [b'I', b'I', 42 | 43, 0, ..]
            | [b'M', b'M', 0, 42 | 43, ..]
            // AVIF and HEIC.
            | [0, 0, _, _, b'f', b't', b'y', b'p', ..]
    )
}
