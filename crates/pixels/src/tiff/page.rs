//! Kinds of TIFF that occur in shops and that `image` does not read: palettes, few bits per sample,
//! gray with alpha, YCbCr in JPEG strips and tiles, reversed bits, inks with a profile.
//!
//! The `tiff` crate reads the strips, as it does for `image`; this file converts samples to
//! colours. Opened by `raster`, which checks memory and time as for every format.

use std::{borrow::Cow, time::Instant};

use image::{
    ColorType, ImageDecoder, ImageError, ImageResult,
    error::{
        DecodingError, ImageFormatHint, LimitError, LimitErrorKind, UnsupportedError,
        UnsupportedErrorKind,
    },
    metadata::Orientation,
};
use tiff::{TiffError, tags::Tag};

use super::{JPEG, field, first, list};
use crate::{DecodeLimits, deadline::DeadlineReader, profile::ColourConversion};

/// `ExtraSamples` that are alpha: with and without premultiplied colours.
const ALPHA: [u64; 2] = [1, 2];
/// `PhotometricInterpretation` 1: gray. Samples of any meaning are read unchanged as gray.
const BLACK_IS_ZERO: u16 = 1;

/// The meaning of the samples.
enum Samples {
    /// `bits` each; the largest is white.
    Gray,
    /// Indices of colours.
    Palette(Vec<[u8; 3]>),
    /// Luma and chroma, one byte each.
    YCbCr,
    /// Four inks, one byte each, and what they are in print.
    Inks(ColourConversion),
}

/// The first page of such a file.
pub(crate) struct TiffPage<'a> {
    /// Always present; an option because the crate takes limits by value.
    inner: Option<tiff::decoder::Decoder<DeadlineReader<'a>>>,
    samples: Samples,
    /// Bits per sample: 1, 2, 4 or 8.
    bits: u32,
    /// A second sample follows each: alpha (true), or one to ignore.
    second: Option<bool>,
    /// The first pixel of a byte is in its lowest bits.
    reversed: bool,
    size: (u32, u32),
    orientation: Orientation,
    deadline: Option<Instant>,
}

impl<'a> TiffPage<'a> {
    /// `None` for other kinds, which `image` reads or rejects. Inks are such a kind without a valid
    /// profile, and if `exact`.
    pub(crate) fn open(
        bytes: &'a [u8],
        deadline: Option<Instant>,
        exact: bool,
    ) -> ImageResult<Option<Self>> {
        let Ok(mut tags) = tiff::decoder::Decoder::new(DeadlineReader::new(bytes, deadline)) else {
            return Ok(None);
        };
        let mut tag = |name, default| first(&mut tags, name).unwrap_or(default);
        let photometric = tag(Tag::PhotometricInterpretation, u64::MAX);
        let (bits, count, compression) =
            (tag(Tag::BitsPerSample, 1), tag(Tag::SamplesPerPixel, 1), tag(Tag::Compression, 1));
        let reversed = tag(Tag::FillOrder, 1) == 2 && compression != u64::from(JPEG);
        if tag(Tag::SampleFormat, 1) != 1 || tag(Tag::PlanarConfiguration, 1) != 1 && count > 1 {
            return Ok(None);
        }
        if reversed && (compression != 1 || count != 1 || bits > 8) {
            return Err(unsupported("reversed bits (FillOrder 2)"));
        }
        if compression == 7 && (photometric, bits, count) == (1, 8, 2) {
            return Err(unsupported("gray with alpha as JPEG"));
        }
        let samples = match (photometric, bits, count) {
            (0 | 1, 2 | 4, 1) | (1, 8, 2) => Samples::Gray,
            (0 | 1, 1 | 8, 1) if reversed => Samples::Gray,
            (3, 1 | 2 | 4 | 8, 1) | (3, 8, 2) => {
                let Some(colours) =
                    palette(&list(&mut tags, Tag::ColorMap).unwrap_or_default(), 1 << bits)
                else {
                    return Err(damaged("its palette is missing or too short"));
                };
                Samples::Palette(colours)
            }
            // The crate reports subsampled chroma outside of JPEG.
            (6, 8, 3) => Samples::YCbCr,
            (5, 8, 4) if compression != u64::from(JPEG) && !exact => {
                let profile = super::profile(bytes);
                match profile.and_then(|(profile, space)| ColourConversion::new(&profile, space)) {
                    Some(conversion) => Samples::Inks(conversion),
                    None => return Ok(None),
                }
            }
            _ => return Ok(None),
        };
        let second = (count == 2).then(|| {
            first(&mut tags, Tag::ExtraSamples).is_some_and(|extra| ALPHA.contains(&extra))
        });
        let orientation = first(&mut tags, Tag::Orientation)
            .and_then(|value| Orientation::from_exif(value.try_into().ok()?));
        let parts = if photometric == 3 { as_gray(bytes) } else { None };
        let parts = parts.unwrap_or([Cow::Borrowed(bytes), Cow::default(), Cow::default()]);
        let mut inner = tiff::decoder::Decoder::new(DeadlineReader::of_parts(parts, deadline))
            .map_err(image_error)?;
        let size = inner.dimensions().map_err(image_error)?;
        let orientation = orientation.unwrap_or(Orientation::NoTransforms);
        Ok(Some(TiffPage {
            inner: Some(inner),
            samples,
            bits: bits as u32,
            second,
            reversed,
            size,
            orientation,
            deadline,
        }))
    }
}

impl ImageDecoder for TiffPage<'_> {
    fn dimensions(&self) -> (u32, u32) {
        self.size
    }

    fn color_type(&self) -> ColorType {
        match (&self.samples, self.second) {
            (Samples::Gray, Some(true)) => ColorType::La8,
            (Samples::Gray, _) => ColorType::L8,
            (Samples::Palette(_), Some(true)) => ColorType::Rgba8,
            (Samples::Palette(_) | Samples::YCbCr | Samples::Inks(_), _) => ColorType::Rgb8,
        }
    }

    fn orientation(&mut self) -> ImageResult<Orientation> {
        Ok(self.orientation)
    }

    fn set_limits(&mut self, limits: image::Limits) -> ImageResult<()> {
        let most =
            limits.max_alloc.map_or(usize::MAX, |most| usize::try_from(most).unwrap_or(usize::MAX));
        let mut allowed = tiff::decoder::Limits::default();
        (allowed.decoding_buffer_size, allowed.intermediate_buffer_size, allowed.ifd_value_size) =
            (most, most, most);
        self.inner = self.inner.take().map(|inner| inner.with_limits(allowed));
        Ok(())
    }

    fn read_image(mut self, colours: &mut [u8]) -> ImageResult<()> {
        let mut inner = self.inner.take().expect("it was put back");
        let layout = inner.image_buffer_layout().map_err(image_error)?;
        if let Samples::YCbCr = self.samples {
            if layout.complete_len != colours.len() {
                return Err(damaged("the strips do not fill the picture"));
            }
            inner.read_image_bytes(colours).map_err(image_error)?;
            colours.as_chunks_mut().0.iter_mut().for_each(|pixel| *pixel = rgb(*pixel));
            return Ok(());
        }
        if let Samples::Inks(conversion) = &self.samples {
            if layout.complete_len / 4 != colours.len() / 3 {
                return Err(damaged("the strips do not fill the picture"));
            }
            let mut inks = vec![0; layout.complete_len];
            inner.read_image_bytes(&mut inks).map_err(image_error)?;
            let limits = DecodeLimits { deadline: self.deadline, ..DecodeLimits::default() };
            conversion
                .inks_in_place(&mut inks, &limits)
                .map_err(|_| ImageError::IoError(std::io::ErrorKind::TimedOut.into()))?;
            colours.copy_from_slice(&inks[..colours.len()]);
            return Ok(());
        }
        let (width, height) = (self.size.0 as usize, self.size.1 as usize);
        let samples = 1 + usize::from(self.second.is_some());
        let row = (width * samples * self.bits as usize).div_ceil(8);
        if layout.complete_len != row * height || colours.is_empty() {
            return Err(damaged("the strips do not fill the picture"));
        }
        let mut packed = vec![0; layout.complete_len];
        inner.read_image_bytes(&mut packed).map_err(image_error)?;
        if self.reversed {
            packed.iter_mut().for_each(|byte| *byte = byte.reverse_bits());
        }
        let out = colours.len() / height;
        for (packed, colours) in packed.chunks_exact(row).zip(colours.chunks_exact_mut(out)) {
            self.row(packed, colours);
        }
        Ok(())
    }

    fn read_image_boxed(self: Box<Self>, colours: &mut [u8]) -> ImageResult<()> {
        (*self).read_image(colours)
    }
}

impl TiffPage<'_> {
    /// Converts one row of packed samples to colours.
    fn row(&self, packed: &[u8], colours: &mut [u8]) {
        let (bits, most) = (self.bits as usize, (1_u32 << self.bits) - 1);
        // No sample crosses a byte; the first pixel is in the highest bits.
        let sample = |i: usize| u32::from(packed[i * bits / 8]) >> (8 - bits - i * bits % 8) & most;
        let each = 1 + usize::from(self.second.is_some());
        let channels = colours.len() / self.size.0 as usize;
        for (x, pixel) in colours.chunks_exact_mut(channels).enumerate() {
            let value = sample(x * each);
            match &self.samples {
                Samples::Palette(table) => pixel[..3].copy_from_slice(&table[value as usize]),
                _ => pixel[0] = (value * 255 / most) as u8,
            }
            if self.second == Some(true) {
                pixel[channels - 1] = sample(x * each + 1) as u8;
            }
        }
    }
}

/// The colours of a map: all reds, all greens, all blues; the high bytes count, as in the
/// reference.
fn palette(map: &[u64], colours: usize) -> Option<Vec<[u8; 3]>> {
    let channel = |n: usize, i: usize| (map[n * colours + i] >> 8) as u8;
    (map.len() >= 3 * colours)
        .then(|| (0..colours).map(|i| [channel(0, i), channel(1, i), channel(2, i)]).collect())
}

/// The file with palette indices declared as gray, which the crate would reject otherwise.
fn as_gray(bytes: &[u8]) -> Option<[Cow<'_, [u8]>; 3]> {
    let (value, _) = field(bytes, Tag::PhotometricInterpretation)?;
    let gray = u32::from(BLACK_IS_ZERO);
    let gray = if bytes.first() == Some(&b'I') {
        gray.to_le_bytes()[..value.len()].to_vec()
    } else {
        gray.to_be_bytes()[4 - value.len()..].to_vec()
    };
    Some([
        Cow::Borrowed(&bytes[..value.start]),
        Cow::Owned(gray),
        Cow::Borrowed(&bytes[value.end..]),
    ])
}

/// The colours of JPEG's luma and chroma (JFIF 1.02: ITU-R BT.601, all 256 levels), in 1/65536.
fn rgb([y, cb, cr]: [u8; 3]) -> [u8; 3] {
    let (y, cb, cr) = (i32::from(y) << 16, i32::from(cb) - 128, i32::from(cr) - 128);
    [y + 91_881 * cr, y - 22_554 * cb - 46_802 * cr, y + 116_130 * cb]
        .map(|level| ((level + (1 << 15)) >> 16).clamp(0, 255) as u8)
}

fn hint() -> ImageFormatHint {
    ImageFormatHint::Exact(image::ImageFormat::Tiff)
}

fn unsupported(what: impl Into<String>) -> ImageError {
    ImageError::Unsupported(UnsupportedError::from_format_and_kind(
        hint(),
        UnsupportedErrorKind::GenericFeature(what.into()),
    ))
}

fn damaged(why: &str) -> ImageError {
    ImageError::Decoding(DecodingError::new(hint(), why))
}

/// Converts an error of the `tiff` crate to one of `image`.
fn image_error(error: TiffError) -> ImageError {
    match error {
        TiffError::IoError(error) => ImageError::IoError(error),
        TiffError::UnsupportedError(what) => unsupported(what.to_string()),
        TiffError::LimitsExceeded => {
            ImageError::Limits(LimitError::from_kind(LimitErrorKind::InsufficientMemory))
        }
        error => ImageError::Decoding(DecodingError::new(hint(), error)),
    }
}
