//! Fixed bounds that no setting changes.

use crate::PictureFormat;

/// The longest side that is decoded, pixels. JPEG, GIF and WebP stay far below. The memory of
/// resizing grows with the longest side, whatever the number of pixels.
const LONGEST_SIDE: u64 = 1_000_000;
/// The longest side of a BMP that `image` reads.
const LONGEST_SIDE_OF_BMP: u64 = 65_535;
/// Most scans of a JPEG file. Encoders write about ten, a few unusual ones several dozen.
pub(crate) const MAX_SCANS: u64 = 100;
/// Most scans times pixels of a JPEG file: twenty scans at 100 megapixels, a few seconds of one
/// core.
pub(crate) const MAX_SCAN_PIXELS: u64 = 2_000_000_000;
/// Most frames of an animation that are composed to find one that shows something.
pub(crate) const MAX_FRAMES: u64 = 200;
/// Most frames times pixels: five at 100 megapixels, a few seconds of one core.
pub(crate) const MAX_FRAME_PIXELS: u64 = 500_000_000;
/// Longest colour profile, bytes. Profiles of printing presses have one or two megabytes.
pub(crate) const MAX_PROFILE: usize = 4 << 20;

/// The longest side that is decoded of a format, pixels.
pub(crate) fn longest_side(format: PictureFormat) -> u64 {
    match format {
        PictureFormat::Bmp => LONGEST_SIDE_OF_BMP,
        _ => LONGEST_SIDE,
    }
}
