//! Sizes and oddities read from fixed places of a header before any decoder sees the file, so that an absurd size is
//! refused with its numbers and not as mere damage.

use crate::{Error, Format, gif};

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
        Format::Png => check_png(bytes),
        Format::Gif if gif::first_frame_edges(bytes).is_none() => Err(Error::Damaged { format, why: "there is no frame in the file".to_owned() }),
        _ => Ok(()),
    }
}

/// The methods a PNG names: the standard knows one compression, one filter method and two orders of rows. As in the
/// reference an unknown compression counts in the chunks before the picture, too.
fn check_png(bytes: &[u8]) -> Result<(), Error> {
    let unknown = |what: &str| Err(Error::UnsupportedVariant { format: Format::Png, what: format!("an unknown {what} method") });
    match bytes.get(26..29) {
        Some([0, 0, 0 | 1]) => {}
        Some([0, 0, _]) => return unknown("interlace"),
        Some([0, ..]) => return unknown("filter"),
        Some(_) => return unknown("compression"),
        None => return Err(Error::Truncated { format: Format::Png }),
    }
    let mut chunks = &bytes[8..];
    while let [l0, l1, l2, l3, k0, k1, k2, k3, rest @ ..] = chunks {
        let body = rest.get(..u32::from_be_bytes([*l0, *l1, *l2, *l3]) as usize);
        match ([*k0, *k1, *k2, *k3], body) {
            ([b'I', b'D', b'A', b'T'], _) | (_, None) => break,
            // A name, a zero, the method.
            ([b'i', b'C', b'C', b'P'] | [b'z', b'T', b'X', b't'], Some(body)) => {
                let method = body.iter().position(|byte| *byte == 0).and_then(|zero| body.get(zero + 1));
                if method.is_some_and(|method| *method != 0) {
                    return unknown("compression");
                }
            }
            _ => {}
        }
        chunks = rest.get(body.map_or(0, <[u8]>::len) + 4..).unwrap_or(&[]);
    }
    Ok(())
}
