//! The frames of an animated PNG, composed on its canvas as the standard says.

use std::{borrow::Cow, time::Instant};

use image::{ColorType, ImageResult};
use png::{BlendOp, DisposeOp, FrameControl, Transformations};

use super::{colour_type, image_error, parse_chunks};
use crate::deadline::DeadlineReader;

/// Whether the file announces an animation before its picture.
pub(crate) fn is_animated(bytes: &[u8]) -> bool {
    parse_chunks(bytes)
        .take_while(|chunk| chunk.name != *b"IDAT")
        .any(|chunk| chunk.name == *b"acTL" && chunk.body.is_some())
}

/// Canvases after each frame, as 8-bit RGBA.
pub(crate) fn frames(
    bytes: &[u8],
    deadline: Option<Instant>,
) -> ImageResult<impl Iterator<Item = ImageResult<Vec<u8>>> + use<>> {
    // Only the chunks of pictures and colours: no profile or text is inflated.
    let mut file = bytes[..8.min(bytes.len())].to_vec();
    for chunk in parse_chunks(bytes).filter(|chunk| chunk.body.is_some()) {
        if let b"IHDR" | b"PLTE" | b"tRNS" | b"acTL" | b"fcTL" | b"IDAT" | b"fdAT" | b"IEND" =
            &chunk.name
        {
            file.extend_from_slice(&bytes[chunk.at..chunk.end]);
        }
    }
    let parts = [Cow::Owned(file), Cow::default(), Cow::default()];
    let mut decoder = png::Decoder::new(DeadlineReader::of_parts(parts, deadline));
    decoder.ignore_checksums(true);
    decoder.set_transformations(Transformations::EXPAND);
    let mut reader = decoder.read_info().map_err(image_error)?;
    let (width, height) = reader.info().size();
    let colours = colour_type(&reader);
    let mut canvas = vec![0; width as usize * height as usize * 4];
    // What the next frame begins with, where it is not this canvas.
    let mut restored: Option<(FrameControl, Option<Vec<u8>>)> = None;
    let mut frame = Vec::new();
    Ok(std::iter::from_fn(move || {
        let size = reader.output_buffer_size()?;
        frame.resize(size, 0);
        let output = match reader.next_frame(&mut frame) {
            Ok(output) => output,
            Err(png::DecodingError::Parameter(_)) => return None,
            Err(error) => return Some(Err(image_error(error))),
        };
        let control = reader.info().frame_control().copied();
        if let Some((area, before)) = restored.take() {
            match before {
                Some(before) => canvas = before,
                None => each_row(&mut canvas, width, &area, |_, row| row.fill(0)),
            }
        }
        // A default picture outside the animation has no control.
        let control = control.unwrap_or(FrameControl { width, height, ..Default::default() });
        restored = match control.dispose_op {
            DisposeOp::None => None,
            DisposeOp::Background => Some((control, None)),
            DisposeOp::Previous => Some((control, Some(canvas.clone()))),
        };
        let over = control.blend_op == BlendOp::Over;
        each_row(&mut canvas, width, &control, |y, row| {
            let line = &frame[y * output.line_size..][..output.line_size];
            draw(line, colours, row, over);
        });
        Some(Ok(canvas.clone()))
    }))
}

/// Calls `draw` with each row of the area on the canvas.
fn each_row(
    canvas: &mut [u8],
    width: u32,
    area: &FrameControl,
    mut draw: impl FnMut(usize, &mut [u8]),
) {
    let (left, right) = (area.x_offset as usize, (area.x_offset + area.width) as usize);
    let rows = canvas.chunks_exact_mut(width as usize * 4).skip(area.y_offset as usize);
    for (y, row) in rows.take(area.height as usize).enumerate() {
        draw(y, &mut row[left * 4..right * 4]);
    }
}

/// Draws samples over a row of the canvas, or replaces it.
fn draw(samples: &[u8], colours: ColorType, row: &mut [u8], over: bool) {
    let channels = usize::from(colours.channel_count());
    let wide = usize::from(colours.bytes_per_pixel()) / channels;
    let (pixels, _) = row.as_chunks_mut::<4>();
    for (pixel, samples) in pixels.iter_mut().zip(samples.chunks_exact(channels * wide)) {
        // 16-bit samples are big-endian; the high byte counts.
        let sample = |channel: usize| samples[channel * wide];
        let new = match channels {
            1 => [sample(0), sample(0), sample(0), 255],
            2 => [sample(0), sample(0), sample(0), sample(1)],
            3 => [sample(0), sample(1), sample(2), 255],
            _ => [sample(0), sample(1), sample(2), sample(3)],
        };
        *pixel = match new[3] {
            255 => new,
            0 if over => *pixel,
            alpha if over => blended(*pixel, new, alpha),
            _ => new,
        };
    }
}

/// `new` over `old`, with straight alpha.
fn blended(old: [u8; 4], new: [u8; 4], alpha: u8) -> [u8; 4] {
    let (alpha, below) = (u32::from(alpha), u32::from(old[3]) * (255 - u32::from(alpha)));
    let all = alpha * 255 + below;
    let [r, g, b] = [0, 1, 2].map(|c| {
        ((u32::from(new[c]) * alpha * 255 + u32::from(old[c]) * below + all / 2) / all) as u8
    });
    [r, g, b, ((all + 127) / 255) as u8]
}
