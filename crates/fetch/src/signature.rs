//! Do these bytes begin as a picture does? Asked by `body` alone, where a server claims a coding
//! that the bytes may not have; what a picture is, is for whoever decodes it to say.

/// Bytes that are looked at.
pub(crate) const LENGTH: u64 = 16;

/// The beginnings of the formats in `crates/pixels`, those of gzip and the other codings being
/// different ones.
pub(crate) fn begins_a_picture(head: &[u8]) -> bool {
    matches!(
        head,
        [0xFF, 0xD8, 0xFF, ..]
            | [0x89, b'P', b'N', b'G', b'\r', b'\n', ..]
            | [b'R', b'I', b'F', b'F', _, _, _, _, b'W', b'E', b'B', b'P', ..]
            | [b'G', b'I', b'F', b'8', b'7' | b'9', b'a', ..]
            // the size of the header behind it, which texts that begin so have not
            | [b'B', b'M', _, _, _, _, _, _, _, _, _, _, _, _, _, 0, ..]
            | [b'I', b'I', 42 | 43, 0, ..]
            | [b'M', b'M', 0, 42 | 43, ..]
            // AVIF and HEIC
            | [0, 0, _, _, b'f', b't', b'y', b'p', ..]
    )
}
