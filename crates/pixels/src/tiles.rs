//! Tiles of Idefics3 and SmolVLM: the picture is resized to whole tiles and cut row by row; the
//! whole picture follows.

use crate::{ResampleFilter, RgbPicture, TileGrid, resize};

/// No side is enlarged beyond this, whatever the configuration (the reference's own limit).
const MAX_SIDE: u32 = 4096;

/// Cuts a picture into tiles of `tile` x `tile`. A single tile (or no `split`) has the grid 0 x 0.
pub(crate) fn cut(
    picture: &RgbPicture,
    longest_edge: u32,
    tile: u32,
    split: bool,
    filter: ResampleFilter,
) -> (TileGrid, Vec<RgbPicture>) {
    let (first, whole, _) = sizes(picture.width, picture.height, longest_edge, tile, split);
    let sized = resize(picture, first.0, first.1, filter);
    let single = TileGrid { rows: 0, columns: 0 };
    if !split {
        return (single, vec![resize(&sized, tile, tile, filter)]);
    }
    let sized = resize(&sized, whole.0, whole.1, filter);
    let grid = TileGrid { rows: whole.1 / tile, columns: whole.0 / tile };
    if (grid.rows, grid.columns) == (1, 1) {
        return (single, vec![sized]);
    }
    let mut tiles = Vec::with_capacity((grid.rows * grid.columns + 1) as usize);
    for row in 0..grid.rows {
        for column in 0..grid.columns {
            tiles.push(part(&sized, column * tile, row * tile, tile));
        }
    }
    tiles.push(resize(&sized, tile, tile, filter));
    (grid, tiles)
}

/// The sizes used by [`cut`]: the first resize, whole tiles, and the number of tiles.
pub(crate) fn sizes(
    width: u32,
    height: u32,
    longest_edge: u32,
    tile: u32,
    split: bool,
) -> ((u32, u32), (u32, u32), u64) {
    let sized = longest(width, height, longest_edge);
    if !split {
        return (sized, (0, 0), 1);
    }
    let whole = whole_tiles(sized.0, sized.1, tile);
    let count = u64::from(whole.0 / tile) * u64::from(whole.1 / tile);
    (sized, whole, if count == 1 { 1 } else { count + 1 })
}

/// The size whose longer side is `edge`; the other one even and at least 1. Small pictures are
/// enlarged.
fn longest(width: u32, height: u32, edge: u32) -> (u32, u32) {
    let ratio = f64::from(width) / f64::from(height);
    let even = |side: f64| {
        let side = side as u32;
        (side + side % 2).max(1)
    };
    let (width, height) = if width >= height {
        (edge, even(f64::from(edge) / ratio))
    } else {
        (even(f64::from(edge) * ratio), edge)
    };
    let ratio = f64::from(width) / f64::from(height);
    if width >= height && width > MAX_SIDE {
        (MAX_SIDE, ((f64::from(MAX_SIDE) / ratio) as u32).max(1))
    } else if height > width && height > MAX_SIDE {
        (((f64::from(MAX_SIDE) * ratio) as u32).max(1), MAX_SIDE)
    } else {
        (width, height)
    }
}

/// Rounds both sides up to whole tiles: first the longer one, then the shorter one by the ratio.
fn whole_tiles(width: u32, height: u32, tile: u32) -> (u32, u32) {
    let ratio = f64::from(width) / f64::from(height);
    let up = |side: u32| side.div_ceil(tile).max(1) * tile;
    if width >= height {
        let width = up(width);
        (width, up((f64::from(width) / ratio) as u32))
    } else {
        let height = up(height);
        (up((f64::from(height) * ratio) as u32), height)
    }
}

fn part(picture: &RgbPicture, left: u32, top: u32, side: u32) -> RgbPicture {
    let mut data = Vec::with_capacity(side as usize * side as usize * 3);
    for y in top..top + side {
        let start = (y as usize * picture.width as usize + left as usize) * 3;
        data.extend_from_slice(&picture.data[start..start + side as usize * 3]);
    }
    RgbPicture { width: side, height: side, data }
}
