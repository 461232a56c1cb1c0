//! Sizes and faults at fixed offsets of a header, read before a decoder sees the file. An absurd
//! size is then rejected with its numbers, not reported as damage.

use crate::{PictureError, PictureFormat, gif, png, tiff, webp};

/// Width and height that the header announces, for formats that have them at a fixed offset.
pub(crate) fn size(format: PictureFormat, bytes: &[u8]) -> Option<(u64, u64)> {
    let field = |at: usize| {
        Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).expect("four bytes were asked for"))
    };
    match format {
        PictureFormat::Png if !png::begins_with_header(bytes) => None,
        PictureFormat::Png => {
            Some((u32::from_be_bytes(field(16)?).into(), u32::from_be_bytes(field(20)?).into()))
        }
        // The oldest kind of BMP has 16-bit sides; in all others a negative height means top-down
        // rows.
        PictureFormat::Bmp if bytes.get(14) == Some(&12) => {
            let [w0, w1, h0, h1] = field(18)?;
            Some((u16::from_le_bytes([w0, w1]).into(), u16::from_le_bytes([h0, h1]).into()))
        }
        PictureFormat::Bmp => Some((
            i32::from_le_bytes(field(18)?).unsigned_abs().into(),
            i32::from_le_bytes(field(22)?).unsigned_abs().into(),
        )),
        PictureFormat::Gif => gif::canvas(bytes),
        PictureFormat::Jpeg
        | PictureFormat::WebP
        | PictureFormat::Tiff
        | PictureFormat::Avif
        | PictureFormat::Heic => None,
    }
}

/// Rejects files that decoders accept although they cannot be decoded correctly.
pub(crate) fn check(format: PictureFormat, bytes: &[u8]) -> Result<(), PictureError> {
    match format {
        PictureFormat::Png => png::check(bytes),
        PictureFormat::Gif if gif::first_frame(bytes).is_none() => {
            Err(PictureError::Damaged { format, why: "the file has no frame".to_owned() })
        }
        PictureFormat::WebP => check_webp(bytes),
        PictureFormat::Tiff => tiff::check(bytes),
        _ => Ok(()),
    }
}

/// A lossy frame has a size of its own and would be decoded before it is compared with the canvas.
fn check_webp(bytes: &[u8]) -> Result<(), PictureError> {
    if webp::lacks_picture(bytes) {
        return Err(PictureError::Truncated { format: PictureFormat::WebP, share: Some(0) });
    }
    let Some([b'V', b'P', b'8', b'X', _, _, _, _, _, _, _, _, w0, w1, w2, h0, h1, h2]) =
        bytes.get(12..30)
    else {
        return Ok(());
    };
    let side = |bytes: [u8; 3]| u32::from_le_bytes([bytes[0], bytes[1], bytes[2], 0]) + 1;
    let canvas = (side([*w0, *w1, *w2]), side([*h0, *h1, *h2]));
    // At any offset: the chunk's name, its length, three bytes of tag, the start code, and the
    // sides in 14 bits each.
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| *byte == b'V') {
        rest = &rest[at + 1..];
        if let [b'P', b'8', b' ', _, _, _, _, _, _, _, 0x9D, 0x01, 0x2A, w0, w1, h0, h1, ..] = *rest
        {
            let (width, height) =
                (u16::from_le_bytes([w0, w1]) & 0x3FFF, u16::from_le_bytes([h0, h1]) & 0x3FFF);
            if u32::from(width) > canvas.0 || u32::from(height) > canvas.1 {
                let why = format!(
                    "a frame of {width} x {height} pixels on a canvas of {} x {}",
                    canvas.0, canvas.1
                );
                return Err(PictureError::Damaged { format: PictureFormat::WebP, why });
            }
        }
    }
    Ok(())
}
