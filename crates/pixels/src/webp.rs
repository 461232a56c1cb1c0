//! The container of a WebP: its chunks, and a file that lacks its end.

use std::borrow::Cow;

/// Flags of the extended header.
const ANIMATION: u8 = 2;
const XMP: u8 = 4;
const EXIF: u8 = 8;
const PROFILE: u8 = 32;
/// Bytes of a chunk's name and length, and of the frame header before an animation's chunks.
const CHUNK: usize = 8;
const FRAME: usize = 16;
/// Least bytes that are added, so that the decoder does not end within a code.
const MARGIN: usize = 1 << 12;

/// Flags of the extended header, if the file has one.
fn flags(bytes: &[u8]) -> Option<u8> {
    match bytes.get(12..21)? {
        [b'V', b'P', b'8', b'X', _, _, _, _, flags] => Some(*flags),
        _ => None,
    }
}

/// Whether the file has frames.
pub(crate) fn is_animated(bytes: &[u8]) -> bool {
    flags(bytes).is_some_and(|flags| flags & ANIMATION != 0)
}

/// Whether the header announces EXIF, and XMP. Blocks that it does not announce are ignored.
pub(crate) fn announces(bytes: &[u8]) -> (bool, bool) {
    flags(bytes).map_or((false, false), |flags| (flags & EXIF != 0, flags & XMP != 0))
}

/// The colour profile.
pub(crate) fn profile(bytes: &[u8]) -> Option<&[u8]> {
    flags(bytes).filter(|flags| flags & PROFILE != 0)?;
    let profile = chunks(bytes, 12).find(|chunk| chunk.name == *b"ICCP")?;
    bytes.get(profile.body..profile.end)
}

/// A chunk as its header states it; it may end behind the file.
struct WebpChunk {
    name: [u8; 4],
    /// Offset of its name.
    at: usize,
    body: usize,
    /// Without the byte that pads an odd length.
    end: usize,
}

/// The chunks from `at` on.
fn chunks(bytes: &[u8], at: usize) -> impl Iterator<Item = WebpChunk> {
    let mut next = at;
    std::iter::from_fn(move || {
        let &[n0, n1, n2, n3, l0, l1, l2, l3, ..] = bytes.get(next..)? else { return None };
        let length = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
        let (at, body) = (next, next + CHUNK);
        let end = body.saturating_add(length);
        next = end.saturating_add(length & 1);
        Some(WebpChunk { name: [n0, n1, n2, n3], at, body, end })
    })
}

/// The chunk of the first picture within which the file ends, as offsets of the chunks around it.
fn open_picture(bytes: &[u8]) -> Option<(Option<WebpChunk>, WebpChunk)> {
    let picture = |chunk: &WebpChunk| matches!(&chunk.name, b"VP8 " | b"VP8L" | b"ANMF");
    let first = chunks(bytes, 12).find(picture).filter(|chunk| chunk.end > bytes.len())?;
    if first.name != *b"ANMF" {
        return Some((None, first));
    }
    let inner = chunks(bytes, first.body + FRAME).find(picture)?;
    (inner.end > bytes.len()).then_some((Some(first), inner))
}

/// Whether the file ends within its first picture.
pub(crate) fn lacks_end(bytes: &[u8]) -> bool {
    open_picture(bytes).is_some()
}

/// Whether the file ends before its first picture.
pub(crate) fn lacks_picture(bytes: &[u8]) -> bool {
    let announced = bytes.get(4..8).map(|length| length.try_into().expect("four bytes"));
    announced.is_some_and(|length| u32::from_le_bytes(length) as usize + CHUNK > bytes.len())
        && !chunks(bytes, 12).any(|chunk| matches!(&chunk.name, b"VP8 " | b"VP8L" | b"ANMF"))
}

/// Bytes that the first picture of a file lacks.
pub(crate) fn missing(bytes: &[u8]) -> usize {
    open_picture(bytes).map_or(0, |(_, picture)| picture.end - bytes.len())
}

/// What follows the end of a file when it is decoded nevertheless.
pub(crate) struct WebpPadding {
    /// Repeated until the picture is longer than announced.
    pub(crate) pattern: [u8; 16],
    /// Bits to change in the last byte of the file.
    pub(crate) change: u8,
    /// Bytes beyond the announced length: the pattern may need more of them.
    pub(crate) more: usize,
}

/// The file with a padding. `None` if it lacks much more than it has.
pub(crate) fn padded(bytes: &[u8], padding: &WebpPadding) -> Option<Vec<u8>> {
    let (frame, picture) = open_picture(bytes)?;
    let missing = picture.end - bytes.len();
    if missing > bytes.len().saturating_mul(2) {
        return None;
    }
    let more = (missing + padding.more + MARGIN) & !1;
    let mut file = Vec::with_capacity(bytes.len() + more + 1);
    file.extend_from_slice(bytes);
    *file.last_mut()? ^= padding.change;
    file.extend(padding.pattern.iter().copied().cycle().take(more + bytes.len() % 2));
    // The file, the frame and the picture are as long as it is now.
    let ends = [Some(0), frame.map(|frame| frame.at), Some(picture.at)];
    for at in ends.into_iter().flatten() {
        let length = u32::try_from(file.len() - at - CHUNK).ok()?;
        file[at + 4..at + CHUNK].copy_from_slice(&length.to_le_bytes());
    }
    Some(file)
}

/// The file without the announcement of blocks that are behind its end, which its decoder requires.
pub(crate) fn without_missing_blocks(bytes: &[u8]) -> Cow<'_, [u8]> {
    let Some(announced) = flags(bytes) else { return Cow::Borrowed(bytes) };
    let missing = [(EXIF, b"EXIF"), (XMP, b"XMP ")].into_iter().filter(|(flag, name)| {
        announced & flag != 0 && !chunks(bytes, 12).any(|chunk| chunk.name == **name)
    });
    let missing = missing.fold(0, |all, (flag, _)| all | flag);
    if missing == 0 {
        return Cow::Borrowed(bytes);
    }
    let mut copy = bytes.to_vec();
    copy[20] = announced & !missing;
    Cow::Owned(copy)
}
