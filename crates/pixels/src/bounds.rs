//! Fixed bounds that no setting changes.

/// The longest side that is decoded, pixels. JPEG, GIF and WebP stay far below. The memory of
/// resizing grows with the longest side, whatever the number of pixels.
pub(crate) const LONGEST_SIDE: u64 = 1_000_000;
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
