//! A server of the model: databases, shared memory, an engine, a launcher with a few worker slots,
//! and a clock that moves only when nobody has anything to do, or for a moment. Shared memory and
//! the launcher's acts are those of `src/shared.rs` and `src/launcher/databases.rs`.

use crate::database::{Change, Database, Open};
use crate::engine::Engine;
use crate::random::Random;
use crate::running::Running;
use pg_caption_queue::worker::Seen;
use pg_caption_supervisor::schedule::{Ended, Look, Turns, due_at};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant, UNIX_EPOCH};

/// Workers at once; databases are more.
const MAX_WORKERS: usize = 2;
/// A wall clock's beginning, in milliseconds of the Unix epoch.
const WALL: u64 = 1_700_000_000_000;

/// What shared memory knows of a database.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shared {
    pub known: bool,
    pub generation: u64,
    pub drained: u64,
    pub worker: bool,
    pub slow_look: bool,
    pub due_ms: i64,
}

#[derive(Debug)]
pub struct World {
    pub random: Random,
    pub base: Instant,
    /// Since the beginning.
    pub now: Duration,
    pub databases: Vec<Database>,
    pub shared: Vec<Shared>,
    pub engine: Engine,
    pub epoch: u64,
    pub crowded: bool,
    /// Databases that somebody wants to have to himself.
    pub wanted: BTreeSet<usize>,
    pub workers: BTreeMap<usize, Running>,
    pub turns: Turns,
    launcher_latch: bool,
    launcher_until: Option<Duration>,
    /// No background worker slot is free.
    pub slots_taken: bool,
    listed: bool,
    clock: u64,
    /// Transactions, numbered.
    pub transactions: u64,
    /// Other people go on between the statements of a worker.
    pub interludes: bool,
    /// How often a queue was read from its start.
    pub full_reads: usize,
    /// Batches of passes that were made.
    pub batches: usize,
    /// Rows cannot be read for now: memory is short.
    pub unreadable: bool,
    /// How long the triggers of a row take.
    pub trigger: Duration,
    /// Triggers meet a lock that somebody holds.
    pub blocked: bool,
    /// How often a row was to be settled, and how often in one transaction at most.
    pub settled: usize,
    pub most_together: usize,
    /// Everything that happens is printed.
    pub traced: bool,
}

impl World {
    pub fn new(seed: u64, databases: usize) -> Self {
        World {
            random: Random::new(seed),
            base: Instant::now(),
            now: Duration::from_secs(1),
            databases: (0..databases).map(|_| Database::default()).collect(),
            shared: vec![Shared::default(); databases],
            engine: Engine { up: true, ..Engine::default() },
            epoch: 1,
            crowded: false,
            wanted: BTreeSet::new(),
            workers: BTreeMap::new(),
            turns: Turns::default(),
            launcher_latch: true,
            launcher_until: None,
            slots_taken: false,
            listed: false,
            clock: 0,
            transactions: 0,
            interludes: true,
            full_reads: 0,
            batches: 0,
            unreadable: false,
            trigger: Duration::ZERO,
            blocked: false,
            settled: 0,
            most_together: 0,
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

    /// The number of an event in the order of all.
    pub fn tick(&mut self) -> u64 {
        self.clock += 1;
        self.clock
    }

    pub fn wall_ms(&self) -> i64 {
        WALL as i64 + self.now.as_millis() as i64
    }

    pub fn seen(&self, at: usize) -> Seen {
        Seen {
            now: self.instant(),
            enabled: true,
            generation: self.shared[at].known.then_some(self.shared[at].generation),
            slow_look: self.shared[at].slow_look,
            redefined: self.databases[at]
                .tables
                .values()
                .any(|table| table.changed && table.watch.is_some()),
            crowded: self.crowded,
            epoch: self.epoch,
        }
    }

    /// Raises the generation, and wakes the worker or the launcher.
    pub fn announce(&mut self, at: usize, slow_look: bool) {
        let shared = &mut self.shared[at];
        shared.known = true;
        shared.generation += 1;
        shared.slow_look |= slow_look;
        match self.workers.get_mut(&at) {
            Some(worker) if shared.worker && !slow_look => worker.latch = true,
            _ => self.launcher_latch = true,
        }
    }

    /// The engine became another one, or none.
    pub fn engine_changed(&mut self) {
        self.epoch += 1;
        self.workers.values_mut().for_each(|worker| worker.latch = true);
    }

    /// The engine dies, and comes back after a while.
    pub fn kill_engine(&mut self) {
        let back = self.now + self.random.millis(3000);
        self.engine.die(back);
        self.engine_changed();
    }

    /// Does everything a transaction of somebody else does, at once.
    pub fn commit(&mut self, at: usize, changes: &[Change]) {
        self.trace(at, || format!("commits {changes:?}"));
        let clock = self.tick();
        let db = &mut self.databases[at];
        let mut keys = Vec::new();
        for change in changes {
            keys.extend(db.change(change, clock));
        }
        // A transaction that touches a row twice has its key twice.
        if self.random.percent(10)
            && let Some(key) = keys.first().cloned()
        {
            keys.push(key);
        }
        let told = !keys.is_empty() || changes.iter().any(announces);
        db.enqueue(keys);
        if told {
            self.announce(at, false);
        }
    }

    /// A transaction that ends later comes to its end.
    pub fn end(&mut self, at: usize, open: Open) {
        self.trace(at, || format!("ends {open:?}"));
        let clock = self.tick();
        let db = &mut self.databases[at];
        db.release(open.id);
        if !open.commits {
            return;
        }
        for change in &open.changes {
            // What it enqueues has its ids already.
            db.change(change, clock);
        }
        db.queue.extend(open.queued.into_iter().map(|row| (row.id, row)));
        // Nobody tells of COMMIT PREPARED.
        if open.announces && !open.prepared {
            self.announce(at, false);
        }
    }

    /// Between two statements of a worker somebody commits.
    pub fn others_go_on(&mut self, at: usize) {
        if !self.interludes {
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

    /// A worker has ended, one way or another.
    pub fn worker_ended(&mut self, at: usize) {
        if let Some(connection) = self.workers.remove(&at).and_then(|worker| worker.connection) {
            self.engine.connections.remove(&connection);
        }
        self.databases[at].held_by_worker.clear();
        self.shared[at].worker = false;
        self.launcher_latch = true;
        let shared = self.shared[at];
        self.trace(at, || format!("worker ended: {shared:?}"));
        let look = shared.known.then(|| self.look(at));
        let now = self.instant();
        if let Ended::Badly { .. } = self.turns.ended(at as u32 + 1, look.as_ref(), now) {
            self.listed = false;
        }
    }

    fn look(&self, at: usize) -> Look {
        let shared = &self.shared[at];
        let wall = UNIX_EPOCH + Duration::from_millis(self.wall_ms() as u64);
        let due =
            |ms: i64| due_at(UNIX_EPOCH + Duration::from_millis(ms as u64), wall, self.instant());
        Look {
            oid: at as u32 + 1,
            generation: shared.generation,
            drained: shared.drained,
            has_worker: shared.worker,
            slow_look: shared.slow_look,
            due: (shared.due_ms != 0).then(|| due(shared.due_ms)),
        }
    }

    fn looks(&self) -> Vec<Look> {
        (0..self.shared.len()).filter(|at| self.shared[*at].known).map(|at| self.look(at)).collect()
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
        let (wanted, crowded) = self.turns.wanted(&self.looks(), self.instant(), MAX_WORKERS);
        self.crowded = crowded;
        for look in wanted {
            if self.slots_taken {
                self.turns.refused(self.instant());
                self.crowded = true;
            } else {
                self.turns.started(&look, self.instant());
                let at = look.oid as usize - 1;
                self.shared[at].worker = true;
                let seed = self.random.draw();
                let running = Running::new(self.instant(), seed);
                self.workers.insert(at, running);
                self.trace(at, || "worker starts".into());
            }
        }
        assert!(self.workers.len() <= MAX_WORKERS);
        let next = self.turns.next_due(&self.looks(), self.instant(), MAX_WORKERS);
        self.launcher_until = next.map(|next| next - self.base);
    }

    /// The server restarts: everything is forgotten that is not on disk.
    pub fn restart(&mut self) {
        self.trace(0, || "the server restarts".into());
        let running: Vec<usize> = self.workers.keys().copied().collect();
        running.into_iter().for_each(|at| self.worker_ended(at));
        self.turns = Turns::default();
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

    /// When something happens by itself.
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

    /// Time passes, and what was to happen by then happens.
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

/// Whether a change wakes the worker although it enqueues nothing.
pub fn announces(change: &Change) -> bool {
    use Change::*;
    match change {
        Watch(..) | Unwatch(_) | WatchAnew(..) | Pause(..) | Retry(_) | Recaption(_) | Tidy(_) => {
            true
        }
        Insert(..) | Url(..) | Text(..) | Delete(..) | Rename(_) | Truncate(_) | Analyze(_) => {
            false
        }
    }
}
