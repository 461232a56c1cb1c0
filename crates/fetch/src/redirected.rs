//! The state of a fetch between two requests: its next target, its earlier targets, and its
//! remaining time.
//!
//! Separate from the fetch thread, so that a fetch that is redirected to a host at its limit can
//! wait in the engine's queue instead of occupying a thread. It never connects to anything.

use crate::cookies::RedirectCookies;
use crate::error::FetchError;
use crate::target::Target;
use std::collections::HashSet;
use std::time::Duration;
use url::Url;

/// A fetch that was redirected to a host at its limit. See [`crate::FetchStep::Redirected`].
#[derive(Debug)]
pub struct RedirectedFetch {
    pub(crate) target: Target,
    /// Rest of the total limit; waiting for hosts and memory does not count.
    pub(crate) left: Duration,
    /// The caller's time at the start, for the text of a timeout.
    pub(crate) caller: Duration,
    /// Cookies that its redirects have set.
    pub(crate) cookies: RedirectCookies,
    /// Whether it started with https, which it must then keep.
    https: bool,
    seen: HashSet<Url>,
}

impl RedirectedFetch {
    /// Starts a fetch of `url`, as the user wrote it.
    pub(crate) fn begin(
        url: &str,
        total: Duration,
        caller: Duration,
    ) -> Result<RedirectedFetch, FetchError> {
        let target = Target::parse(url)?;
        Ok(RedirectedFetch {
            left: total,
            caller,
            https: target.is_https(),
            seen: HashSet::new(),
            cookies: RedirectCookies::default(),
            target,
        })
    }

    /// The next host, `name:port`.
    pub fn host(&self) -> &str {
        &self.target.location().host
    }

    /// Whether it has followed a redirect.
    pub(crate) fn is_redirected(&self) -> bool {
        !self.seen.is_empty()
    }

    /// Follows a redirect of the current target, which sets these cookies; `limit`: all redirects
    /// together. A loop is followed once, if it has set cookies for the URL to which it leads.
    pub(crate) fn follow(
        &mut self,
        header: &[u8],
        cookies: &[Vec<u8>],
        limit: u32,
    ) -> Result<(), FetchError> {
        let location = self.target.location().clone();
        cookies.iter().for_each(|cookie| self.cookies.take(self.target.url(), cookie));
        self.seen.insert(self.target.url().clone());
        let wrong =
            |cause| FetchError::BadRedirect { location: location.clone(), cause: Box::new(cause) };
        let redirected = self.target.redirected(header).map_err(wrong)?;
        if self.https && !redirected.is_https() {
            return Err(FetchError::InsecureRedirect { location });
        }
        if self.seen.contains(redirected.url()) && !self.cookies.retry(redirected.url()) {
            // After the retry the URLs of the loop come again; it ends at the first one.
            let with_cookie = self.cookies.were_sent();
            return Err(FetchError::RedirectLoop { location, with_cookie });
        }
        if self.seen.len() > limit as usize {
            return Err(FetchError::TooManyRedirects { location, limit });
        }
        self.target = redirected;
        Ok(())
    }
}
