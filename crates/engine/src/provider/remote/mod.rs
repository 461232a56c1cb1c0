//! The remote provider: a model on a server, asked over HTTP by `crates/remote`.
//!
//! Decode threads make the JPEG files. Pictures wait in one line for the server's next free slot;
//! as many sender threads as the model's folder allows take them from it, one request each.

mod line;
mod picture;
mod sender;
mod start;

pub use start::start;

use super::Provider;
use super::values::{PictureOptions, PreparedPicture, ViewSet};
use super::work::ProviderWork;
use crate::captions::CaptionTask;
use crate::failures;
use line::{OpenTask, RemoteLine};
use parking_lot::{Condvar, Mutex};
use pg_caption_models::{FolderGuard, RemoteSettings, WithoutConfidence};
use pg_caption_pixels::RgbPicture;
use pg_caption_remote::ModelServer;
use pg_caption_wire::{Failure, ModelStatus, ModelUse, OutputSpec, RemoteModelStatus, RemoteUsage};
use picture::{RemotePicture, SentPicture};
use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64};
use std::time::{Instant, SystemTime};

/// Pictures prepared ahead for each one that may be in flight.
const AHEAD: usize = 1;

/// A model on a server.
pub struct RemoteProvider(Arc<RemoteModel>);

/// What the sender threads share.
struct RemoteModel {
    /// Name of the folder.
    name: String,
    settings: RemoteSettings,
    guard: FolderGuard,
    server: ModelServer,
    line: Mutex<RemoteLine>,
    changed: Condvar,
    /// Whether the key must be read before the next request.
    key_is_stale: AtomicBool,
    /// Captions returned, for the engine's counters.
    metrics: Arc<crate::metrics::EngineMetrics>,
    /// Requests answered with a caption.
    served: AtomicU64,
}

impl Provider for RemoteProvider {
    fn status(&self) -> ModelStatus {
        self.0.status()
    }

    fn lookahead(&self) -> usize {
        AHEAD * self.0.settings.concurrency as usize
    }

    fn target(&self) -> (u32, u32) {
        let side = self.0.settings.image.max_side;
        self.0.line.lock().quirks.own().unwrap_or((side, side))
    }

    fn views(&self, _outputs: &[OutputSpec]) -> ViewSet {
        ViewSet::default()
    }

    fn without_confidence(&self) -> WithoutConfidence {
        self.0.settings.without_confidence
    }

    fn reads_context(&self) -> bool {
        self.0.settings.send_context
    }

    fn repeats_answers(&self) -> bool {
        false
    }

    /// A daily limit is known before a picture is fetched.
    fn refusal(&self) -> Option<Failure> {
        let fault = self.0.line.lock().budget.check(SystemTime::now()).err()?;
        Some(self.0.failure(&fault))
    }

    fn model_use(&self) -> Vec<ModelUse> {
        let (day, requests, tokens) = self.0.line.lock().budget.used();
        vec![ModelUse { digest: self.0.settings.digest(), day, requests, tokens }]
    }

    fn restore_use(&self, used: &ModelUse) {
        self.0.restore_use(used);
    }

    fn memory_for(&self, size: (u32, u32), _options: &PictureOptions) -> u64 {
        let is_own = self.0.line.lock().quirks.own().is_some();
        picture::memory_for(size, self.0.settings.image, is_own)
    }

    fn prepare(
        &self,
        picture: &RgbPicture,
        _options: &PictureOptions,
    ) -> Result<Box<dyn PreparedPicture>, Failure> {
        let is_own = self.0.line.lock().quirks.own().is_some();
        match RemotePicture::new(picture, self.0.settings.image, is_own) {
            Some(file) => Ok(Box::new(file)),
            None => Err(failures::model_error("the picture does not fit into a JPEG file")),
        }
    }

    fn submit(&self, prepared: Box<dyn PreparedPicture>, mut work: ProviderWork) {
        let prepared: Box<dyn Any> = prepared;
        let file = prepared.downcast().expect("a file of this provider. This is a bug.");
        // From here on the picture is bytes of our own: it cannot kill the engine.
        drop(work.work.running.take());
        self.0.line.lock().add_picture(*file, work);
        self.0.changed.notify_one();
    }

    fn caption(&self, task: CaptionTask) {
        self.0.add_task(task);
    }
}

impl RemoteModel {
    fn failure(&self, fault: &pg_caption_remote::RemoteFault) -> Failure {
        fault.failure(&self.settings.server(), &self.name)
    }

    /// Takes what other engines used of the daily limits.
    fn restore_use(&self, used: &ModelUse) {
        if used.digest == self.settings.digest() {
            self.line.lock().budget.restore(used.day, used.requests, used.tokens);
        }
    }

    /// Queues the captions of a job.
    fn add_task(&self, mut task: CaptionTask) {
        task.stop_running();
        if task.is_complete() {
            return task.answer();
        }
        let picture = task.encoding().clone().downcast::<SentPicture>();
        let picture = picture.expect("a picture of this provider. This is a bug.");
        let open = Arc::new(OpenTask::new(task, picture));
        let added = self.line.lock().add_captions(&open);
        for _ in 0..added {
            self.changed.notify_one();
        }
    }

    fn status(&self) -> ModelStatus {
        let (settings, now) = (&self.settings, Instant::now());
        let line = self.line.lock();
        let (day, day_requests, day_tokens) = line.budget.used();
        let usage = line.usage.counts().map(|(day, style, count)| RemoteUsage {
            day,
            model: self.name.clone(),
            style: style.into(),
            requests: count.requests,
            images: count.images,
            input_tokens: count.tokens.input,
            output_tokens: count.tokens.output,
            failures: count.failures,
            cost: count.cost,
        });
        let paused = line.pace.paused_until(now);
        let remote = RemoteModelStatus {
            server: settings.server(),
            protocol: settings.protocol.name().into(),
            model: settings.model.clone(),
            learned: line.quirks.learned(),
            ceiling: line.pace.ceiling(),
            in_flight: line.pace.in_flight(),
            waiting: line.waiting() as u32,
            paused_ms: paused.map(|until| (until - now).as_millis() as u64),
            trouble: line.trouble.clone(),
            day,
            day_requests,
            day_tokens,
            usage: usage.collect(),
        };
        ModelStatus {
            name: self.name.clone(),
            digest: settings.digest(),
            family: pg_caption_models::REMOTE_FAMILY.into(),
            bytes: 0,
            min_confidence: settings.min_confidence,
            local: None,
            remote: Some(remote),
        }
    }
}
