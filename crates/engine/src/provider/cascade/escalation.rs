//! What happens to one job of the cascade: the first model's answer, the captions that go to the
//! second, and the answer of both together.

use super::step::CascadeStep;
use super::{Cascade, CascadeModel};
use crate::answer::{GeneratedCaption, JobAnswer};
use crate::budget::MemoryReservation;
use crate::captions::CaptionTask;
use crate::job::Job;
use crate::lookahead::LookaheadPlace;
use crate::provider::values::PreparedPicture;
use crate::request::JobSpec;
use pg_caption_models::CascadeMeanwhile;
use pg_caption_wire::{Failure, FailureClass, ImageFacts, OutputSpec};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// A picture of the cascade.
pub struct CascadePicture {
    facts: ImageFacts,
    first: CascadeStep,
    second: CascadeStep,
}

impl CascadePicture {
    pub fn new(
        facts: ImageFacts,
        first: Box<dyn PreparedPicture>,
        second: Box<dyn PreparedPicture>,
    ) -> CascadePicture {
        CascadePicture { facts, first: CascadeStep::new(first), second: CascadeStep::new(second) }
    }

    /// What the first model gives back when it has accepted the picture.
    pub fn hold(&self, place: LookaheadPlace, memory: MemoryReservation) {
        self.first.hold(place, memory);
    }
}

/// The result for one output.
type OutputResult = Result<GeneratedCaption, Failure>;

/// Whether a caption goes to the second model: the first refuses it, or is not sure enough. A
/// caption without confidence stays.
fn is_unsure(result: &OutputResult, below: f32) -> bool {
    match result {
        Err(failure) => failure.class == FailureClass::Uncertain,
        Ok(GeneratedCaption { caption: Err(failure), .. }) => {
            failure.class == FailureClass::Uncertain
        }
        Ok(generated) => generated.confidence.is_some_and(|confidence| confidence < below),
    }
}

fn has_text(result: &OutputResult) -> bool {
    result.as_ref().is_ok_and(|generated| generated.caption.is_ok())
}

/// Results with the model that wrote them.
fn written_by(model: &CascadeModel, results: Vec<OutputResult>) -> Vec<OutputResult> {
    let by = |generated| GeneratedCaption { model: Some(model.reference()), ..generated };
    results.into_iter().map(|result| result.map(by)).collect()
}

impl Cascade {
    /// Asks the first model for all captions of a job.
    pub(super) fn begin(self: &Arc<Self>, task: CaptionTask) {
        let picture = task.encoding().clone().downcast::<CascadePicture>();
        let picture = picture.expect("a picture of this provider. This is a bug.");
        let (this, outputs, outer) = (self.clone(), task.job().outputs.clone(), task.job_handle());
        let (then, began) = (picture.clone(), Instant::now());
        let job = inner_job(&outer, outputs, move |answer| {
            this.first_answered(task, then, answer, began.elapsed());
        });
        picture.first.ask(self, &self.first, &picture.facts, &job);
    }

    fn first_answered(
        self: Arc<Self>,
        mut task: CaptionTask,
        picture: Arc<CascadePicture>,
        answer: JobAnswer,
        spent: Duration,
    ) {
        let results = match answer {
            JobAnswer::Done { outputs, .. } => written_by(&self.first, outputs),
            JobAnswer::Failed(failure) => return task.fail(failure),
            JobAnswer::Unchanged => return task.fail(crate::failures::lost()),
        };
        let unsure: Vec<usize> =
            (0..results.len()).filter(|at| is_unsure(&results[*at], self.below)).collect();
        if unsure.is_empty() {
            results.into_iter().enumerate().for_each(|(at, result)| task.set(at, result, spent));
            return task.answer();
        }
        if self.second.is_remote {
            task.stop_running();
        }
        let all = &task.job().outputs;
        let outputs: Vec<OutputSpec> = unsure.iter().map(|at| all[*at].clone()).collect();
        let (this, outer, began) = (self.clone(), task.job_handle(), Instant::now());
        let job = inner_job(&outer, outputs, move |answer| {
            this.second_answered(task, results, &unsure, answer, spent + began.elapsed());
        });
        picture.second.ask(&self, &self.second, &picture.facts, &job);
    }

    fn second_answered(
        &self,
        mut task: CaptionTask,
        mut results: Vec<OutputResult>,
        unsure: &[usize],
        answer: JobAnswer,
        spent: Duration,
    ) {
        match answer {
            JobAnswer::Done { outputs, .. } => {
                for (at, result) in unsure.iter().zip(written_by(&self.second, outputs)) {
                    results[*at] = result;
                }
            }
            JobAnswer::Failed(failure) => {
                let may_write = self.meanwhile == CascadeMeanwhile::Write
                    // The second cannot use this picture, whenever it is asked.
                    || failure.class == FailureClass::Reject;
                // What the first refused has no text to write.
                if !may_write || !unsure.iter().all(|at| has_text(&results[*at])) {
                    return task.fail(failure);
                }
            }
            JobAnswer::Unchanged => return task.fail(crate::failures::lost()),
        }
        results.into_iter().enumerate().for_each(|(at, result)| task.set(at, result, spent));
        task.answer();
    }
}

/// A job for one of the models, within the time of the job of the cascade. It is open as long as
/// that job is.
fn inner_job(
    outer: &Arc<Job>,
    outputs: Vec<OutputSpec>,
    answered: impl FnOnce(JobAnswer) + Send + 'static,
) -> Arc<Job> {
    let now = Instant::now();
    let spec = JobSpec {
        connection: outer.connection,
        role: outer.role,
        timeout: outer.deadline().saturating_duration_since(now),
        from_turn: false,
        source: outer.source.clone(),
        outputs,
        min_confidence: outer.min_confidence,
        rules: outer.rules.clone(),
        extras: outer.extras.clone(),
        earlier: None,
        reuse: outer.reuse,
    };
    Arc::new(Job::new(spec, now, answered).within(outer.clone()))
}
