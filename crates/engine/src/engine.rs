//! The engine as its front ends see it: configuration in, jobs in, answers and status out.

use crate::budget::Reservation;
use crate::deadlines::Deadlines;
use crate::failures;
use crate::inbox::{Inbox, Letter};
use crate::job::{Answer, Job};
use crate::metrics::{self, Meters};
use crate::model;
use crate::picture::{Joined, Picture, Work};
use crate::pipeline::Pipeline;
use crate::readiness::{Readiness, State};
use crate::serve::spawn;
use crate::share::{Shares, Sweeper};
use pg_caption_captioner::TileViews;
use pg_caption_style::{MAX_TOKENS, validate};
use pg_caption_wire::{EngineConfig, EngineStatus, Failure};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

/// Captions of one picture in one request.
const MOST_OUTPUTS: usize = 16;

/// Told why a model that worked broke.
type WhenBroken = Box<dyn Fn(&Failure) + Send + Sync>;

/// The engine.
pub struct Engine {
    config: EngineConfig,
    confinement: Vec<String>,
    started: Instant,
    meters: Arc<Meters>,
    readiness: Arc<Readiness>,
    deadlines: Arc<Deadlines>,
    pipeline: Arc<Pipeline>,
    inbox: Arc<Inbox>,
    sweeper: Arc<Sweeper>,
    draining: AtomicBool,
    when_broken: OnceLock<WhenBroken>,
}

/// A request counted as in flight until dropped.
pub struct Counted(Arc<Meters>);

impl Counted {
    /// It was answered, not cancelled.
    pub fn answered(&self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Release);
    }
}

impl Engine {
    /// Starts the threads; the model loads in the background.
    ///
    /// # Errors
    /// No threads.
    pub fn start(config: EngineConfig, confinement: Vec<String>) -> std::io::Result<Arc<Engine>> {
        let meters = Arc::<Meters>::default();
        let engine = Arc::new(Engine {
            pipeline: Pipeline::new(&config, meters.clone()),
            inbox: Arc::default(),
            config,
            confinement,
            started: Instant::now(),
            meters,
            readiness: Arc::default(),
            deadlines: Arc::default(),
            sweeper: Arc::default(),
            draining: AtomicBool::new(false),
            when_broken: OnceLock::new(),
        });
        let (deadlines, readiness) = (engine.deadlines.clone(), engine.readiness.clone());
        spawn("deadlines", move || {
            deadlines.run(|job, now| match readiness.now() {
                State::Loading => failures::loading(),
                _ => job.overdue(now),
            })
        })?;
        let sweeper = engine.sweeper.clone();
        spawn("sweeper", move || sweeper.run())?;
        let this = engine.clone();
        spawn(model::THREAD, move || model::run(&this))?;
        Ok(engine)
    }

    /// There is no model: whoever waits is told, and whoever comes.
    pub fn no_model(&self, failure: Failure) {
        self.readiness.set(State::Failed(failure.clone()));
        self.pipeline.close(&failure);
    }

    /// What to do when a model that worked breaks, before anybody is told: a server ends, and its
    /// successor gets the requests again.
    pub fn when_broken(&self, act: impl Fn(&Failure) + Send + Sync + 'static) {
        // Said once, by whoever started it.
        let _ = self.when_broken.set(Box::new(act));
    }

    /// The model worked and does not any more.
    pub fn broken(&self, failure: Failure) {
        if let Some(act) = self.when_broken.get() {
            act(&failure);
        }
        self.no_model(failure);
    }

    /// The stages before the model.
    pub fn pipeline(&self) -> &Arc<Pipeline> {
        &self.pipeline
    }

    /// The queue in front of the model.
    pub fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// What it was started with.
    pub fn config(&self) -> &EngineConfig {
        &self.config
    }

    /// The model's state.
    pub fn readiness(&self) -> &Readiness {
        &self.readiness
    }

    /// The counters.
    pub fn meters(&self) -> &Meters {
        &self.meters
    }

    /// Counts a request as in flight.
    pub fn count_in(&self) -> Counted {
        self.meters.in_flight.fetch_add(1, Ordering::Acquire);
        Counted(self.meters.clone())
    }

    /// A successor has taken over.
    pub fn note_draining(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Takes a job. `bytes`: the picture, if it need not be fetched. `share`: where pictures of the
    /// same statement are.
    pub fn submit(
        &self,
        job: &Arc<Job>,
        bytes: Option<(Vec<u8>, Option<Reservation>)>,
        share: Option<(u64, &Arc<Shares>)>,
    ) {
        if let Err(failure) = check(job) {
            job.answer(Answer::Failed(failure));
            return;
        }
        if let State::Failed(failure) = self.readiness.now() {
            job.answer(Answer::Failed(failure));
            return;
        }
        self.deadlines.watch(job);
        let now = Instant::now();
        let views = match self.readiness.now() {
            State::Ready(preparer) => job.views(&preparer, self.config.tiles),
            _ => TileViews::default(),
        };
        // How a model that is still loading will look at pictures is not known, so nobody can join
        // another's yet.
        let share = share.filter(|_| matches!(self.readiness.now(), State::Ready(_)));
        let known = share.and_then(|(share, shares)| shares.find(share, &job.source, views, now));
        match known.map(|picture| picture.join(job)) {
            Some(Joined::Waiting) => return,
            Some(Joined::Seen(seen)) => {
                return self.inbox.post(Letter::Captions(job.clone(), seen));
            }
            Some(Joined::Ended(answer)) => {
                job.answer(*answer);
                return;
            }
            Some(Joined::Gone) | None => {}
        }
        let picture = Picture::new(job);
        if let Some((share, shares)) = share {
            shares.keep(share, job.source.clone(), views, picture.clone(), now);
            self.sweeper.watch(shares, now);
        }
        self.pipeline.push(Work::new(picture), bytes);
        // The model may have failed between the look above and the push; then nobody else empties
        // the line.
        if let State::Failed(failure) = self.readiness.now() {
            self.pipeline.close(&failure);
        }
    }

    /// What `caption.engine_status()` shows.
    pub fn status(&self) -> EngineStatus {
        let state = self.readiness.now();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        EngineStatus {
            pid: std::process::id(),
            release: env!("CARGO_PKG_VERSION").into(),
            state: if self.draining.load(Ordering::Relaxed) { "draining" } else { state.name() }
                .into(),
            model: if let State::Ready(preparer) = &state {
                Some(preparer.status().clone())
            } else {
                None
            },
            failure: if let State::Failed(failure) = state { Some(failure) } else { None },
            uptime_s: self.started.elapsed().as_secs_f64(),
            connections: self.meters.connections.load(Ordering::Relaxed),
            in_flight: self.meters.in_flight.load(Ordering::Relaxed),
            answered: load(&self.meters.answered),
            encoded: load(&self.meters.encoded),
            encode_calls: load(&self.meters.encode_calls),
            generated: load(&self.meters.generated),
            cpu_ms: self.meters.cpu_ms(),
            rss: metrics::resident_bytes(),
            confinement: self.confinement.clone(),
            hosts: self.pipeline.hosts(),
        }
    }
}

/// What a client must not ask.
fn check(job: &Job) -> Result<(), Failure> {
    if job.wants.is_empty() || job.wants.len() > MOST_OUTPUTS {
        return Err(failures::bad_request(format!(
            "a request asks for 1 to {MOST_OUTPUTS} captions, not {}",
            job.wants.len()
        )));
    }
    for want in &job.wants {
        validate(&want.style).map_err(|e| failures::bad_style(&e))?;
        if want.max_tokens == 0 || want.max_tokens > MAX_TOKENS {
            return Err(failures::bad_request(format!(
                "max_tokens must be at most {MAX_TOKENS}, not {}",
                want.max_tokens
            )));
        }
    }
    match job.min_confidence {
        Some(c) if !(0.0..=1.0).contains(&c) => {
            Err(failures::bad_request(format!("min_confidence must be from 0 to 1, not {c}")))
        }
        _ => Ok(()),
    }
}
