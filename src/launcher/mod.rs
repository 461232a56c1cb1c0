//! The launcher: keeps the engine running and starts a worker for each database with work.
//!
//! A static background worker without a database, so that `caption_image` also works on a hot
//! standby. It never opens a picture, a model or a client's connection. Its only wait is for its
//! latch and the engines' pipes.

mod databases;
mod engines;
mod lines;
mod socket;
mod spawn;

use crate::{engine::client, engine::model_status, pg::latch, pg::report, settings, shared};
use pg_caption_wire::EngineConfig;
use pgrx::bgworkers::{
    BackgroundWorker, BackgroundWorkerBuilder, BgWorkerStartTime, SignalWakeFlags,
};
use pgrx::prelude::*;
use std::os::fd::AsRawFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

/// Pause of the postmaster before it restarts the launcher.
const RESTART: Duration = Duration::from_secs(1);

/// Registers the launcher; in the postmaster, while preloading.
pub fn init() {
    // pg_upgrade builds a database from its catalogs, and no other process may write to it.
    // SAFETY: reads a global that is set before any library is loaded.
    if unsafe { pg_sys::IsBinaryUpgrade } {
        return;
    }
    BackgroundWorkerBuilder::new("pg_caption launcher")
        .set_type("pg_caption launcher")
        .set_library("pg_caption")
        .set_function("pg_caption_launcher")
        .enable_spi_access()
        // After `enable_spi_access`, which sets a later time: the launcher also serves a hot
        // standby.
        .set_start_time(BgWorkerStartTime::ConsistentState)
        .set_restart_time(Some(RESTART))
        .load();
}

/// Main function of the launcher.
#[pg_guard]
#[unsafe(no_mangle)]
pub extern "C-unwind" fn pg_caption_launcher(_argument: pg_sys::Datum) {
    BackgroundWorker::attach_signal_handlers(SignalWakeFlags::SIGHUP | SignalWakeFlags::SIGTERM);
    BackgroundWorker::connect_worker_to_spi(None, None);
    shared::set_launcher(std::process::id() as i32);
    let socket = match socket::ListeningSocket::listen(client::SOCKET) {
        Ok(socket) => socket,
        Err(error) => report::refuse(
            PgSqlErrorCode::ERRCODE_IO_ERROR,
            format!("pg_caption cannot listen on \"{}\": {error}", client::SOCKET),
            None,
            Some("The server must be able to create a socket in its data directory.".into()),
        ),
    };
    let mut engines = engines::Engines::new(socket);
    stop_engines_on_exit(&engines);
    let mut databases = databases::Databases::default();
    run(&mut engines, &mut databases);
    engines.stop();
    shared::set_engine(0, None);
    shared::set_launcher(0);
    // Not 0: the postmaster must restart a launcher that was terminated.
    // SAFETY: ends this process through PostgreSQL's own exit path; nothing is borrowed.
    unsafe { pg_sys::proc_exit(1) };
}

fn run(engines: &mut engines::Engines, databases: &mut databases::Databases) {
    let mut headers_stamp = headers_stamp();
    let mut threshold = settings::min_confidence();
    let mut serving = None;
    while !BackgroundWorker::sigterm_received() {
        let reloaded = BackgroundWorker::sighup_received();
        if reloaded {
            // SAFETY: called in a background worker's main loop, where reloading the configuration
            // is allowed.
            unsafe { pg_sys::ProcessConfigFile(pg_sys::GucContext::PGC_SIGHUP) };
            headers_stamp = self::headers_stamp();
        }
        if threshold != settings::min_confidence() {
            threshold = settings::min_confidence();
            // Workers judge uncertain rows again.
            for database in shared::databases() {
                shared::announce_work(database.oid, false);
            }
        }
        let now = Instant::now();
        let fetch_headers_stamp = headers_stamp.clone();
        let config = EngineConfig { fetch_headers_stamp, ..settings::engine_config() };
        engines.tend(now, &config, reloaded);
        if let Some(model) = model_status::read().serving
            && serving.as_ref() != Some(&model)
            && serving.replace(model).is_some()
        {
            // Workers check whether the new model knows the languages of their watches.
            for database in shared::databases() {
                shared::announce_work(database.oid, false);
            }
        }
        databases.tend(now);
        let due =
            [engines.next_due(&config, now), databases.next_due(now)].into_iter().flatten().min();
        latch::wait(
            Some(latch::WaitInterest { fd: engines.as_raw_fd(), write: false }),
            due.map(|due| due.saturating_duration_since(Instant::now())),
        );
    }
}

/// Which file of request headers there is, from its metadata: the launcher, of which PostgreSQL may
/// leave a core file, never reads it.
fn headers_stamp() -> String {
    let file = settings::fetch_headers_file().and_then(|path| std::fs::metadata(path).ok());
    file.map_or_else(String::new, |file| {
        let times = (file.mtime(), file.mtime_nsec(), file.ctime(), file.ctime_nsec());
        format!("{:?}", (file.dev(), file.ino(), file.size(), file.mode(), file.uid(), times))
    })
}

/// No engine outlives its launcher, however that ends: PostgreSQL runs these callbacks on FATAL and
/// on proc_exit. A postmaster that is PID 1 adopts orphans, and would take an orphan's bad exit for
/// a crash of a backend.
fn stop_engines_on_exit(engines: &engines::Engines) {
    engines.publish_pids();
    // SAFETY: registers a function that uses only a process-wide list.
    unsafe { pg_sys::before_shmem_exit(Some(stop_at_exit), pg_sys::Datum::from(0)) };
}

#[pg_guard]
unsafe extern "C-unwind" fn stop_at_exit(_code: i32, _argument: pg_sys::Datum) {
    engines::stop_published();
}
