//! The header of a picture, read before anything is decoded. The engine reserves memory and checks
//! limits with it.

use image::metadata::Orientation;

use crate::{
    DecodeLimits, DecodeOptions, PictureError, PictureFormat, announced, decode::guarded, jpeg,
    orient, raster, recognise,
};

/// The facts that a header announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureHeader {
    /// The format by content.
    pub format: PictureFormat,
    /// Width as stored (not turned), pixels.
    pub width: u32,
    /// Height as stored (not turned), pixels.
    pub height: u32,
    /// EXIF orientation, 1 to 8.
    pub orientation: u8,
    /// Upper bound of the bytes that a full decode takes beyond the file itself; reserve them
    /// before [`crate::decode`].
    pub memory_bound: u64,
    /// The part of `memory_bound` that shrinks at reduced scale.
    pub(crate) reducible_bytes: u64,
    /// Scans of a JPEG, 1 otherwise.
    pub(crate) scans: u64,
    /// Has frames; if the first shows nothing, a later one may.
    pub(crate) animated: bool,
    /// The sides that limits apply to; larger than the picture if a GIF's first frame makes an
    /// impossible canvas.
    pub(crate) judged_size: (u64, u64),
}

impl PictureHeader {
    /// Width and height of the upright picture at full scale.
    pub fn upright_size(&self) -> (u32, u32) {
        if self.swaps_sides() { (self.height, self.width) } else { (self.width, self.height) }
    }

    /// Upper bound of the bytes that decoding with these options takes beyond the file itself. Less
    /// than `memory_bound` for a camera JPEG at reduced scale.
    pub fn memory_for(&self, options: &DecodeOptions) -> u64 {
        if self.format != PictureFormat::Jpeg {
            return self.memory_bound;
        }
        let n = jpeg::reduction(self, options);
        // Reduced sides are rounded up; one additional row and column cover that.
        let edge = if n == 1 { 0 } else { 8 * (u64::from(self.width) + u64::from(self.height)) };
        self.memory_bound - self.reducible_bytes + self.reducible_bytes / (n * n) + edge
    }

    /// Checks the limits that a header can violate.
    ///
    /// # Errors
    /// As [`crate::decode`] with these options, before anything is decoded.
    fn check(&self, options: &DecodeOptions) -> Result<(), PictureError> {
        self.check_pixels(&options.limits)?;
        options.limits.check_memory(self.memory_for(options))
    }

    pub(crate) fn check_pixels(&self, limits: &DecodeLimits) -> Result<(), PictureError> {
        limits.check_pixels(self.format, self.judged_size)
    }

    pub(crate) fn turn(&self) -> Orientation {
        Orientation::from_exif(self.orientation).unwrap_or(Orientation::NoTransforms)
    }

    pub(crate) fn swaps_sides(&self) -> bool {
        orient::swaps_sides(self.turn())
    }
}

/// Reads the header and checks the limits that it can violate, as [`crate::decode`] does before it
/// decodes anything.
///
/// # Errors
/// As [`crate::decode`] with these options.
pub fn probe_within(bytes: &[u8], options: &DecodeOptions) -> Result<PictureHeader, PictureError> {
    // Fixed offsets first: a decoder may fail on an absurd size before it reports it.
    let format = recognise::recognise(bytes)?;
    if let Some(size) = announced::size(format, bytes) {
        options.limits.check_pixels(format, size)?;
    }
    let header = probe(bytes)?;
    header.check(options)?;
    Ok(header)
}

/// Reads the header: format, size, orientation, and the memory for decoding. Checks no limit.
///
/// # Errors
/// Faults that the header shows and that would make [`crate::decode`] fail.
pub fn probe(bytes: &[u8]) -> Result<PictureHeader, PictureError> {
    let format = recognise::recognise(bytes)?;
    guarded(format, || match format {
        PictureFormat::Jpeg => jpeg::probe(bytes),
        #[cfg(feature = "heif")]
        PictureFormat::Avif | PictureFormat::Heic => crate::heif::probe(format, bytes),
        _ => raster::probe(format, bytes),
    })
}
