//! What a server was used for: counted by day and style, and held against the daily limits. Days
//! are those of UTC.

use pg_caption_models::{RemotePrice, RemoteSettings};
use std::collections::BTreeMap;
use std::ops::{Add, AddAssign};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::fault::RemoteFault;

const DAY: u64 = 24 * 3600;
/// Days kept; older counts have been read.
const DAYS_KEPT: u32 = 2;
/// Styles counted on their own in one day; further ones count as `other`.
const MOST_STYLES: usize = 256;

/// Tokens that a server counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct TokenUse {
    /// Of requests, the picture's included.
    pub input: u64,
    /// Of answers.
    pub output: u64,
}

impl Add for TokenUse {
    type Output = TokenUse;

    fn add(self, other: TokenUse) -> TokenUse {
        TokenUse { input: self.input + other.input, output: self.output + other.output }
    }
}

/// What one style used in one day.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct UsageCount {
    /// Requests that were sent, repeated ones included.
    pub requests: u64,
    /// Captions returned.
    pub images: u64,
    /// Tokens that the server counted.
    pub tokens: TokenUse,
    /// Requests without a caption.
    pub failures: u64,
    /// By the prices of `remote.json`.
    pub cost: f64,
}

impl AddAssign for UsageCount {
    fn add_assign(&mut self, other: UsageCount) {
        self.requests += other.requests;
        self.images += other.images;
        self.tokens = self.tokens + other.tokens;
        self.failures += other.failures;
        self.cost += other.cost;
    }
}

/// Days since 1970-01-01, UTC.
fn day_of(now: SystemTime) -> u32 {
    (since_epoch(now).as_secs() / DAY) as u32
}

fn since_epoch(now: SystemTime) -> Duration {
    now.duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// Counts by day and style since the engine started.
#[derive(Debug)]
pub struct UsageTable {
    price: RemotePrice,
    counts: BTreeMap<(u32, String), UsageCount>,
}

impl UsageTable {
    /// Without any use.
    pub fn new(price: RemotePrice) -> UsageTable {
        UsageTable { price, counts: BTreeMap::new() }
    }

    /// Counts one request. `tokens`: as the server counted them, if it answered.
    pub fn count(&mut self, now: SystemTime, style: &str, tokens: TokenUse, served: bool) {
        let day = day_of(now);
        self.counts.retain(|(known, _), _| known + DAYS_KEPT > day);
        let styles = self.counts.range((day, String::new())..(day + 1, String::new())).count();
        let is_known = self.counts.contains_key(&(day, style.to_owned()));
        let style = if is_known || styles < MOST_STYLES { style } else { "other" };
        let million = |tokens: u64, price: f64| tokens as f64 / 1e6 * price;
        let cost = self.price.per_request
            + million(tokens.input, self.price.input_per_million)
            + million(tokens.output, self.price.output_per_million);
        *self.counts.entry((day, style.into())).or_default() += UsageCount {
            requests: 1,
            images: served.into(),
            tokens,
            failures: (!served).into(),
            cost,
        };
    }

    /// The counts: day (since 1970-01-01), style, and what was used.
    pub fn counts(&self) -> impl Iterator<Item = (u32, &str, UsageCount)> {
        self.counts.iter().map(|((day, style), count)| (*day, style.as_str(), *count))
    }
}

/// The daily limits, and what of them is used.
#[derive(Debug)]
pub struct DailyBudget {
    requests: Option<u64>,
    tokens: Option<u64>,
    day: u32,
    /// Requests and tokens of earlier engines on that day.
    before: (u64, u64),
    /// Requests and tokens of this engine on that day.
    own: (u64, u64),
}

impl DailyBudget {
    /// The limits of a model; nothing is used.
    pub fn new(settings: &RemoteSettings) -> DailyBudget {
        DailyBudget {
            requests: settings.daily_requests,
            tokens: settings.daily_tokens,
            day: 0,
            before: (0, 0),
            own: (0, 0),
        }
    }

    /// What earlier engines used on `day` (since 1970-01-01), all together. May be repeated.
    pub fn restore(&mut self, day: u32, requests: u64, tokens: u64) {
        if day >= self.day {
            self.begin(day);
            self.before = (self.before.0.max(requests), self.before.1.max(tokens));
        }
    }

    /// Day, requests and tokens used.
    pub fn used(&self) -> (u32, u64, u64) {
        (self.day, self.before.0 + self.own.0, self.before.1 + self.own.1)
    }

    fn begin(&mut self, day: u32) {
        if day != self.day {
            (self.day, self.before, self.own) = (day, (0, 0), (0, 0));
        }
    }

    /// Takes one request from the budget.
    ///
    /// # Errors
    /// [`RemoteFault::Budget`]: a limit is reached.
    pub fn take(&mut self, now: SystemTime) -> Result<(), RemoteFault> {
        self.check(now)?;
        self.own.0 += 1;
        Ok(())
    }

    /// Whether a request may be sent.
    ///
    /// # Errors
    /// As [`DailyBudget::take`].
    pub fn check(&mut self, now: SystemTime) -> Result<(), RemoteFault> {
        self.begin(day_of(now));
        let is_reached = |limit: Option<u64>, used| limit.is_some_and(|limit| used >= limit);
        let (_, used_requests, used_tokens) = self.used();
        let limit = if is_reached(self.requests, used_requests) {
            "daily_requests"
        } else if is_reached(self.tokens, used_tokens) {
            "daily_tokens"
        } else {
            return Ok(());
        };
        let wait = Duration::from_secs(DAY - since_epoch(now).as_secs() % DAY);
        Err(RemoteFault::Budget { limit, wait })
    }

    /// Adds the tokens of an answer.
    pub fn add(&mut self, tokens: TokenUse) {
        self.own.1 += tokens.input + tokens.output;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    fn settings(more: &str) -> RemoteSettings {
        let json =
            format!(r#"{{"protocol": "openai", "base_url": "http://h", "model": "m"{more}}}"#);
        RemoteSettings::parse(json.as_bytes(), Path::new("remote.json")).unwrap()
    }

    fn at(day: u64, second: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(day * DAY + second)
    }

    const TOKENS: TokenUse = TokenUse { input: 200, output: 20 };

    #[test]
    fn a_daily_limit_holds_until_midnight() {
        let mut budget = DailyBudget::new(&settings(r#", "daily_requests": 2"#));
        assert_eq!(budget.take(at(9, 10)), Ok(()));
        assert_eq!(budget.take(at(9, 20)), Ok(()));
        let fault = budget.take(at(9, DAY - 60)).unwrap_err();
        let wait = Duration::from_secs(60);
        assert_eq!(fault, RemoteFault::Budget { limit: "daily_requests", wait });
        assert_eq!(budget.take(at(10, 0)), Ok(()), "the next day");
        let mut budget = DailyBudget::new(&settings(r#", "daily_tokens": 220"#));
        assert_eq!(budget.take(at(9, 0)), Ok(()));
        budget.add(TOKENS);
        assert!(budget.take(at(9, 1)).is_err());
        assert_eq!(budget.used(), (9, 1, 220));
    }

    #[test]
    fn the_budget_survives_an_engine() {
        let limits = settings(r#", "daily_requests": 2"#);
        let mut first = DailyBudget::new(&limits);
        first.take(at(9, 0)).unwrap();
        let (day, requests, tokens) = first.used();
        let mut second = DailyBudget::new(&limits);
        second.restore(day, requests, tokens);
        second.take(at(9, 1)).unwrap();
        assert!(second.take(at(9, 2)).is_err());
        let mut tomorrow = DailyBudget::new(&limits);
        tomorrow.restore(day, 2, 0);
        assert_eq!(tomorrow.take(at(10, 0)), Ok(()));
        tomorrow.restore(day, 2, 0);
        assert_eq!(tomorrow.used().1, 1, "a late report of yesterday");
    }

    #[test]
    fn use_is_counted_by_day_and_style() {
        let price =
            RemotePrice { input_per_million: 1.0, output_per_million: 10.0, per_request: 0.001 };
        let mut table = UsageTable::new(price);
        table.count(at(9, 0), "concise", TOKENS, true);
        table.count(at(9, 1), "concise", TokenUse::default(), false);
        table.count(at(10, 1), "seo", TOKENS, true);
        let counts: Vec<_> = table.counts().collect();
        assert_eq!((counts.len(), counts[0].0, counts[0].1), (2, 9, "concise"));
        let concise = counts[0].2;
        assert_eq!((concise.requests, concise.images, concise.failures), (2, 1, 1));
        assert_eq!(concise.tokens, TOKENS);
        assert!((concise.cost - (0.002 + 0.0002 + 0.0002)).abs() < 1e-9, "{}", concise.cost);
        for n in 0..2 * MOST_STYLES {
            table.count(at(11, 0), &format!("s{n}"), TOKENS, true);
        }
        assert!(table.counts().count() <= 2 * MOST_STYLES, "bounded, and old days are dropped");
    }
}
