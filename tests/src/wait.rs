//! Waiting for a condition.

use std::time::{Duration, Instant};

/// Nothing that works takes this long; something that does not is reported after it.
const DEADLINE: Duration = Duration::from_secs(60);

/// Returns as soon as `condition` holds.
///
/// # Panics
/// If it does not within a minute, saying `what` was waited for.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited {} s in vain for: {what}", DEADLINE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}
