//! What one picture may cost. Made by the engine from its settings, judged against the header
//! before anything is decoded.

use std::time::Instant;

use crate::Error;

/// The limits of one decode.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Width times height, as announced by the header (`pg_caption.max_image_pixels`).
    pub max_pixels: u64,
    /// Readers fail past this moment.
    pub deadline: Option<Instant>,
    /// Bytes that decoding may take beyond the file itself.
    pub memory: Option<u64>,
}

impl Default for Limits {
    /// 100 megapixels, the default of `pg_caption.max_image_pixels`; no deadline, no memory limit.
    fn default() -> Self {
        Limits { max_pixels: 100_000_000, deadline: None, memory: None }
    }
}

/// The longest side that is decoded, pixels. JPEG, GIF and WebP stay far below; what resizing takes
/// grows with the longest side, whatever the pixels are.
pub const LONGEST_SIDE: u64 = 1_000_000;

impl Limits {
    pub(crate) fn check_time(&self) -> Result<(), Error> {
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(Error::TimedOut),
            _ => Ok(()),
        }
    }

    pub(crate) fn check_pixels(&self, width: u64, height: u64) -> Result<(), Error> {
        if u128::from(width) * u128::from(height) > u128::from(self.max_pixels) {
            return Err(Error::TooManyPixels { width, height, limit: self.max_pixels });
        }
        if width.max(height) > LONGEST_SIDE {
            return Err(Error::SideTooLong { width, height });
        }
        Ok(())
    }

    pub(crate) fn check_memory(&self, needed: u64) -> Result<(), Error> {
        match self.memory {
            Some(limit) if needed > limit => Err(Error::TooMuchMemory { needed, limit }),
            _ => Ok(()),
        }
    }
}
