//! Pictures drawn by tests, and files made of them.
#![allow(dead_code, reason = "every test file uses its own part")]

use std::io::{Cursor, Write};

use image::{DynamicImage, ImageFormat, RgbImage};

/// Top left, top right, bottom left, bottom right of [`quarters`].
pub const COLOURS: [[u8; 3]; 4] = [[220, 30, 30], [30, 200, 30], [30, 30, 210], [240, 240, 240]];

/// A picture whose four quarters have the four colours.
pub fn quarters(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb(COLOURS[usize::from(x >= width / 2) + 2 * usize::from(y >= height / 2)])
    })
}

/// A picture with detail everywhere.
pub fn detailed(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        image::Rgb([
            (x * 255 / width) as u8,
            (y * 255 / height) as u8,
            ((x / 5 + y / 3) % 64 * 3) as u8,
        ])
    })
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

/// A JPEG of one component: the brightness of the picture.
pub fn gray_jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_subsamp(turbojpeg::Subsamp::Gray).unwrap();
    let pixels = DynamicImage::ImageRgb8(picture.clone()).into_luma8().into_raw();
    let (width, height) = (picture.width() as usize, picture.height() as usize);
    let image = turbojpeg::Image {
        pixels: pixels.as_slice(),
        width,
        pitch: width,
        height,
        format: turbojpeg::PixelFormat::GRAY,
    };
    compressor.compress_to_vec(image).unwrap()
}

/// A lossless JPEG from samples of the given kind.
pub fn lossless_jpeg(
    samples: &[u8],
    (width, height): (usize, usize),
    format: turbojpeg::PixelFormat,
) -> Vec<u8> {
    let mut compressor = turbojpeg::Compressor::new().unwrap();
    compressor.set_lossless(true).unwrap();
    compressor
        .set_subsamp(if format.size() == 1 {
            turbojpeg::Subsamp::Gray
        } else {
            turbojpeg::Subsamp::None
        })
        .unwrap();
    compressor
        .compress_to_vec(turbojpeg::Image {
            pixels: samples,
            width,
            pitch: width * format.size(),
            height,
            format,
        })
        .unwrap()
}

/// A chunk of a PNG, with its checksum.
pub fn chunk(name: &[u8; 4], body: &[u8]) -> Vec<u8> {
    let named = [name.as_slice(), body].concat();
    let mut crc = flate2::Crc::new();
    crc.update(&named);
    [&u32::try_from(body.len()).unwrap().to_be_bytes()[..], &named, &crc.sum().to_be_bytes()]
        .concat()
}

/// The PNG with these chunks before its picture, or after it.
pub fn with_chunks(png: &[u8], chunks: &[u8], behind: bool) -> Vec<u8> {
    let at = if behind { png.len() - 12 } else { 33 };
    [&png[..at], chunks, &png[at..]].concat()
}

pub fn deflated(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::best());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An EXIF block with only an orientation.
pub fn exif(orientation: u8) -> Vec<u8> {
    let mut block = b"II*\0\x08\0\0\0\x01\0\x12\x01\x03\0\x01\0\0\0".to_vec();
    block.extend([orientation, 0, 0, 0, 0, 0, 0, 0]);
    block
}

/// The JPEG with an APP1 segment after its start marker.
pub fn with_app1(jpeg: &[u8], body: &[u8]) -> Vec<u8> {
    let mut bytes = jpeg[..2].to_vec();
    bytes.extend([0xFF, 0xE1]);
    bytes.extend(u16::try_from(body.len() + 2).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes.extend(&jpeg[2..]);
    bytes
}

/// An uncompressed TIFF: 8-bit samples, `photometric` as in the standard (2 RGB, 5 CMYK).
pub fn tiff(
    width: u16,
    height: u16,
    photometric: u16,
    samples_per_pixel: u16,
    orientation: u16,
    samples: &[u8],
) -> Vec<u8> {
    tiff_with(
        width,
        height,
        photometric,
        samples_per_pixel,
        &[(259, 1), (274, orientation.into())],
        samples,
    )
}

/// A TIFF of one strip (or one tile, if `more` has its sides) that contains `strip`; `more` are
/// additional SHORT or LONG tags.
pub fn tiff_with(
    width: u16,
    height: u16,
    photometric: u16,
    samples_per_pixel: u16,
    more: &[(u16, u32)],
    strip: &[u8],
) -> Vec<u8> {
    let tiled = more.iter().any(|(tag, _)| *tag == 322);
    let count = 7 + more.len() as u32 + u32::from(!tiled);
    let bits_at = 8 + 2 + count * 12 + 4;
    let (at, length) = if tiled { (324, 325) } else { (273, 279) };
    let mut entries: Vec<(u16, u32, u32)> = vec![
        (256, 1, width.into()),
        (257, 1, height.into()),
        (262, 1, photometric.into()),
        (277, 1, samples_per_pixel.into()),
        (at, 1, bits_at + 8),
        (length, 1, strip.len() as u32),
    ];
    // Two values of two bytes fit in the entry itself.
    let bits = if samples_per_pixel > 2 { bits_at } else { 0x0008_0008 };
    entries.push((258, samples_per_pixel.into(), bits));
    if !tiled {
        entries.push((278, 1, height.into()));
    }
    entries.extend(more.iter().map(|(tag, value)| (*tag, 1, *value)));
    entries.sort_unstable();
    let mut bytes = b"II*\0\x08\0\0\0".to_vec();
    bytes.extend((count as u16).to_le_bytes());
    for (tag, count, value) in entries {
        bytes.extend(tag.to_le_bytes());
        bytes.extend((if matches!(tag, 258 | 259 | 274 | 338) { 3_u16 } else { 4 }).to_le_bytes());
        bytes.extend(count.to_le_bytes());
        bytes.extend(value.to_le_bytes());
    }
    bytes.extend([0; 4]);
    bytes.extend([8, 0, 8, 0, 8, 0, 8, 0]);
    bytes.extend(strip);
    bytes
}
