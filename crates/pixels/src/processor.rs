//! A model's `preprocessor_config.json`: from the upright picture to the tensor of its image
//! encoder.
//!
//! Equals the reference's slow (Pillow) processors bit for bit: resize on 8 bits, centre crop, then
//! `float32(float64(sample) * rescale_factor)` and `(x - mean) / std` in float32, all through a
//! table of 256 values.

mod config;

use std::borrow::Cow;

use serde_json::Value;

use crate::{PictureError, ResampleFilter, RgbPicture, resize, tiles};
use config::ProcessorConfig;

/// Planar float values.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelTensor {
    /// `[1, 3, height, width]`; with tiles `[1, tiles, 3, height, width]`.
    pub shape: Vec<usize>,
    /// The values in row-major order, channels R, G, B.
    pub data: Vec<f32>,
    /// How the picture was cut; `None` for a processor without tiles.
    pub grid: Option<TileGrid>,
}

/// How a picture was cut into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileGrid {
    /// Rows of tiles; 0 for a single tile. Otherwise the whole picture follows as one more tile.
    pub rows: u32,
    /// Tiles in a row; 0 for a single tile.
    pub columns: u32,
}

/// The preprocessing of a model.
#[derive(Debug, Clone)]
pub struct ImageProcessor {
    steps: ProcessorSteps,
    filter: ResampleFilter,
    /// The float of each sample, one table per channel.
    tables: Box<[[f32; 256]; 3]>,
}

#[derive(Debug, Clone)]
enum ProcessorSteps {
    /// One picture of a fixed size.
    Single { size: TargetSize, crop: Option<(u32, u32)> },
    /// Idefics3 and SmolVLM.
    Tiles { longest_edge: u32, tile: u32, split: bool },
}

/// Most pixels of a picture resized to its shorter side: a ratio of 1 to 300 at 224 pixels.
const MOST_PIXELS: u32 = 16 << 20;

#[derive(Debug, Clone, Copy)]
enum TargetSize {
    /// Width and height, whatever the picture's ratio.
    Exact(u32, u32),
    /// The shorter side; the ratio is kept.
    ShortestEdge(u32),
}

impl ImageProcessor {
    /// From a parsed `preprocessor_config.json`: processors of ViT, DeiT, CLIP, SigLIP, BLIP,
    /// Idefics3 and SmolVLM, and the feature extractors of older folders.
    ///
    /// # Errors
    /// [`PictureError::Processor`] with the unknown or invalid value.
    pub fn from_json(json: &Value) -> Result<ImageProcessor, PictureError> {
        ProcessorConfig::new(json)?.processor()
    }

    /// Width and height of the encoder's input, or of the picture before it is cut into tiles;
    /// suits [`crate::DecodeOptions::target`].
    pub fn target(&self) -> (u32, u32) {
        match self.steps {
            ProcessorSteps::Single { crop: Some(crop), size: TargetSize::ShortestEdge(edge) } => {
                (crop.0.max(edge), crop.1.max(edge))
            }
            ProcessorSteps::Single { size: TargetSize::Exact(width, height), .. } => {
                (width, height)
            }
            ProcessorSteps::Single { size: TargetSize::ShortestEdge(edge), crop: None } => {
                (edge, edge)
            }
            ProcessorSteps::Tiles { longest_edge, .. } => (longest_edge, longest_edge),
        }
    }

    /// Whether pictures may be cut into tiles.
    pub fn cuts(&self) -> bool {
        matches!(self.steps, ProcessorSteps::Tiles { split: true, .. })
    }

    /// The same processor with every picture in one tile (the reference's `do_image_splitting:
    /// false`).
    pub fn uncut(&self) -> ImageProcessor {
        let mut uncut = self.clone();
        if let ProcessorSteps::Tiles { split, .. } = &mut uncut.steps {
            *split = false;
        }
        uncut
    }

    /// Upper bound of the bytes that [`ImageProcessor::apply`] takes for a picture of this size,
    /// its result included, the working memory of each resize excluded.
    pub fn memory_for(&self, width: u32, height: u32) -> u64 {
        let pixels = |width: u32, height: u32| u64::from(width) * u64::from(height);
        // Three samples per pixel, as bytes and as floats.
        let (bytes, floats) = (3, 3 * size_of::<f32>() as u64);
        match self.steps {
            ProcessorSteps::Single { size, crop } => {
                let sized = size.of(width, height);
                let seen = crop.unwrap_or(sized);
                bytes * (pixels(sized.0, sized.1) + pixels(seen.0, seen.1))
                    + floats * pixels(seen.0, seen.1)
            }
            ProcessorSteps::Tiles { longest_edge, tile, split } => {
                let (sized, whole, count) = tiles::sizes(width, height, longest_edge, tile, split);
                bytes * (pixels(sized.0, sized.1) + pixels(whole.0, whole.1))
                    + (bytes + floats) * count * pixels(tile, tile)
            }
        }
    }

    /// The tensor of one upright picture.
    ///
    /// # Panics
    /// If the picture is empty or its data does not match its size.
    pub fn apply(&self, picture: &RgbPicture) -> PixelTensor {
        match self.steps {
            ProcessorSteps::Single { size, crop } => {
                let (width, height) = size.of(picture.width, picture.height);
                let mut sized = Cow::Borrowed(picture);
                if (width, height) != (picture.width, picture.height) {
                    sized = Cow::Owned(resize(picture, width, height, self.filter));
                }
                if let Some((width, height)) =
                    crop.filter(|crop| *crop != (sized.width, sized.height))
                {
                    sized = Cow::Owned(centre(&sized, width, height));
                }
                let mut data = Vec::with_capacity(sized.data.len());
                self.push_planes(&sized, &mut data);
                PixelTensor {
                    shape: vec![1, 3, sized.height as usize, sized.width as usize],
                    data,
                    grid: None,
                }
            }
            ProcessorSteps::Tiles { longest_edge, tile, split } => {
                let (grid, tiles) = tiles::cut(picture, longest_edge, tile, split, self.filter);
                let side = tile as usize;
                let mut data = Vec::with_capacity(tiles.len() * side * side * 3);
                for tile in &tiles {
                    self.push_planes(tile, &mut data);
                }
                PixelTensor { shape: vec![1, tiles.len(), 3, side, side], data, grid: Some(grid) }
            }
        }
    }

    /// Appends the three planes of a picture as floats.
    fn push_planes(&self, picture: &RgbPicture, out: &mut Vec<f32>) {
        for (channel, table) in self.tables.iter().enumerate() {
            out.extend(
                picture.data.chunks_exact(3).map(|pixel| table[usize::from(pixel[channel])]),
            );
        }
    }
}

impl TargetSize {
    fn of(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            TargetSize::Exact(width, height) => (width, height),
            TargetSize::ShortestEdge(edge) => {
                let (w, h) = (u64::from(width), u64::from(height));
                // The longer side as in the reference: computed in double precision and truncated.
                // An extreme ratio would take gigabytes, of which the crop keeps the middle; beyond
                // the limit the ratio is not kept.
                let most = (MOST_PIXELS / edge).max(edge);
                let long = |long: u64, short: u64| {
                    (((u64::from(edge) * long) as f64 / short as f64) as u32).min(most)
                };
                if w <= h { (edge, long(h, w)) } else { (long(w, h), edge) }
            }
        }
    }
}

/// The middle of a picture, padded with black if it is too small.
fn centre(picture: &RgbPicture, width: u32, height: u32) -> RgbPicture {
    // Offset of the crop in the picture, negative for padding. Half of a surplus is rounded down
    // and half of a deficit up, so both are the floor.
    let start = |have: u32, want: u32| (i64::from(have) - i64::from(want)).div_euclid(2);
    let (left, top) = (start(picture.width, width), start(picture.height, height));
    let mut data = vec![0; width as usize * height as usize * 3];
    for (y, row) in data.chunks_exact_mut(width as usize * 3).enumerate() {
        let source = y as i64 + top;
        if !(0..i64::from(picture.height)).contains(&source) {
            continue;
        }
        let source = &picture.data[source as usize * picture.width as usize * 3..]
            [..picture.width as usize * 3];
        let (from, to) = (left.max(0) as usize * 3, (-left).max(0) as usize * 3);
        let n = (source.len() - from).min(row.len() - to);
        row[to..to + n].copy_from_slice(&source[from..from + n]);
    }
    RgbPicture { width, height, data }
}
