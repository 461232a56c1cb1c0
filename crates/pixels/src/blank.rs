//! Is there anything to describe? A blank picture is an answer ("uncertain"), not an error.

use crate::{DecodedPicture, RgbPicture};

/// Levels by which a channel of a blank picture may vary: what JPEG makes of a plain colour.
const TOLERANCE: u8 = 8;

/// Alpha up to which a pixel counts as invisible.
pub(crate) const INVISIBLE: u8 = 4;

/// Why there is nothing to describe.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlankKind {
    /// A single pixel, as tracking pixels are.
    OnePixel,
    /// No pixel is visible.
    Transparent,
    /// One colour all over, within a few levels.
    Uniform([u8; 3]),
}

impl BlankKind {
    /// In words, to stand after "the picture".
    pub fn words(self) -> &'static str {
        match self {
            BlankKind::OnePixel => "is a single pixel",
            BlankKind::Transparent => "is fully transparent",
            BlankKind::Uniform(_) => "has one colour all over",
        }
    }
}

/// Why this picture cannot be described, if so.
pub fn is_blank(decoded: &DecodedPicture) -> Option<BlankKind> {
    decoded.blank
}

/// Judges a picture; `visible` is false when every pixel was transparent before it was laid on
/// white.
pub(crate) fn judge(
    picture: &RgbPicture,
    full_size: (u32, u32),
    visible: bool,
) -> Option<BlankKind> {
    if full_size == (1, 1) {
        return Some(BlankKind::OnePixel);
    }
    if !visible {
        return Some(BlankKind::Transparent);
    }
    let (mut low, mut high) = ([255_u8; 3], [0_u8; 3]);
    // Row by row, so that ordinary pictures are left at once.
    for row in picture.data.chunks(picture.width.max(1) as usize * 3) {
        for pixel in row.chunks_exact(3) {
            for c in 0..3 {
                low[c] = low[c].min(pixel[c]);
                high[c] = high[c].max(pixel[c]);
            }
        }
        if (0..3).any(|c| high[c] - low[c] > TOLERANCE) {
            return None;
        }
    }
    Some(BlankKind::Uniform([0, 1, 2].map(|c| low[c] + (high[c] - low[c]) / 2)))
}
