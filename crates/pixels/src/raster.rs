//! PNG, WebP, GIF, BMP and TIFF through the `image` crate: the first frame, the high byte of 16
//! bits, alpha composed over white.

use std::{borrow::Cow, io, time::Instant};

use image::{
    ColorType, ImageDecoder, ImageError,
    codecs::{bmp::BmpDecoder, gif::GifDecoder, tiff::TiffDecoder, webp::WebPDecoder},
    error::{LimitErrorKind, UnsupportedErrorKind},
    metadata::Orientation,
};

use crate::{
    DecodeLimits, DecodeOptions, PictureError, PictureFormat, PictureHeader, RgbPicture, animation,
    announced, blank::INVISIBLE, bmp, cut, deadline::DeadlineReader, gif, orient, png, profile,
    tiff, webp,
};

/// Most bytes per pixel that follow a WebP without its end: four codes of 15 bits.
const PADDING: usize = 8;
/// So many bytes of a WebP may follow its last pixel.
const HARMLESS: usize = 8;

/// The header of a file that is not JPEG.
pub(crate) fn probe(format: PictureFormat, bytes: &[u8]) -> Result<PictureHeader, PictureError> {
    announced::check(format, bytes)?;
    let jpeg_bytes = if format == PictureFormat::Tiff { tiff::jpeg_bytes(bytes)? } else { 0 };
    let adjusted = adjusted(format, bytes, false);
    let mut decoder = open(format, &adjusted, None, false)?;
    let (width, height) = decoder.dimensions();
    if width == 0 || height == 0 {
        return Err(PictureError::Damaged {
            format,
            why: "the header announces a side of 0 pixels".to_owned(),
        });
    }
    let orientation = match format {
        PictureFormat::Png => png::orientation(bytes),
        // The decoder returns the blocks as stored.
        PictureFormat::WebP => {
            let announced = webp::announces(bytes);
            let exif = decoder.exif_metadata().ok().flatten().filter(|_| announced.0);
            let xmp = decoder.xmp_metadata().ok().flatten().filter(|_| announced.1);
            orient::orientation_of(exif.as_deref(), xmp.as_deref())
        }
        PictureFormat::Tiff => decoder.orientation().unwrap_or(Orientation::NoTransforms),
        _ => Orientation::NoTransforms,
    };
    let (w, h) = (u64::from(width), u64::from(height));
    let judged_size = announced::size(format, bytes).unwrap_or((w, h));
    let judged_pixels = judged_size.0.saturating_mul(judged_size.1);
    let raw = decoder.total_bytes();
    let rgb = w.saturating_mul(h).saturating_mul(3);
    // Gray needs a second buffer for RGB; other formats are converted in place. Turning needs a
    // second buffer too.
    let converting =
        if decoder.color_type().channel_count() <= 2 { raw.saturating_add(rgb) } else { raw };
    let after = converting.max(rgb.saturating_mul(orient::buffers(orientation)));
    let file = bytes.len() as u64;
    let cut = lacks_end(format, bytes);
    let during = match format {
        // Its rows inflated, and a file made of them.
        PictureFormat::Png if cut => {
            raw.saturating_mul(3).saturating_add(file).saturating_add(raw / h * 3)
        }
        // The first of two pictures, and the padded file.
        PictureFormat::WebP if cut => judged_pixels
            .saturating_mul(18)
            .saturating_add(file.saturating_mul(60))
            .saturating_add(1 << 17),
        // A few rows for the filters; texts are skipped.
        PictureFormat::Jpeg | PictureFormat::Avif | PictureFormat::Heic | PictureFormat::Png => {
            raw.saturating_add(raw / h * 3)
        }
        // Planes of luma and chroma, alpha, the frame and the canvas of an animation; prefix codes
        // grow with the file.
        PictureFormat::WebP => {
            judged_pixels.saturating_mul(14).saturating_add(file.saturating_mul(16))
        }
        // The frame besides the canvas, and the copy of the file with a grown canvas.
        PictureFormat::Gif => {
            raw.saturating_add(judged_pixels.saturating_mul(5)).saturating_add(file)
        }
        // The copy of a file whose masks move into its header.
        PictureFormat::Bmp => {
            let copy = if bmp::has_alpha_masks(bytes) { file } else { 0 };
            raw.saturating_add(raw / h * 2).saturating_add(copy)
        }
        // The samples (four inks for CMYK) besides the result; one JPEG strip, which may be the
        // whole picture or a larger tile; and its compressed bytes.
        PictureFormat::Tiff => raw
            .saturating_mul(7)
            .div_ceil(2)
            .max(raw.saturating_mul(7).div_ceil(3).saturating_add(jpeg_bytes))
            .saturating_add(file),
    };
    let animated = animation::is_animated(format, bytes);
    let frames = if animated { animation::memory(judged_pixels, file) } else { 0 };
    let memory_bound = during
        .max(after)
        .max(frames)
        .saturating_add(profile::memory(format, bytes))
        .saturating_add(2 << 20);
    Ok(PictureHeader {
        format,
        width,
        height,
        orientation: orientation.to_exif(),
        memory_bound,
        reducible_bytes: 0,
        scans: 1,
        animated,
        judged_size,
    })
}

/// The picture as stored (not turned), and whether any pixel is visible.
pub(crate) fn decode(
    bytes: &[u8],
    header: &PictureHeader,
    options: &DecodeOptions,
) -> Result<(RgbPicture, bool), PictureError> {
    let file = adjusted(header.format, bytes, options.exact);
    let whole = open(header.format, &file, options.limits.deadline, options.exact)
        .and_then(|decoder| read(decoder, &file, header));
    match whole {
        Err(PictureError::Truncated { .. } | PictureError::Damaged { .. })
            if !options.exact && lacks_end(header.format, bytes) =>
        {
            options.limits.check_time()?;
            decode_cut(&file, header, &options.limits)
        }
        whole => whole,
    }
}

/// Whether the file ends within its first picture, in a format of which such files are decoded.
fn lacks_end(format: PictureFormat, bytes: &[u8]) -> bool {
    match format {
        PictureFormat::Png => png::lacks_end(bytes),
        PictureFormat::WebP => webp::lacks_end(bytes),
        PictureFormat::Gif => gif::lacks_end(bytes),
        _ => false,
    }
}

/// The picture as far as the file goes.
fn decode_cut(
    file: &[u8],
    header: &PictureHeader,
    limits: &DecodeLimits,
) -> Result<(RgbPicture, bool), PictureError> {
    match header.format {
        PictureFormat::Png => {
            let (decoder, rows) = png::cut_decoder(file, limits.deadline)?;
            let (mut picture, visible) = read(Box::new(decoder), file, header)?;
            rows.fill_picture(&mut picture);
            Ok((picture, visible))
        }
        PictureFormat::Gif => {
            let samples = gif::decode_cut(file, (header.width, header.height), limits.deadline)?;
            finish(samples, ColorType::Rgba8, file, header)
        }
        _ => decode_cut_webp(file, header, limits),
    }
}

/// Decodes a WebP with bytes after its end, and again with another last byte: rows that differ are
/// not in the file.
fn decode_cut_webp(
    file: &[u8],
    header: &PictureHeader,
    limits: &DecodeLimits,
) -> Result<(RgbPicture, bool), PictureError> {
    let format = header.format;
    let pixels = header.width as usize * header.height as usize;
    let decode = |pattern: [u8; 16], change| {
        limits.check_time()?;
        let padding = webp::WebpPadding { pattern, change, more: pixels / 10 * PADDING };
        let padded =
            webp::padded(file, &padding).ok_or(PictureError::Truncated { format, share: None })?;
        open(format, &padded, limits.deadline, false)
            .and_then(|decoder| read(decoder, &padded, header))
    };
    // The shortest codes, the longest ones, any: some of them may be runs beyond the picture.
    for pattern in [[0; 16], [0xFF; 16], cut::NOISE] {
        let (mut picture, visible) = match decode(pattern, 0) {
            Ok(found) => found,
            Err(PictureError::TimedOut) => return Err(PictureError::TimedOut),
            Err(_) => continue,
        };
        for change in [0xFF, 0x55] {
            let other = match decode(pattern, change) {
                Ok((other, _)) => other,
                Err(PictureError::TimedOut) => return Err(PictureError::TimedOut),
                Err(_) => continue,
            };
            let pitch = header.width as usize * 3;
            let rows = cut::KeptRows::before_difference(&picture.data, &other.data, pitch);
            // Without a difference, many missing bytes may be rows of one colour.
            if rows.are_all() && webp::missing(file) > HARMLESS {
                continue;
            }
            rows.check(format)?;
            rows.fill_picture(&mut picture);
            return Ok((picture, visible));
        }
    }
    Err(PictureError::Truncated { format, share: None })
}

/// Reads the picture of a decoder.
fn read(
    mut decoder: Box<dyn ImageDecoder + '_>,
    file: &[u8],
    header: &PictureHeader,
) -> Result<(RgbPicture, bool), PictureError> {
    let format = header.format;
    let mut allowed = image::Limits::default();
    allowed.max_alloc = Some(header.memory_bound);
    decoder.set_limits(allowed).map_err(|error| picture_error(format, error))?;
    let colours = decoder.color_type();
    let size = usize::try_from(decoder.total_bytes()).map_err(|_| PictureError::TooMuchMemory {
        needed: header.memory_bound,
        limit: usize::MAX as u64,
    })?;
    let mut samples = vec![0; size];
    decoder.read_image_boxed(&mut samples).map_err(|error| picture_error(format, error))?;
    finish(samples, colours, file, header)
}

/// Makes the picture of its samples.
fn finish(
    mut samples: Vec<u8>,
    colours: ColorType,
    file: &[u8],
    header: &PictureHeader,
) -> Result<(RgbPicture, bool), PictureError> {
    let format = header.format;
    match format {
        PictureFormat::Gif => gif::fill_around(file, header.width, &mut samples),
        PictureFormat::Bmp if colours == ColorType::Rgba8 => bmp::opaque_if_invisible(&mut samples),
        _ => {}
    }
    let premultiplied = format == PictureFormat::Tiff && tiff::is_premultiplied(file);
    let (data, visible) = to_rgb(samples, colours, format, premultiplied)?;
    Ok((RgbPicture { width: header.width, height: header.height, data }, visible))
}

/// The file as its decoder receives it.
pub(crate) fn adjusted(format: PictureFormat, bytes: &[u8], exact: bool) -> Cow<'_, [u8]> {
    match format {
        PictureFormat::Gif => gif::with_grown_canvas(bytes),
        PictureFormat::Bmp => bmp::with_masks_in_header(bytes),
        PictureFormat::WebP if !exact => webp::without_missing_blocks(bytes),
        _ => Cow::Borrowed(bytes),
    }
}

fn open(
    format: PictureFormat,
    bytes: &[u8],
    deadline: Option<Instant>,
    exact: bool,
) -> Result<Box<dyn ImageDecoder + '_>, PictureError> {
    let reader = DeadlineReader::new(bytes, deadline);
    let opened: Result<Box<dyn ImageDecoder + '_>, ImageError> = match format {
        PictureFormat::Png => {
            png::PngDecoder::new(bytes, deadline).map(|decoder| Box::new(decoder) as _)
        }
        PictureFormat::WebP => WebPDecoder::new(reader).map(|decoder| Box::new(decoder) as _),
        PictureFormat::Gif => GifDecoder::new(reader).map(|decoder| Box::new(decoder) as _),
        PictureFormat::Bmp => BmpDecoder::new(reader).map(|decoder| Box::new(decoder) as _),
        PictureFormat::Tiff => {
            tiff::TiffPage::open(bytes, deadline, exact).and_then(|page| match page {
                Some(page) => Ok(Box::new(page) as _),
                None => TiffDecoder::new(reader).map(|decoder| Box::new(decoder) as _),
            })
        }
        PictureFormat::Jpeg | PictureFormat::Avif | PictureFormat::Heic => {
            unreachable!("they have decoders of their own")
        }
    };
    opened.map_err(|error| picture_error(format, error))
}

/// Converts samples to RGB, in place for three and more channels. `premultiplied`: colours were
/// multiplied with their alpha.
pub(crate) fn to_rgb(
    mut samples: Vec<u8>,
    colours: ColorType,
    format: PictureFormat,
    premultiplied: bool,
) -> Result<(Vec<u8>, bool), PictureError> {
    // 16-bit samples are in native byte order; the high byte is kept.
    let wide = match colours {
        ColorType::L16 | ColorType::La16 | ColorType::Rgb16 | ColorType::Rgba16 => 2,
        ColorType::L8 | ColorType::La8 | ColorType::Rgb8 | ColorType::Rgba8 => 1,
        other => {
            return Err(PictureError::UnsupportedVariant {
                format,
                what: format!("samples of kind {other:?}"),
            });
        }
    };
    let high = if cfg!(target_endian = "little") { wide - 1 } else { 0 };
    let channels = usize::from(colours.channel_count());
    let (colour_channels, alpha) = match channels {
        2 | 4 => (channels - 1, Some(channels - 1)),
        _ => (channels, None),
    };
    let count = samples.len() / (channels * wide);
    let mut visible = alpha.is_none();
    let mut pixel_at = |samples: &[u8], i: usize| {
        let sample = |channel: usize| samples[(i * channels + channel) * wide + high];
        let colour =
            if colour_channels == 1 { [sample(0); 3] } else { [sample(0), sample(1), sample(2)] };
        let Some(alpha) = alpha.map(sample) else { return colour };
        visible |= alpha > INVISIBLE;
        // A premultiplied colour needs only the white; one brighter than its alpha is a fault of
        // the file.
        colour.map(|value| {
            if premultiplied { value.saturating_add(255 - alpha) } else { on_white(value, alpha) }
        })
    };
    if colour_channels == 1 {
        let mut out = Vec::with_capacity(count * 3);
        for i in 0..count {
            out.extend(pixel_at(&samples, i));
        }
        return Ok((out, visible));
    }
    if channels * wide != 3 {
        for i in 0..count {
            let pixel = pixel_at(&samples, i);
            samples[i * 3..i * 3 + 3].copy_from_slice(&pixel);
        }
        samples.truncate(count * 3);
        samples.shrink_to_fit();
    }
    Ok((samples, visible))
}

/// A sample with straight alpha over white, rounded.
fn on_white(value: u8, alpha: u8) -> u8 {
    let sum = u32::from(value) * u32::from(alpha) + 255 * (255 - u32::from(alpha)) + 128;
    (((sum >> 8) + sum) >> 8) as u8
}

/// Converts a decoder's error.
pub(crate) fn picture_error(format: PictureFormat, error: ImageError) -> PictureError {
    let damaged = |why: String| PictureError::Damaged { format, why };
    match error {
        ImageError::IoError(error) => match error.kind() {
            io::ErrorKind::TimedOut => PictureError::TimedOut,
            io::ErrorKind::UnexpectedEof => PictureError::Truncated { format, share: None },
            _ => damaged(error.to_string()),
        },
        ImageError::Limits(error) => match error.kind() {
            LimitErrorKind::InsufficientMemory => damaged("its data exceed the header".to_owned()),
            _ => damaged(error.to_string()),
        },
        ImageError::Unsupported(error) => match error.kind() {
            UnsupportedErrorKind::GenericFeature(what) => {
                PictureError::UnsupportedVariant { format, what }
            }
            _ => PictureError::UnsupportedVariant { format, what: error.to_string() },
        },
        error => {
            let mut source: Option<&(dyn std::error::Error + 'static)> = Some(&error);
            // An I/O error of the reader is wrapped in the decoder's error.
            while let Some(inner) = source {
                if let Some(io) = inner.downcast_ref::<io::Error>() {
                    match io.kind() {
                        io::ErrorKind::TimedOut => return PictureError::TimedOut,
                        io::ErrorKind::UnexpectedEof => {
                            return PictureError::Truncated { format, share: None };
                        }
                        _ => break,
                    }
                }
                source = inner.source();
            }
            damaged(error.to_string())
        }
    }
}
