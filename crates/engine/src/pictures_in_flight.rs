//! Pictures that are on their way, by what they have in common: the URL for one set of callers, or
//! the digest of the file for all. A request for the same one joins instead of starting again.
//!
//! Keeps no picture alive: a picture is found while its work or one of its captions is in progress.

use crate::picture::Picture;
use parking_lot::Mutex;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Weak};

/// Entries below which dead ones stay.
const SMALL: usize = 256;

/// Pictures in flight by key.
pub struct PicturesInFlight<K>(Mutex<Entries<K>>);

struct Entries<K> {
    pictures: HashMap<K, Weak<Picture>>,
    /// Number of entries at which dead ones are removed.
    sweep_at: usize,
}

impl<K> Default for PicturesInFlight<K> {
    fn default() -> Self {
        PicturesInFlight(Mutex::new(Entries { pictures: HashMap::new(), sweep_at: SMALL }))
    }
}

impl<K: Eq + Hash> PicturesInFlight<K> {
    /// The picture that is in flight for a key.
    pub fn find(&self, key: &K) -> Option<Arc<Picture>> {
        self.0.lock().pictures.get(key)?.upgrade().filter(|picture| picture.is_in_flight())
    }

    /// The picture that is in flight for a key, or `None`: then it is this one from now on.
    pub fn find_or_lead(&self, key: K, picture: &Arc<Picture>) -> Option<Arc<Picture>> {
        let mut entries = self.0.lock();
        let other = entries.pictures.get(&key).and_then(Weak::upgrade);
        if let Some(other) = other.filter(|other| other.is_in_flight()) {
            return Some(other);
        }
        entries.pictures.insert(key, Arc::downgrade(picture));
        if entries.pictures.len() >= entries.sweep_at {
            entries.pictures.retain(|_, picture| picture.strong_count() > 0);
            entries.sweep_at = SMALL.max(2 * entries.pictures.len());
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::JobAnswer;
    use crate::job::tests::job;
    use pg_caption_wire::ClientRole;
    use std::time::{Duration, Instant};

    fn picture() -> Arc<Picture> {
        let (job, _) = job(1, ClientRole::Worker, Duration::from_secs(60), Instant::now());
        Picture::new(&Arc::new(job))
    }

    #[test]
    fn a_picture_leads_until_it_has_ended() {
        let all = PicturesInFlight::default();
        let (first, second, third) = (picture(), picture(), picture());
        assert!(all.find_or_lead("a", &first).is_none());
        assert!(all.find_or_lead("a", &second).is_some_and(|found| Arc::ptr_eq(&found, &first)));
        assert!(all.find_or_lead("b", &second).is_none());
        first.end(JobAnswer::Unchanged);
        assert!(all.find(&"a").is_none());
        assert!(all.find_or_lead("a", &third).is_none());
        drop(third);
        assert!(all.find(&"a").is_none());
    }

    #[test]
    fn ended_pictures_take_no_room() {
        let all = PicturesInFlight::default();
        for number in 0..10 * SMALL {
            assert!(all.find_or_lead(number, &picture()).is_none());
        }
        assert!(all.0.lock().pictures.len() <= SMALL);
    }
}
