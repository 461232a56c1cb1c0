//! A worker process of the model: does what `src/worker/drain.rs` does, action by action, with the
//! model's server.

use crate::engine::Connection;
use crate::simulation::World;
use crate::store::Tx;
use pg_caption_queue::Limits;
use pg_caption_queue::worker::{Action, Heard, Seen, Worker};
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Small enough that a few dozen rows fill everything.
pub const LIMITS: Limits = Limits {
    queue_rows: 2,
    deferred_rows: 3,
    chunk: 4,
    chunks: 2,
    ready: 5,
    most_ready: 11,
    window: 6,
    together: 3,
    settling: Duration::from_millis(200),
    held: 2,
    tidied: 2,
};
/// What a worker may have in hand at most: what is ready when it still reads, what one reading
/// brings, what the engine has and what it answered; as many pages, and rows to be looked at again.
const BOUND: usize = 150;

#[derive(Debug, Clone, Copy)]
enum Sleep {
    No,
    /// For the latch or the time; for the connection, too.
    Until(Duration, bool),
    /// In the middle of connecting.
    Connecting(Duration, Seen),
}

#[derive(Debug)]
pub struct Running {
    worker: Worker,
    pub connection: Option<u64>,
    pub latch: bool,
    sleep: Sleep,
}

impl Running {
    pub fn new(now: Instant, seed: u64) -> Self {
        Running {
            worker: Worker::new(LIMITS, now, seed),
            connection: None,
            latch: false,
            sleep: Sleep::No,
        }
    }

    /// Everything that takes memory.
    pub fn size(&self) -> usize {
        self.worker.size()
    }

    /// Rows that were queued again while they were in hand.
    pub fn parked(&self) -> usize {
        self.worker.parked()
    }

    pub fn until(&self) -> Option<Duration> {
        match self.sleep {
            Sleep::No => None,
            Sleep::Until(until, _) | Sleep::Connecting(until, _) => Some(until),
        }
    }

    pub fn is_awake(&self, world: &World) -> bool {
        match self.sleep {
            Sleep::No => true,
            Sleep::Until(until, on_connection) => {
                let readable = |id: u64| {
                    world.engine.connections.get(&id).is_some_and(Connection::is_readable)
                };
                until <= world.now
                    || self.latch
                    || (on_connection && self.connection.is_some_and(readable))
            }
            Sleep::Connecting(until, _) => until <= world.now || world.engine.up,
        }
    }
}

/// One act of the worker of a database.
pub fn step(world: &mut World, at: usize) {
    let Some(mut running) = world.workers.remove(&at) else { return };
    let stays = act(world, at, &mut running);
    assert!(
        running.worker.size() <= BOUND,
        "a worker has {} in hand: {:?}",
        running.worker.size(),
        running.worker.in_hand()
    );
    world.databases[at].held_by_worker.clear();
    world.workers.insert(at, running);
    if !stays {
        world.worker_ended(at);
    }
}

fn act(world: &mut World, at: usize, running: &mut Running) -> bool {
    let worker = &mut running.worker;
    if let Sleep::Connecting(_, seen) = running.sleep {
        running.connection = world.engine.connect();
        worker.connected(running.connection.is_some(), &Seen { now: world.instant(), ..seen });
        running.sleep = Sleep::No;
        return true;
    }
    if let Sleep::Until(..) = std::mem::replace(&mut running.sleep, Sleep::No) {
        running.latch = false;
    }
    let seen = world.seen(at);
    let action = worker.next(&seen);
    world.trace(at, || format!("{action:?}, in hand {:?}", worker.in_hand()));
    match action {
        Action::AskForDatabase => return !world.wanted.contains(&at),
        Action::Clean => world.databases[at].clean(),
        Action::ReadWatches => {
            let db = &mut world.databases[at];
            db.tables.values_mut().for_each(|table| table.changed = false);
            worker.watches(Some(db.watched()), seen.now);
        }
        Action::Read(reading) => worker.read(reading, &mut Tx { world, at }, seen.now),
        Action::Connect { until } => running.sleep = Sleep::Connecting(until - world.base, seen),
        Action::Send => {
            let engine = &mut world.engine;
            if let Some(connection) =
                running.connection.and_then(|id| engine.connections.get_mut(&id))
            {
                send(worker, connection, &mut engine.alone);
            }
        }
        Action::Receive => {
            let connection =
                running.connection.and_then(|id| world.engine.connections.get_mut(&id));
            let heard = connection.map_or(Heard::Lost { refused: false }, Connection::poll);
            if !worker.heard(heard, &seen)
                && let Some(id) = running.connection.take()
            {
                world.engine.connections.remove(&id);
            }
        }
        Action::Settle => {
            let before = world.settled;
            worker.settle(&mut Tx { world, at }, seen.now);
            world.most_together = world.most_together.max(world.settled - before);
        }
        Action::Tidy => worker.tidy(&mut Tx { world, at }, seen.now),
        Action::Show => {}
        Action::Wait(timeout) => running.sleep = Sleep::Until(world.now + timeout, true),
        Action::Idle(timeout) => running.sleep = Sleep::Until(world.now + timeout, false),
        Action::ReadDue => {
            let active = worker.active();
            let due = world.databases[at]
                .deferred
                .iter()
                .filter(|(at, _)| active.contains(&at.0))
                .map(|(_, deferred)| deferred.due)
                .min();
            let ms = |due: Duration| {
                world.wall_ms() - world.now.as_millis() as i64 + due.as_millis() as i64
            };
            worker.due(due.map(|due| (ms(due), due.saturating_sub(world.now))));
        }
        Action::LookForPrepared => {
            let pending =
                world.databases[at].open.iter().any(|open| open.prepared && open.announces);
            worker.prepared(pending);
        }
        Action::Depart { generation, due_ms, prepared } => {
            let shared = &mut world.shared[at];
            if shared.generation == generation {
                (shared.drained, shared.due_ms, shared.slow_look) = (generation, due_ms, prepared);
                return false;
            }
        }
        Action::Yield => {
            let shared = &mut world.shared[at];
            (shared.drained, shared.generation) = (shared.generation, shared.generation + 1);
            return false;
        }
        Action::Forget { .. } | Action::Leave => return false,
    }
    true
}

fn send(worker: &mut Worker, connection: &mut Connection, alone: &mut HashMap<String, u32>) {
    while connection.has_room()
        && let Some((job, request)) = worker.next_request()
    {
        let id = connection.next;
        connection.next += 1;
        if connection.lost.is_none() {
            connection.requests.insert(id, request);
        } else {
            // Whoever writes to a connection that was lost learns of it when he reads, and takes it
            // for a loss while that was in flight.
            *alone.entry(job.url.clone()).or_default() += 1;
        }
        worker.sent(id, job);
    }
}
