//! Drives a worker's state machine (`pg_caption_queue::QueueWorker`) with this database, shared
//! memory and the engine's socket. Nothing is decided here.

use super::store::{WorkerStore, next_due_ms};
use super::transaction::spi;
use super::usage::UsageWriter;
use super::{lease, tables, thresholds};
use crate::engine::client::{ConnectionLoss, EngineClient};
use crate::{pg::latch, settings, shared};
use pg_caption_queue::{ConnectionEvent, QueueWorker, WorkerAction, WorkerLimits, WorkerSignals};
use pg_caption_wire::{CaptionOutcome, CaptionReply, ClientRole, FailureClass, ServerMessage};
use pgrx::prelude::*;
use std::ffi::CString;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Whether a prepared transaction locks a table of the extension: it has enqueued rows, changed a
/// style, or called `watch` or a similar function. Others do not concern the queue.
const HAS_PREPARED: &str = "SELECT EXISTS ( \
    SELECT FROM pg_catalog.pg_locks l \
     WHERE l.pid IS NULL AND l.locktype = 'relation' \
       AND l.database = ( \
           SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()) \
       AND l.relation IN (to_regclass('caption.queue'), to_regclass('caption.watch'), \
                          to_regclass('caption.watch_state'), to_regclass('caption.style'), \
                          to_regclass('caption.rule')))";

/// Works on the queue of this database until no work is left, or another database needs the slot.
pub fn run(database: u32) {
    let (limits, seed) = (WorkerLimits::default(), u64::from(std::process::id()));
    let mut worker = QueueWorker::new(limits, Instant::now(), seed);
    let mut store = WorkerStore::new(database);
    let mut client: Option<EngineClient> = None;
    let mut usage = UsageWriter::new(database);
    loop {
        let signals = signals(database, &store);
        let now = signals.now;
        match worker.next(&signals) {
            WorkerAction::CheckDatabase => {
                if !lease::database_is_free() {
                    return;
                }
            }
            WorkerAction::Clean => store.transaction(|_| tables::clean()),
            WorkerAction::ReadWatches => worker.watches(read_watches(&mut store), now),
            WorkerAction::Read(source) => {
                store.transaction(|store| worker.read(source, store, now));
            }
            WorkerAction::Connect { until } => {
                client = EngineClient::connect(ClientRole::Worker, until).ok();
                usage.connected();
                // With the epoch from before: a change during the attempt allows another one now.
                let signals = WorkerSignals { now: Instant::now(), ..signals };
                worker.connected(client.is_some(), &signals);
            }
            WorkerAction::Send => {
                if let Some(client) = &mut client {
                    // First: a refusal of all requests ends the connection.
                    usage.ask(client);
                    send(&mut worker, &mut store, client);
                }
            }
            WorkerAction::Receive => {
                let lost = ConnectionEvent::Lost { refused: false };
                let event = client.as_mut().map_or(lost, |client| receive(client, &mut usage));
                if let Some(status) = usage.reported() {
                    store.transaction(|_| usage.write(&status));
                }
                if !worker.received(event, &signals) {
                    client = None;
                }
            }
            WorkerAction::Settle => settle(&mut worker, &mut store, now),
            WorkerAction::Prune => {
                report("pruning ledger and failures", true);
                store.transaction(|store| worker.prune(store, now));
            }
            WorkerAction::Report => {
                shared::set_in_flight(database, &worker.in_flight(), &worker.ahead());
                let (sent, ready, locked) = worker.job_counts();
                let counts = format!("{sent} in flight, {ready} ready, {locked} locked");
                report(&format!("captioning: {counts}"), true);
            }
            WorkerAction::Wait(timeout) => match &client {
                Some(client) => client.wait(Some(timeout)),
                None => latch::wait(None, Some(timeout)),
            },
            WorkerAction::Idle(timeout) => {
                report("idle", false);
                latch::wait(None, Some(timeout));
            }
            WorkerAction::ReadDue => {
                let due = store.transaction(|_| next_due_ms(&worker.active()));
                worker.due(due.map(|due| (due, until_ms(due))));
            }
            WorkerAction::CheckPrepared => {
                let has_prepared = store.transaction(|_| spi(Spi::get_one::<bool>(HAS_PREPARED)));
                worker.prepared(has_prepared.unwrap_or(false));
            }
            WorkerAction::Depart { generation, due_ms, prepared } => {
                usage.finish(&mut store);
                if shared::leave_if_drained(database, generation, due_ms, prepared) {
                    return;
                }
            }
            WorkerAction::Yield => return shared::yield_turn(database),
            WorkerAction::Forget { generation } => {
                usage.finish(&mut store);
                return shared::forget_database(database, generation);
            }
            WorkerAction::Leave => return,
        }
    }
}

/// Everything that can be observed without a query.
fn signals(database: u32, store: &WorkerStore) -> WorkerSignals {
    reload_configuration();
    let known = shared::database(database);
    WorkerSignals {
        now: Instant::now(),
        enabled: settings::enabled(),
        generation: known.map(|database| database.generation),
        slow_poll: known.is_some_and(|database| database.slow_poll),
        redefined: store.definitions.any_changed() || thresholds::has_changed(),
        crowded: shared::crowded(),
        epoch: shared::engine_epoch(),
    }
}

fn read_watches(store: &mut WorkerStore) -> Option<Vec<pg_caption_queue::WatchedTable>> {
    if !store.transaction(|_| tables::installed()) {
        return None;
    }
    let watched = store.transaction(|_| tables::begin());
    store.definitions.expect(watched.into_iter());
    Some(store.transaction(WorkerStore::load_watches))
}

fn settle(worker: &mut QueueWorker, store: &mut WorkerStore, now: Instant) {
    report("writing captions", true);
    store.transaction(|store| {
        if !tables::installed() {
            pgrx::error!("pg_caption: the extension was dropped while its worker was running");
        }
        worker.settle(store, now, settings::max_attempts());
    });
}

/// Fills the connection's window.
fn send(worker: &mut QueueWorker, store: &mut WorkerStore, client: &mut EngineClient) {
    while client.has_room()
        && !client.is_backed_up()
        && let Some((job, mut request)) = worker.next_request()
    {
        // Judged by the setting that is recorded, also while the engine still has another one.
        request.min_confidence = settings::min_confidence();
        request.rules.clone_from(&store.rules);
        let sent = match worker.table(&job) {
            Some(table) if table.completes_requests() => {
                store.transaction(|store| store.submit(table, &job, request, client))
            }
            _ => client.submit(request, &[]).map_err(CaptionOutcome::Failed),
        };
        match sent {
            Ok(id) => worker.sent(id, job),
            Err(answer) => worker.unsent(job, answer),
        }
    }
}

/// Polls the connection once.
fn receive(client: &mut EngineClient, usage: &mut UsageWriter) -> ConnectionEvent {
    match client.poll() {
        Ok(Some(ServerMessage::Reply(CaptionReply { id, outcome }))) => {
            let trouble = match &outcome {
                CaptionOutcome::Failed(failure) if failure.class == FailureClass::Engine => {
                    pgrx::debug1!("pg_caption: the engine cannot serve: {}", failure.message);
                    Some(failure)
                }
                _ => None,
            };
            usage.note_trouble(trouble);
            ConnectionEvent::Answer { id, outcome }
        }
        Ok(Some(ServerMessage::Status(status))) => {
            usage.report(status);
            ConnectionEvent::Other
        }
        Ok(Some(ServerMessage::Running { id, alone })) => ConnectionEvent::Running { id, alone },
        Ok(Some(_)) => ConnectionEvent::Other,
        Ok(None) if client.is_spent() => ConnectionEvent::Spent,
        Ok(None) => ConnectionEvent::Nothing,
        Err(ConnectionLoss::Closed) => ConnectionEvent::Lost { refused: false },
        Err(ConnectionLoss::Refused(failure)) => {
            pgrx::log!("pg_caption: the engine refused this worker: {}", failure.message);
            ConnectionEvent::Lost { refused: true }
        }
    }
}

/// How long until a time given in milliseconds of the Unix epoch.
fn until_ms(due: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(due.max(0) as u64).saturating_sub(now)
}

/// Reloads the configuration on request. The worker's forced settings stay: their source outranks
/// the file.
fn reload_configuration() {
    // SAFETY: the flag is set by PostgreSQL's signal handler and read here, on the same thread, in
    // the main loop.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Sets the activity in `pg_stat_activity`.
fn report(what: &str, running: bool) {
    let state = if running {
        pg_sys::BackendState::STATE_RUNNING
    } else {
        pg_sys::BackendState::STATE_IDLE
    };
    if let Ok(what) = CString::new(what) {
        // SAFETY: the text is copied before the call returns.
        unsafe { pg_sys::pgstat_report_activity(state, what.as_ptr()) };
    }
}
