//! The canvas of a GIF, read before its decoder allocates: a first frame may reach beyond the canvas announced. The canvas
//! then grows to hold it, as in the reference. What such a frame leaves of the canvas is white and not, as in the reference,
//! the background colour: browsers show it transparent, and transparency is laid on white here.

use std::borrow::Cow;

/// Width and height of the canvas, grown to hold the first frame. `None` where the file has no frame.
pub(crate) fn canvas(bytes: &[u8]) -> Option<(u64, u64)> {
    let (width, height) = (short(bytes, 6)?, short(bytes, 8)?);
    let (right, bottom) = first_frame_edges(bytes)?;
    Some((u64::from(width.max(right)), u64::from(height.max(bottom))))
}

/// The file, with the grown canvas in its header where that differs and can be written there.
pub(crate) fn with_grown_canvas(bytes: &[u8]) -> Cow<'_, [u8]> {
    let grown = canvas(bytes).and_then(|(width, height)| Some((u16::try_from(width).ok()?.to_le_bytes(), u16::try_from(height).ok()?.to_le_bytes())));
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

/// Right and bottom edge of the first frame, in pixels of the canvas. `None` where the file has no frame.
pub(crate) fn first_frame_edges(bytes: &[u8]) -> Option<(u32, u32)> {
    let mut at = 13 + colour_table(*bytes.get(10)?);
    loop {
        match *bytes.get(at)? {
            // An extension: its label, then blocks of at most 255 bytes, the last one empty.
            0x21 => {
                at += 2;
                loop {
                    let length = usize::from(*bytes.get(at)?);
                    at += 1 + length;
                    if length == 0 {
                        break;
                    }
                }
            }
            0x2C => return Some((short(bytes, at + 1)? + short(bytes, at + 5)?, short(bytes, at + 3)? + short(bytes, at + 7)?)),
            _ => return None,
        }
    }
}

fn short(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from(u16::from_le_bytes([*bytes.get(at)?, *bytes.get(at + 1)?])))
}

/// Bytes of the colour table that `flags` announces.
fn colour_table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}
