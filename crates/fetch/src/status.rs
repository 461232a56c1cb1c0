//! Classes of HTTP statuses, and the length of the pause that a host asks for.

use pg_caption_wire::FailureClass;
use std::time::{Duration, SystemTime};

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

/// Parses Retry-After: seconds, or an HTTP date relative to the server's own Date (clocks may
/// differ), else to `now`. `None` if it is neither, or shorter than a second. At most a day for
/// status 429, else at most an hour.
pub fn retry_after(
    status: u16,
    value: &str,
    date: Option<&str>,
    now: SystemTime,
) -> Option<Duration> {
    let value = value.trim();
    let pause = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // A number that overflows is a very long time.
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        let from = date.and_then(|d| httpdate::parse_http_date(d.trim()).ok()).unwrap_or(now);
        until.duration_since(from).unwrap_or(Duration::ZERO)
    };
    let longest = if status == 429 { MAX_RETRY_AFTER } else { MAX_RETRY_AFTER_503 };
    Some(pause.min(longest)).filter(|pause| *pause >= MIN_RETRY_AFTER)
}

#[cfg(test)]
mod tests {
    use super::*;

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
