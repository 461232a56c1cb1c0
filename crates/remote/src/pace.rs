//! How many requests a server gets at the same time, and when it gets none. Pure: the clock and
//! random numbers are passed in.
//!
//! The ceiling starts at [`START`] and doubles each round until the server shows that it has
//! enough. From then on it grows by one each round, and halves when the server asks for a pause,
//! is away, or takes about twice as long. How long it takes is measured again after each halving,
//! so neither a queue at the server nor a server that became slower is mistaken for the other.

use pg_caption_backoff::Backoff;
use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Requests at the same time at first. Longer answers alone never lower the ceiling below it.
const START: u32 = 4;
/// Pauses of a server that asked for one without saying how long.
const BUSY: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60));
/// Pauses of a server that does not answer. Short at first: a server behind a proxy is replaced
/// soon.
const DOWN: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));
/// Jitter of these pauses, as a factor.
const JITTER: f64 = 1.5;
/// The window of `requests_per_minute`.
const MINUTE: Duration = Duration::from_secs(60);
/// A round is slow if its median is so much longer than the shortest since the last halving.
const SLOWER: f64 = 1.9;

/// Whether a request may be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaceDecision {
    /// Send it; it counts as in flight until [`RequestPace::finished`].
    Go,
    /// The ceiling is reached.
    Full,
    /// Not before this time.
    Wait(Instant),
}

/// How a request ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PaceOutcome {
    /// The server answered.
    Served,
    /// The server asks for a pause.
    Busy(Option<Duration>),
    /// There was no connection, or it ended.
    Down,
    /// It says nothing about the server: the caller left.
    Unknown,
}

/// The pace of one server.
#[derive(Debug)]
pub struct RequestPace {
    most: u32,
    per_minute: Option<u32>,
    ceiling: u32,
    is_growing_fast: bool,
    in_flight: u32,
    /// Requests of the last minute.
    sent: VecDeque<Instant>,
    /// Answer times of this round.
    round: Vec<Duration>,
    round_began: Option<Instant>,
    /// Whether the ceiling was reached in this round.
    was_full: bool,
    /// Shortest median of a round since the last halving.
    usual: Option<Duration>,
    paused_until: Option<Instant>,
    /// Consecutive pauses.
    streak: u32,
    /// Requests that were sent before have said what they had to say.
    cut: Option<Instant>,
}

impl RequestPace {
    /// At most `most` requests at the same time, and `per_minute` in any minute.
    pub fn new(most: u32, per_minute: Option<u32>) -> RequestPace {
        RequestPace {
            most: most.max(1),
            per_minute,
            ceiling: START.min(most.max(1)),
            is_growing_fast: true,
            in_flight: 0,
            sent: VecDeque::new(),
            round: Vec::new(),
            round_began: None,
            was_full: false,
            usual: None,
            paused_until: None,
            streak: 0,
            cut: None,
        }
    }

    /// Requests that may be in flight now.
    pub fn ceiling(&self) -> u32 {
        // After a pause one request tries whether the server is back.
        if self.streak > 0 { 1 } else { self.ceiling }
    }

    /// Requests in flight.
    pub fn in_flight(&self) -> u32 {
        self.in_flight
    }

    /// Until when nothing is sent, if the server is paused.
    pub fn paused_until(&self, now: Instant) -> Option<Instant> {
        self.paused_until.filter(|until| *until > now)
    }

    /// Whether a request may be sent now.
    pub fn admit(&mut self, now: Instant) -> PaceDecision {
        if let Some(until) = self.paused_until(now) {
            return PaceDecision::Wait(until);
        }
        if self.in_flight >= self.ceiling() {
            self.was_full = true;
            return PaceDecision::Full;
        }
        if let Some(most) = self.per_minute {
            while self.sent.front().is_some_and(|at| *at + MINUTE <= now) {
                self.sent.pop_front();
            }
            if self.sent.len() >= most as usize
                && let Some(first) = self.sent.front()
            {
                return PaceDecision::Wait(*first + MINUTE);
            }
            self.sent.push_back(now);
        }
        self.in_flight += 1;
        PaceDecision::Go
    }

    /// Whether a request may be sent now while no other one is in flight.
    pub fn admit_alone(&mut self, now: Instant) -> PaceDecision {
        if self.in_flight > 0 && self.paused_until(now).is_none() {
            return PaceDecision::Full;
        }
        self.admit(now)
    }

    /// A request is sent again in place of one that the server refused.
    pub fn repeated(&mut self, now: Instant) {
        if self.per_minute.is_some() {
            self.sent.push_back(now);
        }
    }

    /// A request ended that was sent at `sent`. `random` is in 0..1.
    pub fn finished(&mut self, sent: Instant, now: Instant, outcome: PaceOutcome, random: f64) {
        self.in_flight = self.in_flight.saturating_sub(1);
        match outcome {
            PaceOutcome::Served => self.served(sent, now),
            PaceOutcome::Busy(wait) => self.pause(sent, now, &BUSY, wait, random),
            PaceOutcome::Down => self.pause(sent, now, &DOWN, None, random),
            PaceOutcome::Unknown => {}
        }
    }

    fn served(&mut self, sent: Instant, now: Instant) {
        self.streak = 0;
        let began = *self.round_began.get_or_insert(sent);
        if sent < began {
            return;
        }
        self.round.push(now.saturating_duration_since(sent));
        if self.round.len() < self.ceiling as usize {
            return;
        }
        self.round.sort_unstable();
        let median = self.round[self.round.len() / 2];
        let is_slow = self.usual.is_some_and(|usual| median >= usual.mul_f64(SLOWER));
        if is_slow && self.ceiling > START {
            self.ceiling = (self.ceiling / 2).max(START);
            self.is_growing_fast = false;
            self.usual = None;
        } else {
            if self.was_full {
                let next = if self.is_growing_fast { self.ceiling * 2 } else { self.ceiling + 1 };
                self.ceiling = next.min(self.most);
            }
            self.usual = Some(self.usual.map_or(median, |usual| usual.min(median)));
        }
        self.begin_round(now);
    }

    fn begin_round(&mut self, now: Instant) {
        self.round.clear();
        self.round_began = Some(now);
        self.was_full = false;
    }

    fn pause(
        &mut self,
        sent: Instant,
        now: Instant,
        backoff: &Backoff,
        wait: Option<Duration>,
        random: f64,
    ) {
        let is_news = self.cut.is_none_or(|cut| sent >= cut);
        if is_news {
            self.ceiling = (self.ceiling / 2).max(1);
            self.is_growing_fast = false;
            self.cut = Some(now);
            self.begin_round(now);
        } else if wait.is_none() {
            return;
        }
        let pause = wait.unwrap_or_else(|| backoff.jittered(self.streak, JITTER, random));
        if is_news {
            self.streak += 1;
        }
        let until = now + pause;
        self.paused_until = Some(self.paused_until.map_or(until, |before| before.max(until)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BinaryHeap;

    const MS: Duration = Duration::from_millis(1);

    /// A server with `slots` that answers each request after `took`, and queues the others. Returns
    /// the number of answers within `seconds`.
    fn served(pace: &mut RequestPace, slots: usize, took: Duration, seconds: u64) -> usize {
        let start = Instant::now();
        let (mut now, mut ends) = (start, BinaryHeap::new());
        let mut free: Vec<Instant> = vec![start; slots];
        let mut answers = 0;
        while now < start + Duration::from_secs(seconds) {
            while pace.admit(now) == PaceDecision::Go {
                free.sort_unstable();
                let end = free[0].max(now) + took;
                free[0] = end;
                ends.push(std::cmp::Reverse((end, now)));
            }
            let Some(std::cmp::Reverse((end, sent))) = ends.pop() else { panic!("stuck") };
            now = end;
            answers += 1;
            pace.finished(sent, now, PaceOutcome::Served, 0.5);
        }
        while let Some(std::cmp::Reverse((end, sent))) = ends.pop() {
            pace.finished(sent, end, PaceOutcome::Served, 0.5);
        }
        answers
    }

    #[test]
    fn the_slots_of_a_server_are_used() {
        let mut pace = RequestPace::new(16, None);
        assert_eq!(pace.ceiling(), START);
        let answers = served(&mut pace, 16, 200 * MS, 30);
        let possible = 16 * 5 * 30;
        assert!(answers as f64 >= 0.95 * possible as f64, "{answers} of {possible}");
        assert_eq!(pace.ceiling(), 16);
    }

    #[test]
    fn a_small_server_is_not_flooded() {
        let mut pace = RequestPace::new(256, None);
        let answers = served(&mut pace, 4, 200 * MS, 60);
        let possible = 4 * 5 * 60;
        assert!(answers as f64 >= 0.95 * possible as f64, "{answers} of {possible}");
        assert!(pace.ceiling() <= 16, "{}", pace.ceiling());
    }

    #[test]
    fn a_pause_halves_the_ceiling_once() {
        let (mut pace, start) = (RequestPace::new(16, None), Instant::now());
        served(&mut pace, 16, 200 * MS, 10);
        let now = start + Duration::from_secs(60);
        for _ in 0..8 {
            assert_eq!(pace.admit(now), PaceDecision::Go);
        }
        let wait = Some(Duration::from_secs(7));
        let later = now + 10 * MS;
        for _ in 0..8 {
            pace.finished(now, later, PaceOutcome::Busy(wait), 0.5);
        }
        let until = later + Duration::from_secs(7);
        assert_eq!(pace.admit(later), PaceDecision::Wait(until));
        assert_eq!(pace.admit(until), PaceDecision::Go, "one request tries");
        assert_eq!(pace.admit(until), PaceDecision::Full);
        let answered = until + 200 * MS;
        pace.finished(until, answered, PaceOutcome::Served, 0.5);
        assert_eq!(pace.ceiling(), 8);
    }

    #[test]
    fn pauses_of_an_absent_server_grow() {
        let (mut pace, mut now) = (RequestPace::new(4, None), Instant::now());
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            while let PaceDecision::Wait(until) = pace.admit(now) {
                last = until - now;
                now = until;
            }
            pace.finished(now, now + MS, PaceOutcome::Down, 1.0);
            now += MS;
        }
        assert!(last >= Duration::from_secs(9), "{last:?}");
        assert_eq!(pace.in_flight(), 0);
    }

    #[test]
    fn no_minute_has_more_requests_than_allowed() {
        let (mut pace, start) = (RequestPace::new(16, Some(3)), Instant::now());
        let mut sent = Vec::new();
        let mut now = start;
        while sent.len() < 10 {
            match pace.admit(now) {
                PaceDecision::Go => {
                    sent.push(now);
                    pace.finished(now, now, PaceOutcome::Served, 0.5);
                    now += 7 * MS;
                }
                PaceDecision::Wait(until) => now = until,
                PaceDecision::Full => panic!("full"),
            }
        }
        assert!(sent.windows(4).all(|four| four[3] - four[0] >= MINUTE), "{sent:?}");
    }
}
