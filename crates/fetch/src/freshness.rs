//! How long a picture may be taken for the one at its URL, by the headers of its response
//! (RFC 9111). The reader is a shared cache: what is private, or was sent for credentials, is stale
//! immediately.

use http_cache_semantics::{CacheOptions, CachePolicy};
use std::time::{Duration, SystemTime};
use ureq::http::{HeaderMap, Method, Request, Response, StatusCode, Uri, header};

/// Longest time, whatever the server permits.
const MOST: Duration = Duration::from_secs(3600);

/// How long a response with these headers is fresh.
pub(crate) fn fresh_for(uri: &Uri, headers: &HeaderMap, now: SystemTime) -> Duration {
    // No guess from Last-Modified: a picture that is replaced under its URL is seen immediately.
    let is_stated = [header::CACHE_CONTROL, header::EXPIRES];
    let has_credentials = uri.authority().is_some_and(|of| of.as_str().contains('@'));
    if !is_stated.iter().any(|name| headers.contains_key(name))
        || has_credentials
        || varies(headers)
    {
        return Duration::ZERO;
    }
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri.clone();
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::OK;
    *response.headers_mut() = headers.clone();
    let options = CacheOptions { shared: true, ..CacheOptions::default() };
    let policy = CachePolicy::new_options(&request, &response, now, options);
    match policy.is_storable() {
        true => policy.time_to_live(now).min(MOST),
        false => Duration::ZERO,
    }
}

/// Whether another request for the URL may get another picture. Encodings are undone, and all
/// requests of a server ask for the same formats and languages.
fn varies(headers: &HeaderMap) -> bool {
    let values = headers.get_all(header::VARY).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|name| {
        let name = name.trim();
        name == "*" || ["cookie", "authorization"].iter().any(|of| name.eq_ignore_ascii_case(of))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(url: &str, headers: &[(&'static str, &str)]) -> u64 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, value.parse().unwrap());
        }
        fresh_for(&url.parse().unwrap(), &map, SystemTime::now()).as_secs()
    }

    #[test]
    fn a_server_decides_how_long_a_picture_is_known() {
        for (headers, expected) in [
            (&[][..], 0),
            (&[("last-modified", "Mon, 05 Jan 2015 10:00:00 GMT")], 0),
            (&[("cache-control", "max-age=120")], 120),
            (&[("cache-control", "public, max-age=31536000, immutable")], 3600),
            (&[("cache-control", "max-age=600, s-maxage=30")], 30),
            (&[("cache-control", "max-age=600"), ("age", "500")], 100),
            (&[("cache-control", "no-store")], 0),
            (&[("cache-control", "no-cache")], 0),
            (&[("cache-control", "private, max-age=600")], 0),
            (&[("cache-control", "max-age=0")], 0),
            (&[("expires", "0")], 0),
            (&[("expires", "Thu, 01 Jan 1970 00:00:00 GMT")], 0),
            (&[("pragma", "no-cache")], 0),
            (&[("vary", "*"), ("cache-control", "max-age=60")], 0),
            (&[("vary", "Cookie"), ("cache-control", "max-age=60")], 0),
            (&[("vary", "Accept, Accept-Encoding"), ("cache-control", "max-age=60")], 60),
        ] {
            assert_eq!(seconds("https://example.com/a.jpg", headers), expected, "{headers:?}");
        }
        assert_eq!(seconds("https://user:pw@example.com/a.jpg", &[]), 0);
    }
}
