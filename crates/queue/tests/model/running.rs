//! A worker process of the model: carries out actions as `src/worker/run.rs` does, with the
//! simulated server.

use crate::engine::{Connection, MAX_ATTEMPTS};
use crate::simulation::Simulation;
use crate::store::Tx;
use pg_caption_queue::{ConnectionEvent, QueueWorker, WorkerAction, WorkerLimits, WorkerSignals};
use std::time::{Duration, Instant};

/// Small enough that a few dozen rows reach all limits.
pub const LIMITS: WorkerLimits = WorkerLimits {
    queue_rows: 2,
    deferred_rows: 3,
    chunk_rows: 4,
    chunks: 2,
    ready: 5,
    max_ready: 11,
    window: 6,
    settle_rows: 3,
    settle_time: Duration::from_millis(200),
    locked_rows: 2,
    prune_rows: 2,
};
/// Bound of a worker's memory: ready jobs while it still reads, jobs of one read, jobs in the
/// engine, answers; as many pages, and rows to examine again.
const BOUND: usize = 150;

#[derive(Debug, Clone, Copy)]
enum Sleep {
    No,
    /// Until the latch or the time; with `true`, until an event of the connection, too.
    Until(Duration, bool),
    /// While connecting.
    Connecting(Duration, WorkerSignals),
}

#[derive(Debug)]
pub struct Running {
    worker: QueueWorker,
    pub connection: Option<u64>,
    pub latch: bool,
    sleep: Sleep,
}

impl Running {
    pub fn new(now: Instant, seed: u64) -> Self {
        Running {
            worker: QueueWorker::new(LIMITS, now, seed),
            connection: None,
            latch: false,
            sleep: Sleep::No,
        }
    }

    /// Everything that uses memory.
    pub fn size(&self) -> usize {
        self.worker.size()
    }

    /// Rows that were queued again while a job had them.
    pub fn waiting(&self) -> usize {
        self.worker.waiting()
    }

    pub fn until(&self) -> Option<Duration> {
        match self.sleep {
            Sleep::No => None,
            Sleep::Until(until, _) | Sleep::Connecting(until, _) => Some(until),
        }
    }

    pub fn is_awake(&self, sim: &Simulation) -> bool {
        match self.sleep {
            Sleep::No => true,
            Sleep::Until(until, on_connection) => {
                let readable =
                    |id: u64| sim.engine.connections.get(&id).is_some_and(Connection::is_readable);
                until <= sim.now
                    || self.latch
                    || (on_connection && self.connection.is_some_and(readable))
            }
            Sleep::Connecting(until, _) => until <= sim.now || sim.engine.up,
        }
    }
}

/// One action of the worker of a database.
pub fn step(sim: &mut Simulation, at: usize) {
    let Some(mut running) = sim.workers.remove(&at) else { return };
    let stays = act(sim, at, &mut running);
    assert!(
        running.worker.size() <= BOUND,
        "a worker has {} jobs and pages: {:?}",
        running.worker.size(),
        running.worker.job_counts()
    );
    sim.databases[at].locked_by_worker.clear();
    sim.workers.insert(at, running);
    if !stays {
        sim.worker_ended(at);
    }
}

fn act(sim: &mut Simulation, at: usize, running: &mut Running) -> bool {
    let worker = &mut running.worker;
    if let Sleep::Connecting(_, signals) = running.sleep {
        running.connection = sim.engine.connect();
        worker.connected(
            running.connection.is_some(),
            &WorkerSignals { now: sim.instant(), ..signals },
        );
        running.sleep = Sleep::No;
        return true;
    }
    if let Sleep::Until(..) = std::mem::replace(&mut running.sleep, Sleep::No) {
        running.latch = false;
    }
    let signals = sim.signals(at);
    let action = worker.next(&signals);
    sim.trace(at, || format!("{action:?}, jobs {:?}", worker.job_counts()));
    match action {
        WorkerAction::CheckDatabase => return !sim.wanted.contains(&at),
        WorkerAction::Clean => sim.databases[at].clean(),
        WorkerAction::ReadWatches => {
            let db = &mut sim.databases[at];
            db.tables.values_mut().for_each(|table| table.changed = false);
            worker.watches(Some(db.watched()), signals.now);
        }
        WorkerAction::Read(reading) => worker.read(reading, &mut Tx { sim, at }, signals.now),
        WorkerAction::Connect { until } => {
            running.sleep = Sleep::Connecting(until - sim.base, signals)
        }
        WorkerAction::Send => {
            let connections = &mut sim.engine.connections;
            if let Some(connection) = running.connection.and_then(|id| connections.get_mut(&id)) {
                send(worker, connection);
            }
        }
        WorkerAction::Receive => {
            let connection = running.connection.and_then(|id| sim.engine.connections.get_mut(&id));
            let event =
                connection.map_or(ConnectionEvent::Lost { refused: false }, Connection::poll);
            if !worker.received(event, &signals)
                && let Some(id) = running.connection.take()
            {
                sim.engine.connections.remove(&id);
            }
        }
        WorkerAction::Settle => {
            let before = sim.settled;
            worker.settle(&mut Tx { sim, at }, signals.now, MAX_ATTEMPTS);
            sim.max_settled_at_once = sim.max_settled_at_once.max(sim.settled - before);
        }
        WorkerAction::Prune => worker.prune(&mut Tx { sim, at }, signals.now),
        WorkerAction::Report => {}
        WorkerAction::Wait(timeout) => running.sleep = Sleep::Until(sim.now + timeout, true),
        WorkerAction::Idle(timeout) => running.sleep = Sleep::Until(sim.now + timeout, false),
        WorkerAction::ReadDue => {
            let active = worker.active();
            let due = sim.databases[at]
                .deferred
                .iter()
                .filter(|(at, _)| active.contains(&at.0))
                .map(|(_, deferred)| deferred.due)
                .min();
            let ms =
                |due: Duration| sim.wall_ms() - sim.now.as_millis() as i64 + due.as_millis() as i64;
            worker.due(due.map(|due| (ms(due), due.saturating_sub(sim.now))));
        }
        WorkerAction::CheckPrepared => {
            let pending = sim.databases[at].open.iter().any(|open| open.prepared && open.announces);
            worker.prepared(pending);
        }
        WorkerAction::Depart { generation, due_ms, prepared } => {
            let shared = &mut sim.shared[at];
            if shared.generation == generation {
                (shared.drained, shared.due_ms, shared.slow_poll) = (generation, due_ms, prepared);
                return false;
            }
        }
        WorkerAction::Yield => {
            let shared = &mut sim.shared[at];
            (shared.drained, shared.generation) = (shared.generation, shared.generation + 1);
            return false;
        }
        WorkerAction::Forget { .. } | WorkerAction::Leave => return false,
    }
    true
}

fn send(worker: &mut QueueWorker, connection: &mut Connection) {
    while connection.has_room()
        && let Some((job, request)) = worker.next_request()
    {
        let id = connection.next;
        connection.next += 1;
        // A worker notices the loss of a connection only when it reads.
        if connection.lost.is_none() {
            connection.requests.insert(id, request);
        }
        worker.sent(id, job);
    }
}
