//! What a file announces, read before anything is decoded: the engine reserves memory and judges
//! limits by it.

use image::metadata::Orientation;

use crate::{
    DecodeLimits, DecodeOptions, PictureError, PictureFormat, decode::guarded, format, jpeg,
    orient, raster,
};

/// The announced facts of a picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PictureHeader {
    /// By content.
    pub format: PictureFormat,
    /// Pixels, as the file stores the picture (not turned).
    pub width: u32,
    /// Pixels, as the file stores the picture (not turned).
    pub height: u32,
    /// EXIF orientation, 1 to 8.
    pub orientation: u8,
    /// Bytes that a full decode takes at most, beyond the file itself: what to reserve before
    /// [`crate::decode`].
    pub memory_bound: u64,
    /// The part of `memory_bound` that shrinks when the picture is decoded at reduced scale.
    pub(crate) reducible_bytes: u64,
    /// Scans of a JPEG, 1 otherwise.
    pub(crate) scans: u64,
    /// The sides that limits are held against; larger than the picture where a GIF's first frame
    /// makes an impossible canvas.
    pub(crate) judged_size: (u64, u64),
}

impl PictureHeader {
    /// Width and height once the picture is upright, at full scale.
    pub fn upright_size(&self) -> (u32, u32) {
        if self.swaps_sides() { (self.height, self.width) } else { (self.width, self.height) }
    }

    /// Bytes that decoding with these options takes at most, beyond the file itself. Less than
    /// `memory_bound` for a camera JPEG that is decoded at reduced scale.
    pub fn memory_for(&self, options: &DecodeOptions) -> u64 {
        if self.format != PictureFormat::Jpeg {
            return self.memory_bound;
        }
        let n = jpeg::reduction(self, options);
        // Sides are rounded up when they are divided; one row and one column more than the quotient
        // cover that.
        let edge = if n == 1 { 0 } else { 8 * (u64::from(self.width) + u64::from(self.height)) };
        self.memory_bound - self.reducible_bytes + self.reducible_bytes / (n * n) + edge
    }

    /// Judges the limits that can be judged from a header.
    ///
    /// # Errors
    /// As [`crate::decode`] with these options, before anything is decoded.
    pub fn check(&self, options: &DecodeOptions) -> Result<(), PictureError> {
        self.check_pixels(&options.limits)?;
        options.limits.check_memory(self.memory_for(options))
    }

    pub(crate) fn check_pixels(&self, limits: &DecodeLimits) -> Result<(), PictureError> {
        limits.check_pixels(self.judged_size.0, self.judged_size.1)
    }

    pub(crate) fn turn(&self) -> Orientation {
        Orientation::from_exif(self.orientation).unwrap_or(Orientation::NoTransforms)
    }

    pub(crate) fn swaps_sides(&self) -> bool {
        orient::swaps_sides(self.turn())
    }
}

/// Reads the header: the format by content, size, orientation, and what decoding will take. Judges
/// no limit.
///
/// # Errors
/// Whatever makes the file no picture that [`crate::decode`] could decode, as far as its header
/// shows it.
pub fn probe(bytes: &[u8]) -> Result<PictureHeader, PictureError> {
    let format = format::recognise(bytes)?;
    guarded(format, || match format {
        PictureFormat::Jpeg => jpeg::probe(bytes),
        #[cfg(feature = "heif")]
        PictureFormat::Avif | PictureFormat::Heic => crate::heif::probe(format, bytes),
        _ => raster::probe(format, bytes),
    })
}
