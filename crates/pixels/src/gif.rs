//! The canvas of a GIF, read before its decoder allocates: the first frame may exceed the announced
//! canvas.
//!
//! The canvas then grows to contain it, as in the reference. The area around a smaller frame is
//! transparent, hence white, if the frame has a transparent colour. Otherwise it has, as in the
//! reference, the first colour of the frame's table.

mod cut;

use std::borrow::Cow;

pub(crate) use cut::{decode as decode_cut, lacks_end};

/// Width and height of the canvas, grown to contain the first frame. `None` if the file has no
/// frame.
pub(crate) fn canvas(bytes: &[u8]) -> Option<(u64, u64)> {
    let (width, height) = (short(bytes, 6)?, short(bytes, 8)?);
    let frame = first_frame(bytes)?;
    Some((u64::from(width.max(frame.right)), u64::from(height.max(frame.bottom))))
}

/// The file, with the grown canvas in its header if it differs and fits.
pub(crate) fn with_grown_canvas(bytes: &[u8]) -> Cow<'_, [u8]> {
    let grown = canvas(bytes).and_then(|(width, height)| {
        Some((u16::try_from(width).ok()?.to_le_bytes(), u16::try_from(height).ok()?.to_le_bytes()))
    });
    match grown {
        Some((width, height)) if bytes[6..8] != width || bytes[8..10] != height => {
            let mut copy = bytes.to_vec();
            copy[6..8].copy_from_slice(&width);
            copy[8..10].copy_from_slice(&height);
            Cow::Owned(copy)
        }
        _ => Cow::Borrowed(bytes),
    }
}

/// The first frame's edges in pixels of the canvas, and the colour around it.
pub(crate) struct GifFrame {
    left: u32,
    top: u32,
    right: u32,
    bottom: u32,
    /// `None`: transparent.
    around: Option<[u8; 3]>,
}

/// What a block of a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlockKind {
    /// A graphic control extension that marks a colour as transparent.
    Transparent,
    /// A frame.
    Frame,
    /// An extension of another kind.
    Other,
}

/// A block of a file.
pub(crate) struct GifBlock {
    pub(crate) kind: BlockKind,
    /// Offset of its first byte.
    at: usize,
    /// The file does not end within it.
    pub(crate) whole: bool,
}

/// The blocks of a file in their order, up to its end or the first unknown one.
pub(crate) fn blocks(bytes: &[u8]) -> impl Iterator<Item = GifBlock> {
    let mut next = bytes.get(10).map(|flags| 13 + colour_table(*flags));
    std::iter::from_fn(move || {
        let at = next.take()?;
        let (kind, data) = match *bytes.get(at)? {
            0x21 => match bytes[at + 1..] {
                [0xF9, 4..=255, control, ..] if control & 1 == 1 => {
                    (BlockKind::Transparent, at + 2)
                }
                _ => (BlockKind::Other, at + 2),
            },
            // Its position, sides and flags, its colours, the size of its codes.
            0x2C => {
                let colours = bytes.get(at + 9).map_or(0, |flags| colour_table(*flags));
                (BlockKind::Frame, at + 11 + colours)
            }
            _ => return None,
        };
        // Blocks of at most 255 bytes, the last one empty.
        let mut end = data;
        while let Some(length) = bytes.get(end) {
            end += 1 + usize::from(*length);
            if *length == 0 {
                next = Some(end);
                break;
            }
        }
        Some(GifBlock { kind, at, whole: next.is_some() })
    })
}

/// Whether the file has more than one frame.
pub(crate) fn is_animated(bytes: &[u8]) -> bool {
    blocks(bytes).filter(|block| block.kind == BlockKind::Frame).nth(1).is_some()
}

/// The first frame; `None` if the file has none.
pub(crate) fn first_frame(bytes: &[u8]) -> Option<GifFrame> {
    let mut transparent = false;
    for GifBlock { kind, at, .. } in blocks(bytes) {
        match kind {
            BlockKind::Transparent => transparent = true,
            BlockKind::Other => {}
            BlockKind::Frame => {
                let table =
                    |flags: u8, at: usize| bytes.get(at..at + 3).filter(|_| flags & 0x80 != 0);
                let (left, top) = (short(bytes, at + 1)?, short(bytes, at + 3)?);
                let (right, bottom) = (left + short(bytes, at + 5)?, top + short(bytes, at + 7)?);
                let first = table(*bytes.get(at + 9)?, at + 10)
                    .or_else(|| table(*bytes.get(10)?, 13))
                    .unwrap_or(&[0; 3]);
                let around = (!transparent).then(|| [first[0], first[1], first[2]]);
                return Some(GifFrame { left, top, right, bottom, around });
            }
        }
    }
    None
}

/// Fills the area around the first frame on a canvas `width` pixels wide (8-bit RGBA).
pub(crate) fn fill_around(bytes: &[u8], width: u32, rgba: &mut [u8]) {
    let Some(GifFrame { left, top, right, bottom, around: Some([r, g, b]) }) = first_frame(bytes)
    else {
        return;
    };
    let (rows, _) = rgba.as_chunks_mut::<4>();
    for (y, row) in (0..).zip(rows.chunks_exact_mut(width as usize)) {
        let within = if (top..bottom).contains(&y) {
            (left as usize).min(row.len())..(right as usize).min(row.len())
        } else {
            0..0
        };
        row[..within.start].fill([r, g, b, 255]);
        row[within.end..].fill([r, g, b, 255]);
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])))
}

/// Bytes of the colour table that `flags` announces.
fn colour_table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}
