//! Polls a condition until it holds. Used by the harness and by every live test.

use std::time::{Duration, Instant};

/// Far above any expected duration; a condition that never holds is reported after it.
const DEADLINE: Duration = Duration::from_secs(240);

/// Returns as soon as `condition` holds.
///
/// # Panics
/// If the condition does not hold within four minutes; the message names `what`.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < DEADLINE, "waited {} s for: {what}", DEADLINE.as_secs());
        std::thread::sleep(Duration::from_millis(10));
    }
}
