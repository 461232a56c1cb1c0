//! Which databases get a worker, and when: the launcher's decisions over an injected clock, without
//! PostgreSQL. The launcher tells what it sees and what became of the workers it started; this says
//! whom to start now, and when to look again if nobody wakes it.

use std::collections::HashMap;
use std::time::{Duration, Instant, SystemTime};

/// How often a database is looked at in which a prepared transaction enqueued something.
const SLOW_LOOK: Duration = Duration::from_secs(10);
/// Pauses before a database is tried again whose worker ended badly.
const BACKOFF: [Duration; 6] = [
    Duration::from_millis(100),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(15),
    Duration::from_secs(60),
    Duration::from_secs(300),
];
/// Pause after the server had no background worker slot left.
const NO_SLOT: Duration = Duration::from_secs(5);

/// When something that is due at a time of the wall clock is due on ours: what is overdue is due at
/// `now` itself, never a moment later.
pub fn due_at(due: SystemTime, wall: SystemTime, now: Instant) -> Instant {
    now + due.duration_since(wall).unwrap_or_default()
}

/// A database as it is seen now.
#[derive(Debug, Clone, Copy)]
pub struct Look {
    /// Its OID.
    pub oid: u32,
    /// Raised by every commit that enqueued something.
    pub generation: u64,
    /// The generation that the last worker had seen when it left with nothing to do.
    pub drained: u64,
    /// A worker serves it, whoever started it.
    pub has_worker: bool,
    /// A prepared transaction may enqueue something, and nobody will tell.
    pub slow_look: bool,
    /// When its deferred rows are due, seen from now.
    pub due: Option<Instant>,
}

/// What became of a worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It left with everything done, or the database is none of ours.
    Well,
    /// It ended with work left: the next one is tried after a pause.
    Badly {
        /// In a row.
        times: u32,
        /// Until the next.
        pause: Duration,
    },
}

#[derive(Debug, Default)]
struct Trouble {
    times: usize,
    until: Option<Instant>,
}

/// What the launcher knows beyond what it sees.
#[derive(Debug, Default)]
pub struct Turns {
    /// Workers started by us, with the generation they were started for.
    running: HashMap<u32, u64>,
    trouble: HashMap<u32, Trouble>,
    served: HashMap<u32, Instant>,
    no_slot_until: Option<Instant>,
}

impl Turns {
    /// Whom to start now, longest-waiting first, and whether more wait than there is room for.
    pub fn wanted(
        &self,
        databases: &[Look],
        now: Instant,
        max_workers: usize,
    ) -> (Vec<Look>, bool) {
        if self.no_slot_until.is_some_and(|until| until > now) {
            return (
                Vec::new(),
                !self.running.is_empty()
                    && databases.iter().any(|database| self.is_due(database, now)),
            );
        }
        let mut wanted: Vec<Look> =
            databases.iter().filter(|database| self.is_due(database, now)).copied().collect();
        wanted.sort_by_key(|database| self.served.get(&database.oid).copied());
        let room = max_workers.saturating_sub(self.running.len());
        let crowded = wanted.len() > room;
        wanted.truncate(room);
        (wanted, crowded)
    }

    /// When somebody will be wanted even if nobody wakes us; `None`: the end of a worker, or a
    /// commit, does.
    pub fn next_due(
        &self,
        databases: &[Look],
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
    pub fn started(&mut self, database: &Look, now: Instant) {
        self.running.insert(database.oid, database.generation);
        self.served.insert(database.oid, now);
        self.no_slot_until = None;
    }

    /// The server had no free slot for a worker.
    pub fn refused(&mut self, now: Instant) {
        self.no_slot_until = Some(now + NO_SLOT);
    }

    /// A worker that we started has ended. `database`: as it is seen then; `None`: it has no work
    /// of ours any more.
    pub fn ended(&mut self, oid: u32, database: Option<&Look>, now: Instant) -> Ended {
        let Some(generation) = self.running.remove(&oid) else { return Ended::Well };
        let is_left = |database: &Look| {
            // Whoever leaves in order leaves no deferred row that is due, or (in the middle of the
            // work) a new generation.
            let is_due = database.due.is_some_and(|due| due <= now)
                && database.generation == database.drained;
            database.drained < generation || is_due
        };
        // Left with everything done, or with something new having come since: both are well.
        if !database.is_some_and(is_left) {
            self.trouble.remove(&oid);
            return Ended::Well;
        }
        let trouble = self.trouble.entry(oid).or_default();
        let pause = BACKOFF[trouble.times.min(BACKOFF.len() - 1)];
        trouble.until = Some(now + pause);
        trouble.times += 1;
        Ended::Badly { times: trouble.times as u32, pause }
    }

    /// Whether a worker that we started serves a database.
    pub fn is_running(&self, oid: u32) -> bool {
        self.running.contains_key(&oid)
    }

    fn is_due(&self, database: &Look, now: Instant) -> bool {
        self.due(database, now).is_some_and(|due| due <= now)
    }

    /// When a database is to get a worker; `None`: it has one, or needs none.
    fn due(&self, database: &Look, now: Instant) -> Option<Instant> {
        if database.has_worker || self.is_running(database.oid) {
            return None;
        }
        let committed = (database.generation != database.drained).then_some(now);
        let slow = database
            .slow_look
            .then(|| self.served.get(&database.oid).map_or(now, |at| *at + SLOW_LOOK));
        let due = [committed, slow, database.due].into_iter().flatten().min()?;
        let trouble = self.trouble.get(&database.oid).and_then(|trouble| trouble.until);
        Some(trouble.map_or(due, |until| due.max(until)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn look(oid: u32) -> Look {
        Look { oid, generation: 1, drained: 0, has_worker: false, slow_look: false, due: None }
    }

    fn drained(oid: u32) -> Look {
        Look { drained: 1, ..look(oid) }
    }

    #[test]
    fn a_retry_that_is_overdue_is_due_now_and_not_a_moment_from_now() {
        let (now, wall) = (Instant::now(), SystemTime::now());
        for late in [Duration::ZERO, Duration::from_nanos(1), Duration::from_secs(100)] {
            let due = due_at(wall - late, wall, now);
            assert_eq!(due, now);
            let idle = Look { drained: 1, due: Some(due), ..look(1) };
            let (wanted, _) = Turns::default().wanted(&[idle], now, 1);
            assert_eq!(wanted.len(), 1, "late by {late:?}");
        }
        let later = due_at(wall + Duration::from_secs(3), wall, now);
        let idle = Look { drained: 1, due: Some(later), ..look(1) };
        assert!(Turns::default().wanted(&[idle], now, 1).0.is_empty());
        assert_eq!(Turns::default().next_due(&[idle], now, 1), Some(later));
    }

    #[test]
    fn who_waited_longest_comes_first() {
        let (mut turns, start) = (Turns::default(), Instant::now());
        for (n, oid) in [3, 1, 2].into_iter().enumerate() {
            let at = start + Duration::from_secs(n as u64);
            turns.started(&look(oid), at);
            assert_eq!(turns.ended(oid, Some(&drained(oid)), at), Ended::Well);
        }
        let now = start + Duration::from_secs(10);
        let (wanted, crowded) = turns.wanted(&[look(1), look(2), look(3), look(4)], now, 2);
        assert_eq!(wanted.iter().map(|database| database.oid).collect::<Vec<_>>(), [4, 3]);
        assert!(crowded);
    }

    #[test]
    fn a_worker_that_ends_badly_is_tried_again_after_longer_and_longer_pauses_and_forgiven_once_it_is_well()
     {
        let (mut turns, mut now) = (Turns::default(), Instant::now());
        for (times, pause) in BACKOFF.into_iter().chain([BACKOFF[5]]).enumerate() {
            turns.started(&look(1), now);
            assert_eq!(
                turns.ended(1, Some(&look(1)), now),
                Ended::Badly { times: times as u32 + 1, pause }
            );
            assert!(turns.wanted(&[look(1)], now, 1).0.is_empty());
            // Others are not held up.
            assert_eq!(turns.wanted(&[look(1), look(2)], now, 1).0[0].oid, 2);
            assert_eq!(turns.next_due(&[look(1)], now, 1), Some(now + pause));
            now += pause;
        }
        turns.started(&look(1), now);
        assert_eq!(turns.ended(1, Some(&drained(1)), now), Ended::Well);
        turns.started(&look(1), now);
        assert_eq!(
            turns.ended(1, Some(&look(1)), now),
            Ended::Badly { times: 1, pause: BACKOFF[0] }
        );
    }

    #[test]
    fn a_worker_that_was_sent_for_deferred_rows_and_dies_is_tried_again_only_after_a_pause() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        let overdue = Look { due: Some(now), ..drained(1) };
        turns.started(&overdue, now);
        assert_eq!(
            turns.ended(1, Some(&overdue), now),
            Ended::Badly { times: 1, pause: BACKOFF[0] }
        );
        assert!(turns.wanted(&[overdue], now, 1).0.is_empty());
        // One that saw to them leaves them for later, or its turn to others.
        let later = Look { due: Some(now + Duration::from_secs(5)), ..drained(1) };
        let yielded = Look { generation: 2, ..overdue };
        for left in [later, yielded] {
            turns.started(&overdue, now);
            assert_eq!(turns.ended(1, Some(&left), now), Ended::Well, "{left:?}");
        }
    }

    #[test]
    fn without_a_slot_everybody_waits_a_little_and_is_not_forgotten() {
        let (mut turns, now) = (Turns::default(), Instant::now());
        turns.refused(now);
        assert!(turns.wanted(&[look(1)], now, 2).0.is_empty());
        let again = turns.next_due(&[look(1)], now, 2).expect("a time to look again");
        assert_eq!(turns.wanted(&[look(1)], again, 2).0.len(), 1);
    }

    /// One thing that happens to the server.
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

    /// A server that does what the launcher does, on a clock of its own.
    struct Model {
        turns: Turns,
        now: Instant,
        databases: HashMap<u32, Look>,
        slots_taken: bool,
    }

    impl Model {
        const MAX_WORKERS: usize = 2;

        fn looks(&self) -> Vec<Look> {
            // What is overdue is due now, as `due_at` has it.
            let mut looks: Vec<Look> = self
                .databases
                .values()
                .map(|database| Look {
                    due: database.due.map(|due| due.max(self.now)),
                    ..*database
                })
                .collect();
            looks.sort_by_key(|look| look.oid);
            looks
        }

        fn tend(&mut self) {
            for database in self.turns.wanted(&self.looks(), self.now, Self::MAX_WORKERS).0 {
                if self.slots_taken {
                    self.turns.refused(self.now);
                } else {
                    self.turns.started(&database, self.now);
                }
            }
            assert!(self.turns.running.len() <= Self::MAX_WORKERS);
        }

        fn end(&mut self, oid: u32, how: impl FnOnce(&mut Look)) {
            if self.turns.is_running(oid) {
                let database = self.databases.get_mut(&oid).expect("a database");
                how(database);
                let seen = Look { due: database.due.map(|due| due.max(self.now)), ..*database };
                self.turns.ended(oid, Some(&seen), self.now);
            }
        }

        fn done(&mut self, oid: u32) {
            self.end(oid, |database| {
                database.drained = database.generation;
                (database.due, database.slow_look) = (None, false);
            });
        }

        fn has_work(&self) -> Vec<u32> {
            self.databases
                .values()
                .filter(|d| d.generation != d.drained || d.due.is_some() || d.slow_look)
                .map(|d| d.oid)
                .collect()
        }
    }

    proptest! {
        /// Whatever happened, in whatever order: once the faults end, the launcher sleeps only as
        /// long as it says, and every database that has work is served.
        #[test]
        fn nothing_is_forgotten(events in prop::collection::vec(event(), 0..80)) {
            let databases = (1..6).map(|oid| (oid, Look { generation: 0, ..look(oid) })).collect();
            let mut model = Model { turns: Turns::default(), now: Instant::now(), databases, slots_taken: false };
            for event in events {
                match event {
                    Event::Commit(oid) => model.databases.get_mut(&oid).expect("a database").generation += 1,
                    Event::Prepare(oid) => {
                        let database = model.databases.get_mut(&oid).expect("a database");
                        (database.generation, database.slow_look) = (database.generation + 1, true);
                    }
                    Event::Defer(oid, ms) => {
                        let due = model.now + Duration::from_millis(ms);
                        model.end(oid, |database| (database.drained, database.due) = (database.generation, Some(due)));
                    }
                    Event::WorkerDone(oid) => model.done(oid),
                    Event::WorkerDies(oid) => model.end(oid, |_| ()),
                    Event::WorkerYields(oid) => model.end(oid, |database| (database.drained, database.generation) = (database.generation, database.generation + 1)),
                    Event::SlotsTaken(taken) => model.slots_taken = taken,
                    Event::TimePasses(ms) => model.now += Duration::from_millis(ms),
                }
                model.tend();
            }
            model.slots_taken = false;
            let mut steps = 0;
            while !model.has_work().is_empty() {
                steps += 1;
                prop_assert!(steps < 100, "still waiting: {:?} {:?}", model.has_work(), model.turns);
                model.tend();
                let running: Vec<u32> = model.turns.running.keys().copied().collect();
                if running.is_empty() {
                    let next = model.turns.next_due(&model.looks(), model.now, Model::MAX_WORKERS);
                    prop_assert!(next.is_some(), "the launcher sleeps for ever on {:?}", model.has_work());
                    model.now = next.unwrap_or(model.now);
                } else {
                    running.into_iter().for_each(|oid| model.done(oid));
                }
            }
        }
    }
}
