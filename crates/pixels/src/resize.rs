//! Pillow's resize of 8-bit pictures, bit for bit (as of Pillow 11.3: always the horizontal pass first).
//!
//! Two passes with rounding to 8 bits between them; weights are normalised in double precision and turned into fixed
//! point with 22 bits. The loops are laid out so that the compiler vectorises them: sums of integers are the same in any
//! order, so wider vectors cannot change a value. Never reorder the floating-point part.

use crate::{Filter, Rgb};

/// Fixed-point bits of a weight: what 32 bits leave beside an 8-bit sample and two bits of headroom.
const PRECISION_BITS: u32 = 32 - 8 - 2;
const HALF: i32 = 1 << (PRECISION_BITS - 1);

/// Rows that the horizontal pass handles side by side, and the lanes that makes.
const ROWS: usize = 8;
const LANES: usize = ROWS * 3;

/// The picture at a new size.
///
/// # Panics
/// If a side of the source or of the result is 0, or if `data` does not fit the size.
pub fn resize(picture: &Rgb, width: u32, height: u32, filter: Filter) -> Rgb {
    assert!(picture.width > 0 && picture.height > 0 && width > 0 && height > 0, "a picture has at least one pixel");
    assert_eq!(picture.data.len(), picture.width as usize * picture.height as usize * 3, "RGB data fits the size");
    if (width, height) == (picture.width, picture.height) {
        return picture.clone();
    }
    if filter == Filter::Nearest {
        return nearest(picture, width, height);
    }
    let (in_w, in_h) = (picture.width as usize, picture.height as usize);
    let (out_w, out_h) = (width as usize, height as usize);
    let down = (out_h != in_h).then(|| Weights::new(in_h, out_h, filter));
    let data = match (out_w != in_w, down) {
        (false, Some(down)) => vertical(&picture.data, 0, in_w * 3, &down),
        (true, None) => horizontal(&picture.data, in_w, &Weights::new(in_w, out_w, filter)),
        (true, Some(down)) => {
            let rows = down.reach();
            let across = horizontal(&picture.data[rows.start * in_w * 3..rows.end * in_w * 3], in_w, &Weights::new(in_w, out_w, filter));
            vertical(&across, rows.start, out_w * 3, &down)
        }
        (false, None) => unreachable!("the same size was answered above"),
    };
    Rgb { width, height, data }
}

/// For every output position: the first source position and the fixed-point weights from there on.
struct Weights {
    first: Vec<usize>,
    /// Weights of position `i` are `values[ends[i - 1]..ends[i]]`.
    ends: Vec<usize>,
    values: Vec<i32>,
}

impl Weights {
    fn new(n_in: usize, n_out: usize, filter: Filter) -> Weights {
        let scale = n_in as f64 / n_out as f64;
        let stretch = scale.max(1.0);
        let support = filter.support() * stretch;
        let inverse = 1.0 / stretch;
        let (mut first, mut ends, mut values) = (Vec::with_capacity(n_out), Vec::with_capacity(n_out), Vec::new());
        let mut exact = Vec::new();
        for x in 0..n_out {
            let centre = (x as f64 + 0.5) * scale;
            // Casts to integer cut towards zero, as in C; negative values become 0, which is the clamp.
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
        self.first.iter().zip(starts.zip(&self.ends)).map(|(first, (start, end))| (*first, &self.values[start..*end]))
    }

    fn len(&self) -> usize {
        self.first.len()
    }

    /// The source positions that are used at all.
    fn reach(&self) -> std::ops::Range<usize> {
        let start = self.first.first().copied().unwrap_or(0);
        let end = self.iter().map(|(first, weights)| first + weights.len()).max().unwrap_or(0);
        start..end
    }
}

fn to_byte(sum: i32) -> u8 {
    (sum >> PRECISION_BITS).clamp(0, 255) as u8
}

/// Every row of `data` from `in_w` pixels to as many as there are weights.
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

/// Up to [`ROWS`] rows at once: pixels of one column stand next to each other in `block`, so that one weight meets all of them.
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

/// As many rows as there are weights, each a weighted sum of rows of `data`, whose first row is source row `offset`.
fn vertical(data: &[u8], offset: usize, row_len: usize, weights: &Weights) -> Vec<u8> {
    let mut out = vec![0; weights.len() * row_len];
    let arch = pulp::Arch::new();
    for ((first, weights), target) in weights.iter().zip(out.chunks_exact_mut(row_len)) {
        let rows = &data[(first - offset) * row_len..];
        arch.dispatch(|| rows_down(rows, row_len, weights, target));
    }
    out
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
        let sum = weights.iter().enumerate().fold(HALF, |sum, (i, weight)| sum + weight * i32::from(rows[i * row_len + at + x]));
        *byte = to_byte(sum);
    }
}

/// Pillow's nearest neighbour: positions are added up, not multiplied, and the sum's rounding is part of the result.
fn nearest(picture: &Rgb, width: u32, height: u32) -> Rgb {
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
    Rgb { width, height, data }
}
