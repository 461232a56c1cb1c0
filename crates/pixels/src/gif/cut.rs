//! A GIF without its end: the first frame's rows as far as they are in the file.

use std::time::Instant;

use super::{BlockKind, blocks};
use crate::{PictureError, PictureFormat, cut::KeptRows, deadline::DeadlineReader};

/// First row and distance of the rows of each pass.
const PASSES: [[usize; 2]; 4] = [[0, 8], [4, 8], [2, 4], [1, 2]];

/// Whether the file ends within its first frame.
pub(crate) fn lacks_end(bytes: &[u8]) -> bool {
    !blocks(bytes).any(|block| block.kind == BlockKind::Frame && block.whole)
}

/// The canvas as 8-bit RGBA with every missing row of the frame repeated from above, or a refusal.
/// `canvas` is width and height.
pub(crate) fn decode(
    bytes: &[u8],
    canvas: (u32, u32),
    deadline: Option<Instant>,
) -> Result<Vec<u8>, PictureError> {
    let truncated = |share| PictureError::Truncated { format: PictureFormat::Gif, share };
    let mut options = gif::DecodeOptions::new();
    options.set_color_output(gif::ColorOutput::RGBA);
    let mut decoder = options
        .read_info(DeadlineReader::new(bytes, deadline))
        .map_err(|error| failed(error).unwrap_or(truncated(Some(0))))?;
    let frame = match decoder.next_frame_info() {
        Ok(Some(frame)) => frame,
        Ok(None) => return Err(truncated(Some(0))),
        Err(error) => return Err(failed(error).unwrap_or(truncated(Some(0)))),
    };
    let (left, top) = (usize::from(frame.left), usize::from(frame.top));
    let (width, height) = (usize::from(frame.width), usize::from(frame.height));
    let interlaced = frame.interlaced;
    let pitch = canvas.0 as usize * 4;
    let mut pixels = vec![0; pitch * canvas.1 as usize];
    let mut kept = vec![false; height];
    let mut row = vec![0; width * 4];
    for y in rows(height, interlaced) {
        row.fill(0);
        match decoder.fill_buffer(&mut row) {
            Ok(true) => {}
            Ok(false) => break,
            Err(error) => match failed(error) {
                Some(error) => return Err(error),
                None => break,
            },
        }
        kept[y] = true;
        // The canvas contains the frame.
        if let Some(place) =
            pixels.get_mut((top + y) * pitch + left * 4..).filter(|rest| rest.len() >= row.len())
        {
            place[..row.len()].copy_from_slice(&row);
        }
    }
    let frame = KeptRows::new(kept, interlaced);
    frame.check(PictureFormat::Gif)?;
    let end = (top + height).min(canvas.1 as usize);
    frame.fill(&mut pixels[top.min(end) * pitch..end * pitch], pitch);
    Ok(pixels)
}

/// The order in which rows are stored.
fn rows(height: usize, interlaced: bool) -> Box<dyn Iterator<Item = usize>> {
    if interlaced {
        Box::new(PASSES.into_iter().flat_map(move |[first, step]| (first..height).step_by(step)))
    } else {
        Box::new(0..height)
    }
}

/// The failure of the picture; `None` at the end of the file.
fn failed(error: gif::DecodingError) -> Option<PictureError> {
    match error {
        gif::DecodingError::UnexpectedEof => None,
        gif::DecodingError::Io(error) => match error.kind() {
            std::io::ErrorKind::UnexpectedEof => None,
            std::io::ErrorKind::TimedOut => Some(PictureError::TimedOut),
            _ => Some(damaged(error)),
        },
        error => Some(damaged(error)),
    }
}

fn damaged(why: impl ToString) -> PictureError {
    PictureError::Damaged { format: PictureFormat::Gif, why: why.to_string() }
}
