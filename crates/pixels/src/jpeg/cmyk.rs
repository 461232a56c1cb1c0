//! Converts CMYK as Adobe writes it in JPEG (inverted) to RGB, with Pillow's arithmetic or by the
//! file's profile.

use crate::{DecodeLimits, PictureError, profile::ColourConversion};

/// Converts inverted C, M, Y, K to R, G, B in place.
pub(super) fn to_rgb(mut pixels: Vec<u8>) -> Vec<u8> {
    let count = pixels.len() / 4;
    for i in 0..count {
        let [c, m, y, k] = [0, 1, 2, 3].map(|n| pixels[i * 4 + n]);
        // `k` is inverted: the light that black leaves.
        for (n, ink) in [c, m, y].into_iter().enumerate() {
            pixels[i * 3 + n] = k.saturating_sub(multiply(255 - ink, k));
        }
    }
    pixels.truncate(count * 3);
    pixels.shrink_to_fit();
    pixels
}

/// Converts inverted C, M, Y, K by the file's profile, in place.
pub(super) fn convert(
    mut pixels: Vec<u8>,
    conversion: &ColourConversion,
    limits: &DecodeLimits,
) -> Result<Vec<u8>, PictureError> {
    pixels.iter_mut().for_each(|ink| *ink = 255 - *ink);
    conversion.inks_in_place(&mut pixels, limits)?;
    pixels.truncate(pixels.len() / 4 * 3);
    pixels.shrink_to_fit();
    Ok(pixels)
}

/// a * b / 255, rounded.
fn multiply(a: u8, b: u8) -> u8 {
    let product = u32::from(a) * u32::from(b) + 128;
    (((product >> 8) + product) >> 8) as u8
}
