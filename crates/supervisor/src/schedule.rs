//! Which databases get a worker, and when: the launcher's decisions over an injected clock, without
//! PostgreSQL. The launcher passes the state of the databases and the exits of its workers; the
//! schedule decides which workers to start now, and when to check again.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

/// How often a database gets a worker while a prepared transaction holds enqueued rows.
const SLOW_POLL: Duration = Duration::from_secs(10);
/// Pauses before a database gets the next worker after a failed one; the last one repeats. They
/// grow faster than by doubling: a worker that crashes may take all sessions of the server along,
/// so it is started six times within 82 s and then every five minutes.
const RESTART_PAUSES: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
/// Pause after the server had no background worker slot left.
const NO_SLOT: Duration = Duration::from_secs(5);

/// Converts a due time of the wall clock to the monotonic clock. A time in the past becomes `now`
/// itself, never later.
pub fn due_at(due: SystemTime, wall: SystemTime, now: Instant) -> Instant {
    now + due.duration_since(wall).unwrap_or_default()
}

/// State of a database in shared memory.
#[derive(Debug, Clone, Copy)]
pub struct DatabaseView {
    /// Its OID.
    pub oid: u32,
    /// Raised by every commit that enqueued rows.
    pub generation: u64,
    /// The generation that the last worker had seen when it ended without work left.
    pub drained: u64,
    /// A worker serves it, perhaps one of an earlier launcher.
    pub has_worker: bool,
    /// A prepared transaction holds enqueued rows. Its commit raises no generation.
    pub slow_poll: bool,
    /// When its deferred rows are due, converted by [`due_at`].
    pub due: Option<Instant>,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkerExit {
    /// In order: without work left, or in a database without the extension.
    Normal,
    /// With work left: the next one is started after a pause.
    Failed {
        /// Failures in a row.
        times: u32,
        /// Until the next start.
        pause: Duration,
    },
}

#[derive(Debug, Default)]
struct Failures {
    times: u32,
    until: Option<Instant>,
}

/// The launcher's workers, and what it remembers about databases.
///
/// ```
/// use pg_caption_supervisor::schedule::{DatabaseView, WorkerSchedule};
/// use std::time::Instant;
///
/// let (mut schedule, now) = (WorkerSchedule::default(), Instant::now());
/// let database = DatabaseView {
///     oid: 5, generation: 1, drained: 0, has_worker: false, slow_poll: false, due: None,
/// };
/// let (start, crowded) = schedule.wanted(&[database], now, 2);
/// assert_eq!((start.len(), crowded), (1, false));
/// schedule.started(&database, now);
/// assert!(schedule.wanted(&[database], now, 2).0.is_empty());
/// ```
#[derive(Debug, Default)]
pub struct WorkerSchedule {
    /// Workers of this launcher, with the generation at their start.
    running: HashMap<u32, u64>,
    failures: HashMap<u32, Failures>,
    last_start: HashMap<u32, Instant>,
    no_slot_until: Option<Instant>,
}

impl WorkerSchedule {
    /// The workers to start now, longest-waiting database first, and whether more databases wait
    /// than there is room for.
    pub fn wanted(
        &self,
        databases: &[DatabaseView],
        now: Instant,
        max_workers: usize,
    ) -> (Vec<DatabaseView>, bool) {
        let due = databases.iter().filter(|database| self.is_due(database, now));
        if self.no_slot_until.is_some_and(|until| until > now) {
            return (Vec::new(), !self.running.is_empty() && due.count() > 0);
        }
        let mut wanted: Vec<DatabaseView> = due.copied().collect();
        wanted.sort_by_key(|database| self.last_start.get(&database.oid).copied());
        let room = max_workers.saturating_sub(self.running.len());
        let crowded = wanted.len() > room;
        wanted.truncate(room);
        (wanted, crowded)
    }

    /// When a worker is wanted without further events; `None`: not before a worker ends or a
    /// transaction commits.
    pub fn next_due(
        &self,
        databases: &[DatabaseView],
        now: Instant,
        max_workers: usize,
    ) -> Option<Instant> {
        if self.running.len() >= max_workers {
            return None;
        }
        if self.no_slot_until.is_some_and(|until| until > now) {
            return self.no_slot_until;
        }
        databases.iter().filter_map(|database| self.due(database, now)).min()
    }

    /// A worker was started.
    pub fn started(&mut self, database: &DatabaseView, now: Instant) {
        self.running.insert(database.oid, database.generation);
        self.last_start.insert(database.oid, now);
        self.no_slot_until = None;
    }

    /// The server had no free slot for a worker.
    pub fn no_slot(&mut self, now: Instant) {
        self.no_slot_until = Some(now + NO_SLOT);
    }

    /// A worker of this launcher has ended. `database`: its state now; `None`: it was removed from
    /// shared memory.
    pub fn ended(&mut self, oid: u32, database: Option<&DatabaseView>, now: Instant) -> WorkerExit {
        let Some(generation) = self.running.remove(&oid) else { return WorkerExit::Normal };
        let has_failed = |database: &DatabaseView| {
            // A worker that ends in order leaves no due deferred row, unless it yields with work
            // left, which raises the generation.
            let is_due = database.due.is_some_and(|due| due <= now)
                && database.generation == database.drained;
            database.drained < generation || is_due
        };
        if !database.is_some_and(has_failed) {
            self.failures.remove(&oid);
            return WorkerExit::Normal;
        }
        let failures = self.failures.entry(oid).or_default();
        let pause = RESTART_PAUSES[(failures.times as usize).min(RESTART_PAUSES.len() - 1)];
        failures.until = Some(now + pause);
        failures.times += 1;
        WorkerExit::Failed { times: failures.times, pause }
    }

    /// Whether a worker of this launcher serves a database.
    pub fn is_running(&self, oid: u32) -> bool {
        self.running.contains_key(&oid)
    }

    fn is_due(&self, database: &DatabaseView, now: Instant) -> bool {
        self.due(database, now).is_some_and(|due| due <= now)
    }

    /// When a database should get a worker; `None`: it has one, or needs none.
    fn due(&self, database: &DatabaseView, now: Instant) -> Option<Instant> {
        if database.has_worker || self.is_running(database.oid) {
            return None;
        }
        let committed = (database.generation != database.drained).then_some(now);
        let last_start = self.last_start.get(&database.oid);
        let polled = database.slow_poll.then(|| last_start.map_or(now, |at| *at + SLOW_POLL));
        let due = [committed, polled, database.due].into_iter().flatten().min()?;
        let until = self.failures.get(&database.oid).and_then(|failures| failures.until);
        Some(until.map_or(due, |until| due.max(until)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn view(oid: u32) -> DatabaseView {
        DatabaseView {
            oid,
            generation: 1,
            drained: 0,
            has_worker: false,
            slow_poll: false,
            due: None,
        }
    }

    fn drained(oid: u32) -> DatabaseView {
        DatabaseView { drained: 1, ..view(oid) }
    }

    #[test]
    fn overdue_retry_is_due_exactly_now() {
        let (now, wall) = (Instant::now(), SystemTime::now());
        for late in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(100)] {
            let due = due_at(wall - late, wall, now);
            assert_eq!(due, now);
            let idle = DatabaseView { drained: 1, due: Some(due), ..view(1) };
            let (wanted, _) = WorkerSchedule::default().wanted(&[idle], now, 1);
            assert_eq!(wanted.len(), 1, "late by {late:?}");
        }
        let later = due_at(wall + Duration::from_secs(3), wall, now);
        let idle = DatabaseView { drained: 1, due: Some(later), ..view(1) };
        assert!(WorkerSchedule::default().wanted(&[idle], now, 1).0.is_empty());
        assert_eq!(WorkerSchedule::default().next_due(&[idle], now, 1), Some(later));
    }

    #[test]
    fn longest_waiting_database_is_first() {
        let (mut schedule, start) = (WorkerSchedule::default(), Instant::now());
        for (n, oid) in [3, 1, 2].into_iter().enumerate() {
            let at = start + Duration::from_secs(n as u64);
            schedule.started(&view(oid), at);
            assert_eq!(schedule.ended(oid, Some(&drained(oid)), at), WorkerExit::Normal);
        }
        let now = start + Duration::from_secs(10);
        let (wanted, crowded) = schedule.wanted(&[view(1), view(2), view(3), view(4)], now, 2);
        assert_eq!(wanted.iter().map(|database| database.oid).collect::<Vec<_>>(), [4, 3]);
        assert!(crowded);
    }

    #[test]
    fn failed_workers_restart_after_growing_pauses() {
        let (mut schedule, mut now) = (WorkerSchedule::default(), Instant::now());
        let seconds = [0.1, 1.0, 5.0, 15.0, 60.0, 300.0, 300.0, 300.0];
        let pauses = seconds.map(Duration::from_secs_f64);
        let failed = |times: u32| WorkerExit::Failed { times, pause: pauses[times as usize - 1] };
        for times in 1..=8 {
            schedule.started(&view(1), now);
            assert_eq!(schedule.ended(1, Some(&view(1)), now), failed(times));
            assert!(schedule.wanted(&[view(1)], now, 1).0.is_empty());
            // Other databases do not wait.
            assert_eq!(schedule.wanted(&[view(1), view(2)], now, 1).0[0].oid, 2);
            let pause = pauses[times as usize - 1];
            assert_eq!(schedule.next_due(&[view(1)], now, 1), Some(now + pause));
            now += pause;
        }
        schedule.started(&view(1), now);
        assert_eq!(schedule.ended(1, Some(&drained(1)), now), WorkerExit::Normal);
        schedule.started(&view(1), now);
        assert_eq!(schedule.ended(1, Some(&view(1)), now), failed(1));
    }

    #[test]
    fn worker_that_fails_on_deferred_rows_is_paused() {
        let (mut schedule, now) = (WorkerSchedule::default(), Instant::now());
        let overdue = DatabaseView { due: Some(now), ..drained(1) };
        schedule.started(&overdue, now);
        let failed = WorkerExit::Failed { times: 1, pause: Duration::from_millis(100) };
        assert_eq!(schedule.ended(1, Some(&overdue), now), failed);
        assert!(schedule.wanted(&[overdue], now, 1).0.is_empty());
        // A worker that ends in order defers the rows again, or yields its slot.
        let later = DatabaseView { due: Some(now + Duration::from_secs(5)), ..drained(1) };
        let yielded = DatabaseView { generation: 2, ..overdue };
        for left in [later, yielded] {
            schedule.started(&overdue, now);
            assert_eq!(schedule.ended(1, Some(&left), now), WorkerExit::Normal, "{left:?}");
        }
    }

    #[test]
    fn database_without_a_free_slot_waits() {
        let (mut schedule, now) = (WorkerSchedule::default(), Instant::now());
        schedule.no_slot(now);
        assert!(schedule.wanted(&[view(1)], now, 2).0.is_empty());
        let again = schedule.next_due(&[view(1)], now, 2).expect("a time to check again");
        assert_eq!(schedule.wanted(&[view(1)], again, 2).0.len(), 1);
    }

    /// One event in the server.
    #[derive(Debug, Clone)]
    enum Event {
        Commit(u32),
        Prepare(u32),
        Defer(u32, u64),
        WorkerDone(u32),
        WorkerDies(u32),
        WorkerYields(u32),
        SlotsTaken(bool),
        TimePasses(u64),
    }

    fn event() -> impl Strategy<Value = Event> {
        let oid = 1u32..6;
        prop_oneof![
            oid.clone().prop_map(Event::Commit),
            oid.clone().prop_map(Event::Prepare),
            (oid.clone(), 0u64..60_000).prop_map(|(oid, ms)| Event::Defer(oid, ms)),
            oid.clone().prop_map(Event::WorkerDone),
            oid.clone().prop_map(Event::WorkerDies),
            oid.prop_map(Event::WorkerYields),
            any::<bool>().prop_map(Event::SlotsTaken),
            (0u64..20_000).prop_map(Event::TimePasses),
        ]
    }

    /// A server that does what the launcher does, with its own clock.
    struct Model {
        schedule: WorkerSchedule,
        now: Instant,
        databases: HashMap<u32, DatabaseView>,
        slots_taken: bool,
    }

    impl Model {
        const MAX_WORKERS: usize = 2;

        fn new() -> Model {
            let databases = (1..6).map(|oid| (oid, DatabaseView { generation: 0, ..view(oid) }));
            Model {
                schedule: WorkerSchedule::default(),
                now: Instant::now(),
                databases: databases.collect(),
                slots_taken: false,
            }
        }

        fn database(&mut self, oid: u32) -> &mut DatabaseView {
            self.databases.get_mut(&oid).expect("a database")
        }

        /// The views as `due_at` makes them: an overdue time is now.
        fn views(&self) -> Vec<DatabaseView> {
            let due = |database: &DatabaseView| database.due.map(|due| due.max(self.now));
            let mut views: Vec<DatabaseView> = self
                .databases
                .values()
                .map(|database| DatabaseView { due: due(database), ..*database })
                .collect();
            views.sort_by_key(|view| view.oid);
            views
        }

        fn tend(&mut self) {
            for database in self.schedule.wanted(&self.views(), self.now, Self::MAX_WORKERS).0 {
                if self.slots_taken {
                    self.schedule.no_slot(self.now);
                } else {
                    self.schedule.started(&database, self.now);
                }
            }
            assert!(self.schedule.running.len() <= Self::MAX_WORKERS);
        }

        fn end(&mut self, oid: u32, how: impl FnOnce(&mut DatabaseView)) {
            if self.schedule.is_running(oid) {
                let now = self.now;
                let database = self.database(oid);
                how(database);
                let view = DatabaseView { due: database.due.map(|due| due.max(now)), ..*database };
                self.schedule.ended(oid, Some(&view), now);
            }
        }

        fn done(&mut self, oid: u32) {
            self.end(oid, |database| {
                database.drained = database.generation;
                (database.due, database.slow_poll) = (None, false);
            });
        }

        fn has_work(&self) -> Vec<u32> {
            self.databases
                .values()
                .filter(|d| d.generation != d.drained || d.due.is_some() || d.slow_poll)
                .map(|d| d.oid)
                .collect()
        }

        fn apply(&mut self, event: Event) {
            match event {
                Event::Commit(oid) => self.database(oid).generation += 1,
                Event::Prepare(oid) => {
                    let database = self.database(oid);
                    (database.generation, database.slow_poll) = (database.generation + 1, true);
                }
                Event::Defer(oid, ms) => {
                    let due = self.now + Duration::from_millis(ms);
                    self.end(oid, |database| {
                        (database.drained, database.due) = (database.generation, Some(due));
                    });
                }
                Event::WorkerDone(oid) => self.done(oid),
                Event::WorkerDies(oid) => self.end(oid, |_| ()),
                Event::WorkerYields(oid) => self.end(oid, |database| {
                    database.drained = database.generation;
                    database.generation += 1;
                }),
                Event::SlotsTaken(taken) => self.slots_taken = taken,
                Event::TimePasses(ms) => self.now += Duration::from_millis(ms),
            }
        }
    }

    proptest! {
        /// For every order of events: once the faults end, the launcher sleeps only as long as it
        /// planned, and every database with work is served.
        #[test]
        fn no_database_is_forgotten(events in prop::collection::vec(event(), 0..80)) {
            let mut model = Model::new();
            for event in events {
                model.apply(event);
                model.tend();
            }
            model.slots_taken = false;
            let mut steps = 0;
            while !model.has_work().is_empty() {
                steps += 1;
                let (work, schedule) = (model.has_work(), &model.schedule);
                prop_assert!(steps < 100, "still waiting: {work:?} {schedule:?}");
                model.tend();
                let running: Vec<u32> = model.schedule.running.keys().copied().collect();
                if running.is_empty() {
                    let (views, now) = (model.views(), model.now);
                    let next = model.schedule.next_due(&views, now, Model::MAX_WORKERS);
                    prop_assert!(next.is_some(), "the launcher sleeps forever with {work:?}");
                    model.now = next.unwrap_or(model.now);
                } else {
                    running.into_iter().for_each(|oid| model.done(oid));
                }
            }
        }
    }
}
