//! Sizes and oddities read from fixed places of a header before any decoder sees the file, so that an absurd size is
//! refused with its numbers and not as mere damage.

use crate::{Error, Format, gif, png};

/// Width and height that the file announces, for the formats that have them in a fixed place.
pub(crate) fn size(format: Format, bytes: &[u8]) -> Option<(u64, u64)> {
    let field = |at: usize| Some(<[u8; 4]>::try_from(bytes.get(at..at + 4)?).expect("four bytes were asked for"));
    match format {
        Format::Png => Some((u32::from_be_bytes(field(16)?).into(), u32::from_be_bytes(field(20)?).into())),
        // The oldest kind of BMP has 16-bit sides; in all others a negative height means rows from the top.
        Format::Bmp if bytes.get(14) == Some(&12) => {
            let [w0, w1, h0, h1] = field(18)?;
            Some((u16::from_le_bytes([w0, w1]).into(), u16::from_le_bytes([h0, h1]).into()))
        }
        Format::Bmp => Some((i32::from_le_bytes(field(18)?).unsigned_abs().into(), i32::from_le_bytes(field(22)?).unsigned_abs().into())),
        Format::Gif => gif::canvas(bytes),
        Format::Jpeg | Format::WebP | Format::Tiff | Format::Avif | Format::Heic => None,
    }
}

/// Refuses what decoders let pass although nothing good can come of it.
pub(crate) fn check(format: Format, bytes: &[u8]) -> Result<(), Error> {
    match format {
        Format::Png => png::check(bytes),
        Format::Gif if gif::first_frame_edges(bytes).is_none() => Err(Error::Damaged { format, why: "there is no frame in the file".to_owned() }),
        _ => Ok(()),
    }
}
