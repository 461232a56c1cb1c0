//! A picture as the input of a model: tensors in host memory, created on the decode threads.

use crate::tensor::{HostTensor, TensorData};
use pg_caption_style::{CaptionStyle, StyleTask};
use pg_caption_wire::TileMode;
use std::hash::{DefaultHasher, Hash, Hasher};

/// Options for one picture.
#[derive(Debug, Clone, Copy, Default)]
pub struct PictureOptions {
    /// The views to prepare. No effect on models with one tensor of fixed size.
    pub views: TileViews,
}

/// The view that a style's caption needs.
pub(crate) fn view(tiles: TileMode, style: &CaptionStyle) -> TileViews {
    match tiles {
        TileMode::Auto if style.task == StyleTask::Detailed => TileViews::TILED,
        TileMode::All => TileViews::TILED,
        TileMode::Auto | TileMode::One => TileViews::WHOLE,
    }
}

/// How a picture is shown to a model: as one tile, cut into tiles, or both (for captions that
/// differ in it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct TileViews {
    whole: bool,
    tiled: bool,
}

impl TileViews {
    /// As one tile.
    pub const WHOLE: TileViews = TileViews { whole: true, tiled: false };
    /// Cut as the model's folder states.
    pub const TILED: TileViews = TileViews { whole: false, tiled: true };

    /// The union of both.
    pub fn and(self, other: TileViews) -> TileViews {
        TileViews { whole: self.whole || other.whole, tiled: self.tiled || other.tiled }
    }

    /// Whether it includes the single tile.
    pub fn whole(self) -> bool {
        self.whole
    }

    /// Whether it includes the tiles.
    pub fn tiled(self) -> bool {
        self.tiled
    }
}

impl Default for TileViews {
    fn default() -> Self {
        TileViews::WHOLE
    }
}

/// One picture ready for the encoder.
pub struct PixelValues {
    /// Only equal buckets may share an encoder call.
    pub bucket: u64,
    /// Bytes held.
    pub bytes: usize,
    /// By input name; no batch axis.
    tensors: Vec<(&'static str, HostTensor)>,
    /// Rows and columns of tiles; 0 x 0 if the picture was not cut.
    grid: (u32, u32),
}

impl PixelValues {
    /// Pixels of these tensors (input name, tensor without batch axis).
    pub(crate) fn new(tensors: Vec<(&'static str, HostTensor)>) -> PixelValues {
        PixelValues::tiled(tensors, (0, 0))
    }

    /// As [`PixelValues::new`], for a picture cut into rows and columns of tiles.
    pub(crate) fn tiled(tensors: Vec<(&'static str, HostTensor)>, grid: (u32, u32)) -> PixelValues {
        let mut hash = DefaultHasher::new();
        grid.hash(&mut hash);
        for (name, tensor) in &tensors {
            (name, &tensor.shape).hash(&mut hash);
        }
        PixelValues {
            bucket: hash.finish(),
            bytes: tensors.iter().map(|(_, t)| t.bytes()).sum(),
            tensors,
            grid,
        }
    }

    /// The tensor of an input.
    pub(crate) fn tensor(&self, input: &str) -> Option<&HostTensor> {
        self.tensors.iter().find(|(name, _)| *name == input).map(|(_, tensor)| tensor)
    }

    /// Rows and columns of tiles; 0 x 0 if the picture was not cut.
    pub(crate) fn grid(&self) -> (u32, u32) {
        self.grid
    }

    /// SHA-256 of the little-endian float32 `pixel_values`, lower-case hex (`--json`'s
    /// pixels_sha256); computed on demand.
    pub fn sha256(&self) -> String {
        match self.tensor("pixel_values") {
            Some(HostTensor { data: TensorData::F32(values), .. }) => {
                pg_caption_pixels::sha256_f32(values)
            }
            _ => pg_caption_pixels::sha256_f32(&[]),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pixels(shape: Vec<i64>, values: Vec<f32>) -> PixelValues {
        PixelValues::new(vec![(
            "pixel_values",
            HostTensor { shape, data: TensorData::F32(values) },
        )])
    }

    #[test]
    fn checksums_cover_little_endian_float32() {
        // sha256 of 00 00 80 3f 00 00 00 c0 (1.0, -2.0)
        let expected = "ee4ac73c2bd27756ab82780f27c73a7bc4d3f0bb6acb37e008bc27eccd7e588b";
        let actual = pixels(vec![2], vec![1.0, -2.0]).sha256();
        assert_eq!(actual.len(), 64);
        assert_eq!(actual, expected);
    }

    #[test]
    fn only_pictures_of_one_shape_share_a_bucket() {
        assert_eq!(
            pixels(vec![1, 2], vec![0.0; 2]).bucket,
            pixels(vec![1, 2], vec![1.0; 2]).bucket
        );
        assert_ne!(
            pixels(vec![1, 2], vec![0.0; 2]).bucket,
            pixels(vec![2, 1], vec![0.0; 2]).bucket
        );
    }
}
