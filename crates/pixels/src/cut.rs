//! A file that lacks its end: which rows of its picture it holds, and whether they are enough.
//!
//! Called by the decoders after the ordinary way has failed. Browsers show such files as far as
//! they go, and most of them lack a few bytes only. `exact` decodes never come here, because the
//! reference refuses such files.

use crate::{PictureError, PictureFormat, RgbPicture};

/// Tenths of the rows that a picture needs.
const NEEDED: usize = 9;

/// Bytes that follow the end of a file in a second decode: rows that differ are not in the file.
pub(crate) const NOISE: [u8; 16] = [
    0x5A, 0xC3, 0x71, 0x0E, 0xB4, 0x29, 0xD6, 0x8F, 0x13, 0x6C, 0xE8, 0x47, 0x92, 0x3D, 0xA1, 0x75,
];

/// The rows of a picture, and whether the file holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct KeptRows {
    kept: Vec<bool>,
    /// Rows come in passes: a row that lacks its own pass shows the one above it.
    interlaced: bool,
}

impl KeptRows {
    pub(crate) fn new(kept: Vec<bool>, interlaced: bool) -> Self {
        KeptRows { kept, interlaced }
    }

    /// The rows before the first one that differs; `a` and `b` were decoded with different bytes
    /// after the end of the file.
    pub(crate) fn before_difference(a: &[u8], b: &[u8], pitch: usize) -> Self {
        let rows = a.chunks(pitch.max(1)).zip(b.chunks(pitch.max(1)));
        let mut same = true;
        let kept = rows.map(|(a, b)| {
            same = same && a == b;
            same
        });
        KeptRows { kept: kept.collect(), interlaced: false }
    }

    /// Whether the file holds all of them.
    pub(crate) fn are_all(&self) -> bool {
        self.kept.iter().all(|kept| *kept)
    }

    fn shown(&self, y: usize) -> bool {
        self.kept[y] || self.interlaced && y > 0 && self.kept[y - 1]
    }

    /// Refuses a picture with too few rows.
    pub(crate) fn check(&self, format: PictureFormat) -> Result<(), PictureError> {
        let height = self.kept.len().max(1);
        let shown = (0..self.kept.len()).filter(|y| self.shown(*y)).count();
        if shown * 10 >= height * NEEDED {
            return Ok(());
        }
        Err(PictureError::Truncated { format, share: Some((shown * 100 / height) as u8) })
    }

    /// Each row that is not in the file repeats the one above it.
    pub(crate) fn fill(&self, rows: &mut [u8], pitch: usize) {
        for (y, _) in self.kept.iter().enumerate().skip(1).filter(|(_, kept)| !**kept) {
            rows.copy_within((y - 1) * pitch..y * pitch, y * pitch);
        }
    }

    /// The same for a picture.
    pub(crate) fn fill_picture(&self, picture: &mut RgbPicture) {
        self.fill(&mut picture.data, picture.width as usize * 3);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_tenths_of_the_rows_are_enough() {
        let rows = |kept: usize| KeptRows::new((0..20).map(|y| y < kept).collect(), false);
        assert_eq!(rows(18).check(PictureFormat::Gif), Ok(()));
        let refused = PictureError::Truncated { format: PictureFormat::Gif, share: Some(85) };
        assert_eq!(rows(17).check(PictureFormat::Gif), Err(refused));
        let every_other =
            |interlaced| KeptRows::new((0..20).map(|y| y % 2 == 0).collect(), interlaced);
        assert_eq!(every_other(true).check(PictureFormat::Png), Ok(()));
        assert!(every_other(false).check(PictureFormat::Png).is_err());
    }

    #[test]
    fn missing_rows_repeat_the_one_above() {
        let mut rows = [1, 1, 2, 2, 9, 9, 8, 8];
        KeptRows::before_difference(&rows.clone(), &[1, 1, 2, 2, 9, 0, 8, 8], 2).fill(&mut rows, 2);
        assert_eq!(rows, [1, 1, 2, 2, 2, 2, 2, 2]);
    }
}
