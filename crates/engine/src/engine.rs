//! The engine as its front ends see it: configuration in, jobs in, answers and status out.

use crate::deadlines::Deadlines;
use crate::failures;
use crate::job::{Answer, Job};
use crate::meters::{self, Meters};
use crate::readiness::{Readiness, State};
use crate::serve::spawn;
use crate::share::Shares;
use pg_caption_captioner::{self as captioner, LoadOptions};
use pg_caption_wire::{EngineConfig, EngineStatus};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

/// The engine.
pub struct Engine {
    config: EngineConfig,
    confinement: Vec<String>,
    started: Instant,
    meters: Arc<Meters>,
    readiness: Arc<Readiness>,
    deadlines: Arc<Deadlines>,
    draining: AtomicBool,
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
        let engine = Arc::new(Engine {
            config,
            confinement,
            started: Instant::now(),
            meters: Arc::default(),
            readiness: Arc::default(),
            deadlines: Arc::default(),
            draining: AtomicBool::new(false),
        });
        let (deadlines, readiness) = (engine.deadlines.clone(), engine.readiness.clone());
        spawn("deadlines", move || {
            deadlines.run(|job, now| match readiness.now() {
                State::Loading => failures::loading(),
                _ => job.overdue(now),
            })
        })?;
        let this = engine.clone();
        spawn("model", move || this.load())?;
        Ok(engine)
    }

    fn load(&self) {
        let (folder, options) = (&self.config.model, LoadOptions { dtype: self.config.dtype.clone() });
        let threads = self.config.threads.max(1) as usize;
        let loaded = catch_unwind(AssertUnwindSafe(|| {
            captioner::init(&self.config.onnxruntime, threads).and_then(|()| captioner::load(folder, &options)).map_err(|e| e.to_string())
        }));
        let state = match loaded {
            Ok(Ok((_captioner, preparer))) => State::Ready(preparer),
            Ok(Err(reason)) => State::Failed(failures::no_model(reason)),
            Err(_) => State::Failed(failures::no_model("loading it crashed")),
        };
        self.readiness.set(state);
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

    /// Takes a job. `bytes`: the picture, if it need not be fetched. `share`: where pictures of the same statement are.
    pub fn submit(&self, job: Arc<Job>, bytes: Option<Vec<u8>>, share: Option<(u64, &Arc<Shares>)>) {
        let _ = (bytes, share);
        match self.readiness.now() {
            State::Failed(failure) => drop(job.answer(Answer::Failed(failure))),
            State::Loading | State::Ready(_) => drop(job.answer(Answer::Failed(failures::loading()))),
        }
    }

    /// What `caption.engine_status()` shows.
    pub fn status(&self) -> EngineStatus {
        let state = self.readiness.now();
        let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
        EngineStatus {
            pid: std::process::id(),
            release: env!("CARGO_PKG_VERSION").into(),
            state: if self.draining.load(Ordering::Relaxed) { "draining" } else { state.name() }.into(),
            model: if let State::Ready(preparer) = &state { Some(preparer.status().clone()) } else { None },
            failure: if let State::Failed(failure) = state { Some(failure) } else { None },
            uptime_s: self.started.elapsed().as_secs_f64(),
            connections: self.meters.connections.load(Ordering::Relaxed),
            in_flight: self.meters.in_flight.load(Ordering::Relaxed),
            answered: load(&self.meters.answered),
            encoded: load(&self.meters.encoded),
            encode_calls: load(&self.meters.encode_calls),
            generated: load(&self.meters.generated),
            cpu_ms: self.meters.cpu_ms(),
            rss: meters::resident_bytes(),
            confinement: self.confinement.clone(),
            hosts: Vec::new(),
        }
    }
}
