//! The work on one decoded picture, handed to a provider by the pipeline.

use crate::answer::JobAnswer;
use crate::budget::MemoryReservation;
use crate::captions::CaptionTask;
use crate::encoded::EncodedPicture;
use crate::lookahead::LookaheadPlace;
use crate::metrics::ms;
use crate::picture::{Picture, PictureWork};
use crate::provider::values::{AnswerTerms, PictureEncoding};
use pg_caption_wire::{Failure, ImageFacts};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The work on one decoded picture. The provider ends it with [`ProviderWork::encoded`] or
/// [`ProviderWork::fail`]; dropped, it answers all waiting jobs as `lost`.
///
/// The provider checks [`Picture::is_wanted`] before expensive steps and drops unwanted work;
/// [`Picture::due`] and [`Picture::deadline`] order it. The deadlines are enforced by the
/// engine.
pub struct ProviderWork {
    /// The picture and its jobs.
    pub work: PictureWork,
    /// The file.
    pub facts: ImageFacts,
    /// SHA-256 of the prepared picture, if requested.
    pub pixels_sha256: Option<String>,
    /// Model and threshold of its answers.
    pub terms: Arc<AnswerTerms>,
    /// The picture's place ahead of the provider, given back when the work ends.
    pub place: LookaheadPlace,
    /// The bytes of the prepared picture, given back when the work ends.
    pub memory: MemoryReservation,
}

impl ProviderWork {
    /// The picture and its jobs.
    pub fn picture(&self) -> &Picture {
        &self.work.picture
    }

    /// The provider has accepted the picture. Returns the tasks of the waiting jobs whose captions
    /// must be generated; jobs that follow reach the provider through [`super::Provider::caption`].
    /// `confidence` is the provider's confidence that it recognises the picture, if it has one
    /// before any text. `spent` is the picture's share of the provider's time.
    pub fn encoded(
        self,
        encoding: PictureEncoding,
        confidence: Option<f32>,
        spent: Duration,
    ) -> Vec<CaptionTask> {
        let ProviderWork { mut work, facts, pixels_sha256, terms, place, memory } = self;
        drop((place, memory));
        work.timings.encode = ms(spent);
        let encoded = Arc::new(EncodedPicture {
            encoding,
            confidence,
            facts,
            timings: work.timings,
            pixels_sha256,
            at: Instant::now(),
            terms,
        });
        let (picture, running) = (work.picture.clone(), work.running.take());
        let jobs = picture.set_encoded(&encoded);
        jobs.into_iter()
            .filter_map(|job| {
                let (running, picture) = (running.clone(), Some(picture.clone()));
                CaptionTask::begin(job, encoded.clone(), running, picture)
            })
            .collect()
    }

    /// The provider cannot process the picture: fails all waiting jobs.
    pub fn fail(self, failure: Failure) {
        let ProviderWork { work, place, memory, .. } = self;
        drop((place, memory));
        work.end(JobAnswer::Failed(failure));
    }
}
