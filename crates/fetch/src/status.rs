//! What an HTTP status means, and how long a host that asks for patience wants to be left alone.

use pg_caption_wire::FailureClass;
use std::time::{Duration, SystemTime};

/// Longest patience a host can ask for. A row waits no longer for a header that may be a mistake.
pub const LONGEST_PATIENCE: Duration = Duration::from_secs(24 * 3600);

/// Longest patience that a 503 can ask for: a host that is down is up again sooner than it says,
/// and one such answer, which may be a mistake, holds up all of its rows. A 429 may speak of a
/// daily quota.
const LONGEST_DOWN: Duration = Duration::from_secs(3600);

/// Shortest patience that is one. A host that says "now" (0, or a date that is over) and refuses
/// all the same has not said how long.
pub(crate) const SHORTEST_PATIENCE: Duration = Duration::from_secs(1);

/// The class of a status that is not an answer. `patience`: the host sent a usable Retry-After.
///
/// 429 is always the host's doing. 503 without Retry-After may be this one URL's: it is tried again
/// with the row's own attempts, or a URL that answers 503 for ever would be deferred for ever.
pub(crate) fn class(status: u16, patience: bool) -> FailureClass {
    match status {
        429 => FailureClass::Host,
        503 if patience => FailureClass::Host,
        408 | 425 | 500..=599 => FailureClass::Retry,
        _ => FailureClass::Reject,
    }
}

/// Reads Retry-After: seconds, or an HTTP date relative to the server's own Date (its clock may
/// differ from ours), else to `now`. `None` if it is neither, or shorter than
/// [`SHORTEST_PATIENCE`]. Never longer than [`LONGEST_PATIENCE`] where the `status` is 429, and
/// [`LONGEST_DOWN`] otherwise.
pub(crate) fn retry_after(
    status: u16,
    value: &str,
    date: Option<&str>,
    now: SystemTime,
) -> Option<Duration> {
    let value = value.trim();
    let patience = if !value.is_empty() && value.bytes().all(|b| b.is_ascii_digit()) {
        // so many digits that they do not fit are a very long time
        Duration::from_secs(value.parse().unwrap_or(u64::MAX))
    } else {
        let until = httpdate::parse_http_date(value).ok()?;
        let from = date.and_then(|d| httpdate::parse_http_date(d.trim()).ok()).unwrap_or(now);
        until.duration_since(from).unwrap_or(Duration::ZERO)
    };
    let longest = if status == 429 { LONGEST_PATIENCE } else { LONGEST_DOWN };
    Some(patience.min(longest)).filter(|patience| *patience >= SHORTEST_PATIENCE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MONDAY: &str = "Mon, 05 Jan 2026 10:00:00 GMT";
    const A_MINUTE_LATER: &str = "Mon, 05 Jan 2026 10:01:00 GMT";

    #[test]
    fn retry_after_is_read_as_seconds_and_as_a_date() {
        let now = httpdate::parse_http_date(MONDAY).unwrap();
        assert_eq!(retry_after(429, " 7 ", None, now), Some(Duration::from_secs(7)));
        assert_eq!(retry_after(429, A_MINUTE_LATER, None, now), Some(Duration::from_secs(60)));
        assert_eq!(retry_after(429, "soon", None, now), None);
        assert_eq!(retry_after(429, "-1", None, now), None);
        assert_eq!(retry_after(429, "", None, now), None);
    }

    #[test]
    fn a_time_that_is_over_is_no_time() {
        let now = httpdate::parse_http_date(A_MINUTE_LATER).unwrap();
        for value in ["0", "000", MONDAY, A_MINUTE_LATER] {
            assert_eq!(retry_after(429, value, None, now), None, "{value}");
        }
        assert_eq!(retry_after(429, "1", None, now), Some(SHORTEST_PATIENCE));
    }

    #[test]
    fn a_server_with_a_wrong_clock_is_understood_by_its_own_date() {
        let ours = httpdate::parse_http_date(MONDAY).unwrap() + Duration::from_secs(1_000_000);
        assert_eq!(
            retry_after(429, A_MINUTE_LATER, Some(MONDAY), ours),
            Some(Duration::from_secs(60))
        );
    }

    #[test]
    fn no_header_can_stop_a_host_for_ever() {
        let now = SystemTime::now();
        for value in
            ["99999999999999999999999999", "18446744073709551615", "Fri, 31 Dec 9999 23:59:59 GMT"]
        {
            assert_eq!(retry_after(429, value, None, now), Some(LONGEST_PATIENCE));
            assert_eq!(retry_after(503, value, None, now), Some(LONGEST_DOWN));
        }
    }

    #[test]
    fn each_status_has_the_class_of_the_table() {
        for status in [400, 401, 403, 404, 410, 451, 418, 300, 304, 204, 206] {
            assert_eq!(class(status, false), FailureClass::Reject, "{status}");
            assert_eq!(class(status, true), FailureClass::Reject, "{status}");
        }
        for status in [408, 425, 500, 502, 504, 520, 599] {
            assert_eq!(class(status, true), FailureClass::Retry, "{status}");
        }
        assert_eq!((class(429, false), class(429, true)), (FailureClass::Host, FailureClass::Host));
        assert_eq!(
            (class(503, false), class(503, true)),
            (FailureClass::Retry, FailureClass::Host)
        );
    }
}
