//! Which pictures of one connection may be used by more than one request: a statement that asks for
//! two captions of one URL fetches and encodes it once. Kept per connection, so nothing is shared
//! across users; bounded; for seconds.

use crate::job::Source;
use crate::picture::Picture;
use pg_caption_captioner::TileViews;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// Pictures kept for one connection.
const MOST: usize = 16;
/// How long one is kept after it was first asked for, unless it is still being worked on.
const KEEP: Duration = Duration::from_secs(5);

struct Entry {
    share: u64,
    source: Source,
    views: TileViews,
    picture: Arc<Picture>,
    since: Instant,
}

/// The shared pictures of one connection.
#[derive(Default)]
pub struct Shares {
    entries: Mutex<Vec<Entry>>,
    /// The sweeper will look at it.
    awaited: AtomicBool,
}

impl Shares {
    fn entries(&self) -> MutexGuard<'_, Vec<Entry>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The picture of this source within `share`, if one is known that is shown to the model in
    /// these views.
    pub fn find(
        &self,
        share: u64,
        source: &Source,
        views: TileViews,
        now: Instant,
    ) -> Option<Arc<Picture>> {
        self.expire(now);
        self.entries()
            .iter()
            .find(|e| e.share == share && e.views == views && e.source == *source)
            .map(|e| e.picture.clone())
    }

    /// Remembers a picture; the oldest gives way.
    pub fn keep(
        &self,
        share: u64,
        source: Source,
        views: TileViews,
        picture: Arc<Picture>,
        now: Instant,
    ) {
        let mut entries = self.entries();
        entries.retain(|e| !(e.share == share && e.views == views && e.source == source));
        if entries.len() >= MOST {
            entries.remove(0);
        }
        entries.push(Entry { share, source, views, picture, since: now });
    }

    /// Forgets everything.
    pub fn clear(&self) {
        self.entries().clear();
    }

    /// Forgets what was kept long enough; whether anything is left.
    fn expire(&self, now: Instant) -> bool {
        let mut entries = self.entries();
        entries.retain(|e| e.picture.is_pending() || now.saturating_duration_since(e.since) < KEEP);
        !entries.is_empty()
    }
}

/// Forgets the pictures of connections that have gone quiet: features are large, and a pooled
/// connection may idle for hours.
#[derive(Default)]
pub struct Sweeper {
    queue: Mutex<VecDeque<(Instant, Weak<Shares>)>>,
    more: Condvar,
}

impl Sweeper {
    /// These will have to be looked at.
    pub fn watch(&self, shares: &Arc<Shares>, now: Instant) {
        if !shares.awaited.swap(true, Ordering::AcqRel) {
            self.queue
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push_back((now + KEEP, Arc::downgrade(shares)));
            self.more.notify_one();
        }
    }

    /// The thread: never returns.
    pub fn run(&self) -> ! {
        loop {
            let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
            let now = Instant::now();
            match queue.front().map(|(at, _)| *at) {
                None => drop(self.more.wait(queue)),
                // Times are pushed in order, so nothing that is pushed meanwhile comes first.
                Some(at) if at > now => drop(self.more.wait_timeout(queue, at - now)),
                Some(_) => {
                    let shares = queue.pop_front().and_then(|(_, shares)| shares.upgrade());
                    drop(queue);
                    if let Some(shares) = shares {
                        self.sweep(&shares, now);
                    }
                }
            }
        }
    }

    fn sweep(&self, shares: &Arc<Shares>, now: Instant) {
        shares.awaited.store(false, Ordering::Release);
        if shares.expire(now) {
            self.watch(shares, now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::{Answer, tests::job};
    use pg_caption_wire::ClientRole;

    fn picture(now: Instant) -> (Arc<Picture>, Arc<crate::job::Job>) {
        let job = Arc::new(job(1, ClientRole::Call, Duration::from_secs(60), now).0);
        (Picture::new(&job), job)
    }

    fn url(name: &str) -> Source {
        Source::Url { url: name.into(), known: None }
    }

    #[test]
    fn a_picture_is_found_by_share_and_source_for_seconds() {
        let (shares, now) = (Shares::default(), Instant::now());
        let (kept, _job) = picture(now);
        shares.keep(7, url("a"), TileViews::WHOLE, kept.clone(), now);
        assert!(
            shares
                .find(7, &url("a"), TileViews::WHOLE, now)
                .is_some_and(|found| Arc::ptr_eq(&found, &kept))
        );
        assert!(shares.find(8, &url("a"), TileViews::WHOLE, now).is_none());
        assert!(
            shares.find(7, &url("a"), TileViews::TILED, now).is_none(),
            "shown to the model in another way"
        );
        assert!(shares.find(7, &url("b"), TileViews::WHOLE, now).is_none());
        assert!(
            shares.find(7, &url("a"), TileViews::WHOLE, now + 2 * KEEP).is_some(),
            "still being worked on"
        );
        kept.end(Answer::Unchanged);
        assert!(shares.find(7, &url("a"), TileViews::WHOLE, now + KEEP / 2).is_some());
        assert!(shares.find(7, &url("a"), TileViews::WHOLE, now + 2 * KEEP).is_none());
    }

    #[test]
    fn only_so_many_are_kept_and_the_oldest_gives_way() {
        let (shares, now) = (Shares::default(), Instant::now());
        let kept: Vec<_> = (0..=MOST).map(|_| picture(now)).collect();
        kept.iter().enumerate().for_each(|(i, (p, _))| {
            shares.keep(i as u64, url("a"), TileViews::WHOLE, p.clone(), now)
        });
        assert_eq!(shares.entries().len(), MOST);
        assert!(shares.find(0, &url("a"), TileViews::WHOLE, now).is_none());
        assert!(shares.find(MOST as u64, &url("a"), TileViews::WHOLE, now).is_some());
    }

    #[test]
    fn a_quiet_connection_is_swept() {
        let (sweeper, shares, now) =
            (Sweeper::default(), Arc::new(Shares::default()), Instant::now());
        let (kept, _job) = picture(now);
        shares.keep(1, url("a"), TileViews::WHOLE, kept.clone(), now);
        sweeper.watch(&shares, now);
        sweeper.watch(&shares, now);
        assert_eq!(sweeper.queue.lock().unwrap().len(), 1);
        sweeper.sweep(&shares, now + 2 * KEEP);
        assert_eq!(sweeper.queue.lock().unwrap().len(), 2, "pending: looked at again later");
        kept.end(Answer::Unchanged);
        sweeper.sweep(&shares, now + 2 * KEEP);
        assert!(shares.entries().is_empty());
    }
}
