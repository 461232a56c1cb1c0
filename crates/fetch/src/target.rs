//! A URL as it is understood: the one reading that the host rules, the scheduler and the connection
//! all share.
//!
//! Parsing is WHATWG's (crate `url`), so `0x7f.1`, `017700000001` and international names come out
//! as what they are before anything is judged. Also makes the spelling of a URL that may be shown
//! to people.

use crate::error::{FetchError, UrlLocation};
use std::borrow::Cow;
use std::net::IpAddr;
use url::{Host, Url};

/// Longest URL taken, bytes. Browsers and servers agree on about this much.
const MAX_URL: usize = 8192;
/// Longest URL shown in a failure, characters.
const MAX_SHOWN: usize = 300;

/// A URL that could be fetched, before anything is looked up.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    url: Url,
    place: UrlLocation,
}

impl Target {
    /// Reads `text`. One that begins with `//`, as pages spell it whose own scheme decides, is read
    /// as https.
    pub(crate) fn parse(text: &str) -> Result<Target, FetchError> {
        let bad =
            |reason: &str| FetchError::BadUrl { shown: shown_text(text), reason: reason.into() };
        if text.len() > MAX_URL {
            return Err(bad(&format!("it is longer than {MAX_URL} bytes")));
        }
        let trimmed = text.trim();
        let url = if trimmed.starts_with("//") {
            Url::parse(&format!("https:{trimmed}"))
        } else {
            Url::parse(text)
        };
        Target::new(url.map_err(|e| match e {
            url::ParseError::RelativeUrlWithoutBase => {
                FetchError::RelativeUrl { shown: shown_text(text) }
            }
            e => bad(&e.to_string()),
        })?)
    }

    /// Where a redirect leads. `location` as the server sent it: bytes that are no UTF-8 stand for
    /// themselves, as in browsers.
    pub(crate) fn redirected(&self, location: &[u8]) -> Result<Target, FetchError> {
        let escaped = |bytes: &[u8]| -> String {
            bytes
                .iter()
                .map(|byte| {
                    if byte.is_ascii() {
                        char::from(*byte).to_string()
                    } else {
                        format!("%{byte:02X}")
                    }
                })
                .collect()
        };
        let location =
            str::from_utf8(location).map_or_else(|_| Cow::Owned(escaped(location)), Cow::Borrowed);
        let bad = |reason: &str| FetchError::BadUrl {
            shown: shown_text(&location),
            reason: reason.into(),
        };
        if location.len() > MAX_URL {
            return Err(bad(&format!("it is longer than {MAX_URL} bytes")));
        }
        Target::new(self.url.join(&location).map_err(|e| bad(&e.to_string()))?)
    }

    fn new(mut url: Url) -> Result<Target, FetchError> {
        if !matches!(url.scheme(), "http" | "https") {
            return Err(FetchError::Scheme {
                shown: shown_text(url.as_str()),
                scheme: url.scheme().chars().take(20).collect(),
            });
        }
        let bad = |url: &Url, reason: &str| FetchError::BadUrl {
            shown: shown(url),
            reason: reason.into(),
        };
        let Some(port) = url.port_or_known_default().filter(|p| *p != 0) else {
            return Err(bad(&url, "port 0 cannot be connected to"));
        };
        let Some(host) = url.host_str().map(|h| h.trim_end_matches('.')).filter(|h| !h.is_empty())
        else {
            return Err(bad(&url, "it names no host"));
        };
        let place = UrlLocation { host: format!("{host}:{port}"), url: shown(&url) };
        if url.host_str().is_some_and(|h| h.ends_with("..")) {
            // a name server might still read a name, or even an address, into it
            return Err(bad(&url, "its host ends in more than one dot"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FetchError::Credentials { place });
        }
        url.set_fragment(None);
        let target = Target { url, place };
        target.uri()?;
        Ok(target)
    }

    /// As the HTTP client reads it. Two readings of one URL are how address policies are tricked,
    /// so they must agree.
    pub(crate) fn uri(&self) -> Result<ureq::http::Uri, FetchError> {
        let bad = |reason: &str| FetchError::BadUrl {
            shown: self.place.url.clone(),
            reason: reason.into(),
        };
        let uri: ureq::http::Uri = self
            .url
            .as_str()
            .parse()
            .map_err(|_| bad("it has characters that no server accepts"))?;
        if uri.host() != self.url.host_str()
            || uri.port_u16() != self.url.port()
            || uri.scheme_str() != Some(self.url.scheme())
        {
            return Err(bad("its host can be read in two ways"));
        }
        Ok(uri)
    }

    pub(crate) fn url(&self) -> &Url {
        &self.url
    }

    pub(crate) fn place(&self) -> &UrlLocation {
        &self.place
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// Lower-case, punycoded, without a final dot; IPv6 in brackets.
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default().trim_end_matches('.')
    }

    pub(crate) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or_default()
    }

    /// The address, where the host is spelled as one.
    pub(crate) fn literal(&self) -> Option<IpAddr> {
        match self.url.host() {
            Some(Host::Ipv4(v4)) => Some(v4.into()),
            Some(Host::Ipv6(v6)) => Some(v6.into()),
            // "127.0.0.1." is parsed as an address already; this catches what a resolver would
            // still read as one
            Some(Host::Domain(name)) => name.trim_end_matches('.').parse().ok(),
            None => None,
        }
    }
}

/// The key under which a URL's host is scheduled: `name:port`.
///
/// # Errors
/// Whatever makes the URL unusable before anything is looked up.
pub fn host_key(url: &str) -> Result<String, FetchError> {
    Ok(Target::parse(url)?.place.host)
}

/// Without user, password, fragment and query values.
fn shown(url: &Url) -> String {
    let mut text = format!("{}://{}", url.scheme(), url.host_str().unwrap_or_default());
    if let Some(port) = url.port() {
        text += &format!(":{port}");
    }
    text += url.path();
    if let Some(query) = url.query().filter(|q| !q.is_empty()) {
        let names = query.split('&').map(|pair| match pair.split_once('=') {
            Some((name, _)) => format!("{name}=…"),
            None => "…".into(),
        });
        text += "?";
        text += &names.collect::<Vec<_>>().join("&");
    }
    shortened(&text)
}

/// What of an unreadable URL can be shown: nothing after `?` or `#`, nothing before `@`, no data.
fn shown_text(text: &str) -> String {
    let text = text.trim();
    if let Some(scheme) = text.get(..5).filter(|s| s.eq_ignore_ascii_case("data:")) {
        let kind = text[5..].split([',', ';']).next().unwrap_or_default();
        return shortened(&format!("{scheme}{kind}…"));
    }
    let (text, hidden) = text.find(['?', '#']).map_or((text, ""), |at| text.split_at(at));
    if hidden.contains('@') && !text.contains('@') {
        // A password may have such characters, too: all of it may be one.
        let scheme = text.split_once("//").map_or("", |(scheme, _)| scheme);
        return shortened(&format!("{scheme}//…"));
    }
    let Some((before, after)) = text.rsplit_once('@') else { return shortened(text) };
    let scheme = before
        .split_once("//")
        .map(|(scheme, _)| scheme)
        .filter(|s| s.ends_with(':') && s.bytes().rev().skip(1).all(|b| b.is_ascii_alphanumeric()));
    shortened(&format!("{}…@{after}", scheme.map(|s| format!("{s}//")).unwrap_or_default()))
}

fn shortened(text: &str) -> String {
    let clean: String = text.chars().map(|c| if c.is_control() { '\u{fffd}' } else { c }).collect();
    match clean.char_indices().nth(MAX_SHOWN) {
        Some((end, _)) => format!("{}…", &clean[..end]),
        None => clean,
    }
}

#[cfg(test)]
#[path = "target_tests.rs"]
mod tests;
