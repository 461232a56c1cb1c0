//! What a response means: a body, an unchanged picture, a redirect, or a refusal.

use crate::body;
use crate::error::{FetchError, UrlLocation};
use crate::fault::Limits;
use crate::fetch::{FetchResult, Reserve};
use crate::{freshness, status};
use std::time::SystemTime;
use ureq::Body;
use ureq::http::header::{self, HeaderName};
use ureq::http::{HeaderMap, Response, StatusCode, Uri};

/// Longest ETag or Last-Modified stored, bytes.
const MAX_VALIDATOR: usize = 1024;

/// A usable response.
pub(crate) enum Received {
    /// The fetch is complete. `surplus`: bytes followed the announced end of the body.
    Done { result: FetchResult, surplus: bool },
    /// The values of `Location` and of `Set-Cookie`.
    Redirect { location: Vec<u8>, cookies: Vec<Vec<u8>> },
}

/// Interprets the status and reads the body. `conditional`: the request had validators.
pub(crate) fn receive(
    response: Response<Body>,
    uri: &Uri,
    conditional: bool,
    location: &UrlLocation,
    limits: &Limits,
    reserve: &mut Reserve<'_>,
) -> Result<Received, FetchError> {
    let (head, content) = response.into_parts();
    let headers = &head.headers;
    let refused = |retry_after| FetchError::Status {
        location: location.clone(),
        status: head.status.as_u16(),
        retry_after,
        oddity: None,
    };
    let whole = match head.status {
        StatusCode::OK | StatusCode::NON_AUTHORITATIVE_INFORMATION => Some(None),
        // Some upload services answer so to a GET.
        StatusCode::CREATED => Some(None),
        StatusCode::PARTIAL_CONTENT => whole_length(headers).map(Some),
        _ => None,
    };
    if let Some(length) = whole {
        let (bytes, surplus) = body::read(content, headers, limits, location, reserve)?;
        let is_missing = head.status == StatusCode::CREATED && bytes.is_empty();
        if is_missing || length.is_some_and(|length| bytes.len() as u64 != length) {
            return Err(refused(None));
        }
        let result = FetchResult::Body {
            bytes,
            etag: validator(headers, header::ETAG),
            last_modified: validator(headers, header::LAST_MODIFIED),
            final_url: location.url.clone(),
            fresh_for: freshness::fresh_for(uri, headers, SystemTime::now()),
        };
        return Ok(Received::Done { result, surplus });
    }
    if conditional && head.status == StatusCode::NOT_MODIFIED {
        return Ok(Received::Done { result: FetchResult::NotModified, surplus: false });
    }
    if matches!(head.status.as_u16(), 301 | 302 | 303 | 307 | 308)
        && let Some(location) = headers.get(header::LOCATION)
    {
        let cookies = headers.get_all(header::SET_COOKIE).iter();
        return Ok(Received::Redirect {
            location: location.as_bytes().to_vec(),
            cookies: cookies.map(|cookie| cookie.as_bytes().to_vec()).collect(),
        });
    }
    Err(refused(match head.status.as_u16() {
        code @ (429 | 503) => {
            status::requested_pause(code, headers, status::MIN_RETRY_AFTER, SystemTime::now())
        }
        _ => None,
    }))
}

/// The length of a partial response that is the whole picture, without another encoding.
fn whole_length(headers: &HeaderMap) -> Option<u64> {
    let range = headers.get(header::CONTENT_RANGE)?.to_str().ok()?.trim();
    let (unit, range) = range.split_once(' ')?;
    let (range, total) = range.trim().split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let number = |text: &str| text.trim().parse::<u64>().ok();
    let (first, last, total) = (number(first)?, number(last)?, number(total)?);
    let is_plain = [header::CONTENT_ENCODING, header::TRANSFER_ENCODING].iter().all(|name| {
        headers
            .get_all(name)
            .iter()
            .all(|value| matches!(value.as_bytes(), b"identity" | b"chunked"))
    });
    (unit.eq_ignore_ascii_case("bytes") && first == 0 && last.checked_add(1) == Some(total))
        .then_some(total)
        .filter(|_| is_plain)
}

/// A validator for the next request, unless it is empty or too long.
fn validator(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers
        .get(name)?
        .to_str()
        .ok()
        .filter(|v| !v.is_empty() && v.len() <= MAX_VALIDATOR)
        .map(str::to_owned)
}
