//! The one interpretation of a URL that host rules, scheduler and connection share.
//!
//! Parsing follows WHATWG (crate `url`): `0x7f.1`, `017700000001` and international names are
//! normalized before any check. Also makes the form of a URL that may be shown.

use crate::error::{FetchError, UrlLocation};
use crate::oddity::invisible;
use pg_caption_wire::{MAX_URL_BYTES, UrlMistake, url_in};
use std::borrow::Cow;
use std::net::IpAddr;
use url::{Host, Url};

/// Longest URL shown in a failure, characters.
const MAX_SHOWN: usize = 300;

/// A valid URL, before the look-up of its name.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    url: Url,
    location: UrlLocation,
}

impl Target {
    /// Parses `text`, read by [`url_in`]. A URL that starts with `//`, without a scheme, becomes
    /// https.
    pub(crate) fn parse(text: &str) -> Result<Target, FetchError> {
        let bad =
            |reason: &str| FetchError::BadUrl { shown: shown_text(text), reason: reason.into() };
        if text.len() > MAX_URL_BYTES {
            return Err(bad(&format!("it is longer than {MAX_URL_BYTES} bytes")));
        }
        let text = url_in(text);
        let not_one = |mistake| FetchError::NotOneUrl { shown: shown_text(text), mistake };
        if let Some(mistake) = UrlMistake::of(text) {
            return Err(not_one(mistake));
        }
        let url = if text.starts_with("//") {
            Url::parse(&format!("https:{text}"))
        } else {
            Url::parse(text)
        };
        Target::new(url.map_err(|e| match (e, UrlMistake::of_relative(text), invisible(text)) {
            (url::ParseError::RelativeUrlWithoutBase, Some(mistake), _) => not_one(mistake),
            (url::ParseError::RelativeUrlWithoutBase, None, _) => {
                FetchError::RelativeUrl { shown: shown_text(text) }
            }
            (_, _, Some(c)) => {
                bad(&format!("it contains the invisible character U+{:04X}", u32::from(c)))
            }
            (e, ..) => bad(&e.to_string()),
        })?)
    }

    /// The target of a redirect. `location` is the raw header: bytes that are not UTF-8 are escaped
    /// one by one, as browsers do.
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
        if location.len() > MAX_URL_BYTES {
            return Err(bad(&format!("it is longer than {MAX_URL_BYTES} bytes")));
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
        let location = UrlLocation { host: format!("{host}:{port}"), url: shown(&url) };
        if url.host_str().is_some_and(|h| h.ends_with("..")) {
            // A name server might still find a name or an address in it.
            return Err(bad(&url, "its host ends in more than one dot"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FetchError::Credentials { location });
        }
        url.set_fragment(None);
        let target = Target { url, location };
        target.uri()?;
        Ok(target)
    }

    /// The URL for the HTTP client. Different interpretations of one URL could bypass the address
    /// policy, so they must agree.
    pub(crate) fn uri(&self) -> Result<ureq::http::Uri, FetchError> {
        let bad = |reason: &str| FetchError::BadUrl {
            shown: self.location.url.clone(),
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

    pub(crate) fn location(&self) -> &UrlLocation {
        &self.location
    }

    pub(crate) fn is_https(&self) -> bool {
        self.url.scheme() == "https"
    }

    /// The host: lower-case, punycoded, without a final dot; IPv6 in brackets.
    pub(crate) fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default().trim_end_matches('.')
    }

    pub(crate) fn port(&self) -> u16 {
        self.url.port_or_known_default().unwrap_or_default()
    }

    /// The address, if the host is one.
    pub(crate) fn literal(&self) -> Option<IpAddr> {
        match self.url.host() {
            Some(Host::Ipv4(v4)) => Some(v4.into()),
            Some(Host::Ipv6(v6)) => Some(v6.into()),
            // `url` parses "127.0.0.1." as an address; this finds others that a resolver accepts.
            Some(Host::Domain(name)) => name.trim_end_matches('.').parse().ok(),
            None => None,
        }
    }
}

/// The key of a URL's host: `name:port`.
///
/// # Errors
/// The URL is invalid.
pub fn host_key(url: &str) -> Result<String, FetchError> {
    Ok(Target::parse(url)?.location.host)
}

/// The URL as failures show it; empty if it is invalid.
pub(crate) fn location_text(url: &str) -> String {
    Target::parse(url).map(|target| target.location.url).unwrap_or_default()
}

/// The URL without user, password, fragment and query values.
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

/// The part of an invalid URL that may be shown: nothing after `?` or `#` or before `@`, no data.
fn shown_text(text: &str) -> String {
    let text = text.trim();
    if let Some(scheme) = text.get(..5).filter(|s| s.eq_ignore_ascii_case("data:")) {
        let kind = text[5..].split([',', ';']).next().unwrap_or_default();
        return shortened(&format!("{scheme}{kind}…"));
    }
    let (text, hidden) = text.find(['?', '#']).map_or((text, ""), |at| text.split_at(at));
    if hidden.contains('@') && !text.contains('@') {
        // A password may contain these characters, so everything may belong to it.
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
