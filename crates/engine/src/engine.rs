//! The engine as its front ends see it: configuration in, jobs in, answers and status out.

mod sharing;

use crate::answer::JobAnswer;
use crate::deadlines::JobDeadlines;
use crate::failures;
use crate::file_memory::FileClaim;
use crate::job::Job;
use crate::metrics::{EngineMetrics, resident_bytes};
use crate::picture::{Picture, PictureWork};
use crate::pictures_in_flight::PicturesInFlight;
use crate::pipeline::PicturePipeline;
use crate::provider::readiness::{ProviderReadiness, ProviderState};
use crate::provider::{self, Provider, ProviderHost, ProviderStart};
use crate::shared_answers::SharedAnswers;
use crate::shared_pictures::{ShareKey, ShareSweeper, SharedPictures};
use crate::test_hook::DecodeHook;
use crate::threads::spawn;
use crate::wording::RuleCache;
use parking_lot::Mutex;
use pg_caption_fetch::{FetchError, RequestHeaders};
use pg_caption_language::LanguageTag;
use pg_caption_style::{MAX_TOKENS, validate};
use pg_caption_wire::{EngineConfig, EngineStatus, Failure, FailureClass, ModelUse};
use sharing::{ShareScopeKey, scope};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Captions of one picture in one request.
const MOST_OUTPUTS: usize = 16;

/// Receives the reason when a provider that was ready breaks.
type WhenBroken = Box<dyn Fn(&Failure) + Send + Sync>;

/// Called when the first request is answered.
type WhenAnswered = Box<dyn FnOnce() + Send>;

/// What an engine is started with.
pub struct EngineOptions {
    /// The server's settings.
    pub config: EngineConfig,
    /// Headers of requests to chosen origins, or why they cannot be used: then no URL is fetched.
    pub headers: Result<RequestHeaders, FetchError>,
    /// Confinements in force, for the status.
    pub confinement: Vec<String>,
    /// Only set by tests of the confinement.
    pub hook: DecodeHook,
    /// Starts the provider.
    pub provider: ProviderStart,
}

impl EngineOptions {
    /// An engine with the model folder of the configuration, not confined and without request
    /// headers.
    pub fn new(config: EngineConfig) -> EngineOptions {
        EngineOptions {
            config,
            headers: Ok(RequestHeaders::default()),
            confinement: Vec::new(),
            hook: DecodeHook::default(),
            provider: Box::new(provider::start),
        }
    }
}

/// The engine.
pub struct Engine {
    config: EngineConfig,
    confinement: Vec<String>,
    started: Instant,
    run: String,
    metrics: Arc<EngineMetrics>,
    readiness: Arc<ProviderReadiness>,
    deadlines: Arc<JobDeadlines>,
    pipeline: Arc<PicturePipeline>,
    sweeper: Arc<ShareSweeper>,
    /// Pictures on their way, by the URL and by who may join them.
    in_flight: PicturesInFlight<ShareScopeKey>,
    draining: AtomicBool,
    when_broken: OnceLock<WhenBroken>,
    when_answered: Mutex<Option<WhenAnswered>>,
    /// What other engines use of daily limits while the provider loads.
    earlier_use: Mutex<Vec<ModelUse>>,
    /// Rules of recent requests.
    rules: RuleCache,
}

impl Engine {
    /// The rules of recent requests.
    pub fn rules(&self) -> &RuleCache {
        &self.rules
    }

    /// Starts the threads; the provider loads in the background.
    ///
    /// # Errors
    /// A thread cannot be started.
    pub fn start(options: EngineOptions) -> io::Result<Arc<Engine>> {
        let EngineOptions { config, headers, confinement, hook, provider } = options;
        let metrics = Arc::<EngineMetrics>::default();
        let (answers, successors) = SharedAnswers::new(&config, metrics.clone());
        let engine = Arc::new(Engine {
            pipeline: PicturePipeline::new(&config, headers, (metrics.clone(), answers), hook),
            config,
            confinement,
            rules: RuleCache::default(),
            started: Instant::now(),
            run: run_name(),
            metrics,
            readiness: Arc::default(),
            deadlines: Arc::default(),
            sweeper: Arc::default(),
            in_flight: PicturesInFlight::default(),
            draining: AtomicBool::new(false),
            when_broken: OnceLock::new(),
            when_answered: Mutex::default(),
            earlier_use: Mutex::default(),
        });
        let (deadlines, readiness) = (engine.deadlines.clone(), engine.readiness.clone());
        spawn("deadlines", move || {
            deadlines.run(|job, now| match readiness.now() {
                ProviderState::Loading => Some(failures::loading()),
                _ => (job.deadline() <= now).then(|| job.timeout(now)),
            })
        })?;
        let sweeper = engine.sweeper.clone();
        spawn("sweeper", move || sweeper.run())?;
        let pipeline = engine.pipeline.clone();
        spawn("successors", move || {
            for mut task in successors {
                if let Some(provider) = task.provider() {
                    task.set_running(pipeline.running().enter_now(&task.job_handle()));
                    provider.caption(task);
                }
            }
        })?;
        provider(&engine.config, engine.metrics.clone(), engine.clone())?;
        Ok(engine)
    }

    /// Sets what happens when a provider that was ready breaks, before any request is answered: a
    /// server ends, and the next engine gets the requests again.
    pub fn when_broken(&self, act: impl Fn(&Failure) + Send + Sync + 'static) {
        // Set once, by the front end that started the engine.
        let _ = self.when_broken.set(Box::new(act));
    }

    /// Sets what happens when the first request is answered by more than the engine's own
    /// inability.
    pub fn when_answered(&self, act: impl FnOnce() + Send + 'static) {
        *self.when_answered.lock() = Some(Box::new(act));
    }

    /// A request is being answered.
    pub fn note_answer(&self, answer: &JobAnswer) {
        let is_own =
            matches!(answer, JobAnswer::Failed(failure) if failure.class == FailureClass::Engine);
        if !is_own && let Some(act) = self.when_answered.lock().take() {
            act();
        }
    }

    /// Takes what other engines used of the model's daily limits since this one started.
    pub fn restore_use(&self, used: ModelUse) {
        let mut earlier = self.earlier_use.lock();
        match self.readiness.now() {
            ProviderState::Ready(provider) => provider.restore_use(&used),
            ProviderState::Loading => earlier.push(used),
            ProviderState::Failed(_) => {}
        }
    }

    /// What was used of the daily limits of its models.
    pub fn model_use(&self) -> Vec<ModelUse> {
        let ProviderState::Ready(provider) = self.readiness.now() else { return Vec::new() };
        provider.model_use()
    }

    /// The stages before the provider.
    pub fn pipeline(&self) -> &Arc<PicturePipeline> {
        &self.pipeline
    }

    /// The server's settings.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The state of the provider.
    pub fn readiness(&self) -> &ProviderReadiness {
        &self.readiness
    }

    /// The counters.
    pub fn metrics(&self) -> &Arc<EngineMetrics> {
        &self.metrics
    }

    /// A successor has taken over.
    pub fn set_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Takes a job. `upload`: the picture's file, if it need not be fetched. `share`: the client's
    /// share number, and the pictures of its connection.
    pub fn submit(
        &self,
        job: &Arc<Job>,
        upload: Option<(Vec<u8>, Option<FileClaim>)>,
        share: Option<(u64, &Arc<SharedPictures>)>,
    ) {
        if let Err(failure) = check(job) {
            job.answer(JobAnswer::Failed(failure));
            return;
        }
        let provider = match self.readiness.now() {
            ProviderState::Failed(failure) => {
                job.answer(JobAnswer::Failed(failure));
                return;
            }
            ProviderState::Ready(provider) => {
                if let Some(failure) = provider.refusal() {
                    job.answer(JobAnswer::Failed(failure));
                    return;
                }
                Some(provider)
            }
            ProviderState::Loading => None,
        };
        if upload.is_some() {
            job.begin();
        }
        self.deadlines.watch(job);
        let shared = provider.as_ref().zip(share).map(|(provider, (share, pictures))| {
            let views = provider.views(&job.outputs);
            (ShareKey { share, source: job.source.clone(), views }, pictures)
        });
        let now = Instant::now();
        if let Some((key, pictures)) = &shared
            && let Some(picture) = pictures.find(key, now)
            && self.join(job, &picture)
        {
            return;
        }
        let scope = scope(job, provider.as_deref());
        if let Some(key) = &scope
            && self.shares(job, key, provider.as_deref())
        {
            return;
        }
        let picture = Picture::new(job);
        if let Some(key) = scope {
            // A picture that another request has added meanwhile leads; this one is fetched, too.
            self.in_flight.find_or_lead(key, &picture);
        }
        if let Some((key, pictures)) = shared {
            pictures.keep(key, picture.clone(), now);
            self.sweeper.watch(pictures, now);
        }
        self.pipeline.push(PictureWork::new(picture), upload);
        // The provider may have failed between the check above and the push; then no other thread
        // empties the queue.
        if let ProviderState::Failed(failure) = self.readiness.now() {
            self.pipeline.close(&failure);
        }
    }

    /// What `caption.engine_status()` shows.
    pub fn status(&self) -> EngineStatus {
        let state = self.readiness.now();
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let draining = self.draining.load(Ordering::Relaxed);
        let (model, failure) = match &state {
            ProviderState::Loading => (None, None),
            ProviderState::Ready(provider) => (Some(provider.status()), None),
            ProviderState::Failed(failure) => (None, Some(failure.clone())),
        };
        EngineStatus {
            pid: std::process::id(),
            run: self.run.clone(),
            release: env!("CARGO_PKG_VERSION").into(),
            state: if draining { "draining" } else { state.name() }.into(),
            model,
            failure,
            uptime_s: self.started.elapsed().as_secs_f64(),
            connections: self.metrics.connections.load(Ordering::Relaxed),
            in_flight: self.metrics.in_flight.load(Ordering::Relaxed),
            answered: load(&self.metrics.answered),
            encoded: load(&self.metrics.encoded),
            encode_calls: load(&self.metrics.encode_calls),
            generated: load(&self.metrics.generated),
            busy_ms: self.metrics.busy_ms(),
            saved: self.metrics.saved.now(self.pipeline.answers().memo_bytes()),
            cpu_ms: self.metrics.cpu_ms(),
            rss: resident_bytes(),
            confinement: self.confinement.clone(),
            hosts: self.pipeline.hosts(),
        }
    }
}

impl ProviderHost for Engine {
    fn ready(&self, provider: Arc<dyn Provider>) -> io::Result<()> {
        let earlier = self.earlier_use.lock();
        // Before its first request.
        for used in earlier.iter() {
            provider.restore_use(used);
        }
        self.pipeline.open(&provider)?;
        self.readiness.set(ProviderState::Ready(provider));
        Ok(())
    }

    fn answers(&self) -> Option<Arc<SharedAnswers>> {
        Some(self.pipeline.answers().clone())
    }

    fn failed(&self, failure: Failure) {
        self.readiness.set(ProviderState::Failed(failure.clone()));
        self.pipeline.close(&failure);
    }

    fn broken(&self, failure: Failure) {
        if let Some(act) = self.when_broken.get() {
            act(&failure);
        }
        self.failed(failure);
    }
}

/// Start of the process, in milliseconds of the Unix epoch, and its id.
fn run_name() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    format!("{}-{}", since.as_millis(), std::process::id())
}

/// Refuses invalid requests.
fn check(job: &Job) -> Result<(), Failure> {
    if job.outputs.is_empty() || job.outputs.len() > MOST_OUTPUTS {
        return Err(failures::bad_request(format!(
            "a request asks for 1 to {MOST_OUTPUTS} captions, not {}",
            job.outputs.len()
        )));
    }
    for output in &job.outputs {
        validate(&output.style).map_err(|e| failures::bad_style(&e))?;
        if let Some(tag) = &output.style.language {
            let language = tag.parse::<LanguageTag>();
            language.map_err(|error| failures::bad_request(error.to_string()))?;
        }
        if output.max_tokens == 0 || output.max_tokens > MAX_TOKENS {
            return Err(failures::bad_request(format!(
                "max_tokens must be at most {MAX_TOKENS}, not {}",
                output.max_tokens
            )));
        }
    }
    let of_outputs = job.outputs.iter().filter_map(|output| output.min_confidence);
    match of_outputs.chain(job.min_confidence).find(|c| !(0.0..=1.0).contains(c)) {
        Some(c) => {
            Err(failures::bad_request(format!("min_confidence must be from 0 to 1, not {c}")))
        }
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_broken_model_thread_is_reported_first() {
        let config = EngineConfig {
            model: "/nonexistent".into(),
            onnxruntime: "/nonexistent".into(),
            ..EngineConfig::default()
        };
        let engine = Engine::start(EngineOptions::new(config)).unwrap();
        let ProviderState::Failed(before) = engine.readiness().wait() else {
            panic!("a model without files")
        };
        let (report, reported) = channel();
        let known = engine.clone();
        engine.when_broken(move |failure| {
            let ProviderState::Failed(now) = known.readiness().now() else { panic!("a model") };
            report.send((failure.clone(), now)).unwrap();
        });
        crate::provider::local::until_broken(&*engine, || {
            panic!("a scheduler lost its {}", "place")
        });
        let ProviderState::Failed(failure) = engine.readiness().now() else { panic!("a model") };
        assert_ne!(failure, before);
        // A server ends here, before it answers a request which the next engine could serve.
        assert_eq!(reported.try_recv().unwrap(), (failure.clone(), before));
        assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Engine, "no_model"));
        assert!(failure.detail.unwrap().contains("a scheduler lost its place"));
    }
}
