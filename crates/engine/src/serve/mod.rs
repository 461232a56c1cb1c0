//! `pg_caption_engine serve`: the program as PostgreSQL's launcher runs it.
//!
//! Standard input: one [`EngineConfig`] line, then [`EngineControl`] lines; its end means leave.
//! Descriptor 3: the listening socket. Descriptor 4: the status pipe. Standard error: log lines.
//! The process ends with status 0 unless it could not even start or the code around its model
//! broke; it never ends because of a bad model.

mod acceptor;
mod connection;
mod descriptors;
mod inbound;

use crate::confine::confine;
use crate::engine::Engine;
use crate::readiness::State;
use acceptor::Acceptor;
use descriptors::StatusPipe;
use pg_caption_wire::{EngineConfig, EngineControl, EngineReport, Failure};
use signal_hook::consts::{SIGINT, SIGTERM};
use std::io::{self, BufRead};
use std::sync::Arc;
use std::thread;

/// Leaves at once with status 0. `_exit`, because destructors of ONNX Runtime must not run while
/// its threads do, and a crash on the way out would count as a crash of PostgreSQL where the
/// postmaster is PID 1.
fn leave() -> ! {
    signal_hook::low_level::exit(0)
}

/// Leaves because the model's thread broke in mid-work (`EX_SOFTWARE` of sysexits.h): the launcher
/// starts another engine and every client sends again what had no answer, as after any other crash.
fn give_up(failure: &Failure) -> ! {
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
pub fn run() -> io::Result<()> {
    // Belt and braces: the launcher sets it too. A launcher that died before this is noticed by the
    // end of standard input.
    let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::TERM));
    let config = configuration()?;
    let status = Arc::new(StatusPipe::open());
    let listener = descriptors::listener()?;
    let confinement = confine(&config);

    // From here on there are threads.
    let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGINT])?;
    spawn("signals", move || {
        signals.forever().next();
        leave()
    })?;
    status.report(&EngineReport::Starting);
    let wait_until_ready = config.wait_until_ready;
    let engine = Engine::start(config, confinement)?;
    engine.when_broken(|failure| give_up(failure));
    let launcher = status.clone();
    engine.pipeline().when_outdated(move || launcher.report(&EngineReport::Outdated));
    let acceptor = Arc::new(Acceptor::new(listener, engine.clone())?);
    let (control, known, launcher) = (acceptor.clone(), engine.clone(), status.clone());
    spawn("control", move || {
        for line in io::stdin().lock().lines() {
            match line.map(|l| serde_json::from_str(&l)) {
                Ok(Ok(EngineControl::Drain)) => {
                    // At once, because the successor asks the same hosts from now on.
                    launcher.report(&EngineReport::Cooling { hosts: known.pipeline().cooldowns() });
                    control.drain();
                }
                Ok(Ok(EngineControl::Cooling { hosts })) => known.pipeline().restore(&hosts),
                Ok(Err(e)) => {
                    crate::log::line(format_args!("warning: control line not understood: {e}"))
                }
                Err(_) => break,
            }
        }
        leave()
    })?;
    let (known, launcher) = (engine.clone(), status.clone());
    spawn("readiness", move || match known.readiness().wait() {
        State::Ready(preparer) => {
            let model = preparer.status().clone();
            crate::log::line(format_args!("model {} ({}) is ready", model.name, model.family));
            if !model.passed_over.is_empty() {
                crate::log::line(format_args!(
                    "warning: files of model {} are of no use and were passed over: {}",
                    model.name,
                    model.passed_over.join("; ")
                ));
            }
            launcher.report(&EngineReport::Ready { model });
        }
        State::Failed(failure) => {
            crate::log::line(format_args!(
                "no model: {}",
                failure.detail.as_deref().unwrap_or(&failure.message)
            ));
            launcher.report(&EngineReport::Failed(failure));
        }
        State::Loading => unreachable!("waited for"),
    })?;
    if wait_until_ready && let State::Failed(_) = engine.readiness().wait() {
        // A successor without a model accepts nothing; the launcher has read why and tells it to
        // leave.
        acceptor.until_drained();
        leave()
    }
    acceptor.run();
    // Again: what was in flight may have met further hosts that want patience.
    status.report(&EngineReport::Cooling { hosts: engine.pipeline().cooldowns() });
    leave()
}

fn configuration() -> io::Result<EngineConfig> {
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    if line.is_empty() {
        // The launcher left before it said anything.
        leave();
    }
    serde_json::from_str(&line).map_err(|e| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("configuration line: {e}"))
    })
}

/// A named thread; the names appear in `top -H`.
pub(crate) fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new().name(name.into()).spawn(body).map(drop)
}
