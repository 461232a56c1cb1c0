//! The decoded picture, and the two summaries of it that `inspect` prints.

use image::{ExtendedColorType, ImageEncoder, codecs::png::PngEncoder};
use turbojpeg::{Image, PixelFormat, Subsamp};

use crate::{ResampleFilter, resize};

/// An upright 8-bit RGB picture, rows top to bottom, no padding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RgbPicture {
    /// Width, pixels.
    pub width: u32,
    /// Height, pixels.
    pub height: u32,
    /// `width * height * 3` bytes.
    pub data: Vec<u8>,
}

/// Mean colours of the four quarters, row by row: top left, top right, bottom left, bottom right.
/// A side of one pixel belongs to both halves. All zero for an empty picture.
pub fn mean_rgb_2x2(picture: &RgbPicture) -> [[u8; 3]; 4] {
    if picture.data.is_empty() {
        return [[0; 3]; 4];
    }
    let small = resize(picture, 2, 2, ResampleFilter::Box);
    let mut quarters = [[0; 3]; 4];
    for (quarter, pixel) in quarters.iter_mut().zip(small.data.chunks_exact(3)) {
        quarter.copy_from_slice(pixel);
    }
    quarters
}

/// The picture as an 8-bit RGB PNG file.
///
/// # Panics
/// If `data` is not `width * height * 3` bytes long.
pub fn encode_png(picture: &RgbPicture) -> Vec<u8> {
    let mut file = Vec::new();
    PngEncoder::new(&mut file)
        .write_image(&picture.data, picture.width, picture.height, ExtendedColorType::Rgb8)
        .expect("writing a PNG into memory only fails when the sizes do not fit the data");
    file
}

/// The picture as a JPEG file without metadata, `quality` from 1 to 100, colours at half the
/// resolution. `None`: a side has more than the 65,535 pixels that the format can state.
///
/// # Panics
/// If `data` is not `width * height * 3` bytes long.
///
/// ```
/// use pg_caption_pixels::{DecodeOptions, RgbPicture, decode, encode_jpeg};
///
/// let gray = RgbPicture { width: 3, height: 2, data: vec![128; 18] };
/// let file = encode_jpeg(&gray, 85).unwrap();
/// let again = decode(&file, &DecodeOptions::default())?;
/// assert_eq!((again.width, again.height), (3, 2));
/// # Ok::<(), pg_caption_pixels::PictureError>(())
/// ```
pub fn encode_jpeg(picture: &RgbPicture, quality: u8) -> Option<Vec<u8>> {
    let image = Image {
        pixels: picture.data.as_slice(),
        width: picture.width as usize,
        pitch: picture.width as usize * 3,
        height: picture.height as usize,
        format: PixelFormat::RGB,
    };
    let file = turbojpeg::compress(image, i32::from(quality), Subsamp::Sub2x2).ok()?;
    Some(file.to_vec())
}
