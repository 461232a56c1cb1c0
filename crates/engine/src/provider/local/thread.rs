//! The model thread: makes one session call after another, as the scheduler decides. It alone uses
//! the sessions.

use super::MODEL_THREAD;
use super::channel::{ModelChannel, ModelMessage};
use super::pool_clock::PoolClock;
use super::prompts::PromptCache;
use super::scheduler::{
    BatchBucket, BatchLimits, CallEvent, ModelScheduler, ScheduleTicket, SessionCall,
};
use super::sessions::{CaptionStart, LocalSessions};
use crate::captions::CaptionTask;
use crate::catch_panic::catch_panic;
use crate::failures;
use crate::metrics::{CpuStage, EngineMetrics, thread_cpu};
use crate::provider::values::RawCaption;
use crate::provider::work::ProviderWork;
use parking_lot::FairMutex;
use pg_caption_captioner::{
    FinishedCaption, InputPreparer, PictureFeatures, PixelValues, TokenPrompt,
};
use pg_caption_wire::{EngineConfig, Failure, TileMode};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Rows in a decoder call for each picture in an encoder call: a decode step costs little more for
/// two captions than for one.
const CAPTIONS_PER_PICTURE: usize = 2;

/// Part of the memory setting for features and caches.
const MEMORY_SHARE: u64 = 8;

/// Held during each session call. ONNX Runtime has one pool of threads in a process; the models of
/// a cascade take turns, so that both together use no more threads than the setting allows.
static SESSION_CALLS: FairMutex<()> = FairMutex::new(());

/// A job whose captions are being generated.
struct OpenTask {
    task: CaptionTask,
    features: Arc<PictureFeatures>,
    /// By output; none for outputs that are not generated.
    prompts: Vec<Option<TokenPrompt>>,
}

/// The position of a caption: its task's key, and the output.
type CaptionSlot = (u64, usize);

/// The state of the thread.
pub struct ModelThread {
    metrics: Arc<EngineMetrics>,
    channel: Arc<ModelChannel>,
    tiles: TileMode,
    sessions: LocalSessions,
    preparer: Arc<InputPreparer>,
    scheduler: ModelScheduler<LocalSessions>,
    prompts: PromptCache,
    pool: PoolClock,
    next_key: u64,
    pictures: HashMap<u64, Box<ProviderWork>>,
    tasks: HashMap<u64, OpenTask>,
    captions: HashMap<u64, CaptionSlot>,
}

impl ModelThread {
    /// Called on the model thread, after ONNX Runtime has started its pool.
    pub fn new(
        config: &EngineConfig,
        metrics: Arc<EngineMetrics>,
        sessions: LocalSessions,
        preparer: Arc<InputPreparer>,
        batch: usize,
        channel: Arc<ModelChannel>,
    ) -> Self {
        let bytes = (config.memory.max(1 << 26) / MEMORY_SHARE) as usize;
        let limits = BatchLimits { pictures: batch, rows: batch * CAPTIONS_PER_PICTURE, bytes };
        ModelThread {
            metrics,
            channel,
            tiles: config.tiles,
            sessions,
            preparer,
            scheduler: ModelScheduler::new(limits),
            prompts: PromptCache::default(),
            pool: PoolClock::of_threads_named(MODEL_THREAD),
            next_key: 0,
            pictures: HashMap::new(),
            tasks: HashMap::new(),
            captions: HashMap::new(),
        }
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    /// Never returns.
    pub fn run(&mut self) {
        loop {
            let idle = self.pictures.is_empty() && self.captions.is_empty();
            for message in self.channel.receive(idle) {
                match message {
                    ModelMessage::Picture(pixels, work) => self.add_picture(*pixels, work),
                    ModelMessage::Captions(task) => self.add_task(*task),
                }
            }
            self.drop_unwanted();
            let held = self.tasks.values().map(|open| open.features.bytes).sum();
            if let Some(call) = self.scheduler.next(held) {
                self.call(call);
            }
        }
    }

    fn add_picture(&mut self, pixels: PixelValues, work: Box<ProviderWork>) {
        let key = self.key();
        let ticket = ScheduleTicket {
            key,
            due: work.picture().due(),
            turn: work.picture().connection,
            bucket: BatchBucket([pixels.bucket, 0, 0]),
            rows: 1,
            alone: false,
        };
        self.pictures.insert(key, work);
        self.scheduler.add_picture(ticket, pixels);
    }

    fn add_task(&mut self, mut task: CaptionTask) {
        if !task.job().is_open() {
            return;
        }
        let features = task.encoding().clone().downcast::<PictureFeatures>();
        let features = features.expect("features of this provider. This is a bug.");
        let generation = match self.preparer.generation(task.job().extras.generation.as_ref()) {
            Ok(generation) => generation,
            Err(error) => return task.fail(failures::bad_generation(&error.to_string())),
        };
        let mut prompts = vec![None; task.job().outputs.len()];
        for at in task.missing() {
            let (preparer, tiles) = (&self.preparer, self.tiles);
            match self.prompts.get(preparer, task.job(), at, tiles, &features) {
                Ok(prompt) => prompts[at] = Some(prompt),
                Err(failure) => task.finish(at, Err(failure), Duration::ZERO),
            }
        }
        if task.is_complete() {
            return task.answer();
        }
        let owner = self.key();
        for (at, prompt) in prompts.iter().enumerate() {
            let Some(prompt) = prompt else { continue };
            let key = self.key();
            self.captions.insert(key, (owner, at));
            let ticket = ScheduleTicket {
                key,
                due: task.job().due(),
                turn: task.job().connection,
                bucket: BatchBucket([features.bucket, prompt.bucket, generation.bucket()]),
                rows: generation.num_beams.max(1) as usize,
                alone: prompt.alone,
            };
            let start = CaptionStart {
                features: features.clone(),
                prompt: prompt.clone(),
                max_new_tokens: task.job().outputs[at].max_tokens,
                generation: generation.clone(),
            };
            self.scheduler.add_caption(ticket, start);
        }
        self.tasks.insert(owner, OpenTask { task, features, prompts });
    }

    /// Drops all work whose callers have left.
    fn drop_unwanted(&mut self) {
        let ModelThread { pictures, tasks, captions, scheduler, .. } = self;
        let wanted = |key: u64| match captions.get(&key) {
            Some((owner, _)) => tasks.get(owner).is_some_and(|open| open.task.job().is_open()),
            None => pictures.get(&key).is_some_and(|work| work.picture().is_wanted()),
        };
        for key in scheduler.retain(wanted) {
            match captions.remove(&key) {
                Some((owner, _)) => drop(tasks.remove(&owner)),
                None => drop(pictures.remove(&key)),
            }
        }
    }

    fn call(&mut self, call: SessionCall) {
        let stage = match call {
            SessionCall::Encode(_) => CpuStage::Encode,
            SessionCall::Begin(_) | SessionCall::Step(_) => CpuStage::Generate,
        };
        if stage == CpuStage::Encode {
            self.metrics.encode_calls.fetch_add(1, Relaxed);
        }
        let metrics = self.metrics.clone();
        let turn = SESSION_CALLS.lock();
        let step = metrics.steps.begin(Instant::now());
        let before = thread_cpu() + self.pool.read();
        let events = self.scheduler.run(call, &mut self.sessions, Instant::now);
        self.metrics.add_cpu(stage, (thread_cpu() + self.pool.read()).saturating_sub(before));
        drop((step, turn));
        for event in events {
            match event {
                CallEvent::Encoded { key, features, spent } => self.encoded(key, features, spent),
                CallEvent::Ended { finished, spent } => self.generated(finished, spent),
                CallEvent::Failed { key, reason } => self.failed(key, &reason),
            }
        }
    }

    fn encoded(&mut self, key: u64, features: PictureFeatures, spent: Duration) {
        let Some(work) = self.pictures.remove(&key) else { return };
        self.metrics.encoded.fetch_add(1, Relaxed);
        let confidence = features.confidence;
        for task in work.encoded(Arc::new(features), confidence, spent) {
            self.add_task(task);
        }
    }

    fn generated(&mut self, finished: FinishedCaption, spent: Duration) {
        self.metrics.generated.fetch_add(1, Relaxed);
        let text = catch_panic(|| self.preparer.text(&finished.ids))
            .map_err(|panic| failures::step_panicked("the code that decodes tokens", &panic))
            .and_then(|text| text.map_err(|error| failures::model_error(error.to_string())));
        self.end_caption(finished.key, spent, |prompt| {
            text.map(|text| RawCaption {
                text,
                finish: finished.finish,
                confidence: Some(finished.confidence),
                tokens: finished.ids.len() as u32,
                ids: finished.ids,
                prompt_ids: prompt.map(|prompt| prompt.words().to_vec()).unwrap_or_default(),
            })
        });
    }

    fn failed(&mut self, key: u64, reason: &str) {
        crate::log::line(format_args!("warning: a model call failed: {reason}"));
        let failure = failures::model_error(reason);
        match self.pictures.remove(&key) {
            Some(work) => work.fail(failure),
            None => self.end_caption(key, Duration::ZERO, |_| Err(failure)),
        }
    }

    fn end_caption(
        &mut self,
        key: u64,
        spent: Duration,
        result: impl FnOnce(Option<TokenPrompt>) -> Result<RawCaption, Failure>,
    ) {
        let Some((owner, at)) = self.captions.remove(&key) else { return };
        let Some(open) = self.tasks.get_mut(&owner) else { return };
        open.task.finish(at, result(open.prompts[at].take()), spent);
        if open.task.is_complete()
            && let Some(open) = self.tasks.remove(&owner)
        {
            open.task.answer();
        }
    }
}
