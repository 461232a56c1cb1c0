//! The captions of one job, from raw text to the answer: threshold, postprocessing, timings.
//!
//! Made by the engine, completed by the provider. Knows nothing of the provider's model.

use crate::answer::{GeneratedCaption, JobAnswer};
use crate::encoded::EncodedPicture;
use crate::failures;
use crate::job::Job;
use crate::metrics::ms;
use crate::picture::{CaptioningPicture, Picture};
use crate::provider::Provider;
use crate::provider::prompt::language_of;
use crate::provider::values::{AnswerTerms, PictureEncoding, RawCaption};
use crate::running::RunningPicture;
use crate::shared_answers::{AnswerClaim, AnswerKey};
use crate::wording;
use parking_lot::Mutex;
use pg_caption_models::WithoutConfidence;
use pg_caption_style::{TextEnding, TextRefusal, echoes, postprocess};
use pg_caption_wire::{Failure, FailureClass, FinishReason, OutputSpec};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The confidence below which an output of a job is uncertain.
pub fn threshold(job: &Job, terms: &AnswerTerms, at: usize) -> f32 {
    let general = job.min_confidence.or(terms.min_confidence).unwrap_or(0.0);
    match job.extras.exact {
        true => 0.0,
        false => job.outputs[at].min_confidence.unwrap_or(general),
    }
}

/// The captions of one job: from its own task, and from answers that it shares with other jobs.
/// Answers the job when the last one is there.
pub struct JobCaptions {
    job: Arc<Job>,
    encoded: Arc<EncodedPicture>,
    /// Of each output.
    thresholds: Vec<f32>,
    state: Mutex<CaptionsState>,
}

struct CaptionsState {
    outputs: Vec<Option<Result<GeneratedCaption, Failure>>>,
    generate: Duration,
    answered: bool,
}

impl JobCaptions {
    /// The captions which `job` requests of a picture. Those whose threshold is above the
    /// provider's confidence in the picture are uncertain, and do not have to be generated.
    pub fn new(job: Arc<Job>, encoded: Arc<EncodedPicture>) -> Arc<JobCaptions> {
        let thresholds: Vec<f32> =
            (0..job.outputs.len()).map(|at| threshold(&job, &encoded.terms, at)).collect();
        let uncertain = |(threshold, output): (&f32, &OutputSpec)| {
            if let Some(language) = language_of(&output.style).filter(|_| !job.extras.exact)
                && !encoded.terms.languages.knows(&language)
            {
                return Some(Err(failures::unknown_language(&encoded.terms.model.name, &language)));
            }
            let confidence = encoded.confidence.filter(|confidence| confidence < threshold)?;
            Some(Err(failures::low_confidence(confidence, *threshold)))
        };
        let outputs = thresholds.iter().zip(&job.outputs).map(uncertain).collect();
        let state = CaptionsState { outputs, generate: Duration::ZERO, answered: false };
        Arc::new(JobCaptions { thresholds, state: Mutex::new(state), job, encoded })
    }

    /// The job.
    pub fn job(&self) -> &Arc<Job> {
        &self.job
    }

    /// The picture.
    pub fn encoded(&self) -> &EncodedPicture {
        &self.encoded
    }

    /// Whether an answer that is known gives this job a caption.
    pub fn would_write(&self, at: usize, raw: &RawCaption) -> bool {
        self.generated(at, raw.clone()).caption.is_ok()
    }

    /// Sets the result of one output that another job's task has generated.
    pub fn take(&self, at: usize, raw: RawCaption) {
        let result = Ok(self.generated(at, raw));
        self.put(at, result, Duration::ZERO);
    }

    /// Sets the result of one output, and answers the job if it was the last one.
    pub fn put(&self, at: usize, result: Result<GeneratedCaption, Failure>, spent: Duration) {
        self.set(at, result, |generate| generate + spent);
        self.settle();
    }

    fn set(
        &self,
        at: usize,
        result: Result<GeneratedCaption, Failure>,
        spent: impl FnOnce(Duration) -> Duration,
    ) {
        let mut state = self.state.lock();
        state.generate = spent(state.generate);
        // An answered job has none left.
        if let Some(output) = state.outputs.get_mut(at) {
            *output = Some(result);
        }
    }

    fn is_missing(&self, at: usize) -> bool {
        self.state.lock().outputs.get(at).is_some_and(Option::is_none)
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

    /// Fails the whole job, unless it is answered.
    fn fail(&self, failure: Failure) {
        if !std::mem::replace(&mut self.state.lock().answered, true) {
            self.job.answer(JobAnswer::Failed(failure));
        }
    }

    /// Answers the job if every output has a result.
    pub fn settle(&self) {
        let mut state = self.state.lock();
        if state.answered || state.outputs.iter().any(Option::is_none) {
            return;
        }
        state.answered = true;
        let outputs: Vec<_> = std::mem::take(&mut state.outputs).into_iter().flatten().collect();
        let generate = state.generate;
        drop(state);
        // A failure of the provider is no answer about the picture: the request as a whole failed
        // and is worth a retry.
        let failed = outputs.iter().find_map(|output| {
            output.as_ref().err().filter(|failure| failure.class != FailureClass::Uncertain)
        });
        if let Some(failure) = failed {
            self.job.answer(JobAnswer::Failed(failure.clone()));
            return;
        }
        let mut timings = self.encoded.timings;
        if self.job.arrived > self.encoded.at {
            // The picture had been encoded for an earlier job.
            timings = Default::default();
        }
        timings.generate = ms(generate);
        timings.total = ms(Instant::now().saturating_duration_since(self.job.arrived));
        let worked =
            timings.fetch + timings.decode + timings.preprocess + timings.encode + timings.generate;
        timings.wait = (timings.total - worked).max(0.0);
        let mut image = self.encoded.facts.clone();
        if let Some(file) = self.job.file() {
            // Another URL may have the same picture, with other validators.
            (image.etag, image.last_modified) = (file.etag, file.last_modified);
        }
        self.job.answer(JobAnswer::Done {
            image,
            outputs,
            model: self.encoded.terms.model.clone(),
            timings,
            pixels_sha256: self.encoded.pixels_sha256.clone(),
        });
    }
}

/// The captions of one job that the provider generates. Dropped unfinished, it answers the job as
/// `lost`.
pub struct CaptionTask {
    captions: Arc<JobCaptions>,
    /// The outputs to generate.
    own: Vec<usize>,
    /// Those of them whose answers other jobs share.
    keys: Vec<(usize, AnswerKey)>,
    /// The picture runs until the job is answered.
    running: Option<Arc<RunningPicture>>,
    /// Found by further jobs while this task is in progress.
    picture: Option<CaptioningPicture>,
}

impl CaptionTask {
    /// The task for the captions which `job` requests of a picture; `None`: there is nothing to
    /// generate, because the job is answered, or gets the answers to other jobs.
    pub fn begin(
        job: Arc<Job>,
        encoded: Arc<EncodedPicture>,
        running: Option<Arc<RunningPicture>>,
        picture: Option<Arc<Picture>>,
    ) -> Option<CaptionTask> {
        let captions = JobCaptions::new(job.clone(), encoded.clone());
        let missing: Vec<usize> =
            (0..job.outputs.len()).filter(|at| captions.is_missing(*at)).collect();
        let answers = encoded.terms.answers().filter(|_| job.may_share());
        let (mut own, mut keys) = (Vec::new(), Vec::new());
        match answers {
            None => own = missing,
            Some(answers) => {
                answers.note(&encoded);
                for at in missing {
                    match answers.claim(&captions, at) {
                        AnswerClaim::Known(raw) => captions.take(at, raw),
                        AnswerClaim::Follows => {}
                        AnswerClaim::Leads(key) => {
                            own.push(at);
                            keys.push((at, key));
                        }
                        AnswerClaim::Apart => own.push(at),
                    }
                }
            }
        }
        if own.is_empty() {
            drop((running, picture));
            captions.settle();
            return None;
        }
        if let Some(running) = &running {
            running.join(&job);
        }
        let picture = picture.map(CaptioningPicture::new);
        Some(CaptionTask { captions, own, keys, running, picture })
    }

    /// The task for an output whose leader has left.
    pub fn succeed(captions: Arc<JobCaptions>, at: usize, key: AnswerKey) -> CaptionTask {
        let (own, keys) = (vec![at], vec![(at, key)]);
        CaptionTask { captions, own, keys, running: None, picture: None }
    }

    /// Its picture runs from now on.
    pub fn set_running(&mut self, running: Arc<RunningPicture>) {
        self.running = Some(running);
    }

    /// The provider of its model, if that still exists.
    pub fn provider(&self) -> Option<Arc<dyn Provider>> {
        self.captions.encoded.terms.provider()
    }

    /// The job: its outputs, options, due time and deadline.
    pub fn job(&self) -> &Job {
        &self.captions.job
    }

    /// The provider's own state of the picture.
    pub fn encoding(&self) -> &PictureEncoding {
        &self.captions.encoded.encoding
    }

    /// The job, for threads that share it.
    pub fn job_handle(&self) -> Arc<Job> {
        self.captions.job.clone()
    }

    /// The picture can no longer make the engine die: it has left for another process.
    pub fn stop_running(&mut self) {
        drop(self.running.take());
    }

    /// Positions of the outputs that the provider has to generate.
    pub fn missing(&self) -> Vec<usize> {
        self.own.iter().copied().filter(|at| self.captions.is_missing(*at)).collect()
    }

    /// Whether every output of the provider has a result.
    pub fn is_complete(&self) -> bool {
        self.own.iter().all(|at| !self.captions.is_missing(*at))
    }

    /// Sets the result of one output. `spent` is its share of the provider's time.
    pub fn finish(&mut self, at: usize, result: Result<RawCaption, Failure>, spent: Duration) {
        if let Some(key) = self.take_key(at)
            && let Some(answers) = self.captions.encoded.terms.answers()
        {
            match &result {
                Ok(raw) => answers.resolve(&key, raw),
                Err(failure) if self.concerns_all(failure) => answers.fail(&key, failure),
                Err(_) => answers.release(&key),
            }
        }
        let result = result.map(|raw| self.captions.generated(at, raw));
        self.captions.set(at, result, |generate| generate + spent);
    }

    /// Sets the result of one output that is generated and checked already.
    pub fn set(&mut self, at: usize, result: Result<GeneratedCaption, Failure>, spent: Duration) {
        self.captions.set(at, result, |generate| generate.max(spent));
    }

    fn take_key(&mut self, at: usize) -> Option<AnswerKey> {
        let position = self.keys.iter().position(|(of, _)| *of == at)?;
        Some(self.keys.swap_remove(position).1)
    }

    /// Whether a failure is one of the model or the picture: not of this job's caller, who may have
    /// left, or of its time limit.
    fn concerns_all(&self, failure: &Failure) -> bool {
        let job = self.job();
        job.is_open() && job.deadline() > Instant::now() && failure.code != "timeout"
    }

    /// Fails the whole job.
    pub fn fail(mut self, failure: Failure) {
        for (_, key) in std::mem::take(&mut self.keys) {
            match self.captions.encoded.terms.answers() {
                Some(answers) if self.concerns_all(&failure) => answers.fail(&key, &failure),
                Some(answers) => answers.release(&key),
                None => {}
            }
        }
        self.stop_running();
        drop(self.picture.take());
        self.captions.fail(failure);
    }

    /// Answers the job, unless it waits for answers to other jobs; outputs of the provider without
    /// a result are `lost`.
    pub fn answer(mut self) {
        for at in self.missing() {
            self.finish(at, Err(failures::lost()), Duration::ZERO);
        }
        // Before the answer: the client's next picture may run alone, and is a new one.
        self.stop_running();
        drop(self.picture.take());
        self.captions.settle();
    }
}

impl Drop for CaptionTask {
    fn drop(&mut self) {
        for (_, key) in std::mem::take(&mut self.keys) {
            if let Some(answers) = self.captions.encoded.terms.answers() {
                answers.release(&key);
            }
        }
        drop(self.picture.take());
        let is_answered = self.captions.state.lock().answered;
        if !is_answered && !self.is_complete() {
            self.captions.fail(failures::lost());
        }
    }
}
