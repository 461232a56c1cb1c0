//! Decoding steps and model calls in progress: how long the longest one has lasted. Read when the
//! launcher asks whether the engine hangs. Time in queues is not counted.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// The steps in progress.
#[derive(Debug, Default)]
pub struct StepClock {
    state: Mutex<(u64, BTreeMap<u64, Instant>)>,
}

/// A step in progress; it ends when this is dropped.
pub struct StepGuard<'a> {
    clock: &'a StepClock,
    number: u64,
}

impl StepClock {
    /// A step begins.
    pub fn begin(&self, now: Instant) -> StepGuard<'_> {
        let mut state = self.state.lock();
        state.0 += 1;
        let number = state.0;
        state.1.insert(number, now);
        StepGuard { clock: self, number }
    }

    /// How long the longest step in progress has lasted; zero without one.
    pub fn longest(&self, now: Instant) -> Duration {
        let since = self.state.lock().1.values().min().copied();
        since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }
}

impl Drop for StepGuard<'_> {
    fn drop(&mut self) {
        self.clock.state.lock().1.remove(&self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_step_in_progress_counts() {
        let (clock, start) = (StepClock::default(), Instant::now());
        let after = |seconds| start + Duration::from_secs(seconds);
        let first = clock.begin(start);
        let second = clock.begin(after(3));
        assert_eq!(clock.longest(after(5)), Duration::from_secs(5));
        drop(first);
        assert_eq!(clock.longest(after(5)), Duration::from_secs(2));
        drop(second);
        assert_eq!(clock.longest(after(5)), Duration::ZERO);
    }
}
