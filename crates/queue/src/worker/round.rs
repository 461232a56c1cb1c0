//! The rounds of a worker: which action is next.

use super::{QueueWorker, WorkerAction, WorkerSignals};
use crate::dispatcher::{RECONNECT, slow_host};
use std::time::{Duration, Instant};

/// How often a busy worker checks whether the database is being dropped.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);
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
pub(super) enum RoundPhase {
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

impl QueueWorker {
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

    /// Defers rows of slow hosts for the sake of the rows behind them.
    fn defer_surplus(&mut self, now: Instant) {
        let surplus = self.dispatcher.surplus(&self.limits, now);
        self.complete(surplus.into_iter().map(|job| {
            let outcome = slow_host(&job, SLOW_HOST);
            (job, outcome)
        }));
    }
}
