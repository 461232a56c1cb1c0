//! From an encoded picture to the answers of the jobs that wait for it: thresholds, prompts,
//! tidy-up. Used by the model thread; touches no session.

use crate::failures;
use crate::job::{Answer, Captioned, Job};
use crate::model::Start;
use crate::picture::Seen;
use crate::pipeline::ms;
use pg_caption_captioner::{
    FinishedCaption, InputPreparer, PictureFeatures, PromptWords, TokenPrompt, catch_panic,
};
use pg_caption_style::{CaptionStyle, TextEnding, TextRefusal, echoes, postprocess};
use pg_caption_wire::{EngineConfig, Failure, FinishReason, ModelRef, TileMode};
use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Prompts remembered; beyond it all are forgotten. Calls use a handful of styles.
const MOST_PROMPTS: usize = 64;

/// What a prompt depends on: the style, the words that replace its own, the product's, how the
/// picture is cut, its features' bucket.
type Key = (CaptionStyle, Option<String>, Option<String>, TileMode, u64);

/// Prompts that were made before: tokenising an instruction again for each picture would cost more
/// than tidying its text.
#[derive(Default)]
pub struct Prompts(HashMap<Key, TokenPrompt>);

impl Prompts {
    fn get(
        &mut self,
        preparer: &InputPreparer,
        job: &Job,
        want: usize,
        tiles: TileMode,
        features: &PictureFeatures,
    ) -> Result<TokenPrompt, Failure> {
        let want = &job.wants[want];
        let own = job
            .extras
            .prompt
            .as_deref()
            .or_else(|| want.style.prompt_for(&preparer.status().family));
        let key =
            (want.style.clone(), own.map(Into::into), want.context.clone(), tiles, features.bucket);
        if let Some(prompt) = self.0.get(&key) {
            return Ok(prompt.clone());
        }
        let words = PromptWords { text: key.1.as_deref(), context: key.2.as_deref(), tiles };
        let prompt = catch_panic(|| preparer.prompt(&want.style, words, features))
            .map_err(|panic| broke("making the prompt", &panic))?;
        let prompt = prompt.map_err(|e| {
            failures::bad_request(format!("the model has no prompt for style {}", want.style.name))
                .detail(e.to_string())
        })?;
        if self.0.len() >= MOST_PROMPTS {
            self.0.clear();
        }
        self.0.insert(key, prompt.clone());
        Ok(prompt)
    }
}

/// A panic over one request's words: an error of that request, on a thread that goes on.
fn broke(doing: &str, panic: &str) -> Failure {
    crate::log::line(format_args!("warning: {doing} broke: {panic}"));
    failures::model_error(format!("{doing} broke: {panic}"))
}

/// A job whose captions are being generated.
pub struct Open {
    /// The job.
    pub job: Arc<Job>,
    /// Its picture.
    pub seen: Arc<Seen>,
    threshold: f32,
    outputs: Vec<Option<Result<Captioned, Failure>>>,
    prompts: Vec<Option<TokenPrompt>>,
    generate: Duration,
}

impl Open {
    /// Judges the encoder's confidence and makes the prompts. The captions to generate are those of
    /// `starts`.
    pub fn new(
        job: Arc<Job>,
        seen: Arc<Seen>,
        preparer: &InputPreparer,
        prompts: &mut Prompts,
        config: &EngineConfig,
    ) -> Open {
        let own = job.min_confidence.or(config.min_confidence).or(preparer.status().min_confidence);
        let threshold = if job.extras.exact { 0.0 } else { own.unwrap_or(0.0) };
        let unsure = seen.features.confidence.filter(|c| *c < threshold);
        let made: Vec<_> = (0..job.wants.len())
            .map(|want| match unsure {
                Some(confidence) => Err(failures::low_confidence(confidence, threshold)),
                None => prompts.get(preparer, &job, want, config.tiles, &seen.features),
            })
            .collect();
        let outputs = made.iter().map(|p| p.as_ref().err().map(|f| Err(f.clone()))).collect();
        Open {
            threshold,
            outputs,
            prompts: made.into_iter().map(Result::ok).collect(),
            generate: Duration::ZERO,
            job,
            seen,
        }
    }

    /// What is left to generate: position of the output, and what it starts from.
    ///
    /// # Errors
    /// Generation settings that the model refuses.
    pub fn starts(&self, preparer: &InputPreparer) -> Result<Vec<(usize, Start)>, Failure> {
        let generation = preparer.generation(self.job.extras.generation.as_ref());
        let generation = generation.map_err(|e| {
            failures::bad_request("the generation settings cannot be used").detail(e.to_string())
        })?;
        let waiting =
            self.prompts.iter().enumerate().filter_map(|(at, prompt)| Some((at, prompt.clone()?)));
        let start = |(at, prompt): (usize, TokenPrompt)| {
            let max_new_tokens = self.job.wants[at].max_tokens;
            (
                at,
                Start {
                    features: self.seen.features.clone(),
                    prompt,
                    max_new_tokens,
                    generation: generation.clone(),
                },
            )
        };
        Ok(waiting.map(start).collect())
    }

    /// A caption ended.
    pub fn finished(
        &mut self,
        at: usize,
        finished: FinishedCaption,
        spent: Duration,
        preparer: &InputPreparer,
    ) {
        self.generate += spent;
        let exact = self.job.extras.exact;
        let confidence = self.seen.features.confidence.unwrap_or(finished.confidence);
        let text = catch_panic(|| preparer.text(&finished.ids))
            .map_err(|panic| broke("making text of its tokens", &panic));
        let text = text.and_then(|text| text.map_err(|e| failures::model_error(e.to_string())));
        let output = text.map(|text_raw| {
            let caption = if exact {
                Ok(text_raw.trim().to_string())
            } else if confidence < self.threshold {
                Err(failures::low_confidence(confidence, self.threshold))
            } else {
                self.tidied(at, &text_raw, finished.finish)
                    .map_err(|refusal| failures::refused(&refusal))
            };
            let prompt_ids =
                self.prompts[at].take().map(|p| p.words().to_vec()).unwrap_or_default();
            Captioned {
                caption,
                text_raw,
                ids: finished.ids,
                prompt_ids,
                finish: finished.finish,
                confidence,
            }
        });
        self.outputs[at] = Some(output);
    }

    /// A caption could not be generated.
    pub fn failed(&mut self, at: usize, reason: String) {
        self.outputs[at] = Some(Err(failures::model_error(reason)));
    }

    fn tidied(&self, at: usize, raw: &str, finish: FinishReason) -> Result<String, TextRefusal> {
        let ending = match finish {
            FinishReason::Stop => TextEnding::Complete,
            FinishReason::Length => TextEnding::Cut,
        };
        let caption = postprocess(raw, &self.job.wants[at].style, ending)?;
        if self.job.name().is_some_and(|name| echoes(&caption, name)) {
            Err(TextRefusal::EchoesName)
        } else {
            Ok(caption)
        }
    }

    /// Whether every output is there.
    pub fn is_complete(&self) -> bool {
        self.outputs.iter().all(Option::is_some)
    }

    /// Answers the job.
    pub fn answer(self, model: &ModelRef) {
        let outputs: Vec<_> =
            self.outputs.into_iter().map(|o| o.unwrap_or_else(|| Err(failures::lost()))).collect();
        // A failure of the model is no answer about the picture: the request as a whole failed and
        // is worth another try.
        if let Some(Err(failure)) = outputs
            .iter()
            .find(|o| matches!(o, Err(f) if f.class != pg_caption_wire::FailureClass::Uncertain))
        {
            self.job.answer(Answer::Failed(failure.clone()));
            return;
        }
        let mut timings = self.seen.timings;
        if self.job.arrived > self.seen.at {
            // It came when the picture was there already.
            timings = Default::default();
        }
        timings.generate = ms(self.generate);
        timings.total = ms(Instant::now().saturating_duration_since(self.job.arrived));
        let worked =
            timings.fetch + timings.decode + timings.preprocess + timings.encode + timings.generate;
        timings.wait = (timings.total - worked).max(0.0);
        self.job.answer(Answer::Done {
            image: self.seen.facts.clone(),
            outputs,
            model: model.clone(),
            timings,
            pixels_sha256: self.seen.pixels_sha256.clone(),
        });
    }
}
