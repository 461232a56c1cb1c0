//! What one picture may cost. Made by the engine from its settings, judged against the header
//! before anything is decoded.

use std::time::Instant;

use crate::PictureError;

/// The limits of one decode.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Width times height, as announced by the header (`pg_caption.max_image_pixels`).
    pub max_pixels: u64,
    /// Readers fail past this moment.
    pub deadline: Option<Instant>,
    /// Bytes that decoding may take beyond the file itself.
    pub memory: Option<u64>,
}

impl Default for DecodeLimits {
    /// 100 megapixels, the default of `pg_caption.max_image_pixels`; no deadline, no memory limit.
    fn default() -> Self {
        DecodeLimits { max_pixels: 100_000_000, deadline: None, memory: None }
    }
}

/// The longest side that is decoded, pixels. JPEG, GIF and WebP stay far below; what resizing takes
/// grows with the longest side, whatever the pixels are.
pub const LONGEST_SIDE: u64 = 1_000_000;

impl DecodeLimits {
    pub(crate) fn check_time(&self) -> Result<(), PictureError> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(PictureError::TimedOut),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_pixels(&self, width: u64, height: u64) -> Result<(), PictureError> {
        if u128::from(width) * u128::from(height) > u128::from(self.max_pixels) {
            return Err(PictureError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        if width.max(height) > LONGEST_SIDE {
            return Err(PictureError::SideTooLong { width, height });
        }
        Ok(())
    }

    pub(crate) fn check_memory(&self, needed: u64) -> Result<(), PictureError> {
        match self.memory {
            Some(limit) if needed > limit => Err(PictureError::TooMuchMemory { needed, limit }),
            _ => Ok(()),
        }
    }
}
