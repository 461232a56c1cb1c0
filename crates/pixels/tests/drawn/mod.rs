//! Pictures that the tests draw themselves, and files made of them.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::io::Cursor;

use image::{DynamicImage, ImageFormat, RgbImage};

/// Top left, top right, bottom left, bottom right of [`quarters`].
pub const COLOURS: [[u8; 3]; 4] = [[220, 30, 30], [30, 200, 30], [30, 30, 210], [240, 240, 240]];

/// A picture whose four quarters have the four colours.
pub fn quarters(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb(COLOURS[usize::from(x >= width / 2) + 2 * usize::from(y >= height / 2)]))
}

/// A picture with detail everywhere.
pub fn detailed(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| image::Rgb([(x * 255 / width) as u8, (y * 255 / height) as u8, ((x / 5 + y / 3) % 64 * 3) as u8]))
}

pub fn file(picture: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    picture.into().write_to(&mut bytes, format).unwrap();
    bytes.into_inner()
}

pub fn jpeg(picture: &RgbImage, progressive: bool) -> Vec<u8> {
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_progressive(progressive).unwrap();
    compressor.set_quality(95).unwrap();
    let image = turbojpeg::Image {
        pixels: picture.as_raw().as_slice(),
        width: picture.width() as usize,
        pitch: picture.width() as usize * 3,
        height: picture.height() as usize,
        format: turbojpeg::PixelFormat::RGB,
    };
    compressor.compress_to_vec(image).unwrap()
}

/// An EXIF block with an orientation and nothing else.
pub fn exif(orientation: u8) -> Vec<u8> {
    let mut block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    block
}

/// The JPEG with an APP1 segment right behind its start.
pub fn with_app1(jpeg: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xFF, 0xE1]);
    bytes.extend(u16::try_from(body.len() + 2).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes.extend(&jpeg[2..]);
    bytes
}

/// An uncompressed TIFF: 8-bit samples, `photometric` as TIFF counts them (2 RGB, 5 CMYK).
pub fn tiff(width: u16, height: u16, photometric: u16, samples_per_pixel: u16, orientation: u16, samples: &[u8]) -> Vec<u8> {
    let bits_at = 8 + 2 + 10 * 12 + 4;
    let data_at = bits_at + 8;
    let entries: [(u16, u16, u32, u32); 10] = [
        (256, 3, 1, width.into()),
        (257, 3, 1, height.into()),
        (258, 3, samples_per_pixel.into(), bits_at),
        (259, 3, 1, 1),
        (262, 3, 1, photometric.into()),
        (273, 4, 1, data_at),
        (274, 3, 1, orientation.into()),
        (277, 3, 1, samples_per_pixel.into()),
        (278, 3, 1, height.into()),
        (279, 4, 1, samples.len() as u32),
    ];
    let mut bytes = b"II*\0\x08\0\0\0\x0A\0".to_vec();
    for (tag, kind, count, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend(kind.to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend([8, 0, 8, 0, 8, 0, 8, 0]);
    bytes.extend(samples);
    bytes
}
