//! Rows filled per minute for each table, as `caption.progress` shows them.

use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Length of the sliding window.
const SPAN: Duration = Duration::from_secs(60);

/// Recently filled rows of all tables.
#[derive(Debug, Default)]
pub struct FillRates {
    tables: HashMap<u32, VecDeque<(Instant, i64)>>,
}

impl FillRates {
    /// Counts rows of a table that were filled now. Returns rows per minute since the oldest count
    /// of the last minute.
    pub fn count(&mut self, relation: u32, now: Instant, filled: i64) -> f32 {
        let window = self.tables.entry(relation).or_default();
        window.push_back((now, filled));
        while window.front().is_some_and(|(at, _)| now.duration_since(*at) > SPAN) {
            window.pop_front();
        }
        let span = window
            .front()
            .map_or(Duration::ZERO, |(at, _)| now.duration_since(*at))
            .max(Duration::from_secs(1));
        let total: i64 = window.iter().map(|(_, count)| count).sum();
        (total as f64 * 60.0 / span.as_secs_f64()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_covers_the_last_minute_of_one_table() {
        let (mut rates, start) = (FillRates::default(), Instant::now());
        assert_eq!(rates.count(1, start, 5), 300.0);
        assert_eq!(rates.count(1, start + Duration::from_secs(30), 25), 60.0);
        assert_eq!(rates.count(2, start + Duration::from_secs(30), 1), 60.0);
        assert_eq!(rates.count(1, start + Duration::from_secs(80), 25), 60.0);
    }
}
