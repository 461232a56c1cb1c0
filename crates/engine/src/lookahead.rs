//! The places ahead of the provider: how many pictures may be fetched and decoded before the
//! provider has accepted them. Counted by the pipeline.

use std::sync::Arc;

/// The owner of the places; notified when one becomes free.
pub trait PlaceOwner: Send + Sync {
    /// One place is free again.
    fn give_back(&self);
}

/// One place ahead of the provider, given back when dropped.
pub struct LookaheadPlace(Arc<dyn PlaceOwner>);

impl LookaheadPlace {
    /// A place which the owner has already counted.
    pub fn new(owner: Arc<dyn PlaceOwner>) -> LookaheadPlace {
        LookaheadPlace(owner)
    }
}

impl Drop for LookaheadPlace {
    fn drop(&mut self) {
        self.0.give_back();
    }
}
