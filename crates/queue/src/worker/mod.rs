//! A worker's loop as a state machine: what it does next, over an injected clock and injected
//! events. Whoever runs it does what [`Worker::next`] says, one action at a time, and tells what
//! came of it; the extension does so with PostgreSQL, shared memory and a socket
//! (`src/worker/drain.rs`), the model test with none of them. Keep the engine's window full, settle
//! what comes back, leave when nothing is left.

mod action;
mod pruning;
mod settling;
mod standing;

pub use action::{Action, Heard, Seen};

use crate::dispatcher::{AGAIN, Flight};
use crate::limits::Limits;
use crate::rates::Rates;
use crate::sources::Sources;
use crate::{Board, Job, PageId, Reading, Row, Store, Watched};
use pg_caption_wire::{CaptionOutcome, CaptionRequest, Failure, FailureClass};
use pruning::Tidying;
use settling::{Held, Jitter, Landed};
use std::collections::{HashSet, VecDeque};
use std::time::{Duration, Instant};

/// How often a busy worker asks whether the database is being dropped.
const LOOK: Duration = Duration::from_secs(1);
/// How long an idle worker stays for what may come next.
const LINGER: Duration = Duration::from_secs(2);
/// How long a worker keeps its slot while other databases wait.
const TURN: Duration = Duration::from_secs(10);
/// How often dropped tables and old failures are cleaned away.
const CLEAN: Duration = Duration::from_secs(3600);

/// For how long rows of a slow host are put off where they would keep others from being read.
const SLOW_HOST: Duration = Duration::from_secs(120);

/// Where in its round the worker is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Begin,
    Clean,
    Watches,
    Read,
    Send,
    Receive,
    Settle,
    Show,
    Rest,
    /// Nothing is in hand: deferred rows are due then (milliseconds of the Unix epoch).
    Idle {
        due_ms: Option<i64>,
        due_in: Option<Duration>,
    },
    Depart {
        due_ms: i64,
    },
    /// The extension is not there any more.
    Gone,
}

/// Everything that a worker remembers. All of it may be lost at any time: what was in hand is still
/// in the queue.
#[derive(Debug)]
pub struct Worker {
    limits: Limits,
    tables: Vec<Watched>,
    board: Board,
    sources: Sources,
    flight: Flight,
    landed: VecDeque<Landed>,
    held: Vec<Held>,
    /// Rows that were queued again while they were in hand.
    recheck: Vec<(Row, PageId)>,
    tidying: Tidying,
    rates: Rates,
    jitter: Jitter,
    phase: Phase,
    /// Generation of the database that was seen last; `None`: none yet.
    generation: Option<u64>,
    began: Instant,
    looked: Instant,
    cleaned: Option<Instant>,
    idle_since: Option<Instant>,
    /// Prepared transactions were pending when this worker last looked, or one has announced
    /// something since. `None`: it has not looked yet.
    prepared: Option<bool>,
    /// The watches are to be read anew although nobody has told of a change: a prepared transaction
    /// may have made one.
    reread: bool,
    /// When this round began.
    round: Instant,
    /// In this round something was read, or tried to be.
    more: bool,
    /// In this round something was settled, or put back because of a lock.
    progress: bool,
}

impl Worker {
    /// A worker that begins now. `seed`: of its jitter, which need not be unpredictable, only
    /// different between workers.
    pub fn new(limits: Limits, now: Instant, seed: u64) -> Self {
        Worker {
            limits,
            tables: Vec::new(),
            board: Board::default(),
            sources: Sources::new(limits),
            flight: Flight::default(),
            landed: VecDeque::new(),
            held: Vec::new(),
            recheck: Vec::new(),
            tidying: Tidying::default(),
            rates: Rates::default(),
            jitter: Jitter::new(seed),
            phase: Phase::Begin,
            generation: None,
            began: now,
            looked: now,
            cleaned: None,
            idle_since: None,
            prepared: None,
            reread: false,
            round: now,
            more: false,
            progress: false,
        }
    }

    /// What to do now.
    pub fn next(&mut self, seen: &Seen) -> Action {
        loop {
            if let Some(action) = self.step(seen) {
                return action;
            }
        }
    }

    /// One step of the round; `None`: nothing is to be done for it.
    fn step(&mut self, seen: &Seen) -> Option<Action> {
        let now = seen.now;
        match self.phase {
            Phase::Begin => {
                if !seen.enabled {
                    return Some(Action::Leave);
                }
                (self.phase, self.round) = (Phase::Clean, now);
                if now.saturating_duration_since(self.looked) < LOOK {
                    return None;
                }
                self.looked = now;
                // Retries that have become due do not wait for a long walk or a locked row. An idle
                // worker knows when the next is due.
                if !self.is_idle() {
                    self.sources.look_at_deferred();
                }
                Some(Action::AskForDatabase)
            }
            Phase::Clean => {
                self.phase = Phase::Watches;
                if self.cleaned.is_some_and(|at| now.saturating_duration_since(at) < CLEAN) {
                    return None;
                }
                self.cleaned = Some(now);
                Some(Action::Clean)
            }
            Phase::Watches => {
                let Some(generation) = seen.generation else { return Some(Action::Leave) };
                if self.prepared.is_none() {
                    // Before the queue is read, whatever shared memory knows: after a restart of
                    // the server it knows nothing.
                    return Some(Action::LookForPrepared);
                }
                self.phase = Phase::Read;
                let is_told = self.generation != Some(generation) || seen.redefined;
                if !std::mem::take(&mut self.reread) && !is_told {
                    return None;
                }
                self.generation = Some(generation);
                if is_told && seen.slow_look {
                    self.prepared = Some(true);
                }
                Some(Action::ReadWatches)
            }
            Phase::Read => {
                self.put_surplus_off(now);
                let reading = if self.flight.wants_jobs(&self.limits) {
                    self.sources.next(&self.board, &self.tables, now)
                } else {
                    None
                };
                self.more = reading.is_some();
                self.phase = Phase::Send;
                reading.map(Action::Read)
            }
            Phase::Send => {
                self.phase = Phase::Receive;
                if !self.flight.may_send(now, seen.epoch) {
                    return None;
                }
                if self.flight.is_connected() {
                    return Some(Action::Send);
                }
                self.phase = Phase::Send;
                Some(Action::Connect { until: now + AGAIN })
            }
            Phase::Receive => {
                if self.flight.is_connected() && self.landed.len() < self.limits.together {
                    return Some(Action::Receive);
                }
                self.phase = Phase::Settle;
                None
            }
            Phase::Settle => {
                self.phase = Phase::Show;
                self.retry_held(now);
                self.progress = !self.landed.is_empty();
                (self.progress || !self.recheck.is_empty()).then_some(Action::Settle)
            }
            Phase::Show => {
                self.phase = Phase::Rest;
                Some(Action::Show)
            }
            Phase::Rest => {
                // What was settled may have made room for what there was none for when this round
                // read: not idle before another round found nothing.
                if self.is_idle() && !self.more && !self.progress {
                    return Some(Action::ReadDue);
                }
                self.idle_since = None;
                if seen.crowded && now.saturating_duration_since(self.began) >= TURN {
                    // What is in flight stays in the queue for the next turn.
                    return Some(Action::Yield);
                }
                self.phase = Phase::Begin;
                if self.tidying.next(self.generation, false, now) <= now {
                    return Some(Action::Tidy);
                }
                (!self.progress && !self.more).then(|| Action::Wait(self.patience(now)))
            }
            Phase::Idle { due_ms, due_in } => self.rest_idle(seen, due_ms, due_in),
            Phase::Depart { due_ms } => {
                // If something came meanwhile, the next round finds it.
                self.phase = Phase::Begin;
                Some(Action::Depart {
                    generation: self.generation.unwrap_or_default(),
                    due_ms,
                    prepared: self.prepared == Some(true),
                })
            }
            Phase::Gone => Some(Action::Forget { generation: self.generation.unwrap_or_default() }),
        }
    }

    fn rest_idle(
        &mut self,
        seen: &Seen,
        due_ms: Option<i64>,
        due_in: Option<Duration>,
    ) -> Option<Action> {
        self.phase = Phase::Begin;
        let tidy = self.tidying.next(self.generation, true, seen.now);
        // Others that wait for this slot may have it in the middle of a pass.
        if tidy <= seen.now
            && !(seen.crowded && seen.now.saturating_duration_since(self.began) >= TURN)
        {
            return Some(Action::Tidy);
        }
        if let Some(due_in) = due_in.filter(|due_in| *due_in <= LINGER) {
            self.sources.look_at_deferred();
            return Some(Action::Idle(due_in));
        }
        let lingered = seen.now.saturating_duration_since(*self.idle_since.get_or_insert(seen.now));
        if lingered < LINGER && !seen.crowded {
            return Some(Action::Idle(
                (LINGER - lingered).min(tidy.saturating_duration_since(seen.now)),
            ));
        }
        self.phase = Phase::Depart { due_ms: due_ms.unwrap_or(0) };
        Some(Action::LookForPrepared)
    }

    /// Nothing is in hand.
    fn is_idle(&self) -> bool {
        self.sources.again().next().is_none()
            && self.flight.is_empty()
            && self.landed.is_empty()
            && self.held.is_empty()
            && self.recheck.is_empty()
    }

    /// How long to wait for the engine at most.
    fn patience(&self, now: Instant) -> Duration {
        // What was due before this round was read if there was room for it: until there is, the
        // engine's answers wake us, not the time.
        let again = self
            .held
            .iter()
            .map(|held| held.again)
            .chain(self.sources.again())
            .filter(|again| *again > self.round)
            .min();
        again.map_or(LOOK, |again| LOOK.min(again.saturating_duration_since(now)))
    }

    /// The watches as they are now; `None`: the extension is not installed. What is in hand of a
    /// table that was redefined, paused or unwatched is dropped: the queue and the walk still have
    /// it.
    pub fn watches(&mut self, tables: Option<Vec<Watched>>, now: Instant) {
        let Some(tables) = tables else {
            self.phase = Phase::Gone;
            return;
        };
        let before = std::mem::replace(&mut self.tables, tables);
        let is_kept =
            |old: &Watched| self.tables.iter().any(|new| new.oid == old.oid && old.is_like(new));
        let changed: HashSet<u32> =
            before.iter().filter(|old| !is_kept(old)).map(|old| old.oid).collect();
        for relation in &changed {
            self.board.forget(*relation);
            self.sources.forget(*relation);
        }
        let stays = |job: &Job| !changed.contains(&job.row.relation);
        self.flight.retain(stays);
        self.landed.retain(|landed| stays(&landed.job));
        self.held.retain(|held| stays(&held.job));
        self.recheck.retain(|(row, _)| !changed.contains(&row.relation));
        // Held back, perhaps, until the table was read anew.
        self.held.iter_mut().for_each(|held| held.again = now);
        self.sources.refresh();
    }

    /// Reads what [`Action::Read`] said, in a transaction.
    pub fn read(&mut self, reading: Reading, store: &mut impl Store, now: Instant) {
        match self.sources.read(reading, &mut self.board, &mut self.tables, store, now) {
            Some(jobs) => self.take_on(jobs),
            // Another table may be free.
            None => self.phase = Phase::Read,
        }
    }

    /// Whether the engine answered in time.
    pub fn connected(&mut self, is_there: bool, seen: &Seen) {
        self.flight.connect(is_there, seen.now, seen.epoch);
    }

    /// The next job to send, and its request, where the connection has room.
    pub fn next_request(&mut self) -> Option<(Job, CaptionRequest)> {
        self.flight.next(&self.tables, &self.limits)
    }

    /// It was sent, under this id.
    pub fn sent(&mut self, id: u64, job: Job) {
        self.flight.sent(id, job);
    }

    /// It cannot be sent at all.
    pub fn unsendable(&mut self, job: Job, failure: Failure) {
        self.land(Some((job, CaptionOutcome::Failed(failure))));
    }

    /// What the connection said; whether it is of further use.
    pub fn heard(&mut self, heard: Heard, seen: &Seen) -> bool {
        match heard {
            Heard::Nothing => self.phase = Phase::Settle,
            Heard::Other => {}
            Heard::Spent => self.flight.spent(),
            Heard::Answer { id, outcome } => {
                let landed = self.flight.answered(id, outcome, seen.now, seen.epoch);
                self.land(landed);
            }
            Heard::Lost { refused } => {
                let landed = self.flight.lost(refused, seen.now, seen.epoch);
                self.land(landed);
            }
        }
        self.flight.is_connected()
    }

    /// Rows of slow hosts give way to those behind them.
    fn put_surplus_off(&mut self, now: Instant) {
        let surplus = self.flight.surplus(&self.limits, now);
        let put_off = |job: Job| {
            let mut failure = Failure::new(
                FailureClass::Host,
                "host_busy",
                format!("host {} takes its time, and many rows wait for it", job.host()),
            );
            failure.host = Some(job.host().to_owned());
            failure.retry_after_ms = Some(SLOW_HOST.as_millis() as u64);
            (job, CaptionOutcome::Failed(failure))
        };
        self.land(surplus.into_iter().map(put_off));
    }

    fn land(&mut self, landed: impl IntoIterator<Item = (Job, CaptionOutcome)>) {
        self.landed.extend(landed.into_iter().map(|(job, outcome)| Landed {
            job,
            outcome,
            times: 0,
        }));
    }

    /// When deferred rows of the active tables are due: milliseconds of the Unix epoch, and from
    /// now; `None`: there are none.
    pub fn due(&mut self, due: Option<(i64, Duration)>) {
        self.phase = Phase::Idle { due_ms: due.map(|due| due.0), due_in: due.map(|due| due.1) };
    }

    /// Whether prepared transactions are pending whose commit nobody will announce.
    pub fn prepared(&mut self, pending: bool) {
        if self.prepared == Some(true) && !pending {
            // Committed since the queue was read: once more, and then it is known to be empty. The
            // watches and their styles, too.
            self.sources.refresh();
            self.reread = true;
            self.phase = Phase::Begin;
        }
        self.prepared = Some(pending);
    }
}
