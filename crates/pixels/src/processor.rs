//! A model's `preprocessor_config.json`: from the upright picture to the tensor its image encoder
//! reads.
//!
//! Matches the reference's slow (Pillow) processors bit for bit: resize on 8 bits, centre crop,
//! then `float32(float64(sample) * rescale_factor)` and `(x - mean) / std` in float32, all through
//! a table of 256 values.

mod config;

use std::borrow::Cow;

use serde_json::Value;

use crate::{PictureError, ResampleFilter, RgbPicture, resize, tiles};
use config::Config;

/// Planar float values.
#[derive(Debug, Clone, PartialEq)]
pub struct PixelTensor {
    /// `[1, 3, height, width]`; of a processor that cuts tiles `[1, tiles, 3, height, width]`.
    pub shape: Vec<usize>,
    /// As many values as the shape says, in row-major order, channels R, G, B.
    pub data: Vec<f32>,
    /// How the picture was cut, of a processor that cuts tiles; `None` otherwise.
    pub grid: Option<TileGrid>,
}

/// How a picture was cut into tiles.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TileGrid {
    /// Rows of tiles; 0 where the picture is a single tile. Otherwise the whole picture follows as
    /// one more tile.
    pub rows: u32,
    /// Tiles in a row; 0 where the picture is a single tile.
    pub columns: u32,
}

/// What a model wants done to a picture.
#[derive(Debug, Clone)]
pub struct ImageProcessor {
    steps: Steps,
    filter: ResampleFilter,
    /// The float of each sample, a table per channel.
    tables: Box<[[f32; 256]; 3]>,
}

#[derive(Debug, Clone)]
enum Steps {
    /// One picture of a fixed size.
    Single { size: Size, crop: Option<(u32, u32)> },
    /// Idefics3 and SmolVLM.
    Tiles { longest_edge: u32, tile: u32, split: bool },
}

/// Pixels of a picture whose shorter side was brought to size, at most: a ratio of 1 to 300 at 224
/// pixels.
const MOST_PIXELS: u32 = 16 << 20;

#[derive(Debug, Clone, Copy)]
enum Size {
    /// Width and height, whatever the picture's own ratio.
    Exact(u32, u32),
    /// The shorter side; the ratio is kept.
    ShortestEdge(u32),
}

impl ImageProcessor {
    /// Reads a parsed `preprocessor_config.json`: processors of ViT, DeiT, CLIP, SigLIP, BLIP,
    /// Idefics3 and SmolVLM, and the feature extractors of older folders.
    ///
    /// # Errors
    /// [`PictureError::Processor`], naming what is unknown or out of range.
    pub fn from_json(json: &Value) -> Result<ImageProcessor, PictureError> {
        Config::new(json)?.processor()
    }

    /// Width and height the encoder sees: of one picture, or of the picture before it is cut into
    /// tiles. What to hand to [`crate::DecodeOptions::target`].
    pub fn target(&self) -> (u32, u32) {
        match self.steps {
            Steps::Single { crop: Some(crop), size: Size::ShortestEdge(edge) } => {
                (crop.0.max(edge), crop.1.max(edge))
            }
            Steps::Single { size: Size::Exact(width, height), .. } => (width, height),
            Steps::Single { size: Size::ShortestEdge(edge), crop: None } => (edge, edge),
            Steps::Tiles { longest_edge, .. } => (longest_edge, longest_edge),
        }
    }

    /// Whether pictures may be cut into tiles.
    pub fn cuts(&self) -> bool {
        matches!(self.steps, Steps::Tiles { split: true, .. })
    }

    /// This processor, but with every picture in one tile (the reference's `do_image_splitting:
    /// false`).
    pub fn uncut(&self) -> ImageProcessor {
        let mut uncut = self.clone();
        if let Steps::Tiles { split, .. } = &mut uncut.steps {
            *split = false;
        }
        uncut
    }

    /// Bytes that [`ImageProcessor::apply`] takes at most for a picture of this size, its result among
    /// them, beside what each resize works with.
    pub fn memory_for(&self, width: u32, height: u32) -> u64 {
        let pixels = |width: u32, height: u32| u64::from(width) * u64::from(height);
        // Three samples a pixel, as bytes and as floats.
        let (bytes, floats) = (3, 3 * size_of::<f32>() as u64);
        match self.steps {
            Steps::Single { size, crop } => {
                let sized = size.of(width, height);
                let seen = crop.unwrap_or(sized);
                bytes * (pixels(sized.0, sized.1) + pixels(seen.0, seen.1))
                    + floats * pixels(seen.0, seen.1)
            }
            Steps::Tiles { longest_edge, tile, split } => {
                let (sized, whole, count) = tiles::sizes(width, height, longest_edge, tile, split);
                bytes * (pixels(sized.0, sized.1) + pixels(whole.0, whole.1))
                    + (bytes + floats) * count * pixels(tile, tile)
            }
        }
    }

    /// The tensor of one upright picture.
    ///
    /// # Panics
    /// If the picture is empty or its data does not fit its size.
    pub fn apply(&self, picture: &RgbPicture) -> PixelTensor {
        match self.steps {
            Steps::Single { size, crop } => {
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
            Steps::Tiles { longest_edge, tile, split } => {
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

impl Size {
    fn of(self, width: u32, height: u32) -> (u32, u32) {
        match self {
            Size::Exact(width, height) => (width, height),
            Size::ShortestEdge(edge) => {
                let (w, h) = (u64::from(width), u64::from(height));
                // The longer side as the reference computes it: in double precision, cut to an
                // integer. A thread of a picture would become gigabytes, of which the crop then
                // shows the middle: beyond the bound its ratio is not kept.
                let most = (MOST_PIXELS / edge).max(edge);
                let long = |long: u64, short: u64| {
                    (((u64::from(edge) * long) as f64 / short as f64) as u32).min(most)
                };
                if w <= h { (edge, long(h, w)) } else { (long(w, h), edge) }
            }
        }
    }
}

/// The middle of a picture; where it is smaller than that, black around it.
fn centre(picture: &RgbPicture, width: u32, height: u32) -> RgbPicture {
    // First position of the cut in the picture, negative where it is padded: halves are cut
    // downwards when something is cut off and rounded up when something is added, so both are the
    // floor.
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
