//! Decodes bytes to an upright RGB picture. The order is what makes it safe: recognise the format,
//! read the header, check the limits, decode with panics caught, find a frame that shows something,
//! convert colours, turn.

use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::profile::{self, ColourConversion, ProfileSpace};
use crate::{
    BlankKind, DecodeLimits, PictureError, PictureFormat, RgbPicture, animation, blank, header,
    jpeg, orient, raster,
};

/// How to decode.
#[derive(Debug, Clone, Default)]
pub struct DecodeOptions {
    /// Limits of one picture.
    pub limits: DecodeLimits,
    /// Width and height (upright) to which the picture will be resized; allows reduced-scale
    /// decoding of camera JPEGs.
    pub target: Option<(u32, u32)>,
    /// Allows it for JPEGs of any size. Not for models whose input must equal a reference's.
    pub reduce_all: bool,
    /// Decode as the reference does, for comparisons: at full size, without the colour profile,
    /// the first frame, and no file that lacks its end. Blank pictures are not detected.
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
    let header = header::probe_within(bytes, options)?;
    let format = header.format;
    let (mut rgb, visible) = guarded(format, || match format {
        PictureFormat::Jpeg => Ok((jpeg::decode(bytes, &header, options)?, true)),
        #[cfg(feature = "heif")]
        PictureFormat::Avif | PictureFormat::Heic => crate::heif::decode(bytes, &header),
        _ => raster::decode(bytes, &header, options),
    })?;
    options.limits.check_time()?;
    let (width, height) = header.upright_size();
    let mut blank = None;
    if !options.exact {
        blank = blank::judge(&rgb, (width, height), visible);
        if header.animated
            && blank.is_some_and(|kind| kind != BlankKind::OnePixel)
            && let Some(shown) =
                guarded(format, || animation::first_shown(bytes, &header, &options.limits))?
        {
            (rgb, blank) = (shown, None);
        }
        if let Some((profile, space)) = profile::embedded(format, bytes)
            && space != ProfileSpace::Cmyk
            && let Some(conversion) = ColourConversion::new(&profile, space)
        {
            guarded(format, || conversion.rgb_in_place(&mut rgb.data, &options.limits))?;
        }
    }
    let rgb = orient::upright(rgb, header.turn());
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
