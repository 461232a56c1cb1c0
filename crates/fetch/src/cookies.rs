//! Cookies that redirects of one fetch set. Some hosts set a cookie and redirect to the same URL,
//! until a client sends the cookie back. So one loop is followed, with the cookies of that origin.
//! They are sent to the origin that set them, within this fetch, and nowhere else.

use ureq::http::HeaderValue;
use url::{Origin, Url};

/// Most cookies of one fetch.
const MAX_COOKIES: usize = 16;
/// Longest cookie, bytes.
const MAX_COOKIE: usize = 4096;

/// The cookies of one fetch.
#[derive(Default)]
pub(crate) struct RedirectCookies {
    /// Origin, name and value.
    cookies: Vec<(Origin, String, String)>,
    /// A loop was followed: cookies are sent from then on.
    sent: bool,
}

impl std::fmt::Debug for RedirectCookies {
    /// Without values, which may be secrets.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RedirectCookies").field("sent", &self.sent).finish_non_exhaustive()
    }
}

impl RedirectCookies {
    /// Takes a `Set-Cookie` header of an answer from `url`.
    pub(crate) fn take(&mut self, url: &Url, header: &[u8]) {
        let Ok(header) = std::str::from_utf8(header) else { return };
        let mut parts = header.split(';').map(str::trim);
        let Some((name, value)) = parts.next().and_then(|pair| pair.split_once('=')) else {
            return;
        };
        let (name, value, origin) = (name.trim_end(), value.trim_start(), url.origin());
        if name.is_empty() || header.len() > MAX_COOKIE {
            return;
        }
        self.cookies.retain(|(of, known, _)| *of != origin || known != name);
        let is_removed = parts.filter_map(|part| part.split_once('=')).any(|(attribute, value)| {
            attribute.trim().eq_ignore_ascii_case("max-age")
                && value.trim().parse::<i64>().is_ok_and(|seconds| seconds <= 0)
        });
        if !is_removed && self.cookies.len() < MAX_COOKIES {
            self.cookies.push((origin, name.into(), value.into()));
        }
    }

    /// Whether a loop that leads to `url` is worth following: there are cookies for it, which no
    /// request has sent yet.
    pub(crate) fn retry(&mut self, url: &Url) -> bool {
        let origin = url.origin();
        let has_any = self.cookies.iter().any(|(of, ..)| *of == origin);
        has_any && !std::mem::replace(&mut self.sent, true)
    }

    /// Whether a host has set a cookie and redirects nevertheless.
    pub(crate) fn were_sent(&self) -> bool {
        self.sent
    }

    /// The `Cookie` header of a request to `url`, after `given`, which the settings state.
    pub(crate) fn header(&self, url: &Url, given: Option<&HeaderValue>) -> Option<HeaderValue> {
        let origin = url.origin();
        let own = self.cookies.iter().filter(|(of, ..)| self.sent && *of == origin);
        let own = own.map(|(_, name, value)| format!("{name}={value}").into_bytes());
        let all: Vec<Vec<u8>> =
            given.map(|value| value.as_bytes().to_vec()).into_iter().chain(own).collect();
        if all.is_empty() {
            return None;
        }
        let mut header = HeaderValue::from_bytes(&all.join(&b"; "[..])).ok()?;
        header.set_sensitive(true);
        Some(header)
    }
}
