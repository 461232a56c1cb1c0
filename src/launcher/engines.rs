//! The engines' processes and pipes. `pg_caption_supervisor::handover` decides which engine starts,
//! serves or leaves; this file talks to the operating system.

use super::lines::PipeLines;
use super::socket::ListeningSocket;
use super::spawn;
use crate::engine::model_status;
use crate::settings;
use crate::shared::{self, EngineDoubt};
use pg_caption_supervisor::engine_output::{
    LOG_LINE, LogAdmission, LogLimit, REPORT_LINE, excerpt,
};
use pg_caption_supervisor::handover::{
    EngineAction, EngineHandover, EnginePid, EngineStart, ModelSwap,
};
use pg_caption_wire::{EngineConfig, EngineControl, EngineReport};
use pgrx::pg_sys;
use rustix::event::epoll;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// When to check again for the exit of a process whose pipes have ended.
const REAP_AGAIN: Duration = Duration::from_millis(10);
/// How long engines may take to leave at the launcher's own exit, before they are killed.
const EXIT_TIMEOUT: Duration = Duration::from_secs(2);

struct Engine {
    child: Child,
    stdin: Option<ChildStdin>,
    status: PipeLines,
    stderr: PipeLines,
    log: EngineLog,
}

/// The lines of one engine in the server log.
#[derive(Default)]
struct EngineLog(LogLimit);

impl EngineLog {
    fn line(&mut self, text: &str, now: Instant) {
        match self.0.admit(now) {
            LogAdmission::Log => pgrx::log!("pg_caption {text}"),
            LogAdmission::DropFirst => {
                pgrx::log!("pg_caption engine: further lines of this second are dropped");
            }
            LogAdmission::Drop => {}
        }
    }
}

/// All engines of this launcher.
pub struct Engines {
    socket: ListeningSocket,
    program: Option<File>,
    epoll: OwnedFd,
    all: Vec<Engine>,
    handover: EngineHandover,
    published: Option<ModelSwap>,
}

impl AsRawFd for Engines {
    /// Readable whenever a pipe of an engine is.
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Engines {
    /// Without an engine; the first `tend` starts one.
    pub fn new(socket: ListeningSocket) -> Self {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC).unwrap_or_else(|error| {
            pgrx::error!("pg_caption cannot create an epoll descriptor: {error}")
        });
        // A new launcher continues to count.
        let handover = EngineHandover::new(model_status::read().reloads);
        Engines { socket, program: None, epoll, all: Vec::new(), handover, published: None }
    }

    /// Reads the engines' output, reaps ended ones, starts the next one. `reloaded`: the
    /// configuration was reloaded.
    pub fn tend(&mut self, now: Instant, config: &EngineConfig, reloaded: bool) {
        if reloaded {
            self.handover.reloaded();
        }
        self.read_output(now);
        self.reap(now);
        if self.socket.check(now, reloaded) {
            self.handover.relistened();
        }
        if let Some(start) = self.handover.wanted(config, now) {
            match self.start(&start) {
                Ok(pid) => self.handover.started(start, pid, now),
                Err(error) => {
                    let program = settings::engine_program();
                    let why = format!("\"{}\" cannot be started: {error}", program.display());
                    self.handover.not_started(start, why, now);
                }
            }
        }
        self.handover.kill_hanging(config, now);
        if shared::is_doubted(EngineDoubt::Silent) {
            self.handover.doubt();
        }
        if self.handover.watch(now) {
            shared::settle_doubt(EngineDoubt::Silent);
        }
        self.act();
        self.publish_pids();
        let swap = self.handover.model_swap(config.model.clone());
        if self.published.as_ref() != Some(&swap) {
            model_status::publish(&swap);
            self.published = Some(swap);
        }
    }

    /// When `tend` is due without output of an engine.
    pub fn next_due(&self, config: &EngineConfig, now: Instant) -> Option<Instant> {
        if self.all.iter().any(|engine| engine.status.ended) {
            return Some(now + REAP_AGAIN);
        }
        [self.handover.next_due(config, now), self.socket.next_due()].into_iter().flatten().min()
    }

    fn act(&mut self) {
        for action in self.handover.actions() {
            match action {
                EngineAction::Send(pid, control) => self.send(pid, &control),
                EngineAction::Kill(pid) => {
                    if let Some(engine) = self.engine(pid) {
                        // An error means that it has ended: it is reaped next.
                        engine.child.kill().ok();
                    }
                }
                EngineAction::Announce { serving, trouble } => {
                    shared::set_engine(
                        serving.map_or(0, |pid| pid as i32),
                        trouble.map(|trouble| trouble.to_string()).as_deref(),
                    );
                }
                EngineAction::Log(event) => pgrx::log!("pg_caption: {event}"),
            }
        }
    }

    fn start(&mut self, start: &EngineStart) -> io::Result<EnginePid> {
        if self.program.is_none() {
            self.program = Some(File::open(settings::engine_program())?);
        }
        let Some(program) = &self.program else { return Err(io::ErrorKind::NotFound.into()) };
        let spawn::EngineProcess { mut child, status } =
            spawn::start(program, self.socket.as_raw_fd())?;
        match self.configure(&mut child, status, start) {
            Ok((stdin, status, stderr)) => {
                let pid = child.id();
                let log = EngineLog::default();
                self.all.push(Engine { child, stdin: Some(stdin), status, stderr, log });
                Ok(pid)
            }
            Err(error) => {
                // Nothing else would end and reap it.
                child.kill().ok();
                child.wait().ok();
                Err(error)
            }
        }
    }

    /// Sends the configuration to a new engine and watches its pipes.
    fn configure(
        &self,
        child: &mut Child,
        status: OwnedFd,
        start: &EngineStart,
    ) -> io::Result<(ChildStdin, PipeLines, PipeLines)> {
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let (Some(mut stdin), Some(stderr)) = (stdin, stderr) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut line = serde_json::to_vec(&start.config)?;
        line.push(b'\n');
        stdin.write_all(&line)?;
        // An engine that does not read its input must not stop the launcher.
        rustix::io::ioctl_fionbio(&stdin, true)?;
        let status = PipeLines::new(status, REPORT_LINE)?;
        let stderr = PipeLines::new(stderr.into(), LOG_LINE)?;
        for lines in [&status, &stderr] {
            let data = epoll::EventData::new_u64(0);
            epoll::add(&self.epoll, &lines.pipe, data, epoll::EventFlags::IN)?;
        }
        Ok((stdin, status, stderr))
    }

    fn read_output(&mut self, now: Instant) {
        for engine in &mut self.all {
            engine.log_output(now);
            for report in engine.reports(now) {
                self.handover.reported(engine.child.id(), report, now);
            }
            // A pipe at its end would stay readable forever.
            for lines in [&engine.status, &engine.stderr] {
                if lines.ended {
                    unwatch(&self.epoll, lines);
                }
            }
        }
        self.act();
    }

    fn reap(&mut self, now: Instant) {
        let mut at = 0;
        while at < self.all.len() {
            let Ok(Some(status)) = self.all[at].child.try_wait() else {
                at += 1;
                continue;
            };
            let mut engine = self.all.swap_remove(at);
            engine.log_output(now);
            self.ended(&mut engine, status, now);
            for lines in [&engine.status, &engine.stderr] {
                unwatch(&self.epoll, lines);
            }
        }
        self.act();
    }

    fn ended(&mut self, engine: &mut Engine, status: ExitStatus, now: Instant) {
        let pid = engine.child.id();
        let reports = engine.reports(now).into_iter();
        // A stale readiness report would make the serving engine leave.
        for report in reports.filter(|report| !matches!(report, EngineReport::Ready { .. })) {
            self.handover.reported(pid, report, now);
        }
        self.handover.ended(pid, status.to_string(), now);
    }

    fn engine(&mut self, pid: EnginePid) -> Option<&mut Engine> {
        self.all.iter_mut().find(|engine| engine.child.id() == pid)
    }

    /// Writes one line. If an engine does not read, so that the pipe is full, its input ends.
    fn send(&mut self, pid: EnginePid, control: &EngineControl) {
        let Some(engine) = self.engine(pid) else { return };
        if let Some(stdin) = &mut engine.stdin {
            let line = serde_json::to_string(control).unwrap_or_default() + "\n";
            if stdin.write_all(line.as_bytes()).is_err() {
                // It has ended, or ends when its input does, or is killed while clients wait.
                engine.stdin = None;
            }
        }
    }

    /// Ends all engines and waits for their exit.
    pub fn stop(&mut self) {
        for engine in &mut self.all {
            engine.stdin = None;
        }
        stop_published();
        for engine in &mut self.all {
            // `stop_published` has reaped it.
            engine.child.try_wait().ok();
        }
        self.all.clear();
        self.publish_pids();
    }

    /// Makes the engines' process ids available to the exit callback.
    pub fn publish_pids(&self) {
        let mut pids = self.all.iter().map(|engine| engine.child.id() as i32);
        for slot in &PIDS {
            slot.store(pids.next().unwrap_or(0), Ordering::Relaxed);
        }
    }
}

fn unwatch(epoll: &OwnedFd, lines: &PipeLines) {
    // An error means that it is not watched.
    epoll::delete(epoll, &lines.pipe).ok();
}

impl Engine {
    /// Passes the engine's output to the server log.
    fn log_output(&mut self, now: Instant) {
        for line in self.stderr.read() {
            self.log.line(&format!("engine: {line}"), now);
        }
    }

    /// The reports that have arrived.
    fn reports(&mut self, now: Instant) -> Vec<EngineReport> {
        let Engine { status, log, .. } = self;
        let read = |line: String| {
            let report = serde_json::from_str(&line);
            let invalid = |error: &serde_json::Error| {
                // The error may repeat the line.
                let (line, error) = (excerpt(&line), error.to_string());
                let error = excerpt(&error);
                log.line(&format!("engine: invalid report \"{line}\": {error}"), now);
            };
            report.inspect_err(invalid).ok()
        };
        status.read().into_iter().filter_map(read).collect()
    }
}

/// Process ids for the exit callback, which may interrupt any code and so uses nothing else.
static PIDS: [AtomicI32; 8] = [const { AtomicI32::new(0) }; 8];

/// Terminates and reaps the published engines; kills those that do not leave in time.
pub fn stop_published() {
    let pids: Vec<i32> =
        PIDS.iter().map(|slot| slot.swap(0, Ordering::Relaxed)).filter(|pid| *pid > 0).collect();
    // SAFETY: signals and waits for children of this process by number; a number is not reused
    // before its process is reaped here.
    unsafe {
        for pid in &pids {
            libc::kill(*pid, libc::SIGTERM);
        }
        let deadline = Instant::now() + EXIT_TIMEOUT;
        for pid in pids {
            let mut status = 0;
            while libc::waitpid(pid, &mut status, libc::WNOHANG) == 0 {
                if Instant::now() >= deadline {
                    libc::kill(pid, libc::SIGKILL);
                    libc::waitpid(pid, &mut status, 0);
                    break;
                }
                pg_sys::pg_usleep(2_000);
            }
        }
    }
}
