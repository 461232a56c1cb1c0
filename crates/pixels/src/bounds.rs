//! Fixed bounds that no setting changes.

/// The longest side that is decoded, pixels. JPEG, GIF and WebP stay far below. The memory of
/// resizing grows with the longest side, whatever the number of pixels.
pub(crate) const LONGEST_SIDE: u64 = 1_000_000;
/// Most scans of a JPEG file. Encoders write about ten, a few unusual ones several dozen.
pub(crate) const MAX_SCANS: u64 = 100;
/// Most scans times pixels of a JPEG file: twenty scans at 100 megapixels, a few seconds of one
/// core.
pub(crate) const MAX_SCAN_PIXELS: u64 = 2_000_000_000;
