//! A worker's loop as a state machine over an injected clock and injected events. A driver carries
//! out one action of [`QueueWorker::next`] at a time and reports the result: the extension with
//! PostgreSQL, shared memory and a socket (`src/worker/run.rs`), the model test without them. Each
//! round reads keys while there is room, fills the engine's window, settles the answers, and ends
//! the worker when nothing is left.

mod action;
mod pruning;
mod report;
mod round;
mod settle;

pub use action::{ConnectionEvent, WorkerAction, WorkerSignals};

use crate::dispatcher::Dispatcher;
use crate::limits::WorkerLimits;
use crate::rates::FillRates;
use crate::sources::QueueSources;
use crate::{InFlight, PageId, QueueStore, ReadSource, RowJob, RowKey, WatchedTable};
use pg_caption_wire::{CaptionOutcome, CaptionRequest};
use pruning::PruneState;
use round::RoundPhase;
use settle::{CompletedRow, LockedRow};
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

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

    /// The watch of a job.
    pub fn table(&self, job: &RowJob) -> Option<&WatchedTable> {
        self.tables.iter().find(|table| table.oid == job.row.relation)
    }

    /// The job's request is not sent; this is its answer.
    pub fn unsent(&mut self, job: RowJob, answer: CaptionOutcome) {
        self.complete(Some((job, answer)));
    }

    /// Takes an event of the connection. Returns whether the connection is of further use.
    pub fn received(&mut self, event: ConnectionEvent, signals: &WorkerSignals) -> bool {
        let (now, epoch) = (signals.now, signals.epoch);
        match event {
            ConnectionEvent::Nothing => self.phase = RoundPhase::Settle,
            ConnectionEvent::Other => {}
            ConnectionEvent::Running { id, alone } => self.dispatcher.running(id, alone),
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
