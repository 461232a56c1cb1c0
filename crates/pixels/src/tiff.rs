//! What the first page of a TIFF says that its decoder neither tells nor judges: whether colours
//! are already multiplied with alpha, and the JPEG files inside, which are decoded strip by strip
//! in one go, out of reach of the deadline. Called by `raster`; decodes nothing, allocates nothing
//! but the page's own lists.

mod page;

use std::ops::Range;

use tiff::{decoder::Decoder, tags::Tag};

use crate::{PictureError, PictureFormat, deadline::DeadlineReader};
pub(crate) use page::Page;

/// Compression 7: every strip or tile is a JPEG file, but for the tables that all share.
const JPEG: u16 = 7;
/// Compression 6: the whole picture is one JPEG file, or parts of one, found by tags of its own.
const OLD_JPEG: u16 = 6;
/// `ExtraSamples` 1: alpha, with which the colours have been multiplied.
const ASSOCIATED: u16 = 1;

/// All numbers of a tag of the first page, if it has the tag and can be read.
fn list(decoder: &mut Decoder<DeadlineReader<'_>>, tag: Tag) -> Option<Vec<u64>> {
    decoder.find_tag_unsigned_vec(tag).ok().flatten()
}

/// The first of them.
fn first(decoder: &mut Decoder<DeadlineReader<'_>>, tag: Tag) -> Option<u64> {
    list(decoder, tag)?.first().copied()
}

/// Where the first page has its one short or long number of a tag, and the number. Read without the
/// crate, which opens no page that lacks its strips.
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

/// Whether colours have been multiplied with alpha.
pub(crate) fn is_premultiplied(bytes: &[u8]) -> bool {
    let decoder = Decoder::new(DeadlineReader::new(bytes, None));
    decoder
        .is_ok_and(|mut decoder| first(&mut decoder, Tag::ExtraSamples) == Some(ASSOCIATED.into()))
}

/// Refuses what the decoder takes for damage: the JPEG of 1992, which has no strips; and what makes
/// it panic: tiles of one colour each, of which the last ones reach beyond the picture.
pub(crate) fn check(bytes: &[u8]) -> Result<(), PictureError> {
    let unsupported =
        |what: String| Err(PictureError::UnsupportedVariant { format: PictureFormat::Tiff, what });
    if field(bytes, Tag::Compression).is_some_and(|(_, method)| method == u64::from(OLD_JPEG)) {
        return unsupported("an old-style JPEG inside".to_owned());
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
            "a picture of {width} x {height} pixels in tiles of {tile_width} x {tile_height}, of one colour each"
        ));
    }
    Ok(())
}

/// Judges the JPEG files inside. Bytes that decoding the largest of them takes: its samples, and
/// its coefficients where it has several scans. A page that cannot be read is left to the decoder's
/// own words.
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
            why: "the tables of the JPEG inside are not in order".to_owned(),
        });
    }
    judge(bytes, &strips(pairs, bytes.len()), decoder.chunk_dimensions())
}

/// The parts of the file that are strips or tiles, in order and without overlap, so that each byte
/// is looked at once however often it is named. All of the file where the lists do not fit each
/// other.
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

/// Are these tables whole segments between a start and an end marker? The decoder cuts the end
/// marker off blindly and puts a strip behind: a frame header that begins in the one and ends in
/// the other would be seen by nobody.
fn ends_between_segments(tables: &[u64]) -> bool {
    let [0xFF, 0xD8, segments @ .., 0xFF, 0xD9] = tables else { return false };
    let mut rest = segments;
    while let [0xFF, marker, high, low, ..] = rest {
        // Tables, comments and application segments, all of which have a length.
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

/// Judges the JPEG files in `ranges`: sequential, with few scans, none larger than the strip or
/// tile it fills. Returns what decoding the largest of them takes.
fn judge(
    bytes: &[u8],
    ranges: &[Range<usize>],
    (width, height): (u32, u32),
) -> Result<u64, PictureError> {
    /// Byte patterns of this kind that broken strips may contain by chance.
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
                    return unsupported("a progressive JPEG inside".to_owned());
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
                            "a JPEG of {w} x {h} pixels inside, in a strip or tile of {width} x {height}"
                        ));
                    }
                    samples = samples.max(u64::from(w) * u64::from(h) * u64::from(n));
                }
                _ => {}
            }
        }
    }
    if scans > CHANCE + 4 * pictures {
        return unsupported(format!("{scans} JPEG scans inside"));
    }
    // One byte a sample, two a coefficient.
    Ok(if scans > pictures { samples.saturating_mul(3) } else { samples })
}
