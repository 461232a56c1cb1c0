//! Exponential backoff: a pause that doubles with each failure, up to a limit, spread by jitter.
//!
//! Used for all retries: deferred rows, paused hosts, downloads, and workers that find no engine.
//! It never sleeps and reads no clock: its callers are state machines that need a [`Duration`].
//! Random numbers are arguments, so that schedules are tested without sleeping. Restarts of engines
//! and workers follow tables of their own, which do not double (`crates/supervisor`).

use std::time::Duration;

/// A schedule of pauses between attempts.
///
/// ```
/// use pg_caption_backoff::Backoff;
/// use std::time::Duration;
///
/// const RETRY: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(60));
/// assert_eq!(RETRY.pause(0), Duration::from_secs(5));
/// assert_eq!(RETRY.pause(2), Duration::from_secs(20));
/// assert_eq!(RETRY.pause(99), Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    base: Duration,
    cap: Duration,
}

impl Backoff {
    /// A schedule that begins with `base` and never exceeds `cap`.
    pub const fn new(base: Duration, cap: Duration) -> Backoff {
        Backoff { base, cap }
    }

    /// The pause after `failures` earlier failures in a row: `base` × 2^`failures`, at most `cap`.
    pub fn pause(&self, failures: u32) -> Duration {
        self.base.saturating_mul(1u32 << failures.min(31)).min(self.cap)
    }

    /// [`Backoff::pause`], spread evenly between half of it and `upper` times it. `random` is in
    /// 0..1. With `upper` = 1 this is AWS's "equal jitter".
    pub fn jittered(&self, failures: u32, upper: f64, random: f64) -> Duration {
        self.pause(failures).mul_f64(0.5 + (upper - 0.5) * random)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEDULE: Backoff = Backoff::new(Duration::from_secs(5), Duration::from_secs(3600));

    #[test]
    fn pauses_double_up_to_the_cap() {
        let pauses: Vec<u64> = (0..12).map(|n| SCHEDULE.pause(n).as_secs()).collect();
        assert_eq!(pauses, [5, 10, 20, 40, 80, 160, 320, 640, 1280, 2560, 3600, 3600]);
        assert_eq!(SCHEDULE.pause(u32::MAX), Duration::from_secs(3600));
    }

    #[test]
    fn jitter_stays_within_its_bounds() {
        assert_eq!(SCHEDULE.jittered(1, 1.5, 0.0), Duration::from_secs(5));
        assert_eq!(SCHEDULE.jittered(1, 1.5, 1.0), Duration::from_secs(15));
        assert_eq!(SCHEDULE.jittered(1, 1.0, 1.0), Duration::from_secs(10));
    }
}
