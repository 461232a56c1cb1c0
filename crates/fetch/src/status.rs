//! Classes of HTTP statuses, and the length of the pause that a host asks for.

use pg_caption_wire::FailureClass;
use std::time::{Duration, SystemTime};
use ureq::http::HeaderMap;

/// Longest pause that a host can ask for. The header may be a mistake.
pub(crate) const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3600);

/// Longest pause that a 503 can ask for. Hosts usually recover earlier than they announce, and one
/// mistaken answer would delay all rows of the host. A 429 may concern a daily quota.
const MAX_RETRY_AFTER_503: Duration = Duration::from_secs(3600);

/// Shortest valid pause. A refusal with a zero or past time states no useful length.
pub(crate) const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The class of an unsuccessful status. `timed`: the host sent a valid Retry-After.
///
/// 429 always concerns the host. 503 without Retry-After may concern one URL: it uses up the row's
/// attempts, because a permanent 503 would otherwise defer the row forever.
pub(crate) fn class(status: u16, timed: bool) -> FailureClass {
    match status {
        429 => FailureClass::Host,
        503 if timed => FailureClass::Host,
        // 304 answers a request without conditions: most likely a cache's mistake.
        304 | 408 | 425 | 500..=599 => FailureClass::Retry,
        _ => FailureClass::Reject,
    }
}

/// The pause that an answer asks for: `retry-after-ms`, as model servers send it, or Retry-After in
/// seconds, fractions of them, or as an HTTP date. A date is relative to the server's own Date
/// (clocks may differ), else to `now`. `None` if there is neither, or it is shorter than
/// `shortest`. At most a day for status 429, else at most an hour.
pub fn requested_pause(
    status: u16,
    headers: &HeaderMap,
    shortest: Duration,
    now: SystemTime,
) -> Option<Duration> {
    let text =
        |name: &str| headers.get(name).and_then(|value| std::str::from_utf8(value.as_bytes()).ok());
    let number = |text: &str| text.trim().parse::<f64>().ok();
    let milliseconds = text("retry-after-ms").and_then(number).and_then(|ms| seconds(ms / 1000.0));
    let pause = milliseconds.or_else(|| parsed(text("retry-after")?, text("date"), now))?;
    let longest = if status == 429 { MAX_RETRY_AFTER } else { MAX_RETRY_AFTER_503 };
    Some(pause.min(longest)).filter(|pause| *pause >= shortest)
}

/// A positive number of seconds, whatever a server sends. One that overflows is a very long time.
fn seconds(number: f64) -> Option<Duration> {
    let is_time = number.is_finite() && number > 0.0;
    is_time.then(|| Duration::try_from_secs_f64(number).unwrap_or(Duration::MAX))
}

fn parsed(value: &str, date: Option<&str>, now: SystemTime) -> Option<Duration> {
    let value = value.trim();
    if value.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.') {
        return seconds(value.parse().ok()?);
    }
    let until = httpdate::parse_http_date(value).ok()?;
    let from = date.and_then(|d| httpdate::parse_http_date(d.trim()).ok()).unwrap_or(now);
    until.duration_since(from).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use ureq::http::HeaderName;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        let pair = |(name, value): &(&'static str, &str)| {
            (HeaderName::from_static(name), value.parse().unwrap())
        };
        pairs.iter().map(pair).collect()
    }

    /// Of a picture's host.
    fn retry_after(
        status: u16,
        value: &str,
        date: Option<&str>,
        now: SystemTime,
    ) -> Option<Duration> {
        let mut all = headers(&[("retry-after", value)]);
        all.extend(headers(&date.map(|date| ("date", date)).into_iter().collect::<Vec<_>>()));
        requested_pause(status, &all, MIN_RETRY_AFTER, now)
    }

    #[test]
    fn a_model_server_states_its_pause_in_three_forms() {
        let later = "Mon, 05 Jan 2026 10:00:05 GMT";
        for (pairs, expected) in [
            (&[("retry-after-ms", "250")][..], Some(250)),
            (&[("retry-after-ms", "1500"), ("retry-after", "9")], Some(1500)),
            (&[("retry-after-ms", "nan"), ("retry-after", "9")], Some(9000)),
            (&[("retry-after", "7")], Some(7000)),
            (&[("retry-after", "0.5")], Some(500)),
            (&[("retry-after", later), ("date", MONDAY)], Some(5000)),
            (&[("retry-after", "soon")], None),
            (&[("retry-after", "-1")], None),
            (&[("retry-after", "0")], None),
            (&[("retry-after", ".")], None),
            (&[("retry-after-ms", "-5")], None),
            (&[("retry-after-ms", "inf")], None),
            (&[("retry-after-ms", "1e300")], Some(24 * 3600 * 1000)),
            (&[("retry-after", "99999999999999999999999")], Some(24 * 3600 * 1000)),
            (&[], None),
        ] {
            let shortest = Duration::from_millis(1);
            let found = requested_pause(429, &headers(pairs), shortest, SystemTime::now());
            assert_eq!(found.map(|pause| pause.as_millis()), expected, "{pairs:?}");
        }
    }

    const MONDAY: &str = "Mon, 05 Jan 2026 10:00:00 GMT";
    const A_MINUTE_LATER: &str = "Mon, 05 Jan 2026 10:01:00 GMT";

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date(MONDAY).unwrap();
        assert_eq!(retry_after(429, " 7 ", None, now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(429, A_MINUTE_LATER, None, now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after(429, "soon", None, now), None);
        assert_eq!(retry_after(429, "-1", None, now), None);
        assert_eq!(retry_after(429, "", None, now), None);
    }

    #[test]
    fn a_past_time_is_ignored() {
        let now = httpdate::parse_http_date(A_MINUTE_LATER).unwrap();
        for value in ["0", "000", MONDAY, A_MINUTE_LATER] {
            assert_eq!(retry_after(429, value, None, now), None, "{value}");
        }
        assert_eq!(retry_after(429, "1", None, now), Some(MIN_RETRY_AFTER));
    }

    #[test]
    fn dates_are_relative_to_the_server_s_clock() {
        let now = httpdate::parse_http_date(MONDAY).unwrap() + Duration::from_secs(1_000_000);
        assert_eq!(
            retry_after(429, A_MINUTE_LATER, Some(MONDAY), now),
            Some(Duration::from_secs(60))
        );
    }

    #[test]
    fn no_header_pauses_a_host_forever() {
        let now = SystemTime::now();
        for value in
            ["99999999999999999999999999", "18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"]
        {
            assert_eq!(retry_after(429, value, None, now), Some(MAX_RETRY_AFTER));
            assert_eq!(retry_after(503, value, None, now), Some(MAX_RETRY_AFTER_503));
        }
    }

    #[test]
    fn each_status_has_its_class() {
        for status in [400, 401, 403, 404, 410, 451, 418, 300, 204, 206] {
            assert_eq!(class(status, false), FailureClass::Reject, "{status}");
            assert_eq!(class(status, true), FailureClass::Reject, "{status}");
        }
        for status in [304, 408, 425, 500, 502, 504, 520, 599] {
            assert_eq!(class(status, true), FailureClass::Retry, "{status}");
        }
        assert_eq!((class(429, false), class(429, true)), (FailureClass::Host, FailureClass::Host));
        assert_eq!(
            (class(503, false), class(503, true)),
            (FailureClass::Retry, FailureClass::Host)
        );
    }
}
