//! A worker's loop as a state machine over an injected clock and injected events. A driver carries
//! out one action of [`QueueWorker::next`] at a time and reports the result: the extension with
//! PostgreSQL, shared memory and a socket (`src/worker/run.rs`), the model test without them. Each
//! round reads keys while there is room, fills the engine's window, settles the answers, and ends
//! the worker when nothing is left.

mod action;
mod pruning;
mod report;
mod settle;

pub use action::{ConnectionEvent, WorkerAction, WorkerSignals};

use crate::dispatcher::{Dispatcher, RECONNECT, slow_host};
use crate::limits::WorkerLimits;
use crate::rates::FillRates;
use crate::sources::QueueSources;
use crate::{InFlight, PageId, QueueStore, ReadSource, RowJob, RowKey, WatchedTable};
use pg_caption_wire::{CaptionOutcome, CaptionRequest, Failure};
use pruning::PruneState;
use settle::{CompletedRow, LockedRow};
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

/// How often a busy worker checks whether the database is being dropped.
const CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How long an idle worker waits for more work before it ends.
const LINGER: Duration = Duration::from_secs(2);
/// How long a worker keeps its slot while other databases wait.
const SLOT_TIME: Duration = Duration::from_secs(10);
/// How often bookkeeping of dropped tables and old failures is removed.
const CLEAN_INTERVAL: Duration = Duration::from_secs(3600);
/// How long rows of a slow host are deferred if they would keep others from being read.
const SLOW_HOST: Duration = Duration::from_secs(120);

/// Position in the round.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RoundPhase {
    Begin,
    Clean,
    Watches,
    Read,
    Send,
    Receive,
    Settle,
    Report,
    Rest,
    /// Without jobs; deferred rows are due at `due_ms` (milliseconds of the Unix epoch).
    Idle {
        due_ms: Option<i64>,
        due_in: Option<Duration>,
    },
    Depart {
        due_ms: i64,
    },
    /// The extension was dropped.
    Gone,
}

/// The state of one worker. All of it may be lost at any time: the queue still has every row that
/// is not settled.
///
/// ```
/// use pg_caption_queue::{QueueWorker, WorkerAction, WorkerLimits, WorkerSignals};
///
/// let now = std::time::Instant::now();
/// let mut worker = QueueWorker::new(WorkerLimits::DEFAULT, now, 1);
/// let signals = WorkerSignals {
///     now,
///     enabled: true,
///     generation: Some(1),
///     slow_poll: false,
///     redefined: false,
///     crowded: false,
///     epoch: 0,
/// };
/// assert_eq!(worker.next(&signals), WorkerAction::Clean);
/// assert_eq!(worker.next(&signals), WorkerAction::CheckPrepared);
/// worker.prepared(false);
/// assert_eq!(worker.next(&signals), WorkerAction::ReadWatches);
/// ```
#[derive(Debug)]
pub struct QueueWorker {
    limits: WorkerLimits,
    tables: Vec<WatchedTable>,
    in_flight: InFlight,
    sources: QueueSources,
    dispatcher: Dispatcher,
    completed: VecDeque<CompletedRow>,
    locked: Vec<LockedRow>,
    /// Rows to examine again, queued while a job had them, with the waiting page.
    recheck: Vec<(RowKey, PageId)>,
    pruning: PruneState,
    rates: FillRates,
    random: fastrand::Rng,
    phase: RoundPhase,
    /// The generation when the watches were last read; `None`: never.
    generation: Option<u64>,
    started: Instant,
    database_checked: Instant,
    cleaned: Option<Instant>,
    idle_since: Option<Instant>,
    /// Prepared transactions were pending at the last check, or one has enqueued rows since.
    /// `None`: not checked yet.
    prepared: Option<bool>,
    /// Read the watches again although the generation is the same: a prepared transaction may have
    /// changed them.
    reread: bool,
    /// Start of this round.
    round: Instant,
    /// This round read a source, or tried to.
    did_read: bool,
    /// This round settled rows, or found them locked.
    did_settle: bool,
}

impl QueueWorker {
    /// A worker that starts now. `seed`: of its jitter; differs between workers.
    pub fn new(limits: WorkerLimits, now: Instant, seed: u64) -> Self {
        QueueWorker {
            limits,
            tables: Vec::new(),
            in_flight: InFlight::default(),
            sources: QueueSources::new(limits),
            dispatcher: Dispatcher::default(),
            completed: VecDeque::new(),
            locked: Vec::new(),
            recheck: Vec::new(),
            pruning: PruneState::default(),
            rates: FillRates::default(),
            random: fastrand::Rng::with_seed(seed),
            phase: RoundPhase::Begin,
            generation: None,
            started: now,
            database_checked: now,
            cleaned: None,
            idle_since: None,
            prepared: None,
            reread: false,
            round: now,
            did_read: false,
            did_settle: false,
        }
    }

    /// The next action.
    pub fn next(&mut self, signals: &WorkerSignals) -> WorkerAction {
        loop {
            if let Some(action) = self.step(signals) {
                return action;
            }
        }
    }

    /// One step of the round; `None`: it needs no action.
    fn step(&mut self, signals: &WorkerSignals) -> Option<WorkerAction> {
        let now = signals.now;
        match self.phase {
            RoundPhase::Begin => {
                if !signals.enabled {
                    return Some(WorkerAction::Leave);
                }
                (self.phase, self.round) = (RoundPhase::Clean, now);
                if now.saturating_duration_since(self.database_checked) < CHECK_INTERVAL {
                    return None;
                }
                self.database_checked = now;
                // Due retries must not wait for a long backfill or a locked row. An idle worker
                // knows when the next one is due.
                if !self.is_idle() {
                    self.sources.check_deferred();
                }
                Some(WorkerAction::CheckDatabase)
            }
            RoundPhase::Clean => {
                self.phase = RoundPhase::Watches;
                let is_recent = |at: Instant| now.saturating_duration_since(at) < CLEAN_INTERVAL;
                if self.cleaned.is_some_and(is_recent) {
                    return None;
                }
                self.cleaned = Some(now);
                Some(WorkerAction::Clean)
            }
            RoundPhase::Watches => self.check_watches(signals),
            RoundPhase::Read => {
                self.defer_surplus(now);
                let source = if self.dispatcher.wants_jobs(&self.limits) {
                    self.sources.next(&self.in_flight, &self.tables, now)
                } else {
                    None
                };
                self.did_read = source.is_some();
                self.phase = RoundPhase::Send;
                source.map(WorkerAction::Read)
            }
            RoundPhase::Send => {
                self.phase = RoundPhase::Receive;
                if !self.dispatcher.may_send(now, signals.epoch) {
                    return None;
                }
                if self.dispatcher.is_connected() {
                    return Some(WorkerAction::Send);
                }
                self.phase = RoundPhase::Send;
                Some(WorkerAction::Connect { until: now + RECONNECT.pause(0) })
            }
            RoundPhase::Receive => {
                let has_room = self.completed.len() < self.limits.settle_rows;
                if self.dispatcher.is_connected() && has_room {
                    return Some(WorkerAction::Receive);
                }
                self.phase = RoundPhase::Settle;
                None
            }
            RoundPhase::Settle => {
                self.phase = RoundPhase::Report;
                self.retry_locked(now);
                self.did_settle = !self.completed.is_empty();
                (self.did_settle || !self.recheck.is_empty()).then_some(WorkerAction::Settle)
            }
            RoundPhase::Report => {
                self.phase = RoundPhase::Rest;
                Some(WorkerAction::Report)
            }
            RoundPhase::Rest => {
                // Settled rows may have made room to read more: idle only after a round that found
                // nothing.
                if self.is_idle() && !self.did_read && !self.did_settle {
                    return Some(WorkerAction::ReadDue);
                }
                self.idle_since = None;
                if signals.crowded && self.has_used_its_slot(now) {
                    // Jobs that the engine has are still in the queue.
                    return Some(WorkerAction::Yield);
                }
                self.phase = RoundPhase::Begin;
                if self.pruning.next(self.generation, false, now) <= now {
                    return Some(WorkerAction::Prune);
                }
                let is_done = !self.did_settle && !self.did_read;
                is_done.then(|| WorkerAction::Wait(self.wait_timeout(now)))
            }
            RoundPhase::Idle { due_ms, due_in } => Some(self.idle(signals, due_ms, due_in)),
            RoundPhase::Depart { due_ms } => {
                // If more work was enqueued meanwhile, the next round finds it.
                self.phase = RoundPhase::Begin;
                Some(WorkerAction::Depart {
                    generation: self.generation.unwrap_or_default(),
                    due_ms,
                    prepared: self.prepared == Some(true),
                })
            }
            RoundPhase::Gone => {
                Some(WorkerAction::Forget { generation: self.generation.unwrap_or_default() })
            }
        }
    }

    fn check_watches(&mut self, signals: &WorkerSignals) -> Option<WorkerAction> {
        let Some(generation) = signals.generation else { return Some(WorkerAction::Leave) };
        if self.prepared.is_none() {
            // Before the queue is read, and whatever shared memory has: it is empty after a restart
            // of the server.
            return Some(WorkerAction::CheckPrepared);
        }
        self.phase = RoundPhase::Read;
        let is_announced = self.generation != Some(generation) || signals.redefined;
        if !std::mem::take(&mut self.reread) && !is_announced {
            return None;
        }
        self.generation = Some(generation);
        if is_announced && signals.slow_poll {
            self.prepared = Some(true);
        }
        Some(WorkerAction::ReadWatches)
    }

    fn idle(
        &mut self,
        signals: &WorkerSignals,
        due_ms: Option<i64>,
        due_in: Option<Duration>,
    ) -> WorkerAction {
        self.phase = RoundPhase::Begin;
        let prune_at = self.pruning.next(self.generation, true, signals.now);
        // Databases that wait for this slot get it in the middle of a pass.
        if prune_at <= signals.now && !(signals.crowded && self.has_used_its_slot(signals.now)) {
            return WorkerAction::Prune;
        }
        if let Some(due_in) = due_in.filter(|due_in| *due_in <= LINGER) {
            self.sources.check_deferred();
            return WorkerAction::Idle(due_in);
        }
        let since = *self.idle_since.get_or_insert(signals.now);
        let lingered = signals.now.saturating_duration_since(since);
        if lingered < LINGER && !signals.crowded {
            let until_prune = prune_at.saturating_duration_since(signals.now);
            return WorkerAction::Idle((LINGER - lingered).min(until_prune));
        }
        self.phase = RoundPhase::Depart { due_ms: due_ms.unwrap_or(0) };
        WorkerAction::CheckPrepared
    }

    fn has_used_its_slot(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.started) >= SLOT_TIME
    }

    /// Whether there are no jobs and nothing to read again.
    fn is_idle(&self) -> bool {
        self.sources.retries().next().is_none()
            && self.dispatcher.is_empty()
            && self.completed.is_empty()
            && self.locked.is_empty()
            && self.recheck.is_empty()
    }

    /// Longest wait for the engine.
    fn wait_timeout(&self, now: Instant) -> Duration {
        // Anything due before this round was read if there was room. Until there is room, the
        // engine's answers end the wait.
        let next = self
            .locked
            .iter()
            .map(|locked| locked.retry_at)
            .chain(self.sources.retries())
            .filter(|at| *at > self.round)
            .min();
        next.map_or(CHECK_INTERVAL, |at| CHECK_INTERVAL.min(at.saturating_duration_since(now)))
    }

    /// The watches as they are now; `None`: the extension is not installed. Jobs of a table that
    /// was redefined, paused or unwatched are dropped: queue and backfill still have their rows.
    pub fn watches(&mut self, tables: Option<Vec<WatchedTable>>, now: Instant) {
        let Some(tables) = tables else {
            self.phase = RoundPhase::Gone;
            return;
        };
        let before = std::mem::replace(&mut self.tables, tables);
        let is_same = |old: &WatchedTable| {
            self.tables.iter().any(|new| new.oid == old.oid && old.is_like(new))
        };
        let changed: HashSet<u32> =
            before.iter().filter(|old| !is_same(old)).map(|old| old.oid).collect();
        for relation in &changed {
            self.in_flight.forget(*relation);
            self.sources.forget(*relation);
        }
        let stays = |job: &RowJob| !changed.contains(&job.row.relation);
        self.dispatcher.retain(stays);
        self.completed.retain(|completed| stays(&completed.job));
        self.locked.retain(|locked| stays(&locked.completed.job));
        self.recheck.retain(|(row, _)| !changed.contains(&row.relation));
        // A table that had changed counts as locked until its watch is read.
        self.locked.iter_mut().for_each(|locked| locked.retry_at = now);
        self.sources.refresh();
    }

    /// Reads the source of [`WorkerAction::Read`] in a transaction.
    pub fn read(&mut self, source: ReadSource, store: &mut impl QueueStore, now: Instant) {
        match self.sources.read(source, &mut self.in_flight, &mut self.tables, store, now) {
            Some(jobs) => self.accept(jobs),
            // Another source may be free.
            None => self.phase = RoundPhase::Read,
        }
    }

    /// The attempt to connect succeeded or failed.
    pub fn connected(&mut self, succeeded: bool, signals: &WorkerSignals) {
        self.dispatcher.connect(succeeded, signals.now, signals.epoch);
    }

    /// The next job to send, and its request. Call it only while the connection has room.
    pub fn next_request(&mut self) -> Option<(RowJob, CaptionRequest)> {
        self.dispatcher.next(&self.tables, &self.limits)
    }

    /// The job was sent under this id.
    pub fn sent(&mut self, id: u64, job: RowJob) {
        self.dispatcher.sent(id, job);
    }

    /// The job's request cannot be sent at all.
    pub fn unsendable(&mut self, job: RowJob, failure: Failure) {
        self.complete(Some((job, CaptionOutcome::Failed(failure))));
    }

    /// Takes an event of the connection. Returns whether the connection is of further use.
    pub fn received(&mut self, event: ConnectionEvent, signals: &WorkerSignals) -> bool {
        let (now, epoch) = (signals.now, signals.epoch);
        match event {
            ConnectionEvent::Nothing => self.phase = RoundPhase::Settle,
            ConnectionEvent::Other => {}
            ConnectionEvent::Spent => self.dispatcher.spent(),
            ConnectionEvent::Answer { id, outcome } => {
                let completed = self.dispatcher.answered(id, outcome, now, epoch);
                self.complete(completed);
            }
            ConnectionEvent::Lost { refused } => {
                let rejected = self.dispatcher.lost(refused, now, epoch);
                self.complete(rejected);
            }
        }
        self.dispatcher.is_connected()
    }

    /// Defers rows of slow hosts for the sake of the rows behind them.
    fn defer_surplus(&mut self, now: Instant) {
        let surplus = self.dispatcher.surplus(&self.limits, now);
        self.complete(surplus.into_iter().map(|job| {
            let outcome = slow_host(&job, SLOW_HOST);
            (job, outcome)
        }));
    }

    fn complete(&mut self, jobs: impl IntoIterator<Item = (RowJob, CaptionOutcome)>) {
        let completed = |(job, outcome)| CompletedRow { job, outcome, locks: 0 };
        self.completed.extend(jobs.into_iter().map(completed));
    }

    /// When the first deferred row of the active tables is due: milliseconds of the Unix epoch, and
    /// from now; `None`: there is no such row.
    pub fn due(&mut self, due: Option<(i64, Duration)>) {
        let (due_ms, due_in) = (due.map(|due| due.0), due.map(|due| due.1));
        self.phase = RoundPhase::Idle { due_ms, due_in };
    }

    /// Whether prepared transactions are pending that concern the queue.
    pub fn prepared(&mut self, pending: bool) {
        if self.prepared == Some(true) && !pending {
            // Committed since the queue was read: read it and the watches with their styles once
            // more.
            self.sources.refresh();
            self.reread = true;
            self.phase = RoundPhase::Begin;
        }
        self.prepared = Some(pending);
    }
}
