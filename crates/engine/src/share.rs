//! Which pictures of one connection may be used by more than one request: a statement that asks for two captions of one URL
//! fetches and encodes it once. Kept per connection, so nothing is shared across users; bounded; for seconds.

use crate::job::Source;
use crate::picture::Picture;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Pictures kept for one connection.
const MOST: usize = 16;
/// How long one is kept after it was first asked for, unless it is still being worked on.
const KEEP: Duration = Duration::from_secs(5);

struct Entry {
    share: u64,
    source: Source,
    picture: Arc<Picture>,
    since: Instant,
}

/// The shared pictures of one connection.
#[derive(Default)]
pub struct Shares(Mutex<Vec<Entry>>);

impl Shares {
    fn entries(&self) -> std::sync::MutexGuard<'_, Vec<Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The picture of this source within `share`, if one is known and `usable`.
    pub fn find(&self, share: u64, source: &Source, now: Instant) -> Option<Arc<Picture>> {
        let mut entries = self.entries();
        entries.retain(|e| e.picture.is_pending() || now.saturating_duration_since(e.since) < KEEP);
        entries.iter().find(|e| e.share == share && e.source == *source).map(|e| e.picture.clone())
    }

    /// Remembers a picture; the oldest gives way.
    pub fn keep(&self, share: u64, source: Source, picture: Arc<Picture>, now: Instant) {
        let mut entries = self.entries();
        entries.retain(|e| !(e.share == share && e.source == source));
        if entries.len() >= MOST {
            entries.remove(0);
        }
        entries.push(Entry { share, source, picture, since: now });
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.entries().clear();
    }
}
