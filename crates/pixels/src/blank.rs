//! Detects blank pictures. A blank picture is a result ("uncertain"), not an error.

use crate::{DecodedPicture, RgbPicture};

/// Most levels by which a channel of a blank picture may vary; JPEG adds noise to a plain colour.
const TOLERANCE: u8 = 8;

/// Greatest alpha of an invisible pixel.
pub(crate) const INVISIBLE: u8 = 4;

/// Why a picture is blank.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlankKind {
    /// A single pixel, like tracking pixels.
    OnePixel,
    /// No pixel is visible.
    Transparent,
    /// A single colour, within a few levels.
    Uniform([u8; 3]),
}

impl BlankKind {
    /// A phrase that follows "the picture".
    pub fn words(self) -> &'static str {
        match self {
            BlankKind::OnePixel => "is a single pixel",
            BlankKind::Transparent => "is fully transparent",
            BlankKind::Uniform(_) => "has one colour all over",
        }
    }
}

/// Why a picture is blank, or `None`.
pub fn is_blank(decoded: &DecodedPicture) -> Option<BlankKind> {
    decoded.blank
}

/// Judges a picture; `visible` is false if every pixel was transparent.
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
    // Row by row: an ordinary picture ends the loop in its first rows.
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
