//! AVIF and HEIC through the system's libheif, in builds with the feature `heif`.
//!
//! libheif applies rotation and mirroring, so its result is upright. It cannot be interrupted; the
//! number of pixels is checked by the header.

use crate::{PictureError, PictureFormat, PictureHeader, RgbPicture, raster};
use image::ColorType;
use libheif_rs::{ColorSpace, HeifContext, HeifError, LibHeif, RgbChroma};

/// Most bytes per pixel while decoding: planes of up to 16 bits with alpha, the decoder's reference
/// frame, the grid, the RGBA copy.
const PER_PIXEL: u64 = 28;

/// The header of an AVIF or HEIC file.
pub(crate) fn probe(format: PictureFormat, bytes: &[u8]) -> Result<PictureHeader, PictureError> {
    let context = HeifContext::read_from_bytes(bytes).map_err(|e| damaged(format, &e))?;
    let handle = context.primary_image_handle().map_err(|e| damaged(format, &e))?;
    let (width, height) = (handle.width(), handle.height());
    if width == 0 || height == 0 {
        return Err(PictureError::Damaged {
            format,
            why: "the header announces a side of 0 pixels".to_owned(),
        });
    }
    let (w, h) = (u64::from(width), u64::from(height));
    let memory_bound = w
        .saturating_mul(h)
        .saturating_mul(PER_PIXEL)
        .saturating_add(bytes.len() as u64)
        .saturating_add(16 << 20);
    Ok(PictureHeader {
        format,
        width,
        height,
        orientation: 1,
        memory_bound,
        reducible_bytes: 0,
        scans: 1,
        animated: false,
        judged_size: (w, h),
    })
}

/// The picture, and whether any pixel is visible.
pub(crate) fn decode(
    bytes: &[u8],
    header: &PictureHeader,
) -> Result<(RgbPicture, bool), PictureError> {
    let format = header.format;
    let context = HeifContext::read_from_bytes(bytes).map_err(|e| damaged(format, &e))?;
    let handle = context.primary_image_handle().map_err(|e| damaged(format, &e))?;
    let (chroma, colours) = if handle.has_alpha_channel() {
        (RgbChroma::Rgba, ColorType::Rgba8)
    } else {
        (RgbChroma::Rgb, ColorType::Rgb8)
    };
    let image = LibHeif::new()
        .decode(&handle, ColorSpace::Rgb(chroma), None)
        .map_err(|e| damaged(format, &e))?;
    let plane = image.planes().interleaved.ok_or_else(|| PictureError::Damaged {
        format,
        why: "the decoder returned no pixels".to_owned(),
    })?;
    if (plane.width, plane.height) != (header.width, header.height) {
        return Err(PictureError::Damaged {
            format,
            why: "the decoded size differs from the header".to_owned(),
        });
    }
    let row = plane.width as usize * usize::from(colours.channel_count());
    let rows = plane.data.chunks(plane.stride).take(plane.height as usize);
    let samples: Vec<u8> = rows.flat_map(|line| &line[..row]).copied().collect();
    let (data, visible) = raster::to_rgb(samples, colours, format, false)?;
    Ok((RgbPicture { width: header.width, height: header.height, data }, visible))
}

fn damaged(format: PictureFormat, error: &HeifError) -> PictureError {
    PictureError::Damaged { format, why: error.to_string() }
}
