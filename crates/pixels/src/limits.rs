//! Limits of one picture. The engine creates them from its settings; they are checked by the header
//! before anything is decoded.

use std::time::Instant;

use crate::bounds::longest_side;
use crate::{PictureError, PictureFormat};

/// The limits of one decode.
#[derive(Debug, Clone, Copy)]
pub struct DecodeLimits {
    /// Most pixels, width times height in the header (`pg_caption.max_image_pixels`).
    pub max_pixels: u64,
    /// Reads fail after this moment.
    pub deadline: Option<Instant>,
    /// Most bytes that decoding may take beyond the file itself.
    pub memory: Option<u64>,
}

impl Default for DecodeLimits {
    /// 100 megapixels, the default of `pg_caption.max_image_pixels`; no deadline, no memory limit.
    fn default() -> Self {
        DecodeLimits { max_pixels: 100_000_000, deadline: None, memory: None }
    }
}

impl DecodeLimits {
    pub(crate) fn check_time(&self) -> Result<(), PictureError> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(PictureError::TimedOut),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_pixels(
        &self,
        format: PictureFormat,
        (width, height): (u64, u64),
    ) -> Result<(), PictureError> {
        if u128::from(width) * u128::from(height) > u128::from(self.max_pixels) {
            return Err(PictureError::TooManyPixels { width, height, limit: self.max_pixels });
        }
        let limit = longest_side(format);
        if width.max(height) > limit {
            return Err(PictureError::SideTooLong { width, height, limit });
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
