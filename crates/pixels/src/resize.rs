//! Pillow's resize of 8-bit pictures, bit for bit (as of Pillow 11.3: always the horizontal pass
//! first).
//!
//! Two passes with rounding to 8 bits between them. Weights are normalised in double precision and
//! converted to fixed point with 22 bits. The loops are written for vectorisation: sums of integers
//! are equal in any order, so vectors of any width give the same values. Never reorder the
//! floating-point part.

use crate::{ResampleFilter, RgbPicture};

/// Fixed-point bits of a weight: 32 bits less an 8-bit sample and two bits of headroom.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Rows that the horizontal pass handles together, and the resulting lanes.
const ROWS: usize = 8;
const LANES: usize = ROWS * 3;

/// Most bytes between the two passes, unless one row of the result needs more. A tall picture is
/// resized in bands, so that its rows, possibly wider than before, are not all in memory.
const BAND: usize = 8 << 20;

/// Resizes a picture.
///
/// # Panics
/// If a side of the source or of the result is 0, or if `data` does not match the size.
pub fn resize(picture: &RgbPicture, width: u32, height: u32, filter: ResampleFilter) -> RgbPicture {
    in_bands(picture, width, height, filter, BAND)
}

/// Upper bound of the bytes that [`resize`] takes besides the picture and the result, for any
/// filter: weights, rows side by side, a band between the passes.
pub fn working_memory(from: (u32, u32), to: (u32, u32)) -> u64 {
    // The widest filter, Lanczos, covers three positions of the coarser grid on either side.
    let taps = |n_in: u32, n_out: u32| 6 * u64::from(n_in.max(n_out)) + 2 * u64::from(n_out);
    let weights = |n_in: u32, n_out: u32| {
        size_of::<i32>() as u64 * taps(n_in, n_out)
            + 2 * size_of::<usize>() as u64 * u64::from(n_out)
    };
    let one_row = (6 * u64::from(from.1.div_ceil(to.1.max(1))) + 8) * u64::from(to.0) * 3;
    // The capacity of a vector may be twice its length.
    2 * (weights(from.0, to.0) + weights(from.1, to.1))
        + u64::from(from.0) * LANES as u64
        + one_row.max(BAND as u64)
}

fn in_bands(
    picture: &RgbPicture,
    width: u32,
    height: u32,
    filter: ResampleFilter,
    band: usize,
) -> RgbPicture {
    assert!(
        picture.width > 0 && picture.height > 0 && width > 0 && height > 0,
        "a picture has at least one pixel"
    );
    assert_eq!(
        picture.data.len(),
        picture.width as usize * picture.height as usize * 3,
        "RGB data fits the size"
    );
    if (width, height) == (picture.width, picture.height) {
        return picture.clone();
    }
    if filter == ResampleFilter::Nearest {
        return nearest(picture, width, height);
    }
    let (in_w, in_h) = (picture.width as usize, picture.height as usize);
    let (out_w, out_h) = (width as usize, height as usize);
    let down = (out_h != in_h).then(|| Weights::new(in_h, out_h, filter));
    let data = match (out_w != in_w, down) {
        (false, Some(down)) => {
            let mut data = vec![0; out_h * out_w * 3];
            vertical(&picture.data, 0, in_w * 3, &down, 0..out_h, &mut data);
            data
        }
        (true, None) => horizontal(&picture.data, in_w, &Weights::new(in_w, out_w, filter)),
        (true, Some(down)) => {
            let across = Weights::new(in_w, out_w, filter);
            let mut data = vec![0; out_h * out_w * 3];
            let mut done = 0;
            while done < out_h {
                let (end, rows) = down.band(done, band / (out_w * 3));
                let between = horizontal(
                    &picture.data[rows.start * in_w * 3..rows.end * in_w * 3],
                    in_w,
                    &across,
                );
                vertical(
                    &between,
                    rows.start,
                    out_w * 3,
                    &down,
                    done..end,
                    &mut data[done * out_w * 3..end * out_w * 3],
                );
                done = end;
            }
            data
        }
        (false, None) => unreachable!("the same size was answered above"),
    };
    RgbPicture { width, height, data }
}

/// For every output position: the first source position and the fixed-point weights from there on.
struct Weights {
    first: Vec<usize>,
    /// Weights of position `i` are `values[ends[i - 1]..ends[i]]`.
    ends: Vec<usize>,
    values: Vec<i32>,
}

impl Weights {
    fn new(n_in: usize, n_out: usize, filter: ResampleFilter) -> Weights {
        let scale = n_in as f64 / n_out as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let inverse = 1.0 / stretch;
        let (mut first, mut ends, mut values) =
            (Vec::with_capacity(n_out), Vec::with_capacity(n_out), Vec::new());
        let mut exact = Vec::new();
        for x in 0..n_out {
            let centre = (x as f64 + 0.5) * scale;
            // Casts to integer truncate, as in C; negative values become 0, which is the clamp.
            let low = (centre - support + 0.5) as usize;
            let high = ((centre + support + 0.5) as usize).min(n_in);
            exact.clear();
            exact.extend((low..high).map(|i| filter.weight((i as f64 - centre + 0.5) * inverse)));
            let sum = exact.iter().fold(0.0, |sum, weight| sum + weight);
            first.push(low);
            values.extend(exact.iter().map(|weight| {
                let share = if sum == 0.0 { *weight } else { weight / sum };
                let fixed = share * f64::from(1 << PRECISION_BITS);
                (fixed + if share < 0.0 { -0.5 } else { 0.5 }) as i32
            }));
            ends.push(values.len());
        }
        Weights { first, ends, values }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, &[i32])> {
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        self.first
            .iter()
            .zip(starts.zip(&self.ends))
            .map(|(first, (start, end))| (*first, &self.values[start..*end]))
    }

    fn len(&self) -> usize {
        self.first.len()
    }

    /// The first source position of an output position, and its weights.
    fn at(&self, x: usize) -> (usize, &[i32]) {
        let start = if x == 0 { 0 } else { self.ends[x - 1] };
        (self.first[x], &self.values[start..self.ends[x]])
    }

    /// The output positions from `start` on that need at most `most` source positions, but at least
    /// one: their end, and the source range.
    fn band(&self, start: usize, most: usize) -> (usize, std::ops::Range<usize>) {
        // First and last source positions never decrease from one output position to the next.
        let last = |x: usize| self.first[x] + self.at(x).1.len();
        let from = self.first[start];
        let end = (start + 1..self.len()).find(|x| last(*x) - from > most).unwrap_or(self.len());
        (end, from..last(end - 1))
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Resizes every row of `data` from `in_w` pixels to the number of weights.
fn horizontal(data: &[u8], in_w: usize, weights: &Weights) -> Vec<u8> {
    let out_w = weights.len();
    let rows = data.len() / (in_w * 3);
    let mut out = vec![0; rows * out_w * 3];
    let mut block = vec![0_u8; in_w * LANES];
    let arch = pulp::Arch::new();
    for (source, target) in data.chunks(ROWS * in_w * 3).zip(out.chunks_mut(ROWS * out_w * 3)) {
        arch.dispatch(|| rows_across(source, in_w, weights, &mut block, target));
    }
    out
}

/// Resizes up to [`ROWS`] rows together: pixels of one column are adjacent in `block`, so that one
/// weight applies to all of them.
#[inline(always)]
fn rows_across(source: &[u8], in_w: usize, weights: &Weights, block: &mut [u8], target: &mut [u8]) {
    let out_w = weights.len();
    for (r, row) in source.chunks_exact(in_w * 3).enumerate() {
        for (pixel, column) in row.chunks_exact(3).zip(block.chunks_exact_mut(LANES)) {
            column[r * 3..r * 3 + 3].copy_from_slice(pixel);
        }
    }
    for (x, (first, weights)) in weights.iter().enumerate() {
        let mut sums = [HALF; LANES];
        for (weight, column) in weights.iter().zip(block[first * LANES..].chunks_exact(LANES)) {
            for (sum, sample) in sums.iter_mut().zip(column) {
                *sum += weight * i32::from(*sample);
            }
        }
        let bytes = sums.map(to_byte);
        for (row, pixel) in target.chunks_exact_mut(out_w * 3).zip(bytes.chunks_exact(3)) {
            row[x * 3..x * 3 + 3].copy_from_slice(pixel);
        }
    }
}

/// Computes rows `of` of the result as weighted sums of rows of `data`, whose first row is source
/// row `offset`.
fn vertical(
    data: &[u8],
    offset: usize,
    row_len: usize,
    weights: &Weights,
    of: std::ops::Range<usize>,
    out: &mut [u8],
) {
    let arch = pulp::Arch::new();
    for (y, target) in of.zip(out.chunks_exact_mut(row_len)) {
        let (first, weights) = weights.at(y);
        let rows = &data[(first - offset) * row_len..];
        arch.dispatch(|| rows_down(rows, row_len, weights, target));
    }
}

#[inline(always)]
fn rows_down(rows: &[u8], row_len: usize, weights: &[i32], target: &mut [u8]) {
    const WIDE: usize = 64;
    let mut at = 0;
    let mut blocks = target.chunks_exact_mut(WIDE);
    for block in &mut blocks {
        let mut sums = [HALF; WIDE];
        for (i, weight) in weights.iter().enumerate() {
            let samples = &rows[i * row_len + at..][..WIDE];
            for (sum, sample) in sums.iter_mut().zip(samples) {
                *sum += weight * i32::from(*sample);
            }
        }
        for (byte, sum) in block.iter_mut().zip(sums) {
            *byte = to_byte(sum);
        }
        at += WIDE;
    }
    for (x, byte) in blocks.into_remainder().iter_mut().enumerate() {
        let sum = weights
            .iter()
            .enumerate()
            .fold(HALF, |sum, (i, weight)| sum + weight * i32::from(rows[i * row_len + at + x]));
        *byte = to_byte(sum);
    }
}

/// Pillow's nearest neighbour. Positions are accumulated, not multiplied; the rounding of the sum
/// is part of the result.
fn nearest(picture: &RgbPicture, width: u32, height: u32) -> RgbPicture {
    let positions = |n_in: u32, n_out: u32| {
        let step = f64::from(n_in) / f64::from(n_out);
        let mut at = step * 0.5;
        (0..n_out)
            .map(|_| {
                let position = (at as usize).min(n_in as usize - 1);
                at += step;
                position
            })
            .collect::<Vec<_>>()
    };
    let (columns, rows) = (positions(picture.width, width), positions(picture.height, height));
    let mut data = Vec::with_capacity(width as usize * height as usize * 3);
    for y in rows {
        let row = &picture.data[y * picture.width as usize * 3..];
        for x in &columns {
            data.extend_from_slice(&row[x * 3..x * 3 + 3]);
        }
    }
    RgbPicture { width, height, data }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn noise(width: u32, height: u32) -> RgbPicture {
        let mut random = fastrand::Rng::with_seed(1);
        RgbPicture { width, height, data: (0..width * height * 3).map(|_| random.u8(..)).collect() }
    }

    #[test]
    fn bands_of_any_height_are_equal() {
        for (from, to) in [((7, 300), (20, 24)), ((40, 30), (23, 61)), ((1, 999), (5, 3))] {
            let picture = noise(from.0, from.1);
            for filter in [
                ResampleFilter::Box,
                ResampleFilter::Bilinear,
                ResampleFilter::Hamming,
                ResampleFilter::Bicubic,
                ResampleFilter::Lanczos,
            ] {
                let whole = in_bands(&picture, to.0, to.1, filter, usize::MAX);
                for band in [0, 500, 4000] {
                    assert_eq!(
                        in_bands(&picture, to.0, to.1, filter, band),
                        whole,
                        "{from:?} to {to:?}, {filter:?}, {band} bytes"
                    );
                }
            }
        }
    }

    #[test]
    fn working_memory_bounds_extreme_ratios() {
        for (from, to) in [
            ((1, 1_000_000), (384, 384)),
            ((100, 1_000_000), (768, 768)),
            ((1_000_000, 1), (224, 224)),
            ((4000, 3000), (384, 384)),
        ] {
            let (across, down) = (
                Weights::new(from.0, to.0, ResampleFilter::Lanczos),
                Weights::new(from.1, to.1, ResampleFilter::Lanczos),
            );
            let mut between = 0;
            let mut done = 0;
            while done < to.1 {
                let (end, rows) = down.band(done, BAND / (to.0 * 3));
                between = between.max(rows.len() * to.0 * 3);
                done = end;
            }
            let weights = |w: &Weights| {
                w.values.capacity() * 4 + (w.first.capacity() + w.ends.capacity()) * 8
            };
            let taken = (between + weights(&across) + weights(&down) + from.0 * LANES) as u64;
            let bound = working_memory((from.0 as u32, from.1 as u32), (to.0 as u32, to.1 as u32));
            assert!(
                taken <= bound && bound < 120 << 20,
                "{from:?} to {to:?}: {taken} bytes, bound {bound}"
            );
        }
    }
}
