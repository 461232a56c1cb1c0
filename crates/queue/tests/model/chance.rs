//! Random choices of the model, the same for the same seed.

use std::time::Duration;

pub trait Chance {
    /// In 0..bound; 0 for an empty range.
    fn below(&mut self, bound: usize) -> usize;

    /// True in so many of a hundred cases.
    fn percent(&mut self, chance: usize) -> bool {
        self.below(100) < chance
    }

    /// One element; `None` for an empty slice.
    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        from.get(self.below(from.len())).cloned()
    }

    /// At most so many milliseconds.
    fn millis(&mut self, most: usize) -> Duration {
        Duration::from_millis(self.below(most + 1) as u64)
    }
}

impl Chance for fastrand::Rng {
    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 { 0 } else { self.usize(..bound) }
    }
}
