//! JPEG through libjpeg-turbo, with Pillow's options (accurate DCT, smooth chroma upsampling), so
//! that every value equals the reference's.
//!
//! libjpeg only warns about damage. Like Pillow, this decoder ignores warnings. The library cannot
//! be interrupted, so its cost is computed from the markers beforehand.

mod cmyk;
mod cut;
mod markers;

use turbojpeg::{Colorspace, Decompressor, Image, PixelFormat, ScalingFactor};

use crate::bounds::{MAX_SCAN_PIXELS, MAX_SCANS};
use crate::profile::{ColourConversion, ProfileSpace};
use crate::{
    DecodeOptions, PictureError, PictureFormat, PictureHeader, RgbPicture, orient, profile,
};
use markers::JpegMarkers;

/// Pictures of at least this size are decoded at reduced scale if the target allows it; smaller
/// ones with [`DecodeOptions::reduce_all`] only.
const CAMERA_PIXELS: u64 = 12_000_000;
/// A reduced picture is at least this many times as large as the target, so that the resize decides
/// the result.
const KEEP: u64 = 2;

/// The header, from the markers alone.
pub(crate) fn probe(bytes: &[u8]) -> Result<PictureHeader, PictureError> {
    let markers = JpegMarkers::read(bytes)?;
    let (scans, _) = if markers.is_multi_scan() { markers.count_scans(bytes) } else { (1, true) };
    let buffers = orient::buffers(markers.orientation);
    let (w, h) = (u64::from(markers.width), u64::from(markers.height));
    let pixel = if markers.components.len() == 4 { 4 } else { 3 };
    // A file without its end is decoded twice.
    let decodes = if markers.is_ended(bytes) { 1 } else { 2 };
    let image = w * h * (pixel * decodes).max(3 * buffers);
    // Coefficients of the whole picture for files with several scans, else strips of rows; a
    // cleaned copy of a faulty file.
    let coefficients = if markers.is_multi_scan() { markers.coefficient_bytes() } else { 0 };
    let working = (w + 64) * 512 + h * 16 + (1 << 20) + bytes.len() as u64;
    let profile = markers.profile(bytes).map(|profile| profile.len());
    Ok(PictureHeader {
        format: PictureFormat::Jpeg,
        width: markers.width,
        height: markers.height,
        orientation: markers.orientation.to_exif(),
        memory_bound: image + coefficients + working + profile::memory_of(profile),
        reducible_bytes: if markers.lossless { 0 } else { image },
        scans,
        animated: false,
        judged_size: (w, h),
    })
}

/// Decodes the picture as stored (not turned), reduced where `header` and `options` allow it.
pub(crate) fn decode(
    bytes: &[u8],
    header: &PictureHeader,
    options: &DecodeOptions,
) -> Result<RgbPicture, PictureError> {
    let pixels = u64::from(header.width) * u64::from(header.height);
    if header.scans > MAX_SCANS
        || header.scans > 1 && header.scans.saturating_mul(pixels) > MAX_SCAN_PIXELS
    {
        return Err(PictureError::TooManyScans { scans: header.scans, pixels });
    }
    let markers = JpegMarkers::read(bytes)?;
    let mut decompressor = Decompressor::new().map_err(damaged)?;
    // The wrapper treats a warning about the header as an error: remove the cause of such warnings.
    let cleaned;
    let (file, info) = match decompressor.read_header(bytes) {
        Ok(info) => (bytes, info),
        Err(_) => {
            cleaned = markers.cleaned(bytes, &[]);
            (cleaned.as_slice(), decompressor.read_header(&cleaned).map_err(damaged)?)
        }
    };
    if (info.width, info.height) != (header.width as usize, header.height as usize) {
        return Err(damaged("two headers contradict each other"));
    }
    // The library does not convert the colours of lossless files.
    if info.is_lossless && !matches!(info.colorspace, Colorspace::RGB | Colorspace::CMYK) {
        let what = format!("a lossless JPEG whose colours are {:?}", info.colorspace);
        return Err(PictureError::UnsupportedVariant { format: PictureFormat::Jpeg, what });
    }
    let scaling = if info.is_lossless { ScalingFactor::ONE } else { scaling(header, options) };
    decompressor.set_scaling_factor(scaling).map_err(damaged)?;
    let info = info.scaled(scaling);
    let format = match info.colorspace {
        Colorspace::CMYK | Colorspace::YCCK => PixelFormat::CMYK,
        _ => PixelFormat::RGB,
    };
    let pitch = info.width * format.size();
    let mut image = Image {
        pixels: vec![0; pitch * info.height],
        width: info.width,
        pitch,
        height: info.height,
        format,
    };
    if let Err(error) = decompressor.decompress(file, image.as_deref_mut()) {
        if !is_warning(&error) {
            return Err(damaged(error));
        }
        // Only the first warning is reported, so completeness is checked separately.
        let (_, complete) = markers.count_scans(bytes);
        if !complete {
            cut::complete(&mut decompressor, &markers, bytes, &mut image, options)?;
        }
    }
    let data = match format {
        PixelFormat::CMYK => {
            let conversion = markers
                .profile(bytes)
                .filter(|_| !options.exact)
                .and_then(|profile| ColourConversion::new(&profile, ProfileSpace::Cmyk));
            match conversion {
                Some(conversion) => cmyk::convert(image.pixels, &conversion, &options.limits)?,
                None => cmyk::to_rgb(image.pixels),
            }
        }
        _ => image.pixels,
    };
    Ok(RgbPicture { width: info.width as u32, height: info.height as u32, data })
}

/// The colour profile of a gray or RGB picture, and for which of them it must be.
pub(crate) fn profile(bytes: &[u8]) -> Option<(Vec<u8>, ProfileSpace)> {
    let markers = JpegMarkers::read(bytes).ok()?;
    let space = match markers.components.len() {
        1 => ProfileSpace::Gray,
        3 => ProfileSpace::Rgb,
        _ => ProfileSpace::Cmyk,
    };
    Some((markers.profile(bytes)?, space))
}

/// The smallest scale that keeps [`KEEP`] times the target on both sides, for pictures that need
/// not be exact.
fn scaling(header: &PictureHeader, options: &DecodeOptions) -> ScalingFactor {
    let pixels = u64::from(header.width) * u64::from(header.height);
    let may_reduce = !options.exact && (options.reduce_all || pixels >= CAMERA_PIXELS);
    let Some((width, height)) = options.target.filter(|_| may_reduce) else {
        return ScalingFactor::ONE;
    };
    // The target is upright, the header is not.
    let (width, height) = if header.swaps_sides() { (height, width) } else { (width, height) };
    let keeps = |side: u32, denominator: u64, target: u32| {
        u64::from(side).div_ceil(denominator) >= KEEP * u64::from(target)
    };
    [8, 4, 2]
        .into_iter()
        .find(|n| keeps(header.width, *n, width) && keeps(header.height, *n, height))
        .map_or(ScalingFactor::ONE, |n| ScalingFactor::new(1, n as usize))
}

/// The divisor of each side when decoding with these options.
pub(crate) fn reduction(header: &PictureHeader, options: &DecodeOptions) -> u64 {
    let factor = scaling(header, options);
    (factor.denom() / factor.num()) as u64
}

fn damaged(why: impl ToString) -> PictureError {
    PictureError::Damaged { format: PictureFormat::Jpeg, why: why.to_string() }
}

/// Whether this is one of libjpeg's warnings, after which the picture is decoded nevertheless. The
/// texts are those of the bundled library (`jerror.h`, entries JWRN_*).
fn is_warning(error: &turbojpeg::Error) -> bool {
    const WARNINGS: [&str; 6] = [
        "Corrupt JPEG data: ",
        "Premature end of JPEG file",
        "Inconsistent progression sequence",
        "Invalid SOS parameters for sequential JPEG",
        "Unknown Adobe color transform code",
        "Warning: unknown JFIF revision number",
    ];
    match error {
        turbojpeg::Error::TurboJpegError(text) => {
            WARNINGS.iter().any(|warning| text.starts_with(warning))
        }
        _ => false,
    }
}
