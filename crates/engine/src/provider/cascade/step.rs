//! One picture with one of the models: the jobs that ask for it, as the model's provider sees them.

use super::{Cascade, CascadeModel};
use crate::answer::JobAnswer;
use crate::budget::MemoryReservation;
use crate::captions::CaptionTask;
use crate::failures;
use crate::job::Job;
use crate::lookahead::LookaheadPlace;
use crate::picture::{JoinOutcome, Picture, PictureWork};
use crate::provider::values::PreparedPicture;
use crate::provider::work::ProviderWork;
use crate::request::FileIdentity;
use parking_lot::Mutex;
use pg_caption_wire::ImageFacts;
use std::sync::Arc;

/// The state of a picture with one model.
pub struct CascadeStep(Mutex<StepState>);

enum StepState {
    /// Not submitted.
    Prepared(Box<dyn PreparedPicture>, Option<(LookaheadPlace, MemoryReservation)>),
    /// Submitted for the jobs so far; further ones join.
    Submitted(Arc<Picture>),
    /// Between the two, under the lock.
    Moving,
}

impl CascadeStep {
    pub fn new(prepared: Box<dyn PreparedPicture>) -> CascadeStep {
        CascadeStep(Mutex::new(StepState::Prepared(prepared, None)))
    }

    /// Gives back place and memory when the provider has accepted the picture.
    pub fn hold(&self, place: LookaheadPlace, memory: MemoryReservation) {
        if let StepState::Prepared(_, held) = &mut *self.0.lock() {
            *held = Some((place, memory));
        }
    }

    /// Submits the picture for a job, or lets the job join.
    pub fn ask(&self, cascade: &Cascade, model: &CascadeModel, facts: &ImageFacts, job: &Arc<Job>) {
        let file = FileIdentity {
            sha256: facts.sha256.clone(),
            etag: facts.etag.clone(),
            last_modified: facts.last_modified.clone(),
        };
        let known = model.terms.answers();
        if known.is_some_and(|answers| answers.answer_known(job, &file, &model.terms)) {
            return;
        }
        let mut state = self.0.lock();
        match std::mem::replace(&mut *state, StepState::Moving) {
            StepState::Prepared(prepared, held) => {
                let picture = Picture::new(job);
                *state = StepState::Submitted(picture.clone());
                drop(state);
                let (place, memory) =
                    held.unwrap_or_else(|| (cascade.no_place(), cascade.no_memory()));
                let work = ProviderWork {
                    work: PictureWork::new(picture),
                    facts: facts.clone(),
                    pixels_sha256: None,
                    terms: model.terms.clone(),
                    place,
                    memory,
                };
                model.provider.submit(prepared, work);
            }
            StepState::Submitted(picture) => {
                *state = StepState::Submitted(picture.clone());
                drop(state);
                match picture.join(job) {
                    JoinOutcome::Waiting => {}
                    JoinOutcome::Encoded(encoded) => {
                        let task = CaptionTask::begin(job.clone(), encoded, None, None);
                        task.into_iter().for_each(|task| model.provider.caption(task));
                    }
                    JoinOutcome::Ended(answer) => {
                        job.answer(*answer);
                    }
                    // Its first callers have left; the picture is prepared no longer.
                    JoinOutcome::Known(_) | JoinOutcome::Cancelled => {
                        job.answer(JobAnswer::Failed(failures::lost()));
                    }
                }
            }
            StepState::Moving => unreachable!("the lock is held meanwhile"),
        }
    }
}
