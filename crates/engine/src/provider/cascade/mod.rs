//! The cascade: a small model captions every picture, a larger one those captions of which the
//! small one is unsure.
//!
//! Each model is a provider of its own and knows nothing of the other. A job of the cascade becomes
//! a job of the first model; its answer, after rules and threshold, decides which captions become
//! a job of the second. Both get the same decoded picture.

mod escalation;
mod start;
mod step;

pub use start::start;

use super::Provider;
use super::values::{AnswerTerms, PictureOptions, PreparedPicture, ViewSet};
use super::work::ProviderWork;
use crate::budget::MemoryPool;
use crate::captions::CaptionTask;
use crate::lookahead::{LookaheadPlace, PlaceOwner};
use crate::picture::sha256_hex;
use escalation::CascadePicture;
use pg_caption_models::{CascadeMeanwhile, WithoutConfidence};
use pg_caption_pixels::RgbPicture;
use pg_caption_wire::{Failure, ModelRef, ModelStatus, ModelUse, OutputSpec};
use std::any::Any;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Bits of a [`ViewSet`] that belong to the first model; the second model's are above them.
const VIEW_BITS: u32 = 16;

/// Two models, one after the other.
pub struct CascadeProvider(Arc<Cascade>);

/// One of the models.
struct CascadeModel {
    provider: Arc<dyn Provider>,
    terms: Arc<AnswerTerms>,
    /// It runs elsewhere: a picture that only waits for it cannot kill the engine.
    is_remote: bool,
}

/// What all pictures share.
struct Cascade {
    /// Name of the cascade's folder.
    name: String,
    first: CascadeModel,
    second: CascadeModel,
    below: f32,
    meanwhile: CascadeMeanwhile,
    /// For work that holds no memory of the pipeline's.
    unbounded: Arc<MemoryPool>,
}

/// A picture as both providers take it.
struct CascadePrepared {
    first: Box<dyn PreparedPicture>,
    second: Box<dyn PreparedPicture>,
}

impl PreparedPicture for CascadePrepared {
    fn bytes(&self) -> u64 {
        self.first.bytes() + self.second.bytes()
    }

    fn sha256(&self) -> String {
        sha256_hex(format!("{} {}", self.first.sha256(), self.second.sha256()).as_bytes())
    }
}

/// The owner of places that were counted already.
struct NoPlaces;

impl PlaceOwner for NoPlaces {
    fn give_back(&self) {}
}

fn views_of(views: ViewSet) -> [PictureOptions; 2] {
    let (first, second) = (views.bits() & ((1 << VIEW_BITS) - 1), views.bits() >> VIEW_BITS);
    [first, second].map(|bits| PictureOptions { views: ViewSet::from_bits(bits) })
}

impl Provider for CascadeProvider {
    fn status(&self) -> ModelStatus {
        let Cascade { first, second, .. } = &*self.0;
        let (one, two) = (first.provider.status(), second.provider.status());
        ModelStatus {
            name: self.0.name.clone(),
            digest: self.0.digest(&one.digest, &two.digest),
            family: pg_caption_models::CASCADE_FAMILY.into(),
            bytes: one.bytes + two.bytes,
            min_confidence: one.min_confidence,
            local: one.local.or(two.local),
            remote: two.remote.or(one.remote),
        }
    }

    fn lookahead(&self) -> usize {
        self.0.first.provider.lookahead()
    }

    fn target(&self) -> (u32, u32) {
        let (one, two) = (self.0.first.provider.target(), self.0.second.provider.target());
        (one.0.max(two.0), one.1.max(two.1))
    }

    fn reduces_all(&self) -> bool {
        self.0.first.provider.reduces_all() && self.0.second.provider.reduces_all()
    }

    fn views(&self, outputs: &[OutputSpec]) -> ViewSet {
        let of = |model: &CascadeModel| model.provider.views(outputs).bits();
        ViewSet::from_bits(of(&self.0.first) | of(&self.0.second) << VIEW_BITS)
    }

    fn without_confidence(&self) -> WithoutConfidence {
        // Decided by the providers of both models.
        WithoutConfidence::Write
    }

    fn gives_raw_answers(&self) -> bool {
        false
    }

    fn refusal(&self) -> Option<Failure> {
        let own = self.0.first.provider.refusal();
        own.or_else(|| match self.0.meanwhile {
            CascadeMeanwhile::Wait => self.0.second.provider.refusal(),
            CascadeMeanwhile::Write => None,
        })
    }

    fn model_use(&self) -> Vec<ModelUse> {
        let mut used = self.0.first.provider.model_use();
        used.extend(self.0.second.provider.model_use());
        used
    }

    fn restore_use(&self, used: &ModelUse) {
        self.0.first.provider.restore_use(used);
        self.0.second.provider.restore_use(used);
    }

    fn memory_for(&self, size: (u32, u32), options: &PictureOptions) -> u64 {
        let [first, second] = views_of(options.views);
        let (one, two) = (&self.0.first.provider, &self.0.second.provider);
        one.memory_for(size, &first) + two.memory_for(size, &second)
    }

    fn prepare(
        &self,
        picture: &RgbPicture,
        options: &PictureOptions,
    ) -> Result<Box<dyn PreparedPicture>, Failure> {
        let [first, second] = views_of(options.views);
        Ok(Box::new(CascadePrepared {
            first: self.0.first.provider.prepare(picture, &first)?,
            second: self.0.second.provider.prepare(picture, &second)?,
        }))
    }

    fn submit(&self, prepared: Box<dyn PreparedPicture>, mut work: ProviderWork) {
        let prepared: Box<dyn Any> = prepared;
        let prepared = prepared.downcast().expect("a picture of this provider. This is a bug.");
        let CascadePrepared { first, second } = *prepared;
        // The picture stays ahead until the first model has accepted it.
        let place = std::mem::replace(&mut work.place, self.0.no_place());
        let memory = std::mem::replace(&mut work.memory, self.0.no_memory());
        let picture = Arc::new(CascadePicture::new(work.facts.clone(), first, second));
        picture.hold(place, memory);
        for task in work.encoded(picture, None, Duration::ZERO) {
            self.0.begin(task);
        }
    }

    fn caption(&self, task: CaptionTask) {
        self.0.begin(task);
    }
}

impl Cascade {
    /// What decides the texts: both models, and where one ends and the other begins.
    fn digest(&self, first: &str, second: &str) -> String {
        sha256_hex(format!("{first} {second} {}", self.below).as_bytes())
    }

    fn no_place(&self) -> LookaheadPlace {
        LookaheadPlace::new(Arc::new(NoPlaces))
    }

    fn no_memory(&self) -> crate::budget::MemoryReservation {
        let reserved = self.unbounded.reserve(0, Instant::now() + Duration::from_secs(1), || false);
        reserved.unwrap_or_else(|_| unreachable!("nothing is always free"))
    }
}

impl CascadeModel {
    fn reference(&self) -> ModelRef {
        self.terms.model.clone()
    }
}
