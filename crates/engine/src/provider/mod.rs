//! The provider seam: everything between a decoded picture and a raw caption.
//!
//! The engine fetches and decodes pictures, enforces budgets, deadlines and fairness, and makes
//! answers of raw captions (threshold, postprocessing). A [`Provider`] does the rest. Everything
//! that depends on a kind of model is in a folder of its own: `local` runs ONNX graphs, `remote`
//! asks a model server, `cascade` has two of them. The content of the model's folder decides.
//!
//! One engine has one provider for its whole life; another model means another engine process. The
//! decoded picture is borrowed, so that a cascade can prepare it for two providers.

pub mod cascade;
pub mod local;
pub mod prompt;
pub mod readiness;
pub mod remote;
pub mod values;
pub mod work;

#[cfg(test)]
pub mod fake;

use crate::captions::CaptionTask;
use crate::catch_panic::catch_panic;
use crate::failures;
use crate::metrics::EngineMetrics;
use crate::shared_answers::SharedAnswers;
use pg_caption_models::WithoutConfidence;
use pg_caption_pixels::RgbPicture;
use pg_caption_wire::{EngineConfig, Failure, ModelStatus, ModelUse, OutputSpec};
use std::any::Any;
use std::io;
use std::sync::Arc;
use values::{PictureOptions, PreparedPicture, ViewSet};
use work::ProviderWork;

/// Turns decoded pictures into raw captions. One per engine, shared by its threads.
///
/// A picture passes through `views`, `memory_for` and `prepare` on a decode thread, then `submit`.
/// None of these waits for the model.
pub trait Provider: Any + Send + Sync {
    /// What `caption.models()` and `caption.engine_status()` show.
    fn status(&self) -> ModelStatus;

    /// Pictures worth preparing ahead of the model, besides those on fetch and decode threads.
    fn lookahead(&self) -> usize;

    /// Width and height that the model needs, for decoding at reduced scale.
    fn target(&self) -> (u32, u32);

    /// Whether JPEGs of any size may be decoded at reduced scale, not only camera pictures.
    fn reduces_all(&self) -> bool {
        false
    }

    /// The views that these outputs need. Jobs share a picture only if their views are equal.
    fn views(&self, outputs: &[OutputSpec]) -> ViewSet;

    /// What becomes of a caption for which this provider has no confidence.
    fn without_confidence(&self) -> WithoutConfidence {
        WithoutConfidence::Write
    }

    /// Whether its prompts hold the facts of a request.
    fn reads_context(&self) -> bool {
        false
    }

    /// Whether its answers are those of one model, before any rule; the answers of a cascade are
    /// its models' own, which they share.
    fn gives_raw_answers(&self) -> bool {
        true
    }

    /// Whether it answers an equal request with an equal text. Otherwise an answer that a job
    /// cannot use is asked for again.
    fn repeats_answers(&self) -> bool {
        true
    }

    /// Why it answers no request now, if that is known before a picture is fetched.
    fn refusal(&self) -> Option<Failure> {
        None
    }

    /// What was used of the daily limits of its models.
    fn model_use(&self) -> Vec<ModelUse> {
        Vec::new()
    }

    /// Takes what other engines used of its daily limits.
    fn restore_use(&self, _used: &ModelUse) {}

    /// Bytes that [`Provider::prepare`] allocates at most for a picture of this width and height,
    /// its result included.
    fn memory_for(&self, size: (u32, u32), options: &PictureOptions) -> u64;

    /// Prepares an upright picture: a tensor for a local model, a compressed file for a remote one.
    /// It is shared by all captions of the picture. Called on a decode thread; a panic fails this
    /// picture alone.
    ///
    /// # Errors
    /// The picture cannot be prepared.
    fn prepare(
        &self,
        picture: &RgbPicture,
        options: &PictureOptions,
    ) -> Result<Box<dyn PreparedPicture>, Failure>;

    /// Takes a picture which this provider prepared, and returns without waiting.
    fn submit(&self, prepared: Box<dyn PreparedPicture>, work: ProviderWork);

    /// Takes a further job for a picture which this provider has encoded, and returns without
    /// waiting.
    fn caption(&self, task: CaptionTask);
}

/// Where a provider reports its state; implemented by the engine.
pub trait ProviderHost: Send + Sync {
    /// The provider answers from now on.
    ///
    /// # Errors
    /// The threads in front of it cannot be started; the provider then reports
    /// [`ProviderHost::failed`] and ends.
    fn ready(&self, provider: Arc<dyn Provider>) -> io::Result<()>;

    /// There will be no provider: every request is answered with `failure`.
    fn failed(&self, failure: Failure);

    /// The provider was ready and cannot answer any longer.
    fn broken(&self, failure: Failure);

    /// Where raw answers are shared.
    fn answers(&self) -> Option<Arc<SharedAnswers>>;
}

/// Starts a provider, which loads in the background and reports to its host.
pub type ProviderStart = Box<
    dyn FnOnce(&EngineConfig, Arc<EngineMetrics>, Arc<dyn ProviderHost>) -> io::Result<()> + Send,
>;

/// Starts the provider that the model's folder asks for. A [`ProviderStart`].
///
/// # Errors
/// A thread cannot be started.
pub fn start(
    config: &EngineConfig,
    metrics: Arc<EngineMetrics>,
    host: Arc<dyn ProviderHost>,
) -> io::Result<()> {
    match pg_caption_models::is_cascade(&config.model) {
        true => cascade::start(config, metrics, host),
        false => start_plain(config, metrics, host),
    }
}

/// Runs the code that loads a model; a panic is a reason, too.
fn caught<T>(load: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
    catch_panic(load)
        .unwrap_or_else(|panic| Err(format!("the code that loads it panicked: {panic}")))
}

/// The threads in front of a provider, or its own, could not be started.
fn without_threads(error: &io::Error) -> Failure {
    failures::no_model(&format!("its threads could not be started: {error}"))
}

/// As [`start`], for a folder that is no cascade.
fn start_plain(
    config: &EngineConfig,
    metrics: Arc<EngineMetrics>,
    host: Arc<dyn ProviderHost>,
) -> io::Result<()> {
    match pg_caption_models::is_remote(&config.model) {
        true => remote::start(config, metrics, host),
        false => local::start(config, metrics, host),
    }
}
