//! The simulated server: databases, shared memory, an engine, a launcher with a few worker slots,
//! and a manual clock. Shared memory and launcher act as `src/shared.rs` and
//! `src/launcher/databases.rs`.

use crate::chance::Chance;
use crate::database::{Change, Database, Open};
use crate::engine::Engine;
use crate::running::Running;
use pg_caption_queue::WorkerSignals;
use pg_caption_supervisor::schedule::{DatabaseView, WorkerExit, WorkerSchedule, due_at};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Worker slots; there are more databases.
const MAX_WORKERS: usize = 2;
/// The wall clock at the start, in milliseconds of the Unix epoch.
const WALL: u64 = 1_700_000_000_000;

/// The entry of a database in shared memory.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shared {
    pub known: bool,
    pub generation: u64,
    pub drained: u64,
    pub worker: bool,
    pub slow_poll: bool,
    pub due_ms: i64,
}

#[derive(Debug)]
pub struct Simulation {
    pub random: fastrand::Rng,
    pub base: Instant,
    /// Time since the start.
    pub now: Duration,
    pub databases: Vec<Database>,
    pub shared: Vec<Shared>,
    pub engine: Engine,
    pub epoch: u64,
    pub crowded: bool,
    /// Databases that a session needs exclusively.
    pub wanted: BTreeSet<usize>,
    pub workers: BTreeMap<usize, Running>,
    pub schedule: WorkerSchedule,
    launcher_latch: bool,
    launcher_until: Option<Duration>,
    /// No background worker slot is free.
    pub slots_taken: bool,
    listed: bool,
    clock: u64,
    /// Number of open transactions begun.
    pub transactions: u64,
    /// Clients commit between the statements of a worker.
    pub concurrency: bool,
    /// Reads of a queue from its start.
    pub full_reads: usize,
    /// Batches of prune passes.
    pub batches: usize,
    /// All reads fail: memory is short.
    pub unreadable: bool,
    /// Run time of a row's triggers.
    pub trigger: Duration,
    /// Triggers wait for a lock of another transaction.
    pub blocked: bool,
    /// Attempts to settle a row: all, and the maximum of one transaction.
    pub settled: usize,
    pub max_settled_at_once: usize,
    /// Print every event.
    pub traced: bool,
}

impl Simulation {
    pub fn new(seed: u64, databases: usize) -> Self {
        Simulation {
            random: fastrand::Rng::with_seed(seed),
            base: Instant::now(),
            now: Duration::from_secs(1),
            databases: (0..databases).map(|_| Database::default()).collect(),
            shared: vec![Shared::default(); databases],
            engine: Engine { up: true, ..Engine::default() },
            epoch: 1,
            crowded: false,
            wanted: BTreeSet::new(),
            workers: BTreeMap::new(),
            schedule: WorkerSchedule::default(),
            launcher_latch: true,
            launcher_until: None,
            slots_taken: false,
            listed: false,
            clock: 0,
            transactions: 0,
            concurrency: true,
            full_reads: 0,
            batches: 0,
            unreadable: false,
            trigger: Duration::ZERO,
            blocked: false,
            settled: 0,
            max_settled_at_once: 0,
            traced: std::env::var("PG_CAPTION_TRACE").is_ok(),
        }
    }

    pub fn instant(&self) -> Instant {
        self.base + self.now
    }

    pub fn trace(&self, at: usize, what: impl FnOnce() -> String) {
        if self.traced {
            eprintln!("{:9.3} database {at}: {}", self.now.as_secs_f64(), what());
        }
    }

    /// Number of the next event.
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub fn wall_ms(&self) -> i64 {
        WALL as i64 + self.now.as_millis() as i64
    }

    pub fn signals(&self, at: usize) -> WorkerSignals {
        WorkerSignals {
            now: self.instant(),
            enabled: true,
            generation: self.shared[at].known.then_some(self.shared[at].generation),
            slow_poll: self.shared[at].slow_poll,
            redefined: self.databases[at]
                .tables
                .values()
                .any(|table| table.changed && table.watch.is_some()),
            crowded: self.crowded,
            epoch: self.epoch,
        }
    }

    /// Raises the generation, and wakes the worker or the launcher.
    pub fn announce(&mut self, at: usize, slow_poll: bool) {
        let shared = &mut self.shared[at];
        shared.known = true;
        shared.generation += 1;
        shared.slow_poll |= slow_poll;
        match self.workers.get_mut(&at) {
            Some(worker) if shared.worker && !slow_poll => worker.latch = true,
            _ => self.launcher_latch = true,
        }
    }

    /// The engine died or restarted.
    pub fn engine_changed(&mut self) {
        self.epoch += 1;
        self.workers.values_mut().for_each(|worker| worker.latch = true);
    }

    /// The engine dies, and restarts after a while.
    pub fn kill_engine(&mut self) {
        let back = self.now + self.random.millis(3000);
        self.engine.die(back);
        self.engine_changed();
    }

    /// Runs and commits a transaction of a client.
    pub fn commit(&mut self, at: usize, changes: &[Change]) {
        self.trace(at, || format!("commits {changes:?}"));
        let clock = self.tick();
        let db = &mut self.databases[at];
        let mut keys = Vec::new();
        for change in changes {
            keys.extend(db.change(change, clock));
        }
        // A transaction that changes a row twice queues its key twice.
        if self.random.percent(10)
            && let Some(key) = keys.first().cloned()
        {
            keys.push(key);
        }
        let announced = !keys.is_empty() || changes.iter().any(announces);
        db.enqueue(keys);
        if announced {
            self.announce(at, false);
        }
    }

    /// An open transaction ends.
    pub fn end(&mut self, at: usize, open: Open) {
        self.trace(at, || format!("ends {open:?}"));
        let clock = self.tick();
        let db = &mut self.databases[at];
        db.release(open.id);
        if !open.commits {
            return;
        }
        for change in &open.changes {
            // Its queue rows have their ids already.
            db.change(change, clock);
        }
        db.queue.extend(open.queued.into_iter().map(|row| (row.id, row)));
        // COMMIT PREPARED announces nothing.
        if open.announces && !open.prepared {
            self.announce(at, false);
        }
    }

    /// Another transaction may commit between two statements of a worker.
    pub fn interleave(&mut self, at: usize) {
        if !self.concurrency {
            return;
        }
        if self.random.percent(4) {
            crate::clients::edit(self, at);
        }
        if self.random.percent(1) {
            let oid = 101 + self.random.below(2) as u32;
            self.commit(at, &[Change::Analyze(oid)]);
        }
    }

    /// A worker has ended, in order or not.
    pub fn worker_ended(&mut self, at: usize) {
        if let Some(connection) = self.workers.remove(&at).and_then(|worker| worker.connection) {
            self.engine.connections.remove(&connection);
        }
        self.databases[at].held_by_worker.clear();
        self.shared[at].worker = false;
        self.launcher_latch = true;
        let shared = self.shared[at];
        self.trace(at, || format!("worker ended: {shared:?}"));
        let view = shared.known.then(|| self.view(at));
        let now = self.instant();
        if let WorkerExit::Failed { .. } = self.schedule.ended(at as u32 + 1, view.as_ref(), now) {
            self.listed = false;
        }
    }

    fn view(&self, at: usize) -> DatabaseView {
        let shared = &self.shared[at];
        let wall = UNIX_EPOCH + Duration::from_millis(self.wall_ms() as u64);
        let due =
            |ms: i64| due_at(UNIX_EPOCH + Duration::from_millis(ms as u64), wall, self.instant());
        DatabaseView {
            oid: at as u32 + 1,
            generation: shared.generation,
            drained: shared.drained,
            has_worker: shared.worker,
            slow_poll: shared.slow_poll,
            due: (shared.due_ms != 0).then(|| due(shared.due_ms)),
        }
    }

    fn views(&self) -> Vec<DatabaseView> {
        (0..self.shared.len()).filter(|at| self.shared[*at].known).map(|at| self.view(at)).collect()
    }

    pub fn launcher_is_awake(&self) -> bool {
        self.launcher_latch || self.launcher_until.is_some_and(|until| until <= self.now)
    }

    /// One round of the launcher.
    pub fn tend(&mut self) {
        self.launcher_latch = false;
        if !std::mem::replace(&mut self.listed, true) {
            for shared in &mut self.shared {
                shared.known = true;
                if shared.generation == shared.drained {
                    shared.generation += 1;
                }
            }
        }
        let (wanted, crowded) = self.schedule.wanted(&self.views(), self.instant(), MAX_WORKERS);
        self.crowded = crowded;
        for view in wanted {
            if self.slots_taken {
                self.schedule.no_slot(self.instant());
                self.crowded = true;
            } else {
                self.schedule.started(&view, self.instant());
                let at = view.oid as usize - 1;
                self.shared[at].worker = true;
                let seed = self.random.u64(..);
                let running = Running::new(self.instant(), seed);
                self.workers.insert(at, running);
                self.trace(at, || "worker starts".into());
            }
        }
        assert!(self.workers.len() <= MAX_WORKERS);
        let next = self.schedule.next_due(&self.views(), self.instant(), MAX_WORKERS);
        self.launcher_until = next.map(|next| next - self.base);
    }

    /// The server restarts and loses everything that is not on disk.
    pub fn restart(&mut self) {
        self.trace(0, || "the server restarts".into());
        let running: Vec<usize> = self.workers.keys().copied().collect();
        running.into_iter().for_each(|at| self.worker_ended(at));
        self.schedule = WorkerSchedule::default();
        self.shared.iter_mut().for_each(|shared| *shared = Shared::default());
        self.kill_engine();
        for at in 0..self.databases.len() {
            let (kept, lost): (Vec<Open>, Vec<Open>) = std::mem::take(&mut self.databases[at].open)
                .into_iter()
                .partition(|open| open.prepared);
            self.databases[at].open = kept;
            lost.into_iter().for_each(|open| self.databases[at].release(open.id));
        }
        (self.listed, self.launcher_latch, self.crowded) = (false, true, false);
    }

    /// The next timer.
    pub fn next_event(&self) -> Option<Duration> {
        let workers = self.workers.values().filter_map(Running::until);
        let open = self.databases.iter().flat_map(|db| db.open.iter().map(|open| open.ends));
        workers
            .chain(open)
            .chain(self.launcher_until)
            .chain(self.engine.back)
            .filter(|at| *at > self.now)
            .min()
    }

    /// Advances the clock and runs the timers until then.
    pub fn pass(&mut self, to: Duration) {
        self.now = self.now.max(to);
        if self.engine.back.is_some_and(|back| back <= self.now) {
            (self.engine.up, self.engine.back) = (true, None);
            self.engine_changed();
        }
        for at in 0..self.databases.len() {
            let open = &mut self.databases[at].open;
            let now = self.now;
            let (ended, rest): (Vec<Open>, Vec<Open>) =
                std::mem::take(open).into_iter().partition(|open| open.ends <= now);
            *open = rest;
            ended.into_iter().for_each(|open| self.end(at, open));
        }
    }
}

/// Whether a change wakes the worker without enqueued rows.
pub fn announces(change: &Change) -> bool {
    use Change::*;
    match change {
        Watch(..) | Unwatch(_) | Rewatch(..) | Pause(..) | Retry(_) | Recaption(_) | Prune(_) => {
            true
        }
        Insert(..) | Url(..) | Text(..) | Delete(..) | Rename(_) | Truncate(_) | Analyze(_) => {
            false
        }
    }
}
