//! Runs the loop of a worker: does what `pg_caption_queue::worker` decides, with this database,
//! shared memory and the engine's socket, and tells it what came of it. Nothing is decided here.

use super::definitions;
use super::lease;
use super::runaway;
use super::sources::{Sql, next_due_ms};
use super::tables;
use super::transaction::{run as in_transaction, spi};
use crate::engine::client::{ConnectionLoss, EngineClient};
use crate::{pg::latch, settings, shared};
use pg_caption_queue::Limits;
use pg_caption_queue::worker::{Action, Heard, Seen, Worker};
use pg_caption_wire::{CaptionOutcome, CaptionReply, ClientRole, FailureClass, ServerMessage};
use pgrx::prelude::*;
use std::ffi::CString;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Drains the queue of this database until nothing is left to do, or the worker is wanted
/// elsewhere.
pub fn run(database: u32) {
    let mut worker = Worker::new(Limits::default(), Instant::now(), u64::from(std::process::id()));
    let mut client: Option<EngineClient> = None;
    loop {
        let seen = look(database);
        match worker.next(&seen) {
            Action::AskForDatabase => {
                if !lease::database_is_free() {
                    return;
                }
            }
            Action::Clean => in_transaction(tables::clean),
            Action::ReadWatches => {
                let read = in_transaction(tables::installed).then(|| {
                    definitions::expect(in_transaction(tables::begin).into_iter());
                    in_transaction(tables::load)
                });
                worker.watches(read, seen.now);
            }
            Action::Read(reading) => in_transaction(|| worker.read(reading, &mut Sql, seen.now)),
            Action::Connect { until } => {
                client = EngineClient::connect(ClientRole::Worker, until).ok();
                // The epoch of before: a change while nobody answered is a reason to ask again at
                // once.
                worker.connected(client.is_some(), &Seen { now: Instant::now(), ..seen });
            }
            Action::Send => {
                if let Some(client) = &mut client {
                    send(&mut worker, client);
                }
            }
            Action::Receive => {
                let heard = client.as_mut().map_or(Heard::Lost { refused: false }, receive);
                if !worker.heard(heard, &seen) {
                    client = None;
                }
            }
            Action::Settle => {
                report("writing captions", true);
                in_transaction(|| {
                    if !tables::installed() {
                        pgrx::error!(
                            "pg_caption: the extension was dropped while its worker was at work"
                        );
                    }
                    worker.settle(&mut Sql, seen.now);
                });
                runaway::recorded(database);
            }
            Action::Tidy => {
                report("looking for what is kept of rows that are gone", true);
                in_transaction(|| worker.tidy(&mut Sql, seen.now));
            }
            Action::Show => {
                shared::set_in_flight(database, &worker.flights());
                let (in_flight, ready, held) = worker.in_hand();
                report(
                    &format!(
                        "captioning: {in_flight} in flight, {ready} ready, {held} held back by locks"
                    ),
                    true,
                );
            }
            Action::Wait(timeout) => match &client {
                Some(client) => client.wait(Some(timeout)),
                None => latch::wait(None, Some(timeout)),
            },
            Action::Idle(timeout) => {
                report("idle", false);
                latch::wait(None, Some(timeout));
            }
            Action::ReadDue => {
                let due = in_transaction(|| next_due_ms(&worker.active()));
                worker.due(due.map(|due| (due, until_ms(due))));
            }
            Action::LookForPrepared => worker.prepared(prepared_pending()),
            Action::Depart { generation, due_ms, prepared } => {
                if shared::leave_if_drained(database, generation, due_ms, prepared) {
                    return;
                }
            }
            Action::Yield => return shared::yield_turn(database),
            Action::Forget { generation } => return shared::forget_database(database, generation),
            Action::Leave => return,
        }
    }
}

/// What can be seen without asking the database.
fn look(database: u32) -> Seen {
    reread_configuration();
    let known = shared::database(database);
    Seen {
        now: Instant::now(),
        enabled: settings::enabled(),
        generation: known.map(|database| database.generation),
        slow_look: known.is_some_and(|database| database.slow_look),
        redefined: definitions::some_changed(),
        crowded: shared::crowded(),
        epoch: shared::engine_epoch(),
    }
}

/// Fills the connection's window.
fn send(worker: &mut Worker, client: &mut EngineClient) {
    while client.has_room()
        && let Some((job, request)) = worker.next_request()
    {
        match client.submit(request, &[]) {
            Ok(id) => worker.sent(id, job),
            Err(failure) => worker.unsendable(job, failure),
        }
    }
}

/// What the engine says, if anything.
fn receive(client: &mut EngineClient) -> Heard {
    match client.poll() {
        Ok(Some(ServerMessage::Reply(CaptionReply { id, outcome }))) => {
            if let CaptionOutcome::Failed(failure) = &outcome
                && failure.class == FailureClass::Engine
            {
                pgrx::debug1!("pg_caption: the engine cannot serve: {}", failure.message);
            }
            Heard::Answer { id, outcome }
        }
        Ok(Some(_)) => Heard::Other,
        Ok(None) if client.is_spent() => Heard::Spent,
        Ok(None) => Heard::Nothing,
        Err(ConnectionLoss::Closed) => Heard::Lost { refused: false },
        Err(ConnectionLoss::Refused(failure)) => {
            pgrx::log!("pg_caption: the engine refuses this worker: {}", failure.message);
            Heard::Lost { refused: true }
        }
    }
}

/// How long until a time given in milliseconds of the Unix epoch.
fn until_ms(due: i64) -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Duration::from_millis(due.max(0) as u64).saturating_sub(now)
}

/// Rereads the configuration if it was asked for. Our own forced settings stay: their source
/// outranks the file.
fn reread_configuration() {
    // SAFETY: the flag is set by our signal handler and read here, on the same thread, in the main
    // loop.
    unsafe {
        if pg_sys::ConfigReloadPending != 0 {
            pg_sys::ConfigReloadPending = 0;
            pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP);
        }
    }
}

/// Whether a prepared transaction holds something of ours: it has enqueued rows, changed a style,
/// or called `watch` or its like. Others' are none of our business.
fn prepared_pending() -> bool {
    let ours = "SELECT EXISTS (SELECT FROM pg_catalog.pg_locks l WHERE l.pid IS NULL AND l.locktype = 'relation' \
                   AND l.database = (SELECT d.oid FROM pg_catalog.pg_database d WHERE d.datname = current_database()) \
                   AND l.relation IN (to_regclass('caption.queue'), to_regclass('caption.watch'), to_regclass('caption.watch_state'), to_regclass('caption.style')))";
    in_transaction(|| spi(Spi::get_one::<bool>(ours)).unwrap_or(false))
}

/// What `pg_stat_activity` says.
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
