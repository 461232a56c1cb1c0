//! What is known of a fetch between two requests: where it goes next, where it has been, what time
//! it has left.
//!
//! Kept apart from the thread that fetches, so that a fetch which is redirected to a host at its
//! cap can wait in the caller's line (`crates/engine`) instead of on a thread that others need. It
//! never connects to anything.

use crate::error::FetchError;
use crate::target::Target;
use std::collections::HashSet;
use std::time::Duration;
use url::Url;

/// A fetch that was redirected to a host with no place free, on its way there. See
/// [`crate::FetchStep::Elsewhere`].
#[derive(Debug)]
pub struct RedirectedFetch {
    pub(crate) target: Target,
    /// Of the total limit, without the time spent waiting for hosts and memory.
    pub(crate) left: Duration,
    /// The caller's at the beginning, for the words of a timeout.
    pub(crate) patience: Duration,
    /// It began with https, and so it goes on.
    https: bool,
    seen: HashSet<Url>,
}

impl RedirectedFetch {
    /// To `url`, as the user gave it.
    pub(crate) fn begin(
        url: &str,
        total: Duration,
        patience: Duration,
    ) -> Result<RedirectedFetch, FetchError> {
        let target = Target::parse(url)?;
        Ok(RedirectedFetch {
            left: total,
            patience,
            https: target.is_https(),
            seen: HashSet::new(),
            target,
        })
    }

    /// The host to be asked next, `name:port`.
    pub fn host(&self) -> &str {
        &self.target.place().host
    }

    /// It is not where it began any more.
    pub(crate) fn is_redirected(&self) -> bool {
        !self.seen.is_empty()
    }

    /// On to where the present target redirects; `limit`: redirects in all.
    pub(crate) fn follow(&mut self, location: &[u8], limit: u32) -> Result<(), FetchError> {
        let place = self.target.place().clone();
        self.seen.insert(self.target.url().clone());
        let wrong =
            |cause| FetchError::BadRedirect { place: place.clone(), cause: Box::new(cause) };
        let redirected = self.target.redirected(location).map_err(wrong)?;
        if self.https && !redirected.is_https() {
            return Err(FetchError::InsecureRedirect { place });
        }
        if self.seen.contains(redirected.url()) {
            return Err(FetchError::RedirectLoop { place });
        }
        if self.seen.len() > limit as usize {
            return Err(FetchError::TooManyRedirects { place, limit });
        }
        self.target = redirected;
        Ok(())
    }
}
