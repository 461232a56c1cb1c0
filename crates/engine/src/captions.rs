//! The captions of one job, from raw text to the answer: threshold, postprocessing, timings.
//!
//! Made by the engine, completed by the provider. Knows nothing of the provider's model.

use crate::answer::{GeneratedCaption, JobAnswer};
use crate::encoded::EncodedPicture;
use crate::failures;
use crate::job::Job;
use crate::metrics::ms;
use crate::provider::prompt::language_of;
use crate::provider::values::{PictureEncoding, RawCaption};
use crate::running::RunningPicture;
use crate::wording;
use pg_caption_models::WithoutConfidence;
use pg_caption_style::{TextEnding, TextRefusal, echoes, postprocess};
use pg_caption_wire::{Failure, FailureClass, FinishReason, OutputSpec};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The captions of one job. Dropped unanswered, it answers the job as `lost`.
pub struct CaptionTask {
    job: Arc<Job>,
    encoded: Arc<EncodedPicture>,
    /// Of each output.
    thresholds: Vec<f32>,
    outputs: Vec<Option<Result<GeneratedCaption, Failure>>>,
    generate: Duration,
    answered: bool,
    /// The picture runs until the job is answered.
    running: Option<Arc<RunningPicture>>,
}

impl CaptionTask {
    /// The captions which `job` requests of a picture. Those whose threshold is above the
    /// provider's confidence in the picture are uncertain, and do not have to be generated.
    pub fn new(
        job: Arc<Job>,
        encoded: Arc<EncodedPicture>,
        running: Option<Arc<RunningPicture>>,
    ) -> CaptionTask {
        if let Some(running) = &running {
            running.join(&job);
        }
        let general = job.min_confidence.or(encoded.terms.min_confidence).unwrap_or(0.0);
        let threshold = |own: Option<f32>| match job.extras.exact {
            true => 0.0,
            false => own.unwrap_or(general),
        };
        let thresholds: Vec<f32> =
            job.outputs.iter().map(|output| threshold(output.min_confidence)).collect();
        let uncertain = |(threshold, output): (&f32, &OutputSpec)| {
            if let Some(language) = language_of(&output.style).filter(|_| !job.extras.exact)
                && !encoded.terms.languages.knows(&language)
            {
                return Some(Err(failures::unknown_language(&encoded.terms.model.name, &language)));
            }
            let confidence = encoded.confidence.filter(|confidence| confidence < threshold)?;
            Some(Err(failures::low_confidence(confidence, *threshold)))
        };
        CaptionTask {
            outputs: thresholds.iter().zip(&job.outputs).map(uncertain).collect(),
            thresholds,
            generate: Duration::ZERO,
            answered: false,
            running,
            job,
            encoded,
        }
    }

    /// The job: its outputs, options, due time and deadline.
    pub fn job(&self) -> &Job {
        &self.job
    }

    /// The provider's own state of the picture.
    pub fn encoding(&self) -> &PictureEncoding {
        &self.encoded.encoding
    }

    /// The job, for threads that share it.
    pub fn job_handle(&self) -> Arc<Job> {
        self.job.clone()
    }

    /// The picture can no longer make the engine die: it has left for another process.
    pub fn stop_running(&mut self) {
        drop(self.running.take());
    }

    /// Positions of the outputs without a result.
    pub fn missing(&self) -> Vec<usize> {
        (0..self.outputs.len()).filter(|at| self.outputs[*at].is_none()).collect()
    }

    /// Whether every output has a result.
    pub fn is_complete(&self) -> bool {
        self.outputs.iter().all(Option::is_some)
    }

    /// Sets the result of one output. `spent` is its share of the provider's time.
    pub fn finish(&mut self, at: usize, result: Result<RawCaption, Failure>, spent: Duration) {
        self.generate += spent;
        self.outputs[at] = Some(result.map(|raw| self.generated(at, raw)));
    }

    /// Sets the result of one output that is generated and checked already.
    pub fn set(&mut self, at: usize, result: Result<GeneratedCaption, Failure>, spent: Duration) {
        self.generate = self.generate.max(spent);
        self.outputs[at] = Some(result);
    }

    fn generated(&self, at: usize, raw: RawCaption) -> GeneratedCaption {
        let confidence = self.encoded.confidence.or(raw.confidence);
        let unsure = match confidence {
            None if !self.job.extras.exact => self.encoded.terms.without_confidence,
            _ => WithoutConfidence::Write,
        };
        let caption = if self.job.extras.exact {
            Ok(raw.text.trim().to_string())
        } else if unsure == WithoutConfidence::Refuse {
            Err(failures::no_confidence())
        } else if let Some(confidence) = confidence.filter(|c| *c < self.thresholds[at]) {
            Err(failures::low_confidence(confidence, self.thresholds[at]))
        } else {
            self.postprocess(at, &raw.text, raw.finish)
                .map_err(|refusal| failures::refused(&refusal))
        };
        GeneratedCaption {
            caption,
            text_raw: raw.text,
            tokens: raw.tokens,
            ids: raw.ids,
            prompt_ids: raw.prompt_ids,
            finish: raw.finish,
            confidence,
            draft: unsure == WithoutConfidence::Review,
            with_context: self.encoded.terms.reads_context
                && self.job.outputs[at].context.is_some(),
            model: None,
        }
    }

    fn postprocess(
        &self,
        at: usize,
        raw: &str,
        finish: FinishReason,
    ) -> Result<String, TextRefusal> {
        let ending = match finish {
            FinishReason::Stop => TextEnding::Complete,
            FinishReason::Length => TextEnding::Cut,
        };
        let style = &self.job.outputs[at].style;
        let caption = postprocess(raw, style, ending)?;
        if self.job.name().is_some_and(|name| echoes(&caption, name)) {
            return Err(TextRefusal::EchoesName);
        }
        wording::checked(caption, style, &self.job.rules, self.encoded.terms.block_obscenity)
    }

    /// Fails the whole job.
    pub fn fail(mut self, failure: Failure) {
        self.respond(JobAnswer::Failed(failure));
    }

    /// Answers the job; outputs without a result are `lost`.
    pub fn answer(mut self) {
        let outputs: Vec<_> = std::mem::take(&mut self.outputs)
            .into_iter()
            .map(|output| output.unwrap_or_else(|| Err(failures::lost())))
            .collect();
        // A failure of the provider is no answer about the picture: the request as a whole failed
        // and is worth a retry.
        let failed = outputs.iter().find_map(|output| {
            output.as_ref().err().filter(|failure| failure.class != FailureClass::Uncertain)
        });
        if let Some(failure) = failed {
            return self.respond(JobAnswer::Failed(failure.clone()));
        }
        let mut timings = self.encoded.timings;
        if self.job.arrived > self.encoded.at {
            // The picture had been encoded for an earlier job.
            timings = Default::default();
        }
        timings.generate = ms(self.generate);
        timings.total = ms(Instant::now().saturating_duration_since(self.job.arrived));
        let worked =
            timings.fetch + timings.decode + timings.preprocess + timings.encode + timings.generate;
        timings.wait = (timings.total - worked).max(0.0);
        self.respond(JobAnswer::Done {
            image: self.encoded.facts.clone(),
            outputs,
            model: self.encoded.terms.model.clone(),
            timings,
            pixels_sha256: self.encoded.pixels_sha256.clone(),
        });
    }

    fn respond(&mut self, answer: JobAnswer) {
        self.answered = true;
        // Before the answer: the client's next picture may run alone.
        drop(self.running.take());
        self.job.answer(answer);
    }
}

impl Drop for CaptionTask {
    fn drop(&mut self) {
        if !self.answered {
            self.job.answer(JobAnswer::Failed(failures::lost()));
        }
    }
}
