//! Request headers for chosen origins and path prefixes, from `pg_caption.fetch_headers_file`. Each
//! request, redirected ones included, gets the headers of its own origin and of no other.
//!
//! The values may be secrets: no error, message or debug output contains a part of the file.

use pg_caption_wire::MAX_URL_BYTES;
use serde_json::{Map, Value};
use ureq::http::header::{AUTHORIZATION, COOKIE, HeaderName, REFERER, USER_AGENT};
use ureq::http::{HeaderMap, HeaderValue};
use url::Url;

/// The headers that the file may give.
const NAMES: [HeaderName; 4] = [REFERER, USER_AGENT, AUTHORIZATION, COOKIE];
/// Longest value, bytes.
const MAX_VALUE: usize = 16 * 1024;
/// Most entries.
const MAX_ENTRIES: usize = 10_000;

/// Headers by origin and path prefix.
///
/// ```
/// use pg_caption_fetch::RequestHeaders;
///
/// let file = br#"[{"url": "https://cdn.example.com/p/", "headers": {"Cookie": "a=b"}}]"#;
/// assert!(!RequestHeaders::parse(file).unwrap().is_empty());
/// assert!(RequestHeaders::parse(b"[{}]").is_err());
/// ```
#[derive(Clone, Default)]
pub struct RequestHeaders(Vec<HeaderEntry>);

/// The headers of one prefix.
#[derive(Clone)]
struct HeaderEntry {
    url: Url,
    headers: HeaderMap,
}

impl std::fmt::Debug for RequestHeaders {
    /// Without the values.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "RequestHeaders({})", self.0.len())
    }
}

impl RequestHeaders {
    /// Reads the file's text: a JSON array of objects `{"url": …, "headers": {…}}`.
    ///
    /// # Errors
    /// Why it cannot be used, without any part of it.
    pub fn parse(text: &[u8]) -> Result<RequestHeaders, String> {
        let value: Value = serde_json::from_slice(text).map_err(|error| {
            format!("it is not JSON (line {}, column {})", error.line(), error.column())
        })?;
        let Value::Array(entries) = value else {
            return Err("it is not a JSON array of entries".into());
        };
        if entries.len() > MAX_ENTRIES {
            return Err(format!("it has more than {MAX_ENTRIES} entries"));
        }
        let mut read: Vec<HeaderEntry> = Vec::new();
        for (at, entry) in (1..).zip(&entries) {
            let entry = HeaderEntry::read(entry).map_err(|why| format!("entry {at} {why}"))?;
            if read.iter().any(|other| other.url == entry.url) {
                return Err(format!("entry {at} has the URL of an earlier entry"));
            }
            read.push(entry);
        }
        // The longest prefix decides.
        read.sort_by_key(|entry| std::cmp::Reverse(entry.url.path().len()));
        Ok(RequestHeaders(read))
    }

    /// Whether no origin has headers.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The headers of a request to `url`: of the entry with the longest prefix.
    pub(crate) fn of(&self, url: &Url) -> Option<&HeaderMap> {
        let matches = |entry: &&HeaderEntry| {
            entry.url.origin() == url.origin() && is_below(url.path(), entry.url.path())
        };
        self.0.iter().find(matches).map(|entry| &entry.headers)
    }
}

/// Whether a path is `prefix` or below it. A path that a host may decode into one outside, such as
/// `/p/..%2fx`, is not.
fn is_below(path: &str, prefix: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    let lower = path.to_ascii_lowercase();
    // More than one layer of escapes may be decoded on the way.
    let decoded = lower.replace("%25", "%").replace("%2f", "/").replace("%5c", "/");
    let is_up = decoded.replace("%2e", ".").split(['/', '\\']).any(|segment| segment == "..");
    (prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')) && !is_up
}

impl HeaderEntry {
    fn read(entry: &Value) -> Result<HeaderEntry, &'static str> {
        let Value::Object(entry) = entry else { return Err("is not an object") };
        if entry.keys().any(|key| key != "url" && key != "headers") {
            return Err("has another key than \"url\" and \"headers\"");
        }
        let Some(Value::String(url)) = entry.get("url") else {
            return Err("has no \"url\" of type string");
        };
        let Some(Value::Object(headers)) = entry.get("headers") else {
            return Err("has no \"headers\" of type object");
        };
        Ok(HeaderEntry { url: prefix(url)?, headers: values(headers)? })
    }
}

/// Scheme, host, port and the begin of the path.
fn prefix(text: &str) -> Result<Url, &'static str> {
    const WHOLE: &str = "has a URL that is not a whole http or https URL";
    let url = Url::parse(text).map_err(|_| WHOLE)?;
    if !matches!(url.scheme(), "http" | "https") || text.len() > MAX_URL_BYTES {
        return Err(WHOLE);
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("has a URL with a user name or password: use the header Authorization");
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("has a URL with a query or fragment");
    }
    Ok(url)
}

fn values(headers: &Map<String, Value>) -> Result<HeaderMap, &'static str> {
    let mut map = HeaderMap::new();
    for (name, value) in headers {
        let Some(name) = NAMES.iter().find(|known| name.eq_ignore_ascii_case(known.as_str()))
        else {
            return Err("has another header than Referer, User-Agent, Authorization and Cookie");
        };
        let Value::String(value) = value else { return Err("has a header that is not a string") };
        let mut value = HeaderValue::from_str(value)
            .ok()
            .filter(|value| (1..=MAX_VALUE).contains(&value.len()))
            .ok_or("has a header with a value that cannot be sent")?;
        value.set_sensitive(true);
        if map.insert(name, value).is_some() {
            return Err("has a header twice");
        }
    }
    if map.is_empty() { Err("has no header") } else { Ok(map) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(url: &str, value: &str) -> Value {
        serde_json::json!({"url": url, "headers": {"Authorization": value}})
    }

    #[test]
    fn a_request_gets_the_headers_of_its_own_origin() {
        let file = serde_json::json!([
            headers("https://cdn.example.com", "all"),
            headers("https://CDN.example.com:443/p/", "below p"),
            headers("https://cdn.example.com/p/q", "q"),
            headers("http://10.0.0.1:8080/", "port"),
        ]);
        let headers = RequestHeaders::parse(file.to_string().as_bytes()).unwrap();
        let of = |url: &str| {
            let value = headers.of(&Url::parse(url).unwrap())?.get(AUTHORIZATION)?;
            Some(value.to_str().unwrap().to_owned())
        };
        for (url, value) in [
            ("https://cdn.example.com/", Some("all")),
            ("https://cdn.example.com/px/1.jpg", Some("all")),
            ("https://cdn.example.com/p", Some("all")),
            ("https://cdn.example.com/p/1.jpg?x=1", Some("below p")),
            ("https://cdn.example.com/p/q", Some("q")),
            ("https://cdn.example.com/p/q/1.jpg", Some("q")),
            ("https://cdn.example.com/p/quilt.jpg", Some("below p")),
            ("https://cdn.example.com/p/../1.jpg", Some("all")),
            ("http://10.0.0.1:8080/1.jpg", Some("port")),
            ("http://10.0.0.1/1.jpg", None),
            ("http://cdn.example.com/1.jpg", None),
            ("https://cdn.example.com:444/1.jpg", None),
            ("https://cdn.example.com.evil.example/1.jpg", None),
            ("https://other.example.com/1.jpg", None),
        ] {
            assert_eq!(of(url).as_deref(), value, "{url}");
        }
        for hidden in ["..%2fx", "%2e%2e%2fx", "..%5Cx", "..%252fx", "%252e%252e%252fx"] {
            assert_eq!(of(&format!("https://cdn.example.com/p/{hidden}")), None, "{hidden}");
        }
    }

    #[test]
    fn an_unusable_file_is_refused_without_its_contents() {
        const SECRET: &str = "s3cret";
        let entry = |url: &str, headers: Value| {
            serde_json::json!([{"url": url, "headers": headers}]).to_string()
        };
        let good = serde_json::json!({"Cookie": SECRET});
        let url = "https://a.example/";
        let twice = serde_json::json!([headers(url, SECRET), headers("https://A.example", SECRET)]);
        for (file, why) in [
            ("[{\"url\": \"s3cret".to_owned(), "not JSON (line 1"),
            (format!("{{\"{SECRET}\": 1}}"), "array"),
            (format!("[\"{SECRET}\"]"), "entry 1 is not an object"),
            (format!("[{{\"{SECRET}\": 1}}]"), "another key"),
            (entry(&format!("{SECRET}/a"), good.clone()), "whole http"),
            (entry("ftp://a.example/", good.clone()), "whole http"),
            (entry("https://u:s3cret@a.example/", good.clone()), "user name"),
            (entry("https://a.example/?s3cret", good.clone()), "query"),
            (entry(url, serde_json::json!({})), "no header"),
            (entry(url, serde_json::json!({"X-s3cret": "a"})), "another header"),
            (entry(url, serde_json::json!({"Host": SECRET})), "another header"),
            (entry(url, serde_json::json!({"Cookie": [SECRET]})), "not a string"),
            (entry(url, serde_json::json!({"Cookie": "s3cret\r\nHost: b"})), "cannot be sent"),
            (entry(url, serde_json::json!({"Cookie": ""})), "cannot be sent"),
            (entry(url, serde_json::json!({"cookie": SECRET, "Cookie": SECRET})), "twice"),
            (twice.to_string(), "entry 2"),
        ] {
            let error = RequestHeaders::parse(file.as_bytes()).unwrap_err();
            assert!(error.contains(why) && !error.contains(SECRET), "{file}: {error}");
        }
        let file = RequestHeaders::parse(entry(url, good).as_bytes()).unwrap();
        assert!(!format!("{file:?} {:?}", file.0[0].headers).contains(SECRET));
    }
}
