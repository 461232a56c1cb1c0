//! A PNG without its end: the rows that inflate, and a file made of them.

use std::{borrow::Cow, io::Read, time::Instant};

use super::{END, PngDecoder, parse_chunks};
use crate::{PictureError, PictureFormat, cut::KeptRows, deadline::DeadlineReader};

/// The filter that repeats the row above where its bytes are zero.
const UP: u8 = 2;
/// Most bytes of a stored block of deflate.
const BLOCK: usize = 65_535;
/// First row, first column, distance of rows and of columns of each pass of Adam7.
const PASSES: [[usize; 4]; 7] = [
    [0, 0, 8, 8],
    [0, 4, 8, 8],
    [4, 0, 8, 4],
    [0, 2, 4, 4],
    [2, 0, 4, 2],
    [0, 1, 2, 2],
    [1, 0, 2, 1],
];

/// Whether the file ends before its end chunk.
pub(crate) fn lacks_end(bytes: &[u8]) -> bool {
    !parse_chunks(bytes).any(|chunk| chunk.name == *b"IEND" && chunk.body.is_some())
}

/// A decoder of the picture with every missing row repeated from above, and the rows that the file
/// holds.
pub(crate) fn decoder(
    bytes: &[u8],
    deadline: Option<Instant>,
) -> Result<(PngDecoder<'_>, KeptRows), PictureError> {
    let (height, passes) = passes(bytes).ok_or(truncated(Some(0)))?;
    let size = passes.iter().map(|pass| pass.rows * pass.row).sum();
    let mut rows = inflate(bytes, size, deadline)?;
    let held = rows.len();
    rows.resize(size, 0);
    let (mut kept, mut at) = (vec![true; height], 0);
    for pass in &passes {
        for n in 0..pass.rows {
            let row = at..at + pass.row;
            at = row.end;
            if row.end > held {
                rows[row.clone()].fill(0);
                rows[row.start] = UP;
                kept[pass.first + n * pass.step] = false;
            }
        }
    }
    let kept = KeptRows::new(kept, passes.len() > 1);
    kept.check(PictureFormat::Png)?;
    let data = stored(&rows).ok_or(truncated(None))?;
    drop(rows);
    let decoder = PngDecoder::of_data(bytes, Cow::Owned(data), &END, deadline);
    Ok((decoder.map_err(|_| truncated(None))?, kept))
}

fn truncated(share: Option<u8>) -> PictureError {
    PictureError::Truncated { format: PictureFormat::Png, share }
}

/// One pass, or the whole picture if it is not interlaced.
struct Pass {
    first: usize,
    step: usize,
    rows: usize,
    /// Bytes of a row with its filter.
    row: usize,
}

/// The height, and the passes that have pixels.
fn passes(bytes: &[u8]) -> Option<(usize, Vec<Pass>)> {
    let side = |at: usize| {
        let field = bytes.get(at..at + 4)?.try_into().ok()?;
        usize::try_from(u32::from_be_bytes(field)).ok()
    };
    let (width, height) = (side(16)?, side(20)?);
    let &[depth, colours, _, _, interlaced] = bytes.get(24..29)? else { return None };
    let samples = match colours {
        2 => 3,
        4 => 2,
        6 => 4,
        _ => 1,
    };
    let pass = |[first, left, step, across]: [usize; 4]| {
        let columns = width.saturating_sub(left).div_ceil(across);
        let rows = height.saturating_sub(first).div_ceil(step);
        let row = 1 + (columns * samples * usize::from(depth)).div_ceil(8);
        (columns > 0 && rows > 0).then_some(Pass { first, step, rows, row })
    };
    let layout: &[[usize; 4]] = if interlaced == 1 { &PASSES } else { &[[0, 0, 1, 1]] };
    Some((height, layout.iter().copied().filter_map(pass).collect()))
}

/// The picture's rows as far as the file goes. What is damaged before its end is damage.
fn inflate(bytes: &[u8], size: usize, deadline: Option<Instant>) -> Result<Vec<u8>, PictureError> {
    let mut deflated = Vec::with_capacity(bytes.len());
    let mut end = None;
    for chunk in parse_chunks(bytes).filter(|chunk| chunk.name == *b"IDAT") {
        if end.is_some_and(|end| end != chunk.at) {
            break;
        }
        end = Some(chunk.end);
        let body = chunk.body.or_else(|| bytes.get(chunk.at + 8..));
        deflated.extend_from_slice(body.unwrap_or_default());
    }
    let reader = DeadlineReader::new(&deflated, deadline);
    let mut rows = Vec::with_capacity(size);
    match flate2::bufread::ZlibDecoder::new(reader).take(size as u64).read_to_end(&mut rows) {
        Ok(_) => Ok(rows),
        Err(error) => match error.kind() {
            std::io::ErrorKind::UnexpectedEof => Ok(rows),
            std::io::ErrorKind::TimedOut => Err(PictureError::TimedOut),
            _ => Err(PictureError::Damaged { format: PictureFormat::Png, why: error.to_string() }),
        },
    }
}

/// A chunk of these bytes, deflated without compression. Checksums are not verified.
fn stored(rows: &[u8]) -> Option<Vec<u8>> {
    let length = 2 + rows.len() + rows.len().div_ceil(BLOCK) * 5 + 4;
    let mut chunk = Vec::with_capacity(12 + length);
    chunk.extend(u32::try_from(length).ok()?.to_be_bytes());
    chunk.extend(b"IDAT\x78\x01");
    let last = rows.len().div_ceil(BLOCK).saturating_sub(1);
    for (n, block) in rows.chunks(BLOCK).enumerate() {
        let length = block.len() as u16;
        chunk.push(u8::from(n == last));
        chunk.extend(length.to_le_bytes());
        chunk.extend((!length).to_le_bytes());
        chunk.extend(block);
    }
    chunk.extend([0; 4]);
    Some(chunk)
}
