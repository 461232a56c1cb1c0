//! Decodes bytes to an upright RGB picture. The order is what makes it safe: recognise the format,
//! read the header, check the limits, decode with panics caught, turn.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::{
    BlankKind, DecodeLimits, PictureError, PictureFormat, RgbPicture, announced, blank, header,
    jpeg, orient, raster, recognise,
};

/// How to decode.
#[derive(Debug, Clone, Default)]
pub struct DecodeOptions {
    /// Limits of one picture.
    pub limits: DecodeLimits,
    /// Width and height (upright) to which the picture will be resized; allows reduced-scale
    /// decoding of camera JPEGs.
    pub target: Option<(u32, u32)>,
    /// Decode at full size, for comparisons; blank pictures are not detected.
    pub exact: bool,
}

/// A decoded picture.
#[derive(Debug, Clone)]
pub struct DecodedPicture {
    /// The upright picture, at reduced size where allowed.
    pub rgb: RgbPicture,
    /// The format by content.
    pub format: PictureFormat,
    /// Width of the upright picture at full size, pixels.
    pub width: u32,
    /// Height of the upright picture at full size, pixels.
    pub height: u32,
    /// Why the picture is blank; always `None` with `exact`.
    pub blank: Option<BlankKind>,
}

/// Decodes a picture.
///
/// # Errors
/// See [`PictureError`]. Every limit that the header violates is reported before anything is
/// decoded.
pub fn decode(bytes: &[u8], options: &DecodeOptions) -> Result<DecodedPicture, PictureError> {
    options.limits.check_time()?;
    // Fixed offsets first: a decoder may fail on an absurd size before it reports it.
    if let Some((width, height)) = announced::size(recognise::recognise(bytes)?, bytes) {
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

/// Runs a decoder; a panic becomes an error of the picture.
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
    fn decoder_panics_become_errors() {
        let result: Result<(), PictureError> =
            guarded(PictureFormat::Gif, || panic!("decoder bug"));
        assert_eq!(result, Err(PictureError::Panicked { format: PictureFormat::Gif }));
        assert_eq!(guarded(PictureFormat::Gif, || Ok(7)), Ok(7));
    }
}
