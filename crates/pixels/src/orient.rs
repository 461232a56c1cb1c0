//! Turns a picture upright according to its EXIF orientation.

use image::metadata::Orientation;

use crate::RgbPicture;

/// The orientation in EXIF and XMP blocks; EXIF takes precedence. Invalid or missing: upright.
pub(crate) fn orientation_of(exif: Option<&[u8]>, xmp: Option<&[u8]>) -> Orientation {
    exif.and_then(from_exif).or_else(|| xmp.and_then(from_xmp)).unwrap_or(Orientation::NoTransforms)
}

/// The orientation in an EXIF block, with or without the `Exif\0\0` prefix of some writers: one
/// integer of any width in the first directory, though EXIF requires 16 bits.
///
/// Not `image`'s `Orientation::from_exif_chunk`: that reads a single SHORT only, while the
/// reference also accepts LONG, signed types and a count of two (`tests/pictures.rs` has all of
/// them).
fn from_exif(block: &[u8]) -> Option<Orientation> {
    const ORIENTATION: u32 = 274;
    let block = block.strip_prefix(b"Exif\0\0").unwrap_or(block);
    let little = match block.get(..4)? {
        [b'I', b'I', 42, 0] => true,
        [b'M', b'M', 0, 42] => false,
        _ => return None,
    };
    let number = |bytes: &[u8]| {
        let place = |sum: u32, byte: &u8| sum << 8 | u32::from(*byte);
        if little { bytes.iter().rev().fold(0, place) } else { bytes.iter().fold(0, place) }
    };
    let directory = block.get(usize::try_from(number(block.get(4..8)?)).ok()?..)?;
    let entries =
        directory.get(2..)?.as_chunks::<12>().0.iter().take(number(&directory[..2]) as usize);
    entries.filter(|entry| number(&entry[..2]) == ORIENTATION).find_map(|entry| {
        let value = match (number(&entry[2..4]), number(&entry[4..8])) {
            // SHORT and LONG, unsigned or signed; of two SHORTs the first.
            (3 | 8, 1 | 2) => number(&entry[8..10]),
            (4 | 9, 1) => number(&entry[8..12]),
            _ => return None,
        };
        Orientation::from_exif(u8::try_from(value).ok()?)
    })
}

/// The orientation in an XMP packet: `tiff:Orientation="6"` or `<tiff:Orientation>6<`.
fn from_xmp(packet: &[u8]) -> Option<Orientation> {
    const KEY: &[u8] = b"tiff:Orientation";
    packet.windows(KEY.len() + 3).filter(|window| window.starts_with(KEY)).find_map(|window| {
        match window[KEY.len()..] {
            [b'=', b'"' | b'\'', digit] | [b'>', digit, _] => {
                Orientation::from_exif(digit.wrapping_sub(b'0'))
            }
            _ => None,
        }
    })
}

/// Whether turning swaps width and height.
pub(crate) fn swaps_sides(orientation: Orientation) -> bool {
    (5..=8).contains(&orientation.to_exif())
}

/// Number of pictures in memory while turning.
pub(crate) fn buffers(orientation: Orientation) -> u64 {
    if orientation == Orientation::NoTransforms { 1 } else { 2 }
}

/// Turns the picture upright.
pub(crate) fn upright(picture: RgbPicture, orientation: Orientation) -> RgbPicture {
    let (w, h) = (picture.width as usize, picture.height as usize);
    let source = &picture.data;
    // The source of the upright pixel (x, y), as EXIF defines the eight cases.
    match orientation.to_exif() {
        2 => gather((w, h), w, source, |x, y| (w - 1 - x, y)),
        3 => gather((w, h), w, source, |x, y| (w - 1 - x, h - 1 - y)),
        4 => gather((w, h), w, source, |x, y| (x, h - 1 - y)),
        5 => gather((h, w), w, source, |x, y| (y, x)),
        6 => gather((h, w), w, source, |x, y| (y, h - 1 - x)),
        7 => gather((h, w), w, source, |x, y| (w - 1 - y, h - 1 - x)),
        8 => gather((h, w), w, source, |x, y| (w - 1 - y, x)),
        _ => picture,
    }
}

/// A picture of the given size with pixels from `source`, whose rows are `stride` pixels wide.
/// Works in blocks that fit the cache.
fn gather(
    (w, h): (usize, usize),
    stride: usize,
    source: &[u8],
    from: impl Fn(usize, usize) -> (usize, usize),
) -> RgbPicture {
    const TILE: usize = 32;
    let mut data = vec![0; w * h * 3];
    for top in (0..h).step_by(TILE) {
        for left in (0..w).step_by(TILE) {
            for y in top..(top + TILE).min(h) {
                for x in left..(left + TILE).min(w) {
                    let (sx, sy) = from(x, y);
                    let (to, at) = ((y * w + x) * 3, (sy * stride + sx) * 3);
                    data[to..to + 3].copy_from_slice(&source[at..at + 3]);
                }
            }
        }
    }
    RgbPicture { width: w as u32, height: h as u32, data }
}
