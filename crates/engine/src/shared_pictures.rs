//! Pictures that several requests of one connection share: a statement that asks for two captions
//! of one URL fetches and encodes it once. Kept per connection, so users share nothing; bounded;
//! kept for seconds.

use crate::picture::Picture;
use crate::provider::values::ViewSet;
use crate::request::PictureSource;
use parking_lot::{Condvar, Mutex};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// Pictures kept for one connection.
const MOST_KEPT: usize = 16;
/// How long a picture is kept after its first request, unless it is pending.
const KEEP: Duration = Duration::from_secs(5);

/// Requests share a picture if all of it is equal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareKey {
    /// Chosen by the client.
    pub share: u64,
    /// The picture.
    pub source: PictureSource,
    /// The views that the captions need.
    pub views: ViewSet,
}

struct SharedEntry {
    key: ShareKey,
    picture: Arc<Picture>,
    since: Instant,
}

/// The shared pictures of one connection.
#[derive(Default)]
pub struct SharedPictures {
    entries: Mutex<Vec<SharedEntry>>,
    /// The sweeper has it in its queue.
    queued: AtomicBool,
}

impl SharedPictures {
    /// The picture of this key, if there is one.
    pub fn find(&self, key: &ShareKey, now: Instant) -> Option<Arc<Picture>> {
        self.expire(now);
        self.entries.lock().iter().find(|e| e.key == *key).map(|e| e.picture.clone())
    }

    /// Keeps a picture; beyond the limit the oldest is dropped.
    pub fn keep(&self, key: ShareKey, picture: Arc<Picture>, now: Instant) {
        let mut entries = self.entries.lock();
        entries.retain(|e| e.key != key);
        if entries.len() >= MOST_KEPT {
            entries.remove(0);
        }
        entries.push(SharedEntry { key, picture, since: now });
    }

    /// Drops all pictures.
    pub fn clear(&self) {
        self.entries.lock().clear();
    }

    /// Drops expired pictures. Returns whether pictures remain.
    fn expire(&self, now: Instant) -> bool {
        let mut entries = self.entries.lock();
        entries.retain(|e| e.picture.is_pending() || now.saturating_duration_since(e.since) < KEEP);
        !entries.is_empty()
    }
}

/// Drops the pictures of idle connections: encoded pictures are large, and a pooled connection may
/// be idle for hours.
#[derive(Default)]
pub struct ShareSweeper {
    queue: Mutex<VecDeque<(Instant, Weak<SharedPictures>)>>,
    added: Condvar,
}

impl ShareSweeper {
    /// Queues the pictures of a connection, unless they are queued.
    pub fn watch(&self, pictures: &Arc<SharedPictures>, now: Instant) {
        if !pictures.queued.swap(true, Ordering::AcqRel) {
            self.queue.lock().push_back((now + KEEP, Arc::downgrade(pictures)));
            self.added.notify_one();
        }
    }

    /// The thread: never returns.
    pub fn run(&self) -> ! {
        loop {
            let mut queue = self.queue.lock();
            let now = Instant::now();
            match queue.front().map(|(at, _)| *at) {
                None => self.added.wait(&mut queue),
                // Times are pushed in order, so later entries are never due earlier.
                Some(at) if at > now => {
                    self.added.wait_for(&mut queue, at - now);
                }
                Some(_) => {
                    let pictures = queue.pop_front().and_then(|(_, pictures)| pictures.upgrade());
                    drop(queue);
                    if let Some(pictures) = pictures {
                        self.sweep(&pictures, now);
                    }
                }
            }
        }
    }

    fn sweep(&self, pictures: &Arc<SharedPictures>, now: Instant) {
        pictures.queued.store(false, Ordering::Release);
        if pictures.expire(now) {
            self.watch(pictures, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::JobAnswer;
    use crate::job::{Job, tests::job};
    use pg_caption_wire::ClientRole;

    const VIEWS: ViewSet = ViewSet::from_bits(1);

    fn picture(now: Instant) -> (Arc<Picture>, Arc<Job>) {
        let job = Arc::new(job(1, ClientRole::Call, Duration::from_secs(60), now).0);
        (Picture::new(&job), job)
    }

    fn key(share: u64, url: &str, views: ViewSet) -> ShareKey {
        let source = PictureSource::Url { url: url.into(), known: None, shown: None };
        ShareKey { share, source, views }
    }

    #[test]
    fn equal_keys_share_a_picture_for_seconds() {
        let (pictures, now) = (SharedPictures::default(), Instant::now());
        let (kept, _job) = picture(now);
        let own = key(7, "a", VIEWS);
        pictures.keep(own.clone(), kept.clone(), now);
        assert!(pictures.find(&own, now).is_some_and(|found| Arc::ptr_eq(&found, &kept)));
        assert!(pictures.find(&key(8, "a", VIEWS), now).is_none());
        let other_views = ViewSet::from_bits(2);
        assert!(pictures.find(&key(7, "a", other_views), now).is_none(), "prepared differently");
        assert!(pictures.find(&key(7, "b", VIEWS), now).is_none());
        assert!(pictures.find(&own, now + 2 * KEEP).is_some(), "pending");
        kept.end(JobAnswer::Unchanged);
        assert!(pictures.find(&own, now + KEEP / 2).is_some());
        assert!(pictures.find(&own, now + 2 * KEEP).is_none());
    }

    #[test]
    fn the_oldest_shared_picture_is_dropped() {
        let (pictures, now) = (SharedPictures::default(), Instant::now());
        let kept: Vec<_> = (0..=MOST_KEPT).map(|_| picture(now)).collect();
        for (share, (picture, _)) in kept.iter().enumerate() {
            pictures.keep(key(share as u64, "a", VIEWS), picture.clone(), now);
        }
        assert_eq!(pictures.entries.lock().len(), MOST_KEPT);
        assert!(pictures.find(&key(0, "a", VIEWS), now).is_none());
        assert!(pictures.find(&key(MOST_KEPT as u64, "a", VIEWS), now).is_some());
    }

    #[test]
    fn an_idle_connection_is_swept() {
        let (sweeper, now) = (ShareSweeper::default(), Instant::now());
        let pictures = Arc::new(SharedPictures::default());
        let (kept, _job) = picture(now);
        pictures.keep(key(1, "a", VIEWS), kept.clone(), now);
        sweeper.watch(&pictures, now);
        sweeper.watch(&pictures, now);
        assert_eq!(sweeper.queue.lock().len(), 1);
        sweeper.sweep(&pictures, now + 2 * KEEP);
        assert_eq!(sweeper.queue.lock().len(), 2, "pending: checked again later");
        kept.end(JobAnswer::Unchanged);
        sweeper.sweep(&pictures, now + 2 * KEEP);
        assert!(pictures.entries.lock().is_empty());
    }
}
