//! The first frame of an animation that shows something, for files whose first frame is blank.
//!
//! Called by `decode` only then, so that an ordinary animation costs one frame.

use image::{
    AnimationDecoder, ColorType, ImageDecoder, ImageResult,
    codecs::{gif::GifDecoder, webp::WebPDecoder},
};

use crate::bounds::{MAX_FRAME_PIXELS, MAX_FRAMES};
use crate::{
    DecodeLimits, PictureError, PictureFormat, PictureHeader, RgbPicture, blank,
    deadline::DeadlineReader, gif, png, raster, webp,
};

/// Whether the file has more than one frame.
pub(crate) fn is_animated(format: PictureFormat, bytes: &[u8]) -> bool {
    match format {
        PictureFormat::Gif => gif::is_animated(bytes),
        PictureFormat::WebP => webp::is_animated(bytes),
        PictureFormat::Png => png::is_animated(bytes),
        _ => false,
    }
}

/// Most bytes that frames take: two canvases, a frame in its own and in common samples, planes of
/// luma and chroma, alpha, the result and the first frame.
pub(crate) fn memory(pixels: u64, file: u64) -> u64 {
    pixels.saturating_mul(28).saturating_add(file.saturating_mul(16))
}

/// The first frame that is not blank, as stored. `None` if all frames within the bounds are blank,
/// or the file ends or is damaged before it.
pub(crate) fn first_shown(
    bytes: &[u8],
    header: &PictureHeader,
    limits: &DecodeLimits,
) -> Result<Option<RgbPicture>, PictureError> {
    let format = header.format;
    let file = raster::adjusted(format, bytes, false);
    let reader = DeadlineReader::new(&file, limits.deadline);
    let canvas = u64::from(header.width) * u64::from(header.height);
    let opened: ImageResult<Frames<'_>> = match format {
        PictureFormat::Gif => GifDecoder::new(reader).and_then(|mut decoder| {
            let mut allowed = image::Limits::default();
            allowed.max_alloc = Some(canvas.saturating_mul(12));
            decoder.set_limits(allowed)?;
            Ok(composed(decoder.into_frames()))
        }),
        PictureFormat::WebP => {
            WebPDecoder::new(reader).map(|decoder| composed(decoder.into_frames()))
        }
        PictureFormat::Png => png::frames(&file, limits.deadline).map(|f| Box::new(f) as _),
        _ => return Ok(None),
    };
    let Ok(frames) = opened else { return Ok(None) };
    let most = (MAX_FRAME_PIXELS / canvas.max(1)).min(MAX_FRAMES);
    for frame in frames.take(usize::try_from(most).unwrap_or(usize::MAX)) {
        limits.check_time()?;
        let samples = match frame {
            Ok(samples) => samples,
            Err(error) => match raster::picture_error(format, error) {
                PictureError::TimedOut => return Err(PictureError::TimedOut),
                _ => return Ok(None),
            },
        };
        let (data, visible) = raster::to_rgb(samples, ColorType::Rgba8, format, false)?;
        let picture = RgbPicture { width: header.width, height: header.height, data };
        let expected = canvas.saturating_mul(3);
        if picture.data.len() as u64 == expected
            && blank::judge(&picture, (header.width, header.height), visible).is_none()
        {
            return Ok(Some(picture));
        }
    }
    Ok(None)
}

/// Canvases after each frame, as 8-bit RGBA.
type Frames<'a> = Box<dyn Iterator<Item = ImageResult<Vec<u8>>> + 'a>;

fn composed(frames: image::Frames<'_>) -> Frames<'_> {
    Box::new(frames.map(|frame| Ok(frame?.into_buffer().into_raw())))
}
