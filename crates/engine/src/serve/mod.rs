//! `pg_caption_engine serve`: the program as PostgreSQL's launcher runs it.
//!
//! Standard input: one [`EngineConfig`] line, then [`EngineControl`] lines; at its end the engine
//! exits. Descriptor 3: the listening socket. Descriptor 4: the status pipe. Standard error: log
//! lines. The process exits with status 0 unless it could not start or the provider's thread
//! panicked. It never exits because of an unusable model.

mod acceptor;
mod admission;
mod connection;
mod descriptors;
mod inbound;
mod outlet;
#[cfg(test)]
mod tests;

use crate::confine::confine;
use crate::engine::{Engine, EngineOptions};
use crate::headers_file;
use crate::provider::readiness::ProviderState;
use crate::provider::{self, ProviderStart};
use crate::test_hook::DecodeHook;
use crate::threads::spawn;
use acceptor::ClientAcceptor;
use descriptors::StatusPipe;
use pg_caption_wire::{EngineConfig, EngineControl, EngineReport, Failure, ModelUse};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, BufRead};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often the use of daily limits is reported: what a killed engine may forget.
const USE_INTERVAL: Duration = Duration::from_secs(2);

/// Exits immediately with status 0. `_exit`, because destructors of ONNX Runtime must not run while
/// its threads do, and a crash at exit would count as a crash of PostgreSQL where the postmaster is
/// PID 1.
fn exit() -> ! {
    signal_hook::low_level::exit(0)
}

/// Exits because the provider broke (`EX_SOFTWARE` of sysexits.h). The launcher starts another
/// engine, and every client sends its unanswered requests again, as after any other crash.
fn exit_broken(failure: &Failure) -> ! {
    crate::log::line(format_args!(
        "error: {}",
        failure.detail.as_deref().unwrap_or(&failure.message)
    ));
    signal_hook::low_level::exit(70)
}

/// Runs the server. Returns only if it could not start.
///
/// # Errors
/// No configuration, no socket.
pub fn run(hook: DecodeHook) -> io::Result<()> {
    // The launcher sets it too. A launcher that died before this call is noticed by the end of
    // standard input.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    // The launcher executes a descriptor, whose number would be the name.
    let _ = rustix::thread::set_name(c"pg_caption_engine");
    let config = configuration()?;
    let status = Arc::new(StatusPipe::open());
    let listener = descriptors::listener()?;
    let headers = headers_file::read(&config.fetch_headers_file);
    let confinement = confine(&config);

    // Threads exist from here on.
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    spawn("signals", move || {
        signals.forever().next();
        exit()
    })?;
    status.report(&EngineReport::Starting);
    let wait_until_ready = config.wait_until_ready;
    let provider: ProviderStart = match &headers {
        // The engine that serves has the headers of the last good file, and goes on.
        Err(error) if wait_until_ready => {
            let failure = error.failure();
            Box::new(move |_, _, host| {
                host.failed(failure);
                Ok(())
            })
        }
        _ => Box::new(provider::start),
    };
    let engine = Engine::start(EngineOptions { config, headers, confinement, hook, provider })?;
    engine.when_broken(|failure| exit_broken(failure));
    let launcher = status.clone();
    engine.pipeline().when_outdated(move || launcher.report(&EngineReport::Outdated));
    let launcher = status.clone();
    engine.when_answered(move || launcher.report(&EngineReport::Answered));
    let acceptor = Arc::new(ClientAcceptor::new(listener, engine.clone())?);
    let (control, known, launcher) = (acceptor.clone(), engine.clone(), status.clone());
    spawn("control", move || {
        for line in io::stdin().lock().lines() {
            match line.map(|l| serde_json::from_str(&l)) {
                Ok(Ok(EngineControl::Drain)) => {
                    // Immediately, because the successor asks the same hosts from now on.
                    launcher.report(&EngineReport::Cooling { hosts: known.pipeline().cooldowns() });
                    control.drain();
                }
                Ok(Ok(EngineControl::Cooling { hosts })) => known.pipeline().restore(&hosts),
                Ok(Ok(EngineControl::Used(used))) => known.restore_use(used),
                Ok(Ok(EngineControl::Ping { number })) => {
                    let busy = known.metrics().steps.longest(Instant::now());
                    let busy_ms = busy.as_millis() as u64;
                    launcher.report(&EngineReport::Pong { number, busy_ms });
                }
                Ok(Err(e)) => crate::log::line(format_args!("warning: invalid control line: {e}")),
                Err(_) => break,
            }
        }
        exit()
    })?;
    let (known, launcher) = (engine.clone(), status.clone());
    spawn("readiness", move || match known.readiness().wait() {
        ProviderState::Ready(provider) => {
            let model = provider.status();
            crate::log::line(format_args!("model {} ({}) is ready", model.name, model.family));
            if !model.skipped_graphs().is_empty() {
                crate::log::line(format_args!(
                    "warning: unusable files of model {} were skipped: {}",
                    model.name,
                    model.skipped_graphs().join("; ")
                ));
            }
            launcher.report(&EngineReport::Ready { model: Box::new(model) });
            if !provider.model_use().is_empty() {
                report_use(&known, &launcher);
            }
        }
        ProviderState::Failed(failure) => {
            crate::log::line(format_args!(
                "no model: {}",
                failure.detail.as_deref().unwrap_or(&failure.message)
            ));
            launcher.report(&EngineReport::Failed(failure));
        }
        ProviderState::Loading => unreachable!("waited for"),
    })?;
    if wait_until_ready && let ProviderState::Failed(_) = engine.readiness().wait() {
        // A successor without a model accepts no clients; the launcher has read the reason and
        // sends `Drain`.
        acceptor.until_drained();
        exit()
    }
    acceptor.run();
    // Again: requests in flight may have met further hosts with a cooldown.
    status.report(&EngineReport::Cooling { hosts: engine.pipeline().cooldowns() });
    for used in engine.model_use() {
        status.report(&EngineReport::Used(used));
    }
    exit()
}

/// Reports what is used of the model's daily limits, so that they survive this process. Never
/// returns. An idle engine wakes up every few seconds for it, with a remote model only.
fn report_use(engine: &Engine, launcher: &StatusPipe) {
    let mut reported = Vec::new();
    loop {
        let current = engine.model_use();
        let is_new = |used: &&ModelUse| used.requests > 0 && !reported.contains(*used);
        for used in current.iter().filter(is_new) {
            launcher.report(&EngineReport::Used(used.clone()));
        }
        reported = current;
        std::thread::sleep(USE_INTERVAL);
    }
}

fn configuration() -> io::Result<EngineConfig> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.is_empty() {
        // The launcher ended before it sent a configuration.
        exit();
    }
    serde_json::from_str(&line).map_err(|e| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("configuration line: {e}"))
    })
}
