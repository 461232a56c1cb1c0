//! PNG: chunks are parsed here, the picture is decoded by the `png` crate.
//!
//! The crate receives only the chunks of the picture, so that no profile or text is inflated. It
//! accepts what the reference accepts: a wrong checksum of image data, a missing end.

mod cut;
mod frames;

use std::{borrow::Cow, io::Read, time::Instant};

use image::{
    ColorType, ImageDecoder, ImageError, ImageFormat, ImageResult,
    error::{DecodingError, ImageFormatHint, LimitError, LimitErrorKind},
    metadata::Orientation,
};
use png::{BitDepth, Transformations};

use crate::{PictureError, PictureFormat, deadline::DeadlineReader, orient};
pub(crate) use cut::{decoder as cut_decoder, lacks_end};
pub(crate) use frames::{frames, is_animated};

/// Most bytes of one inflated text; EXIF and XMP have a few kilobytes.
const MAX_TEXT: u64 = 1 << 20;

/// Appended if missing, as in the reference: a checksum (which is not verified) and the end of the
/// file.
const END: [u8; 16] = *b"\0\0\0\0\0\0\0\0IEND\xAE\x42\x60\x82";

/// The relevant chunks, as slices of the file.
#[derive(Default)]
struct Chunks<'a> {
    /// From the first IDAT chunk to the last contiguous one.
    data: Option<&'a [u8]>,
    /// Bytes of the last one's checksum; `None` if the file ends within its data.
    checksum: Option<usize>,
    palette: Option<&'a [u8]>,
    transparency: Option<&'a [u8]>,
    exif: Option<&'a [u8]>,
    raw_exif: Option<Text<'a>>,
    xmp: Option<Text<'a>>,
}

/// A text as stored in the file.
struct Text<'a> {
    deflated: bool,
    body: &'a [u8],
}

/// Whether the header is the first chunk, so that its size is at the expected offset.
pub(crate) fn begins_with_header(bytes: &[u8]) -> bool {
    bytes.get(8..16) == Some(b"\0\0\0\x0DIHDR")
}

/// Checks size, methods and interlacing against the standard. As in the reference, an unknown
/// compression of a chunk before the picture counts too, and the checksums of header and palette
/// must be right.
pub(crate) fn check(bytes: &[u8]) -> Result<(), PictureError> {
    let unknown = |what: &str| {
        Err(PictureError::UnsupportedVariant {
            format: PictureFormat::Png,
            what: format!("an unknown {what} method"),
        })
    };
    let damaged = |why: String| Err(PictureError::Damaged { format: PictureFormat::Png, why });
    if bytes.get(12..16) == Some(b"CgBI") {
        return Err(PictureError::UnsupportedVariant {
            format: PictureFormat::Png,
            what: "Apple's variant for iPhone apps".to_owned(),
        });
    }
    let Some(methods) = bytes.get(26..29) else {
        return Err(PictureError::Truncated { format: PictureFormat::Png, share: Some(0) });
    };
    if !begins_with_header(bytes) {
        return damaged("the header is not the first chunk".to_owned());
    }
    match methods {
        [0, 0, 0 | 1] => {}
        [0, 0, _] => return unknown("interlace"),
        [0, ..] => return unknown("filter"),
        _ => return unknown("compression"),
    }
    let (mut data, mut ended) = (false, false);
    for chunk in parse_chunks(bytes) {
        match (&chunk.name, chunk.body) {
            (b"IDAT", _) => {
                data = true;
                break;
            }
            (b"IEND", _) => ended = true,
            (b"IHDR" | b"PLTE", Some(body)) => {
                let mut crc = flate2::Crc::new();
                crc.update(&chunk.name);
                crc.update(body);
                if chunk.checksum != crc.sum().to_be_bytes() {
                    return damaged(format!(
                        "wrong checksum of the {}",
                        if chunk.name == *b"IHDR" { "header" } else { "palette" }
                    ));
                }
            }
            // A name, a zero byte, the method.
            (b"iCCP" | b"zTXt", Some(body)) => {
                let method =
                    body.iter().position(|byte| *byte == 0).and_then(|zero| body.get(zero + 1));
                if method.is_some_and(|method| *method != 0) {
                    return unknown("compression");
                }
            }
            _ => {}
        }
    }
    match (data, ended) {
        (true, _) => Ok(()),
        (false, true) => damaged("the file has no picture".to_owned()),
        (false, false) => {
            Err(PictureError::Truncated { format: PictureFormat::Png, share: Some(0) })
        }
    }
}

/// The orientation in EXIF or XMP, before or after the picture.
pub(crate) fn orientation(bytes: &[u8]) -> Orientation {
    let chunks = Chunks::read(bytes);
    let raw = || chunks.raw_exif.as_ref().map(|text| Cow::Owned(from_hex(&text.read())));
    let exif = chunks.exif.map(Cow::Borrowed).or_else(raw);
    orient::orientation_of(exif.as_deref(), chunks.xmp.as_ref().map(Text::read).as_deref())
}

/// The colour profile, inflated; `None` if it is larger than the limit.
pub(crate) fn profile(bytes: &[u8]) -> Option<Vec<u8>> {
    let chunk = parse_chunks(bytes)
        .take_while(|chunk| chunk.name != *b"IDAT")
        .find(|chunk| chunk.name == *b"iCCP")?;
    // A name, a zero byte, the method, which has been checked.
    let deflated = split_at_zero(chunk.body?)?.1.get(1..)?;
    let mut profile = Vec::new();
    let mut inflating = flate2::read::ZlibDecoder::new(deflated).take(MAX_TEXT + 1);
    inflating.read_to_end(&mut profile).ok()?;
    (profile.len() as u64 <= MAX_TEXT).then_some(profile)
}

/// Whether the picture is gray.
pub(crate) fn is_gray(bytes: &[u8]) -> bool {
    matches!(bytes.get(25), Some(0 | 4))
}

/// Decodes the picture; of an animated file the default picture.
pub(crate) struct PngDecoder<'a> {
    reader: png::Reader<DeadlineReader<'a>>,
    colours: ColorType,
}

impl<'a> PngDecoder<'a> {
    pub(crate) fn new(bytes: &'a [u8], deadline: Option<Instant>) -> ImageResult<Self> {
        let chunks = Chunks::read(bytes);
        let end = chunks.checksum.map_or(&[][..], |length| &END[length..]);
        let data = chunks.data.unwrap_or_default();
        Self::of_data(bytes, Cow::Borrowed(data), end, deadline)
    }

    /// Decodes these chunks of image data, with the header and the colours of the file.
    fn of_data(
        bytes: &[u8],
        data: Cow<'a, [u8]>,
        end: &'a [u8],
        deadline: Option<Instant>,
    ) -> ImageResult<Self> {
        let chunks = Chunks::read(bytes);
        // The signature and the header, then the chunks that colours need.
        let mut head = bytes[..33.min(bytes.len())].to_vec();
        head.extend(chunks.palette.into_iter().chain(chunks.transparency).flatten());
        let parts = [Cow::Owned(head), data, Cow::Borrowed(end)];
        let mut decoder = png::Decoder::new(DeadlineReader::of_parts(parts, deadline));
        // The reference verifies no checksum of image data; those of header and palette are already
        // verified.
        decoder.ignore_checksums(true);
        decoder.set_transformations(Transformations::EXPAND);
        let reader = decoder.read_info().map_err(image_error)?;
        let colours = colour_type(&reader);
        Ok(PngDecoder { reader, colours })
    }
}

/// The kind of the samples that the reader returns.
fn colour_type(reader: &png::Reader<DeadlineReader<'_>>) -> ColorType {
    let (colours, depth) = reader.output_color_type();
    match (colours, depth == BitDepth::Sixteen) {
        (png::ColorType::Grayscale, false) => ColorType::L8,
        (png::ColorType::Grayscale, true) => ColorType::L16,
        (png::ColorType::GrayscaleAlpha, false) => ColorType::La8,
        (png::ColorType::GrayscaleAlpha, true) => ColorType::La16,
        // `EXPAND` turns a palette into RGB.
        (png::ColorType::Rgb | png::ColorType::Indexed, false) => ColorType::Rgb8,
        (png::ColorType::Rgb | png::ColorType::Indexed, true) => ColorType::Rgb16,
        (png::ColorType::Rgba, false) => ColorType::Rgba8,
        (png::ColorType::Rgba, true) => ColorType::Rgba16,
    }
}

impl ImageDecoder for PngDecoder<'_> {
    fn dimensions(&self) -> (u32, u32) {
        self.reader.info().size()
    }

    fn color_type(&self) -> ColorType {
        self.colours
    }

    fn read_image(mut self, samples: &mut [u8]) -> ImageResult<()> {
        self.reader.next_frame(samples).map_err(image_error)?;
        if self.colours.bytes_per_pixel() > self.colours.channel_count() {
            // 16-bit samples are big-endian.
            for sample in samples.as_chunks_mut().0 {
                *sample = u16::from_be_bytes(*sample).to_ne_bytes();
            }
        }
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, samples: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(samples)
    }
}

/// Converts an error of the `png` crate to one of `image`.
fn image_error(error: png::DecodingError) -> ImageError {
    match error {
        png::DecodingError::IoError(error) => ImageError::IoError(error),
        png::DecodingError::LimitsExceeded => {
            ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory))
        }
        error => ImageError::Decoding(DecodingError::new(
            ImageFormatHint::Exact(ImageFormat::Png),
            error,
        )),
    }
}

/// One chunk: its range and its parts. A chunk truncated by the file's end has no body or a short
/// checksum.
struct Chunk<'a> {
    at: usize,
    end: usize,
    name: [u8; 4],
    body: Option<&'a [u8]>,
    checksum: &'a [u8],
}

/// The chunks up to the end of the picture or the file.
fn parse_chunks(bytes: &[u8]) -> impl Iterator<Item = Chunk<'_>> {
    let mut next = Some(8);
    std::iter::from_fn(move || {
        let at = next.take()?;
        let &[l0, l1, l2, l3, n0, n1, n2, n3, ref rest @ ..] = bytes.get(at..)? else {
            return None;
        };
        let name = [n0, n1, n2, n3];
        let (body, checksum) =
            match rest.split_at_checked(u32::from_be_bytes([l0, l1, l2, l3]) as usize) {
                Some((body, rest)) => (Some(body), &rest[..rest.len().min(4)]),
                None => (None, &[][..]),
            };
        let end = body.map_or(bytes.len(), |body| at + 8 + body.len() + checksum.len());
        next = (body.is_some() && name != *b"IEND").then_some(end);
        Some(Chunk { at, end, name, body, checksum })
    })
}

impl<'a> Chunks<'a> {
    fn read(bytes: &'a [u8]) -> Self {
        let mut chunks = Chunks::default();
        let mut data: Option<(usize, usize)> = None;
        for chunk in parse_chunks(bytes) {
            let whole = || bytes.get(chunk.at..chunk.end);
            match (&chunk.name, chunk.body) {
                (b"IDAT", body) if data.is_none_or(|(_, end)| end == chunk.at) => {
                    data = Some((data.map_or(chunk.at, |(start, _)| start), chunk.end));
                    chunks.checksum = body.map(|_| chunk.checksum.len());
                }
                (b"PLTE", Some(_)) if data.is_none() && chunks.palette.is_none() => {
                    chunks.palette = whole()
                }
                (b"tRNS", Some(_)) if data.is_none() && chunks.transparency.is_none() => {
                    chunks.transparency = whole()
                }
                (b"eXIf", Some(body)) => chunks.exif = Some(body),
                (b"tEXt" | b"zTXt" | b"iTXt", Some(body)) => chunks.text(chunk.name, body),
                _ => {}
            }
        }
        chunks.data = data.and_then(|(start, end)| bytes.get(start..end));
        chunks
    }

    /// Keeps a text that may contain an orientation; of equal names the last counts, as in the
    /// reference. Inflates nothing.
    fn text(&mut self, kind: [u8; 4], body: &'a [u8]) {
        let Some((name, rest)) = split_at_zero(body) else { return };
        let place = match name {
            // ImageMagick's format.
            b"Raw profile type exif" => &mut self.raw_exif,
            b"XML:com.adobe.xmp" => &mut self.xmp,
            _ => return,
        };
        let text = match kind {
            [b't', ..] => Some(Text { deflated: false, body: rest }),
            // The method has been checked.
            [b'z', ..] => rest.get(1..).map(|body| Text { deflated: true, body }),
            // Compression flag, method, language, translated name.
            _ => rest.split_at_checked(2).and_then(|(flags, rest)| {
                let body = split_at_zero(split_at_zero(rest)?.1)?.1;
                Some(Text { deflated: flags[0] != 0, body })
            }),
        };
        *place = text.or(place.take());
    }
}

impl Text<'_> {
    /// The text, as far as it inflates, up to the limit.
    fn read(&self) -> Cow<'_, [u8]> {
        if !self.deflated {
            return Cow::Borrowed(&self.body[..self.body.len().min(MAX_TEXT as usize)]);
        }
        let mut text = Vec::new();
        // A later fault does not invalidate the text before it.
        let _ = flate2::read::ZlibDecoder::new(self.body).take(MAX_TEXT).read_to_end(&mut text);
        Cow::Owned(text)
    }
}

fn split_at_zero(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == 0)?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

/// The bytes of a raw profile: an empty line, its kind, its length, then lines of hexadecimal
/// digits.
fn from_hex(text: &[u8]) -> Vec<u8> {
    let lines = text.split(|byte| *byte == b'\n').skip(3);
    let digits: Vec<u8> = lines
        .flatten()
        .filter_map(|byte| char::from(*byte).to_digit(16))
        .map(|digit| digit as u8)
        .collect();
    digits.as_chunks().0.iter().map(|[high, low]| high << 4 | low).collect()
}
