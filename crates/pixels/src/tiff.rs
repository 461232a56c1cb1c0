//! Facts about the first page of a TIFF that its decoder neither reports nor checks: premultiplied
//! alpha, and embedded JPEG files.
//!
//! The decoder decodes a whole JPEG strip in one call, which the deadline cannot interrupt. Called
//! by `raster`; decodes nothing, and allocates only the page's own lists.

mod page;

use std::ops::Range;

use tiff::{decoder::Decoder, tags::Tag};

use crate::{PictureError, PictureFormat, deadline::DeadlineReader, profile::ProfileSpace};
pub(crate) use page::TiffPage;

/// Compression 7: every strip or tile is a JPEG file without the shared tables.
const JPEG: u16 = 7;
/// Compression 6: the picture is one JPEG file, or parts of one, at locations in tags of its own.
const OLD_JPEG: u16 = 6;
/// `ExtraSamples` 1: alpha with premultiplied colours.
const ASSOCIATED: u16 = 1;

/// All numbers of a tag of the first page, if present and readable.
fn list(decoder: &mut Decoder<DeadlineReader<'_>>, tag: Tag) -> Option<Vec<u64>> {
    decoder.find_tag_unsigned_vec(tag).ok().flatten()
}

/// The first of them.
fn first(decoder: &mut Decoder<DeadlineReader<'_>>, tag: Tag) -> Option<u64> {
    list(decoder, tag)?.first().copied()
}

/// The position and value of a tag of the first page with one SHORT or LONG. Parsed here because
/// the `tiff` crate opens no page without strips.
fn field(bytes: &[u8], tag: Tag) -> Option<(Range<usize>, u64)> {
    let little = bytes.first() == Some(&b'I');
    let number = |at: usize, length: usize| -> Option<u64> {
        let place = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
        let field = bytes.get(at..at.checked_add(length)?)?;
        Some(if little { field.iter().rev().fold(0, place) } else { field.iter().fold(0, place) })
    };
    let big = number(2, 2)? == 43;
    let (directory, counted, entry, value) =
        if big { (number(8, 8)?, 8, 20, 12) } else { (number(4, 4)?, 2, 12, 8) };
    let directory = usize::try_from(directory).ok()?;
    for i in 0..usize::try_from(number(directory, counted)?).ok()? {
        let at = directory.checked_add(counted)?.checked_add(i.checked_mul(entry)?)?;
        if number(at, 2)? == u64::from(tag.to_u16()) {
            let length = match number(at + 2, 2)? {
                3 => 2,
                4 => 4,
                _ => return None,
            };
            return Some((at + value..at + value + length, number(at + value, length)?));
        }
    }
    None
}

/// Whether colours are multiplied with alpha.
pub(crate) fn is_premultiplied(bytes: &[u8]) -> bool {
    let decoder = Decoder::new(DeadlineReader::new(bytes, None));
    decoder
        .is_ok_and(|mut decoder| first(&mut decoder, Tag::ExtraSamples) == Some(ASSOCIATED.into()))
}

/// The colour profile, and the kind of the picture.
pub(crate) fn profile(bytes: &[u8]) -> Option<(Vec<u8>, ProfileSpace)> {
    const PROFILE: Tag = Tag::Unknown(34_675);
    let mut decoder = Decoder::new(DeadlineReader::new(bytes, None)).ok()?;
    let space = match first(&mut decoder, Tag::PhotometricInterpretation)? {
        0 | 1 => ProfileSpace::Gray,
        2 | 3 | 6 => ProfileSpace::Rgb,
        5 => ProfileSpace::Cmyk,
        _ => return None,
    };
    Some((decoder.find_tag(PROFILE).ok()??.into_u8_vec().ok()?, space))
}

/// Rejects files that the decoder would report as damaged or panic on: the JPEG compression of
/// 1992, which has no strips; and planar tiles that exceed the picture.
pub(crate) fn check(bytes: &[u8]) -> Result<(), PictureError> {
    let unsupported =
        |what: String| Err(PictureError::UnsupportedVariant { format: PictureFormat::Tiff, what });
    if field(bytes, Tag::Compression).is_some_and(|(_, method)| method == u64::from(OLD_JPEG)) {
        return unsupported("an embedded old-style JPEG".to_owned());
    }
    let Ok(mut decoder) = Decoder::new(DeadlineReader::new(bytes, None)) else { return Ok(()) };
    let (Some(tile_width), Some(tile_height)) =
        (first(&mut decoder, Tag::TileWidth), first(&mut decoder, Tag::TileLength))
    else {
        return Ok(());
    };
    let (width, height) = decoder.dimensions().unwrap_or_default();
    let reaches = |side: u32, tile: u64| tile != 0 && u64::from(side) % tile != 0;
    if first(&mut decoder, Tag::PlanarConfiguration) == Some(2)
        && (reaches(width, tile_width) || reaches(height, tile_height))
    {
        return unsupported(format!(
            "planar tiles of {tile_width} x {tile_height} pixels in a picture of {width} x {height}"
        ));
    }
    Ok(())
}

/// Checks embedded JPEG files. Returns the bytes for decoding the largest: its samples, and its
/// coefficients if it has several scans. An unreadable page is left to the decoder.
pub(crate) fn jpeg_bytes(bytes: &[u8]) -> Result<u64, PictureError> {
    let Ok(mut decoder) = Decoder::new(DeadlineReader::new(bytes, None)) else { return Ok(0) };
    if first(&mut decoder, Tag::Compression) != Some(JPEG.into()) {
        return Ok(0);
    }
    let pairs =
        [(Tag::StripOffsets, Tag::StripByteCounts), (Tag::TileOffsets, Tag::TileByteCounts)]
            .map(|(at, length)| [list(&mut decoder, at), list(&mut decoder, length)]);
    if list(&mut decoder, Tag::JPEGTables).is_some_and(|tables| !ends_between_segments(&tables)) {
        return Err(PictureError::Damaged {
            format: PictureFormat::Tiff,
            why: "invalid tables of an embedded JPEG".to_owned(),
        });
    }
    judge(bytes, &strips(pairs, bytes.len()), decoder.chunk_dimensions())
}

/// The strips or tiles as ordered ranges without overlap, so that each byte is scanned once. The
/// whole file if the lists do not match.
fn strips(pairs: [[Option<Vec<u64>>; 2]; 2], file: usize) -> Vec<Range<usize>> {
    let mut ranges = Vec::new();
    for pair in pairs {
        match pair {
            [None, None] => {}
            [Some(offsets), Some(lengths)] if offsets.len() == lengths.len() => {
                let clipped = |at: u64| usize::try_from(at).unwrap_or(file).min(file);
                ranges.extend(
                    offsets
                        .iter()
                        .zip(&lengths)
                        .map(|(at, length)| clipped(*at)..clipped(at.saturating_add(*length))),
                );
            }
            _ => {
                ranges.clear();
                ranges.push(0..file);
                return ranges;
            }
        }
    }
    ranges.sort_unstable_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let touches = next.start <= range.end;
        if touches {
            range.end = range.end.max(next.end);
        }
        touches
    });
    ranges
}

/// Whether these tables are whole segments between a start and an end marker. The decoder removes
/// the end marker and appends a strip: a frame header that begins in the tables and ends in the
/// strip would go undetected.
fn ends_between_segments(tables: &[u64]) -> bool {
    let [0xFF, 0xD8, segments @ .., 0xFF, 0xD9] = tables else { return false };
    let mut rest = segments;
    while let [0xFF, marker, high, low, ..] = rest {
        // Tables, comments and application segments; all have a length.
        if !matches!(marker, 0xC4 | 0xCC | 0xDB | 0xDD | 0xE0..=0xEF | 0xFE) {
            return false;
        }
        let Some(next) =
            usize::try_from(2 + high * 256 + low).ok().and_then(|length| rest.get(length..))
        else {
            return false;
        };
        rest = next;
    }
    rest.is_empty()
}

/// Checks the JPEG files in `ranges`: sequential, few scans, none larger than its strip or tile.
/// Returns the bytes for decoding the largest.
fn judge(
    bytes: &[u8],
    ranges: &[Range<usize>],
    (width, height): (u32, u32),
) -> Result<u64, PictureError> {
    /// Matching byte patterns that damaged strips may contain by chance.
    const CHANCE: usize = 64;
    let unsupported =
        |what: String| Err(PictureError::UnsupportedVariant { format: PictureFormat::Tiff, what });
    let (mut pictures, mut scans, mut samples) = (0_usize, 0_usize, 0_u64);
    for range in ranges {
        let mut rest = &bytes[range.clone()];
        while let Some(at) = rest.iter().position(|byte| *byte == 0xFF) {
            rest = &rest[at + 1..];
            match *rest {
                [0xD8, 0xFF, ..] => pictures += 1,
                [0xDA, 0, ..] => scans += 1,
                [0xC2 | 0xCA, 0, 8..=20, 8, ..] => {
                    return unsupported("an embedded progressive JPEG".to_owned());
                }
                [
                    0xC0..=0xC3 | 0xC5..=0xC7 | 0xC9..=0xCB | 0xCD..=0xCF,
                    0,
                    length,
                    _,
                    h1,
                    h0,
                    w1,
                    w0,
                    n,
                    ..,
                ] if length == 8_u8.wrapping_add(n.wrapping_mul(3)) => {
                    let (w, h) = (u16::from_be_bytes([w1, w0]), u16::from_be_bytes([h1, h0]));
                    if u32::from(w) > width || u32::from(h) > height {
                        return unsupported(format!(
                            "an embedded JPEG of {w} x {h} pixels in a strip or tile of \
                             {width} x {height}"
                        ));
                    }
                    samples = samples.max(u64::from(w) * u64::from(h) * u64::from(n));
                }
                _ => {}
            }
        }
    }
    if scans > CHANCE + 4 * pictures {
        return unsupported(format!("{scans} embedded JPEG scans"));
    }
    // One byte per sample, two per coefficient.
    Ok(if scans > pictures { samples.saturating_mul(3) } else { samples })
}
