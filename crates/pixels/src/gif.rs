//! Where the first frame of a GIF lies, read before its decoder allocates: a frame may be larger than the canvas announced.

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
            0x2C => {
                let side = |i: usize| Some(u32::from(u16::from_le_bytes([*bytes.get(at + i)?, *bytes.get(at + i + 1)?])));
                return Some((side(1)? + side(5)?, side(3)? + side(7)?));
            }
            _ => return None,
        }
    }
}

/// Bytes of the colour table that `flags` announces.
fn colour_table(flags: u8) -> usize {
    if flags & 0x80 == 0 { 0 } else { 3 << ((flags & 7) + 1) }
}
