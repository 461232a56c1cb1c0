//! Arithmetic over a row of scores: log-softmax, argmax, stable selection of the best.
//!
//! A row is as long as the vocabulary (50,000 and more), and this code runs for every row of every
//! step. The exponentials are therefore a polynomial that the compiler can vectorise, instead of
//! one library call each.

/// A row's maximum and the logarithm of its sum of exponentials: `log p(token) = (score - max) -
/// log_sum`.
#[derive(Debug, Clone, Copy)]
pub(super) struct LogSoftmax {
    max: f32,
    log_sum: f32,
}

impl LogSoftmax {
    /// `None` if the row contains NaN or has no finite maximum.
    pub fn of(logits: &[f32]) -> Option<LogSoftmax> {
        // Two vectorised passes: the maximum, then the sum in eight lanes.
        let max = logits.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
        if !max.is_finite() {
            return None;
        }
        let mut lanes = [0f32; 8];
        let (chunks, rest) = logits.as_chunks::<8>();
        for chunk in chunks {
            for (lane, x) in lanes.iter_mut().zip(chunk) {
                *lane += exp_nonpositive(x - max);
            }
        }
        for (lane, x) in lanes.iter_mut().zip(rest) {
            *lane += exp_nonpositive(x - max);
        }
        let sum: f32 = lanes.iter().sum();
        // NaN never becomes the maximum but always reaches the sum.
        sum.is_finite().then(|| LogSoftmax { max, log_sum: sum.ln() })
    }

    /// Natural logarithm of the probability of a token with this score.
    pub fn log_probability(&self, score: f32) -> f32 {
        (score - self.max) - self.log_sum
    }
}

/// `exp(x)` for x <= 0 with an error of about one unit in the last place, never below `exp(-87)`
/// (1.6e-38, negligible next to the maximum's 1). NaN stays NaN. No branches and no saturating
/// casts, which would prevent vectorisation.
#[inline(always)]
fn exp_nonpositive(x: f32) -> f32 {
    // exp(x) = 2^n * exp(r), |r| <= ln(2)/2. ln(2) has two parts so that r is exact (Cody and
    // Waite). The polynomial for exp(r) is that of Cephes.
    // 1.5 * 2^23: adding it rounds to an integer, which is then in the lowest bits.
    const ROUND: f32 = 12_582_912.0;
    const LN2_HIGH: f32 = 0.693_359_4;
    const LN2_LOW: f32 = -2.121_944_4e-4;
    // Not f32::max, which would drop NaN.
    let x = if -87.0 > x { -87.0 } else { x };
    let shifted = x * std::f32::consts::LOG2_E + ROUND;
    let n = shifted - ROUND;
    let r = x - n * LN2_HIGH - n * LN2_LOW;
    let mut p = 1.987_569_1e-4;
    for c in [1.398_199_9e-3, 8.333_452e-3, 4.166_579_6e-2, 1.666_666_5e-1, 5.000_000_3e-1] {
        p = p * r + c;
    }
    let e = (p * r * r + r) + 1.0;
    let scaled = f32::from_bits(e.to_bits().wrapping_add(shifted.to_bits() << 23));
    // Adding bits to a NaN may turn it into a number; a product does not.
    scaled + r * 0.0
}

/// Index of the greatest score; the lowest index on ties.
pub(super) fn argmax(scores: &[f32]) -> usize {
    let max = scores.iter().fold(f32::NEG_INFINITY, |a, b| if *b > a { *b } else { a });
    scores.iter().position(|s| *s == max).unwrap_or(0)
}

/// Indices of the `k` greatest scores, best first; of equal scores the lower index first, as in a
/// stable sort.
pub(super) fn best(scores: impl IntoIterator<Item = f32>, k: usize) -> Vec<(usize, f32)> {
    let mut kept: Vec<(usize, f32)> = Vec::with_capacity(k + 1);
    for (index, score) in scores.into_iter().enumerate() {
        if kept.len() == k && kept.last().is_none_or(|(_, worst)| score <= *worst) {
            continue;
        }
        let at = kept.partition_point(|(_, better)| *better >= score);
        kept.insert(at, (index, score));
        kept.truncate(k);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Repeatable random scores from -20 to 20.
    fn noise(seed: u64, len: usize) -> Vec<f32> {
        let mut random = fastrand::Rng::with_seed(seed);
        (0..len).map(|_| random.u32(0..4000) as f32 / 100.0 - 20.0).collect()
    }

    #[test]
    fn the_fast_exponential_is_accurate() {
        for step in 0..870_000 {
            let x = -(step as f32) / 10_000.0;
            let (fast, exact) = (exp_nonpositive(x), (x as f64).exp());
            assert!(
                (fast as f64 - exact).abs() <= exact * 2.5e-7,
                "exp({x}) = {fast}, not {exact}"
            );
        }
        assert!(exp_nonpositive(f32::NEG_INFINITY) < 2e-38);
        assert!(exp_nonpositive(f32::NAN).is_nan());
    }

    #[test]
    fn probabilities_add_up_to_one() {
        for (seed, len) in [(1, 1), (2, 7), (3, 600), (4, 50_257)] {
            let row = noise(seed, len);
            let normaliser = LogSoftmax::of(&row).unwrap();
            let sum: f64 = row.iter().map(|x| (normaliser.log_probability(*x) as f64).exp()).sum();
            assert!((sum - 1.0).abs() < 1e-4, "{len}: {sum}");
        }
    }

    #[test]
    fn non_finite_rows_are_detected() {
        for at in 0..20 {
            let mut row = noise(5, 20);
            row[at] = f32::NAN;
            assert!(LogSoftmax::of(&row).is_none(), "NaN at {at}");
            row[at] = f32::INFINITY;
            assert!(LogSoftmax::of(&row).is_none(), "infinity at {at}");
            row[at] = f32::NEG_INFINITY;
            assert!(LogSoftmax::of(&row).is_some(), "a masked token is fine");
        }
        assert!(LogSoftmax::of(&[]).is_none());
        assert!(LogSoftmax::of(&[f32::NEG_INFINITY; 3]).is_none());
    }

    #[test]
    fn selection_equals_a_stable_sort() {
        for seed in 0..50 {
            let mut row = noise(seed, 40);
            row.iter_mut().for_each(|x| *x = (*x / 8.0).round()); // many ties
            row[3] = f32::NEG_INFINITY;
            let mut sorted: Vec<usize> = (0..row.len()).collect();
            sorted.sort_by(|a, b| row[*b].partial_cmp(&row[*a]).unwrap());
            for k in [1, 2, 6, 40, 50] {
                let kept: Vec<usize> =
                    best(row.iter().copied(), k).into_iter().map(|(i, _)| i).collect();
                assert_eq!(kept, sorted[..k.min(40)], "seed {seed}, best {k}");
            }
            assert_eq!(argmax(&row), sorted[0]);
        }
    }
}
