//! The model thread: loads the model, warms it up, then makes one session call after another as the
//! scheduler says.
//!
//! It alone touches the sessions. Whatever happens to a model it never ends the process: a model
//! that cannot be used is stated once and answered to everybody.

use crate::captions::{Open, Prompts};
use crate::engine::Engine;
use crate::failures;
use crate::inbox::{Letter, Prepared};
use crate::job::{Answer, Job};
use crate::metrics::{PoolClock, Stage, thread_cpu};
use crate::picture::{Seen, Work};
use crate::pipeline::{Ahead, ms};
use crate::readiness::State;
use crate::scheduler::{Act, Bucket, Event, Limits, Model, Scheduler, Ticket};
use pg_caption_captioner::{
    self as captioner, CaptionBatch, CaptionSequence, Captioner, FinishedCaption,
    GenerationSettings, InputPreparer, PictureFeatures, PictureOptions, PixelValues, PromptWords,
    TokenPrompt, catch_panic,
};
use pg_caption_pixels::RgbPicture;
use pg_caption_style::builtin;
use pg_caption_wire::{EngineConfig, ImageFacts, ModelRef};
use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

/// Name of the thread; ONNX Runtime's pool threads inherit it, which is how their CPU time is
/// found.
pub const THREAD: &str = "model";

/// Rows in a decoder call for each picture in an encoder call: a decode step costs little more for
/// two captions than for one.
const CAPTIONS_PER_PICTURE: usize = 2;

/// What generation of one caption starts from.
#[derive(Clone)]
pub struct Start {
    /// The picture.
    pub features: Arc<PictureFeatures>,
    /// The prompt.
    pub prompt: TokenPrompt,
    /// Ceiling.
    pub max_new_tokens: u32,
    /// Settings.
    pub generation: Arc<GenerationSettings>,
}

impl Start {
    fn sequence(&self, key: u64) -> CaptionSequence {
        let Start { features, prompt, max_new_tokens, generation } = self.clone();
        CaptionSequence { key, features, prompt, max_new_tokens, generation }
    }
}

/// The sessions behind the scheduler's trait; a panic in a call is an error of that call.
struct Sessions(Captioner);

fn guarded<T>(call: impl FnOnce() -> Result<T, captioner::ModelError>) -> Result<T, String> {
    match catch_panic(call) {
        Ok(result) => result.map_err(|e| e.to_string()),
        Err(panic) => Err(format!("the model's code panicked: {panic}")),
    }
}

impl Model for Sessions {
    type Pixels = PixelValues;
    type Features = PictureFeatures;
    type Start = Start;
    type Batch = CaptionBatch;

    fn encode(&mut self, pictures: &[&PixelValues]) -> Result<Vec<PictureFeatures>, String> {
        guarded(|| self.0.encode_refs(pictures))
    }

    fn begin(
        &mut self,
        captions: &[(u64, &Start)],
    ) -> Result<(CaptionBatch, Vec<FinishedCaption>), String> {
        guarded(|| self.0.begin(captions.iter().map(|(key, start)| start.sequence(*key)).collect()))
    }

    fn step(&mut self, batch: &mut CaptionBatch) -> Result<Vec<FinishedCaption>, String> {
        guarded(|| self.0.step(batch))
    }

    fn cancel(batch: &mut CaptionBatch, keys: &[u64]) {
        batch.cancel(keys);
    }

    fn bytes(batch: &CaptionBatch) -> usize {
        batch.bytes()
    }
}

/// Threads of ONNX Runtime's pool for a setting (0: half the cores).
fn threads(config: &EngineConfig) -> usize {
    match config.threads as usize {
        0 => (std::thread::available_parallelism().map_or(1, |n| n.get()) / 2).max(1),
        n => n,
    }
}

/// The thread. Returns when there is no model.
pub fn run(engine: &Arc<Engine>) {
    let loaded = catch_panic(|| load(engine.config()))
        .unwrap_or_else(|panic| Err(format!("loading it crashed: {panic}")));
    let (sessions, preparer) = match loaded {
        Ok(loaded) => loaded,
        Err(reason) => return engine.no_model(failures::no_model(reason)),
    };
    let batch = match engine.config().max_batch as usize {
        0 => preparer.suggested_batch().max(1),
        n => n,
    };
    if let Err(e) = engine.pipeline().open(batch, &preparer, engine.inbox()) {
        return engine
            .no_model(failures::no_model(format!("its threads could not be started: {e}")));
    }
    let mut thread = ModelThread::new(engine.clone(), sessions, preparer.clone(), batch);
    engine.readiness().set(State::Ready(preparer));
    until_it_breaks(engine, move || thread.run());
    // Nobody waits for a model that is gone: what still comes is answered.
    loop {
        let State::Failed(failure) = engine.readiness().now() else { return };
        for letter in engine.inbox().take(true) {
            match letter {
                Letter::Picture(prepared) => prepared.work.end(Answer::Failed(failure.clone())),
                Letter::Captions(job, _) => drop(job.answer(Answer::Failed(failure.clone()))),
            }
        }
    }
}

/// What needs a request's data is guarded where it is called; whatever breaks all the same is the
/// end of the model, and said.
fn until_it_breaks(engine: &Engine, thread: impl FnOnce()) {
    if let Err(panic) = catch_panic(thread) {
        engine.broken(failures::model_gone(&panic));
    }
}

/// Loads and warms up: a model that cannot caption a gray picture is no model, and the first caller
/// does not pay for the first call.
fn load(config: &EngineConfig) -> Result<(Sessions, Arc<InputPreparer>), String> {
    let words = |e: captioner::ModelError| e.to_string();
    // Read by whoever names a style; a folder whose styles cannot be read is refused here, where
    // somebody looks.
    let styles = pg_caption_models::styles_of(&config.model).map_err(|e| e.to_string())?;
    captioner::init(&config.onnxruntime, threads(config)).map_err(words)?;
    let (mut captioner, preparer) =
        captioner::load(&config.model, &captioner::LoadOptions { dtype: config.dtype.clone() })
            .map_err(words)?;
    let (width, height) = preparer.target();
    let gray = RgbPicture { width, height, data: vec![128; width as usize * height as usize * 3] };
    let pixels = preparer.picture(&gray, &PictureOptions::default()).map_err(words)?;
    let features = captioner
        .encode(&[pixels])
        .map_err(words)?
        .into_iter()
        .next()
        .ok_or("the encoder returned nothing")?;
    let style = builtin("concise").ok_or("no style to try")?;
    // A style of the folder's own that its model cannot be told would fail with every call.
    for own in styles.values() {
        let words = PromptWords {
            text: own.prompt_for(&preparer.status().family),
            ..PromptWords::default()
        };
        if let Err(reason) = preparer.prompt(own, words, &features) {
            return Err(format!(
                "{}: style \"{}\": {reason}",
                config.model.join("captions.json").display(),
                own.name
            ));
        }
    }
    let start = Start {
        prompt: preparer.prompt(&style, PromptWords::default(), &features).map_err(words)?,
        features: Arc::new(features),
        max_new_tokens: 2,
        generation: preparer.generation(None).map_err(words)?,
    };
    let (mut batch, _) = captioner.begin(vec![start.sequence(0)]).map_err(words)?;
    while !batch.is_empty() {
        captioner.step(&mut batch).map_err(words)?;
    }
    Ok((Sessions(captioner), preparer))
}

/// A picture that waits for the encoder.
struct Encoding {
    work: Work,
    facts: ImageFacts,
    pixels_sha256: Option<String>,
    _ahead: Ahead,
    _held: crate::budget::Reservation,
}

/// The state of the thread.
struct ModelThread {
    engine: Arc<Engine>,
    sessions: Sessions,
    preparer: Arc<InputPreparer>,
    scheduler: Scheduler<Sessions>,
    prompts: Prompts,
    model: ModelRef,
    pool: PoolClock,
    next_key: u64,
    pictures: HashMap<u64, Encoding>,
    open: HashMap<u64, Open>,
    /// Of each caption: its job's key in `open`, and its position.
    captions: HashMap<u64, (u64, usize)>,
}

impl ModelThread {
    fn new(
        engine: Arc<Engine>,
        sessions: Sessions,
        preparer: Arc<InputPreparer>,
        batch: usize,
    ) -> Self {
        let bytes = (engine.config().memory.max(1 << 26) / 8) as usize;
        let limits = Limits { pictures: batch, rows: batch * CAPTIONS_PER_PICTURE, bytes };
        let status = preparer.status();
        let model = ModelRef { name: status.name.clone(), digest: status.digest.clone() };
        ModelThread {
            engine,
            sessions,
            preparer,
            scheduler: Scheduler::new(limits),
            prompts: Prompts::default(),
            model,
            pool: PoolClock::of_threads_named(THREAD),
            next_key: 0,
            pictures: HashMap::new(),
            open: HashMap::new(),
            captions: HashMap::new(),
        }
    }

    fn key(&mut self) -> u64 {
        self.next_key += 1;
        self.next_key
    }

    fn run(&mut self) {
        loop {
            let idle = self.pictures.is_empty() && self.captions.is_empty();
            for letter in self.engine.inbox().take(idle) {
                match letter {
                    Letter::Picture(prepared) => self.picture(*prepared),
                    Letter::Captions(job, seen) => self.captions_of(job, seen),
                }
            }
            self.let_go();
            let held = self.open.values().map(|o| o.seen.features.bytes).sum();
            if let Some(act) = self.scheduler.next(held) {
                self.call(act);
            }
        }
    }

    fn picture(&mut self, prepared: Prepared) {
        let Prepared { work, facts, pixels, pixels_sha256, ahead, held } = prepared;
        let key = self.key();
        let bucket = Bucket([pixels.bucket, 0, 0]);
        let ticket = Ticket {
            key,
            due: work.picture.due(),
            turn: work.picture.connection,
            bucket,
            rows: 1,
            alone: false,
        };
        self.pictures
            .insert(key, Encoding { work, facts, pixels_sha256, _ahead: ahead, _held: held });
        self.scheduler.picture(ticket, pixels);
    }

    fn captions_of(&mut self, job: Arc<Job>, seen: Arc<Seen>) {
        if !job.is_open() {
            return;
        }
        let open = Open::new(job, seen, &self.preparer, &mut self.prompts, self.engine.config());
        let starts = match open.starts(&self.preparer) {
            Ok(starts) => starts,
            Err(failure) => {
                open.job.answer(Answer::Failed(failure));
                return;
            }
        };
        if open.is_complete() {
            return open.answer(&self.model);
        }
        let (owner, due, turn) = (self.key(), open.job.due(), open.job.connection);
        for (at, start) in starts {
            let key = self.key();
            let bucket =
                Bucket([start.features.bucket, start.prompt.bucket, start.generation.bucket()]);
            let rows = start.generation.num_beams.max(1) as usize;
            self.captions.insert(key, (owner, at));
            let alone = start.prompt.alone;
            self.scheduler.caption(Ticket { key, due, turn, bucket, rows, alone }, start);
        }
        self.open.insert(owner, open);
    }

    /// Lets go of everything nobody waits for any more.
    fn let_go(&mut self) {
        let ModelThread { pictures, open, captions, scheduler, .. } = self;
        let wanted = |key: u64| match captions.get(&key) {
            Some((owner, _)) => open.get(owner).is_some_and(|o| o.job.is_open()),
            None => pictures.get(&key).is_some_and(|p: &Encoding| p.work.picture.wanted()),
        };
        for key in scheduler.retain(wanted) {
            match captions.remove(&key) {
                Some((owner, _)) => drop(open.remove(&owner)),
                None => drop(pictures.remove(&key)),
            }
        }
    }

    fn call(&mut self, act: Act) {
        let (stage, meters) = (
            if let Act::Encode(_) = act { Stage::Encode } else { Stage::Generate },
            self.engine.meters(),
        );
        if stage == Stage::Encode {
            meters.encode_calls.fetch_add(1, Relaxed);
        }
        let before = thread_cpu() + self.pool.read();
        let events = self.scheduler.run(act, &mut self.sessions, Instant::now);
        self.engine.meters().spent(stage, (thread_cpu() + self.pool.read()).saturating_sub(before));
        for event in events {
            match event {
                Event::Encoded { key, features, spent } => self.encoded(key, features, spent),
                Event::Ended { finished, spent } => {
                    self.engine.meters().generated.fetch_add(1, Relaxed);
                    let preparer = self.preparer.clone();
                    self.caption_ended(finished.key, |open, at| {
                        open.finished(at, finished, spent, &preparer)
                    });
                }
                Event::Failed { key, reason } => {
                    crate::log::line(format_args!("warning: a model call failed: {reason}"));
                    if let Some(encoding) = self.pictures.remove(&key) {
                        encoding.work.end(Answer::Failed(failures::model_error(reason)));
                    } else {
                        self.caption_ended(key, |open, at| open.failed(at, reason));
                    }
                }
            }
        }
    }

    fn encoded(&mut self, key: u64, features: PictureFeatures, spent: Duration) {
        let Some(Encoding { mut work, facts, pixels_sha256, .. }) = self.pictures.remove(&key)
        else {
            return;
        };
        self.engine.meters().encoded.fetch_add(1, Relaxed);
        work.timings.encode = ms(spent);
        let seen = Seen {
            features: Arc::new(features),
            facts,
            timings: work.timings,
            pixels_sha256,
            at: Instant::now(),
        };
        let seen = Arc::new(seen);
        for job in work.picture.seen(&seen, true) {
            self.captions_of(job, seen.clone());
        }
    }

    fn caption_ended(&mut self, key: u64, note: impl FnOnce(&mut Open, usize)) {
        let Some((owner, at)) = self.captions.remove(&key) else { return };
        let Some(open) = self.open.get_mut(&owner) else { return };
        note(open, at);
        if open.is_complete()
            && let Some(open) = self.open.remove(&owner)
        {
            open.answer(&self.model);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_model_thread_that_breaks_is_no_model_any_more_and_says_why() {
        let config = EngineConfig {
            model: "/nonexistent".into(),
            onnxruntime: "/nonexistent".into(),
            ..EngineConfig::default()
        };
        let engine = Engine::start(config, Vec::new()).unwrap();
        let State::Failed(before) = engine.readiness().wait() else {
            panic!("a model out of nothing")
        };
        let (told, heard) = std::sync::mpsc::channel();
        let known = engine.clone();
        engine.when_broken(move |failure| {
            let State::Failed(now) = known.readiness().now() else {
                panic!("nothing made it work")
            };
            told.send((failure.clone(), now)).unwrap();
        });
        until_it_breaks(&engine, || panic!("a scheduler lost its {}", "place"));
        let State::Failed(failure) = engine.readiness().now() else { panic!("still there") };
        assert_ne!(failure, before);
        // A server ends here, before a request that another engine can answer gets this for an
        // answer.
        assert_eq!(heard.try_recv().unwrap(), (failure.clone(), before));
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (pg_caption_wire::FailureClass::Engine, "no_model")
        );
        assert!(failure.detail.unwrap().contains("a scheduler lost its place"));
    }
}
