//! Kinds of BMP that programs write and `image` does not read as they are meant.

use std::borrow::Cow;

/// Offset of the length of the information header, and of its compression.
const HEADER: usize = 14;
const COMPRESSION: usize = 30;
/// Compressions 3 and 6: masks of three and of four channels behind a header of 40 bytes.
const MASKS: u8 = 3;
const ALPHA_MASKS: u8 = 6;

/// Whether the file has four masks behind its header.
pub(crate) fn has_alpha_masks(bytes: &[u8]) -> bool {
    bytes.get(HEADER) == Some(&40)
        && bytes.get(COMPRESSION..COMPRESSION + 4) == Some(&[ALPHA_MASKS, 0, 0, 0])
}

/// The file with such masks as a part of the header, in the same bytes.
pub(crate) fn with_masks_in_header(bytes: &[u8]) -> Cow<'_, [u8]> {
    if !has_alpha_masks(bytes) {
        return Cow::Borrowed(bytes);
    }
    let mut copy = bytes.to_vec();
    (copy[HEADER], copy[COMPRESSION]) = (56, MASKS);
    Cow::Owned(copy)
}

/// Many programs announce an alpha mask and leave alpha 0: such a picture is opaque.
pub(crate) fn opaque_if_invisible(rgba: &mut [u8]) {
    let (pixels, _) = rgba.as_chunks_mut::<4>();
    if pixels.iter().all(|pixel| pixel[3] == 0) {
        pixels.iter_mut().for_each(|pixel| pixel[3] = 255);
    }
}
