//! The loop of a worker: keep the engine's window full, settle what comes back, leave when nothing is left.

use super::definitions;
use super::examine::Job;
use super::lease;
use super::sources::{Busy, Sources, examine_page, next_due_ms, until_ms};
use super::tables::{self, Watched};
use super::transaction::run as in_transaction;
use super::write::{self, Settled};
use crate::client::{Client, Lost};
use crate::{settings, shared, wait};
use pg_caption_drain::{Board, PageId, Row};
use pg_caption_wire::{Class, Failure, Image, Outcome, OutputSpec, Request, Role, ServerMessage};
use pgrx::prelude::*;
use std::collections::{HashMap, HashSet, VecDeque};
use std::ffi::CString;
use std::time::{Duration, Instant};

/// Time the engine has for one row; its own limits for connecting and fetching are far below.
const PATIENCE: Duration = Duration::from_secs(300);
/// How often a busy worker asks whether the database is being dropped.
const LOOK: Duration = Duration::from_secs(1);
/// How long an idle worker stays for what may come next.
const LINGER: Duration = Duration::from_secs(2);
/// How long a worker keeps its slot while other databases wait.
const TURN: Duration = Duration::from_secs(10);
/// Jobs ready to be sent below which more are read.
const READY: usize = 64;
/// Replies settled in one transaction.
const TOGETHER: usize = 50;
/// Pause before a locked row is tried again, and before a missing engine is asked again.
const AGAIN: Duration = Duration::from_secs(1);
/// Engines that a picture may cost, in flight alone, before it is taken for the reason.
const MAX_DEATHS: u32 = 3;
/// How often dropped tables and old failures are cleaned away.
const CLEAN: Duration = Duration::from_secs(3600);
/// Span of `rows per minute`.
const RATE: Duration = Duration::from_secs(60);

struct Held {
    job: Job,
    outcome: Outcome,
    again: Instant,
}

struct Drain {
    database: u32,
    seen: u64,
    tables: Vec<Watched>,
    board: Board,
    sources: Sources,
    ready: VecDeque<Job>,
    /// In flight when an engine died: sent one at a time, so that the one to blame is known.
    suspects: VecDeque<Job>,
    in_flight: HashMap<u64, Job>,
    landed: Vec<(Job, Outcome)>,
    held: Vec<Held>,
    /// Rows that were queued again while they were in hand.
    recheck: Vec<(Row, PageId)>,
    client: Option<Client>,
    /// No request before then, or before the engine changes.
    engine_pause: Option<(Instant, u64)>,
    /// How often in a row.
    engine_failures: u32,
    rates: HashMap<u32, VecDeque<(Instant, i64)>>,
    /// Prepared transactions were pending when this worker last looked, or the launcher sent it to look.
    prepared: bool,
    began: Instant,
}

/// Drains the queue of this database until nothing is left to do, or the worker is wanted elsewhere.
pub fn run(database: u32) {
    let mut drain = Drain {
        database,
        seen: 0,
        tables: Vec::new(),
        board: Board::default(),
        sources: Sources::default(),
        ready: VecDeque::new(),
        suspects: VecDeque::new(),
        in_flight: HashMap::new(),
        landed: Vec::new(),
        held: Vec::new(),
        recheck: Vec::new(),
        client: None,
        engine_pause: None,
        engine_failures: 0,
        rates: HashMap::new(),
        prepared: shared::database(database).is_some_and(|d| d.slow_look),
        began: Instant::now(),
    };
    drain.run();
}

impl Drain {
    fn run(&mut self) {
        let mut cleaned: Option<Instant> = None;
        let mut idle_since: Option<Instant> = None;
        let mut looked = Instant::now();
        // Jitter need not be unpredictable, only different between rows and workers.
        let mut random = u64::from(std::process::id()) | 1;
        self.seen = u64::MAX;
        loop {
            if reload_requested() && !settings::enabled() {
                return;
            }
            if looked.elapsed() >= LOOK {
                looked = Instant::now();
                // Retries that have become due do not wait for a long walk or a locked row. An idle worker knows when the next is due.
                if !self.is_idle() {
                    self.sources.look_at_deferred();
                }
                if !lease::database_is_free() {
                    // Whoever wants the database to itself gets it; the launcher looks again later if it still exists.
                    return;
                }
            }
            if cleaned.is_none_or(|at| at.elapsed() >= CLEAN) {
                cleaned = Some(Instant::now());
                in_transaction(tables::clean);
            }
            let Some(known) = shared::database(self.database) else { return };
            if known.generation != self.seen {
                self.seen = known.generation;
                if !in_transaction(tables::installed) {
                    shared::forget_database(self.database, self.seen);
                    return;
                }
                self.reload();
            } else if definitions::some_changed() {
                self.reload();
            }
            let more = self.refill();
            self.send();
            self.receive();
            self.retry_held();
            let settled = self.settle(&mut random);
            self.show();
            if !self.is_idle() || more {
                idle_since = None;
                if shared::crowded() && self.began.elapsed() >= TURN {
                    // What is in flight stays in the queue for the next turn.
                    shared::yield_turn(self.database);
                    return;
                }
                if !settled && !more {
                    self.wait();
                }
                continue;
            }
            let due = next_due_ms(&self.tables);
            let until = due.map(until_ms);
            if until.is_some_and(|until| until <= LINGER) {
                wait::wait(None, until);
                self.sources.look_at_deferred();
                continue;
            }
            let since = *idle_since.get_or_insert_with(Instant::now);
            if since.elapsed() < LINGER && !shared::crowded() {
                report("idle", false);
                wait::wait(None, Some(LINGER.saturating_sub(since.elapsed())));
                continue;
            }
            if !self.tables.is_empty() {
                let pending = prepared_pending();
                shared::set_slow_look(self.database, pending);
                if self.prepared && !pending {
                    // Committed since the queue was read: once more, and then it is known to be empty.
                    self.prepared = false;
                    self.sources.refresh();
                    continue;
                }
                self.prepared = pending;
            }
            if shared::leave_if_drained(self.database, self.seen, due.unwrap_or(0)) {
                return;
            }
        }
    }

    /// Reads the watches anew. What is in hand of a table that was redefined, paused or unwatched is dropped: the queue and the walk still have it.
    fn reload(&mut self) {
        definitions::expect(in_transaction(tables::begin).into_iter());
        let before = std::mem::replace(&mut self.tables, in_transaction(tables::load));
        let changed: HashSet<u32> =
            before.iter().filter(|old| !self.tables.iter().any(|new| new.oid == old.oid && old.is_like(new))).map(|old| old.oid).collect();
        for relation in &changed {
            self.board.forget(*relation);
            self.sources.forget(*relation);
        }
        let stays = |job: &Job| !changed.contains(&job.row.relation);
        self.ready.retain(stays);
        self.suspects.retain(stays);
        self.in_flight.retain(|_, job| stays(job));
        self.landed.retain(|(job, _)| stays(job));
        self.held.retain(|held| stays(&held.job));
        self.recheck.retain(|(row, _)| !changed.contains(&row.relation));
        // Held back, perhaps, until the table was read anew.
        self.held.iter_mut().for_each(|held| held.again = Instant::now());
        self.sources.refresh();
    }

    fn refill(&mut self) -> bool {
        if self.ready.len() >= READY || !self.suspects.is_empty() {
            return false;
        }
        let (jobs, more) = self.sources.refill(&mut self.board, &mut self.tables);
        self.ready.extend(jobs);
        more
    }

    fn table(&self, job: &Job) -> Option<&Watched> {
        self.tables.iter().find(|table| table.oid == job.row.relation)
    }

    fn send(&mut self) {
        if self.ready.is_empty() && self.suspects.is_empty() {
            return;
        }
        if let Some((until, epoch)) = self.engine_pause {
            if Instant::now() < until && shared::engine_epoch() == epoch {
                return;
            }
            self.engine_pause = None;
        }
        if self.client.is_none() {
            let epoch = shared::engine_epoch();
            match Client::connect(Role::Worker, Instant::now() + AGAIN) {
                Ok(client) => self.client = Some(client),
                Err(_) => {
                    self.engine_pause = Some((Instant::now() + AGAIN, epoch));
                    return;
                }
            }
        }
        while self.client.as_ref().is_some_and(Client::has_room) {
            let job = if self.suspects.is_empty() {
                self.ready.pop_front()
            } else if self.in_flight.is_empty() {
                self.suspects.pop_front()
            } else {
                None
            };
            let Some(job) = job else { break };
            let Some(request) = self.table(&job).map(|table| request(table, &job)) else { continue };
            if let Some(client) = &mut self.client {
                match client.submit(request, &[]) {
                    Ok(id) => {
                        self.in_flight.insert(id, job);
                    }
                    Err(failure) => self.landed.push((job, Outcome::Failed(failure))),
                }
            }
        }
    }

    fn receive(&mut self) {
        while let Some(client) = &mut self.client {
            match client.poll() {
                Ok(Some(ServerMessage::Reply(reply))) => {
                    let Some(job) = self.in_flight.remove(&reply.id) else { continue };
                    match reply.outcome {
                        Outcome::Failed(failure) if failure.class == Class::Engine => self.wait_for_engine(job, &failure),
                        outcome => {
                            self.engine_failures = 0;
                            self.landed.push((job, outcome));
                        }
                    }
                    if self.landed.len() >= TOGETHER {
                        return;
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) if client.is_spent() => self.client = None,
                Ok(None) => return,
                Err(lost) => {
                    self.client = None;
                    self.blame(&lost);
                }
            }
        }
    }

    /// The engine cannot serve at all: nothing is charged, everything waits for it. The next try connects anew: by then another engine may listen.
    fn wait_for_engine(&mut self, job: Job, failure: &Failure) {
        pgrx::debug1!("pg_caption: the engine cannot serve: {}", failure.message);
        self.ready.push_front(job);
        self.ready.extend(std::mem::take(&mut self.in_flight).into_values());
        self.client = None;
        self.pause_sending();
    }

    fn pause_sending(&mut self) {
        let pause = AGAIN.saturating_mul(1 << self.engine_failures.min(5));
        self.engine_failures += 1;
        self.engine_pause = Some((Instant::now() + pause, shared::engine_epoch()));
    }

    /// The engine went away with requests in flight.
    fn blame(&mut self, lost: &Lost) {
        if let Lost::Refused(failure) = lost {
            pgrx::log!("pg_caption: the engine refuses this worker: {}", failure.message);
            self.pause_sending();
        }
        let alone = self.in_flight.len() == 1;
        for (_, mut job) in std::mem::take(&mut self.in_flight) {
            if alone {
                job.deaths += 1;
            }
            if job.deaths >= MAX_DEATHS {
                let failure = Failure::new(Class::Reject, "engine_killer", "the caption engine died each time it worked on this picture")
                    .detail(format!("{MAX_DEATHS} engines were lost with nothing else in flight."));
                self.landed.push((job, Outcome::Failed(failure)));
            } else {
                self.suspects.push_back(job);
            }
        }
    }

    fn retry_held(&mut self) {
        let now = Instant::now();
        let (again, rest) = std::mem::take(&mut self.held).into_iter().partition(|held| held.again <= now);
        self.held = rest;
        let again: Vec<Held> = again;
        self.landed.extend(again.into_iter().map(|held| (held.job, held.outcome)));
    }

    /// Settles what has landed, all in one transaction. `false`: nothing had.
    fn settle(&mut self, random: &mut u64) -> bool {
        let landed: Vec<(Job, Outcome)> = self.landed.drain(..self.landed.len().min(TOGETHER)).collect();
        if landed.is_empty() && self.recheck.is_empty() {
            return false;
        }
        let progress = !landed.is_empty();
        report("writing captions", true);
        let now = Instant::now();
        let mut done = Vec::new();
        let mut filled: HashMap<u32, i64> = HashMap::new();
        let mut free: HashMap<u32, bool> = HashMap::new();
        in_transaction(|| {
            if !tables::installed() {
                pgrx::error!("pg_caption: the extension was dropped while its worker was at work");
            }
            for (job, outcome) in landed {
                let Some(table) = self.tables.iter().find(|table| table.oid == job.row.relation) else { continue };
                // A step of a linear congruential generator (Knuth's MMIX constants).
                *random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let jitter = (*random >> 40) as f64 / (1u64 << 24) as f64;
                let settled = match *free.entry(table.oid).or_insert_with(|| write::table_is_free(table, true) && write::is_ours(table)) {
                    true => write::settle(table, &job, &outcome, jitter),
                    false => Settled::Locked,
                };
                match settled {
                    Settled::Locked => self.held.push(Held { job, outcome, again: now + AGAIN }),
                    Settled::Done { filled: wrote } => {
                        *filled.entry(job.row.relation).or_default() += i64::from(wrote);
                        done.push(job);
                    }
                }
            }
            for (relation, count) in &filled {
                let per_minute = rate(self.rates.entry(*relation).or_default(), now, *count);
                write::tally(*relation, *count, per_minute);
            }
            let struck = self.board.finish(done.iter().map(|job| job.page));
            write::strike(&struck, &self.tables);
            self.recheck.extend(write::release(&mut self.board, &done));
            // Somebody queued these rows again while they were in hand.
            for (row, page) in std::mem::take(&mut self.recheck) {
                let Some(table) = self.tables.iter().find(|table| table.oid == row.relation) else { continue };
                match examine_page(&mut self.board, &self.tables, table, page, std::slice::from_ref(&row.key)) {
                    Ok(jobs) => self.ready.extend(jobs),
                    Err(Busy) => self.recheck.push((row, page)),
                }
            }
        });
        progress
    }

    fn is_idle(&self) -> bool {
        self.sources.again().is_none()
            && self.ready.is_empty()
            && self.suspects.is_empty()
            && self.in_flight.is_empty()
            && self.landed.is_empty()
            && self.held.is_empty()
    }

    fn wait(&self) {
        let now = Instant::now();
        let mut timeout = LOOK;
        if let Some(again) = self.held.iter().map(|held| held.again).chain(self.sources.again()).min() {
            timeout = timeout.min(again.saturating_duration_since(now));
        }
        match &self.client {
            Some(client) => client.wait(Some(timeout)),
            None => {
                wait::wait(None, Some(timeout));
            }
        }
    }

    /// Tells `caption.progress` and `pg_stat_activity` what is going on.
    fn show(&self) {
        let mut flights: HashMap<u32, u32> = HashMap::new();
        for job in self.in_flight.values() {
            *flights.entry(job.row.relation).or_default() += 1;
        }
        let flights: Vec<(u32, u32)> = flights.into_iter().collect();
        shared::set_flights(self.database, &flights);
        report(&format!("captioning: {} in flight, {} ready, {} held back by locks", self.in_flight.len(), self.ready.len(), self.held.len()), true);
    }
}

fn request(table: &Watched, job: &Job) -> Request {
    let outputs =
        job.cells.iter().map(|cell| OutputSpec { style: table.fills[*cell].style.clone(), max_tokens: table.max_tokens, context: None }).collect();
    Request {
        id: 0,
        share: None,
        image: Image::Url { url: job.url.clone(), known: job.known.clone() },
        outputs,
        remaining_ms: PATIENCE.as_millis() as u64,
        // Watches use the server's threshold, which the engine knows.
        min_confidence: None,
    }
}

fn rate(window: &mut VecDeque<(Instant, i64)>, now: Instant, count: i64) -> f32 {
    window.push_back((now, count));
    while window.front().is_some_and(|(at, _)| now.duration_since(*at) > RATE) {
        window.pop_front();
    }
    let span = window.front().map_or(Duration::ZERO, |(at, _)| now.duration_since(*at)).max(Duration::from_secs(1));
    let total: i64 = window.iter().map(|(_, count)| count).sum();
    (total as f64 * 60.0 / span.as_secs_f64()) as f32
}

/// Rereads the configuration if it was asked for. Our own forced settings stay: their source outranks the file.
fn reload_requested() -> bool {
    // SAFETY: the flag is set by our signal handler and read here, on the same thread, in the main loop.
    unsafe {
        if pg_sys::ConfigReloadPending == 0 {
            return false;
        }
        pg_sys::ConfigReloadPending = 0;
        pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
    }
    true
}

/// Whether a prepared transaction of this database may still enqueue something when it commits.
fn prepared_pending() -> bool {
    in_transaction(|| {
        super::transaction::spi(Spi::get_one::<bool>("SELECT EXISTS (SELECT FROM pg_catalog.pg_prepared_xacts WHERE database = current_database())"))
            .unwrap_or(false)
    })
}

/// What `pg_stat_activity` says.
fn report(what: &str, running: bool) {
    let state = if running { pg_sys::BackendState::STATE_RUNNING } else { pg_sys::BackendState::STATE_IDLE };
    if let Ok(what) = CString::new(what) {
        // SAFETY: the text is copied before the call returns.
        unsafe { pg_sys::pgstat_report_activity(state, what.as_ptr()) };
    }
}
