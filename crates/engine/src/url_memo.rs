//! Which file a URL named a short while ago, as long as its server permits to assume that it still
//! does. Used for rows of workers only: a session that asks for a URL has it fetched.

use crate::request::FileIdentity;
use lru::LruCache;
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::num::NonZeroUsize;
use std::time::{Duration, Instant};

/// URLs kept: about three megabytes.
const MOST_URLS: usize = 8192;
/// Longest validator that is kept, bytes.
const MAX_VALIDATOR: usize = 128;

/// By the digest of a URL: its file, and until when that is fresh.
type FreshFiles = LruCache<[u8; 32], (FileIdentity, Instant)>;

/// Files by URL.
pub struct UrlMemo(Option<Mutex<FreshFiles>>);

fn key(url: &str) -> [u8; 32] {
    Sha256::digest(url.as_bytes()).into()
}

impl UrlMemo {
    /// An empty one; not `enabled`: it keeps nothing.
    pub fn new(enabled: bool) -> UrlMemo {
        let most = NonZeroUsize::new(MOST_URLS).filter(|_| enabled);
        UrlMemo(most.map(|most| Mutex::new(LruCache::new(most))))
    }

    /// The URL has this file, and its server lets others assume so for a while.
    pub fn put(&self, url: &str, file: &FileIdentity, fresh_for: Duration, now: Instant) {
        let Some(urls) = &self.0 else { return };
        let validators = [&file.etag, &file.last_modified];
        let is_long =
            |text: &&Option<String>| text.as_ref().is_some_and(|t| t.len() > MAX_VALIDATOR);
        if fresh_for.is_zero() || validators.iter().any(is_long) {
            urls.lock().pop(&key(url));
        } else {
            urls.lock().put(key(url), (file.clone(), now + fresh_for));
        }
    }

    /// The file of a URL, if that is still fresh.
    pub fn get(&self, url: &str, now: Instant) -> Option<FileIdentity> {
        let (mut urls, key) = (self.0.as_ref()?.lock(), key(url));
        let (file, until) = urls.get(&key)?;
        if *until > now {
            return Some(file.clone());
        }
        urls.pop(&key);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(sha256: &str) -> FileIdentity {
        FileIdentity { sha256: sha256.into(), etag: None, last_modified: None }
    }

    #[test]
    fn a_url_is_known_as_long_as_its_server_permits() {
        let (memo, now) = (UrlMemo::new(true), Instant::now());
        memo.put("a", &file("1"), Duration::from_secs(60), now);
        assert_eq!(memo.get("a", now + Duration::from_secs(59)), Some(file("1")));
        assert_eq!(memo.get("b", now), None);
        assert_eq!(memo.get("a", now + Duration::from_secs(60)), None);
        memo.put("a", &file("1"), Duration::from_secs(60), now);
        memo.put("a", &file("2"), Duration::ZERO, now);
        assert_eq!(memo.get("a", now), None, "the newest answer is no-store");
        UrlMemo::new(false).put("a", &file("1"), Duration::from_secs(60), now);
    }

    #[test]
    fn the_number_of_urls_is_bounded() {
        let (memo, now) = (UrlMemo::new(true), Instant::now());
        for number in 0..2 * MOST_URLS {
            memo.put(&number.to_string(), &file("1"), Duration::from_secs(60), now);
        }
        assert_eq!(memo.0.as_ref().unwrap().lock().len(), MOST_URLS);
        let long = FileIdentity { etag: Some("e".repeat(MAX_VALIDATOR + 1)), ..file("1") };
        memo.put("long", &long, Duration::from_secs(60), now);
        assert_eq!(memo.get("long", now), None);
    }
}
