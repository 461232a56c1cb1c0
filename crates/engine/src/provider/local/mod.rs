//! The local provider: the ONNX graphs of a model folder, run by one thread of this process.
//!
//! Only the files in this folder use `pg_caption_captioner`. Decode threads prepare tensors; the
//! model thread owns the sessions and receives everything through a channel.

mod channel;
mod load;
mod pool_clock;
mod prompts;
mod scheduler;
mod sessions;
mod thread;

pub use pg_caption_captioner::external_data;

use super::values::{PictureOptions, PreparedPicture, ViewSet};
use super::work::ProviderWork;
use super::{Provider, ProviderHost, caught, without_threads};
use crate::captions::CaptionTask;
use crate::catch_panic::catch_panic;
use crate::failures;
use crate::metrics::EngineMetrics;
use crate::threads::spawn;
use channel::{ModelChannel, ModelMessage};
use load::{LoadedModel, load};
use pg_caption_captioner::{self as captioner, InputPreparer, PixelValues, TileViews};
use pg_caption_pixels::RgbPicture;
use pg_caption_wire::{EngineConfig, Failure, ModelStatus, OutputSpec, TileMode};
use std::any::Any;
use std::io;
use std::sync::Arc;
use thread::ModelThread;

/// Name of the model thread. ONNX Runtime's pool threads inherit it; their CPU time is found by it.
const MODEL_THREAD: &str = "model";

/// Batches to prepare ahead, so that the model never waits while there is work.
const BATCHES_AHEAD: usize = 2;

/// Bits of a [`ViewSet`].
const WHOLE: u32 = 1;
const TILED: u32 = 2;

/// A model folder whose graphs are loaded.
pub struct LocalProvider {
    preparer: Arc<InputPreparer>,
    tiles: TileMode,
    batch: usize,
    channel: Arc<ModelChannel>,
}

impl PreparedPicture for PixelValues {
    fn bytes(&self) -> u64 {
        self.bytes as u64
    }

    fn sha256(&self) -> String {
        PixelValues::sha256(self)
    }
}

fn view_set(views: TileViews) -> ViewSet {
    let bit = |wanted: bool, bit: u32| if wanted { bit } else { 0 };
    ViewSet::from_bits(bit(views.whole(), WHOLE) | bit(views.tiled(), TILED))
}

fn tile_views(set: ViewSet) -> TileViews {
    match (set.bits() & WHOLE != 0, set.bits() & TILED != 0) {
        (true, true) => TileViews::WHOLE.and(TileViews::TILED),
        (false, true) => TileViews::TILED,
        (_, false) => TileViews::WHOLE,
    }
}

fn captioner_options(options: &PictureOptions) -> captioner::PictureOptions {
    captioner::PictureOptions { views: tile_views(options.views) }
}

impl Provider for LocalProvider {
    fn status(&self) -> ModelStatus {
        self.preparer.status().clone()
    }

    fn reads_context(&self) -> bool {
        pg_caption_models::follows_instructions(&self.preparer.status().family)
    }

    fn lookahead(&self) -> usize {
        BATCHES_AHEAD * self.batch
    }

    fn target(&self) -> (u32, u32) {
        self.preparer.target()
    }

    fn reduces_all(&self) -> bool {
        self.preparer.reduces_all()
    }

    fn views(&self, outputs: &[OutputSpec]) -> ViewSet {
        view_set(self.preparer.views(self.tiles, outputs.iter().map(|output| &output.style)))
    }

    fn memory_for(&self, size: (u32, u32), options: &PictureOptions) -> u64 {
        self.preparer.memory_for(size, &captioner_options(options))
    }

    fn prepare(
        &self,
        picture: &RgbPicture,
        options: &PictureOptions,
    ) -> Result<Box<dyn PreparedPicture>, Failure> {
        match self.preparer.picture(picture, &captioner_options(options)) {
            Ok(pixels) => Ok(Box::new(pixels)),
            Err(error) => Err(failures::model_error(error.to_string())),
        }
    }

    fn submit(&self, prepared: Box<dyn PreparedPicture>, work: ProviderWork) {
        let prepared: Box<dyn Any> = prepared;
        let pixels = prepared.downcast().expect("a tensor of this provider. This is a bug.");
        self.channel.send(ModelMessage::Picture(pixels, Box::new(work)));
    }

    fn caption(&self, task: CaptionTask) {
        self.channel.send(ModelMessage::Captions(Box::new(task)));
    }
}

/// Pictures in one encoder call that suit the model, if the provider is a local one.
pub fn suggested_batch(provider: &dyn Provider) -> Option<usize> {
    let provider: &dyn Any = provider;
    provider.downcast_ref().map(|local: &LocalProvider| local.preparer.suggested_batch())
}

/// Starts the model thread, which loads the folder and reports to `host`. A
/// [`super::ProviderStart`].
///
/// # Errors
/// The thread cannot be started.
pub fn start(
    config: &EngineConfig,
    metrics: Arc<EngineMetrics>,
    host: Arc<dyn ProviderHost>,
) -> io::Result<()> {
    let config = config.clone();
    spawn(MODEL_THREAD, move || run(&config, metrics, &*host))
}

/// The model thread. Returns when the folder cannot be used. Whatever happens to a model never ends
/// the process: an unusable model is reported once and every request is answered with the reason.
fn run(config: &EngineConfig, metrics: Arc<EngineMetrics>, host: &dyn ProviderHost) {
    let LoadedModel { sessions, preparer } = match caught(|| load(config)) {
        Ok(loaded) => loaded,
        Err(reason) => return host.failed(failures::no_model(&reason)),
    };
    let batch = match config.max_batch as usize {
        0 => preparer.suggested_batch().max(1),
        n => n,
    };
    let channel = Arc::<ModelChannel>::default();
    let mut thread =
        ModelThread::new(config, metrics, sessions, preparer.clone(), batch, channel.clone());
    let provider = LocalProvider { preparer, tiles: config.tiles, batch, channel: channel.clone() };
    if let Err(error) = host.ready(Arc::new(provider)) {
        return host.failed(without_threads(&error));
    }
    let failure = until_broken(host, || thread.run());
    // Dropped after the report: a server has ended by now, and its clients have sent their requests
    // to the next engine.
    drop(thread);
    loop {
        for message in channel.receive(true) {
            match message {
                ModelMessage::Picture(_, work) => work.fail(failure.clone()),
                ModelMessage::Captions(task) => task.fail(failure.clone()),
            }
        }
    }
}

/// Runs the thread until it panics, which is reported to the host and returned. Calls that depend
/// on a request's data catch their own panics.
pub(crate) fn until_broken(host: &dyn ProviderHost, thread: impl FnOnce()) -> Failure {
    let failure = match catch_panic(thread) {
        Ok(()) => failures::model_broken("its thread ended"),
        Err(panic) => failures::model_broken(&panic),
    };
    host.broken(failure.clone());
    failure
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_survive_the_seam() {
        let both = TileViews::WHOLE.and(TileViews::TILED);
        for views in [TileViews::WHOLE, TileViews::TILED, both] {
            assert_eq!(tile_views(view_set(views)), views);
        }
        assert_eq!(view_set(TileViews::WHOLE).union(view_set(TileViews::TILED)), view_set(both));
    }
}
