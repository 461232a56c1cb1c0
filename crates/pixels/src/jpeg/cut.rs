//! A JPEG without its end marker: libjpeg fills what is missing with gray and warns.

use turbojpeg::{Decompressor, Image};

use super::markers::{EOI, JpegMarkers, ScanCoverage};
use crate::cut::{KeptRows, NOISE};
use crate::{DecodeOptions, PictureError, PictureFormat};

/// Completes `image`, which was decoded from such a file, or refuses it.
pub(super) fn complete(
    decompressor: &mut Decompressor,
    markers: &JpegMarkers,
    bytes: &[u8],
    image: &mut Image<Vec<u8>>,
    options: &DecodeOptions,
) -> Result<(), PictureError> {
    const END: [u8; 2] = [0xFF, EOI];
    let truncated = |share| PictureError::Truncated { format: PictureFormat::Jpeg, share };
    options.limits.check_time()?;
    // A missing end marker alone is harmless: with one appended, the picture decodes without
    // warnings.
    let ended = markers.cleaned(bytes, &END);
    let Err(error) = decompressor.decompress(&ended, image.as_deref_mut()) else { return Ok(()) };
    if options.exact {
        return Err(truncated(None));
    }
    if !super::is_warning(&error) {
        return Err(super::damaged(error));
    }
    match markers.coverage(bytes) {
        ScanCoverage::Whole => return Ok(()),
        ScanCoverage::Begun => {}
        ScanCoverage::Lacking => return Err(truncated(Some(0))),
    }
    drop(ended);
    options.limits.check_time()?;
    // Without a byte of 0xFF, also before it, so that no marker ends the scan.
    let held = bytes.len() - bytes.iter().rev().take_while(|byte| **byte == 0xFF).count();
    let noise = [NOISE.repeat(64).as_slice(), &END].concat();
    let mut other = Image {
        pixels: vec![0; image.pixels.len()],
        width: image.width,
        pitch: image.pitch,
        height: image.height,
        format: image.format,
    };
    if let Err(error) =
        decompressor.decompress(&markers.cleaned(&bytes[..held], &noise), other.as_deref_mut())
        && !super::is_warning(&error)
    {
        return Err(truncated(None));
    }
    let rows = KeptRows::before_difference(&image.pixels, &other.pixels, image.pitch);
    rows.check(PictureFormat::Jpeg)?;
    rows.fill(&mut image.pixels, image.pitch);
    Ok(())
}
