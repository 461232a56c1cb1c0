//! From bytes to an upright RGB picture, in the order that keeps it safe: recognise, read the
//! header, judge the limits, decode where a panic is catch_panic, turn.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    BlankKind, DecodeLimits, PictureError, PictureFormat, RgbPicture, announced, blank, format,
    header, jpeg, orient, raster,
};

/// How to decode.
#[derive(Debug, Clone, Default)]
pub struct DecodeOptions {
    /// What the picture may cost.
    pub limits: DecodeLimits,
    /// Width and height the picture will be resized to (upright): lets camera JPEGs be decoded at
    /// reduced scale.
    pub target: Option<(u32, u32)>,
    /// Decode in full, for comparisons; blank pictures are not told.
    pub exact: bool,
}

/// A decoded picture.
#[derive(Debug, Clone)]
pub struct DecodedPicture {
    /// The upright picture, of reduced size where that was allowed.
    pub rgb: RgbPicture,
    /// By content.
    pub format: PictureFormat,
    /// Pixels of the upright picture at full size.
    pub width: u32,
    /// Pixels of the upright picture at full size.
    pub height: u32,
    /// Why there is nothing to describe, if so; always `None` with `exact`.
    pub blank: Option<BlankKind>,
}

/// Decodes a picture.
///
/// # Errors
/// See [`PictureError`]; every limit of `options` that the header breaks is found before anything is
/// decoded.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<DecodedPicture, PictureError> {
    options.limits.check_time()?;
    // What fixed places of the header say is judged first: a decoder may choke on an absurd size
    // before it tells it.
    if let Some((width, height)) = announced::size(format::recognise(bytes)?, bytes) {
        options.limits.check_pixels(width, height)?;
    }
    let header = header::probe(bytes)?;
    header.check(options)?;
    let format = header.format;
    let (rgb, visible) = guarded(format, || match format {
        PictureFormat::Jpeg => Ok((jpeg::decode(bytes, &header, options)?, true)),
        #[cfg(feature = "heif")]
        PictureFormat::Avif | PictureFormat::Heic => crate::heif::decode(bytes, &header),
        _ => raster::decode(bytes, &header, &options.limits),
    })?;
    options.limits.check_time()?;
    let rgb = orient::upright(rgb, header.turn());
    let (width, height) = header.upright_size();
    let blank = if options.exact { None } else { blank::judge(&rgb, (width, height), visible) };
    Ok(DecodedPicture { rgb, format, width, height, blank })
}

/// Runs a decoder; a panic in it becomes the error of that picture.
pub(crate) fn guarded<T>(
    format: PictureFormat,
    work: impl FnOnce() -> Result<T, PictureError>,
) -> Result<T, PictureError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or(Err(PictureError::Panicked { format }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_decoder_is_an_error_of_that_picture_and_nothing_else() {
        let result: Result<(), PictureError> =
            guarded(PictureFormat::Gif, || panic!("as decoders do"));
        assert_eq!(result, Err(PictureError::Panicked { format: PictureFormat::Gif }));
        assert_eq!(guarded(PictureFormat::Gif, || Ok(7)), Ok(7));
    }
}
