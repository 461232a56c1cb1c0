//! The engines' processes and pipes. Which one is started, serves or leaves is decided in
//! `pg_caption_supervisor::handover`; here is what that needs of the system.

use super::lines::Lines;
use super::{Listener, spawn};
use crate::engine::model_status;
use crate::{settings, shared};
use pg_caption_supervisor::handover::{Action, Exchange, Pid, Start, Succession};
use pg_caption_wire::{EngineConfig, EngineControl, EngineReport};
use pgrx::pg_sys;
use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::process::{Child, ChildStdin, ExitStatus};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// Look again for the exit of a process whose pipes have ended.
const REAP: Duration = Duration::from_millis(10);
/// Patience with engines at the launcher's own end, before they are killed.
const LEAVE: Duration = Duration::from_secs(2);

struct Engine {
    child: Child,
    stdin: Option<ChildStdin>,
    status: Lines,
    stderr: Lines,
}

/// All engines of this launcher.
pub struct Engines {
    listener: Listener,
    program: Option<File>,
    epoll: OwnedFd,
    all: Vec<Engine>,
    succession: Succession,
    published: Option<Exchange>,
}

impl AsRawFd for Engines {
    /// Readable whenever any engine's pipe has something to read.
    fn as_raw_fd(&self) -> RawFd {
        self.epoll.as_raw_fd()
    }
}

impl Engines {
    /// No engine yet; the first `tend` starts one.
    pub fn new(listener: Listener) -> Self {
        // SAFETY: creates a descriptor that nobody else knows; checked below.
        let epoll = unsafe { libc::epoll_create1(libc::EPOLL_CLOEXEC) };
        if epoll < 0 {
            pgrx::error!(
                "pg_caption cannot create an epoll descriptor: {}",
                io::Error::last_os_error()
            );
        }
        // SAFETY: the descriptor was created above and is owned from here on.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        // A launcher that follows another goes on counting.
        let succession = Succession::new(model_status::read().reloads);
        Engines { listener, program: None, epoll, all: Vec::new(), succession, published: None }
    }

    /// Reads what engines say, buries the dead, starts what is to be started. `reloaded`: the
    /// configuration was read anew.
    pub fn tend(&mut self, now: Instant, config: &EngineConfig, reloaded: bool) {
        if reloaded {
            self.succession.reloaded();
        }
        self.listen_to_engines(now);
        self.bury(now);
        if let Some(start) = self.succession.wanted(config, now) {
            match self.start(&start) {
                Ok(pid) => self.succession.started(start, pid, now),
                Err(error) => {
                    let why = format!(
                        "\"{}\" cannot be started: {error}",
                        settings::engine_program().display()
                    );
                    self.succession.not_started(start, why, now);
                }
            }
        }
        self.succession.kill_hanging(now);
        self.act();
        self.publish_pids();
        let exchange = self.succession.exchange(config.model.clone());
        if self.published.as_ref() != Some(&exchange) {
            model_status::publish(&exchange);
            self.published = Some(exchange);
        }
    }

    /// When `tend` has something to do even if nobody speaks.
    pub fn next_due(&self, config: &EngineConfig, now: Instant) -> Option<Instant> {
        if self.all.iter().any(|engine| engine.status.ended) {
            return Some(now + REAP);
        }
        self.succession.next_due(config, now)
    }

    fn act(&mut self) {
        for action in self.succession.actions() {
            match action {
                Action::Tell(pid, control) => self.tell(pid, &control),
                Action::Kill(pid) => {
                    if let Some(engine) = self.engine(pid) {
                        // Gone already: then it is reaped next.
                        engine.child.kill().ok();
                    }
                }
                Action::Announce { serving, trouble } => {
                    shared::set_engine(
                        serving.map_or(0, |pid| pid as i32),
                        trouble.map(|trouble| trouble.to_string()).as_deref(),
                    );
                }
                Action::Log(said) => pgrx::log!("pg_caption: {said}"),
            }
        }
    }

    fn start(&mut self, start: &Start) -> io::Result<Pid> {
        if self.program.is_none() {
            self.program = Some(File::open(settings::engine_program())?);
        }
        let Some(program) = &self.program else { return Err(io::ErrorKind::NotFound.into()) };
        let spawn::Started { mut child, status } =
            spawn::start(program, self.listener.as_raw_fd())?;
        match self.introduce(&mut child, status, start) {
            Ok((stdin, status, stderr)) => {
                let pid = child.id();
                self.all.push(Engine { child, stdin: Some(stdin), status, stderr });
                Ok(pid)
            }
            Err(error) => {
                // Nobody would ever look after it.
                child.kill().ok();
                child.wait().ok();
                Err(error)
            }
        }
    }

    /// Tells a new engine what it is to do, and listens to it from now on.
    fn introduce(
        &self,
        child: &mut Child,
        status: OwnedFd,
        start: &Start,
    ) -> io::Result<(ChildStdin, Lines, Lines)> {
        let (stdin, stderr) = (child.stdin.take(), child.stderr.take());
        let (Some(mut stdin), Some(stderr)) = (stdin, stderr) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        let mut line = serde_json::to_vec(&start.config)?;
        line.push(b'\n');
        stdin.write_all(&line)?;
        let (status, stderr) = (Lines::new(status)?, Lines::new(stderr.into())?);
        self.watch(&status.pipe)?;
        self.watch(&stderr.pipe)?;
        Ok((stdin, status, stderr))
    }

    fn watch(&self, pipe: &File) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: both descriptors are open and owned by us; a closed pipe leaves the set by
        // itself.
        match unsafe {
            libc::epoll_ctl(
                self.epoll.as_raw_fd(),
                libc::EPOLL_CTL_ADD,
                pipe.as_raw_fd(),
                &mut event,
            )
        } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn forget(epoll: &OwnedFd, pipe: &File) {
        // SAFETY: as in `watch`; removing what is not in the set does nothing.
        unsafe {
            libc::epoll_ctl(
                epoll.as_raw_fd(),
                libc::EPOLL_CTL_DEL,
                pipe.as_raw_fd(),
                std::ptr::null_mut(),
            )
        };
    }

    fn listen_to_engines(&mut self, now: Instant) {
        for engine in &mut self.all {
            for line in engine.stderr.read() {
                if engine.stderr.may_log(now) {
                    pgrx::log!("pg_caption engine: {line}");
                }
            }
            for report in engine.reports() {
                self.succession.heard(engine.child.id(), report, now);
            }
            // A pipe at its end stays readable for ever: out of the set with it.
            for lines in [&engine.status, &engine.stderr] {
                if lines.ended {
                    Self::forget(&self.epoll, &lines.pipe);
                }
            }
        }
        self.act();
    }

    fn bury(&mut self, now: Instant) {
        let mut at = 0;
        while at < self.all.len() {
            let Ok(Some(status)) = self.all[at].child.try_wait() else {
                at += 1;
                continue;
            };
            let mut engine = self.all.swap_remove(at);
            for line in engine.stderr.read() {
                pgrx::log!("pg_caption engine: {line}");
            }
            self.last_words(&mut engine, status, now);
            for lines in [&engine.status, &engine.stderr] {
                Self::forget(&self.epoll, &lines.pipe);
            }
        }
        self.act();
    }

    fn last_words(&mut self, engine: &mut Engine, status: ExitStatus, now: Instant) {
        let pid = engine.child.id();
        // That it was ready is no news any more, and would send the one away that is.
        for report in engine
            .reports()
            .into_iter()
            .filter(|report| !matches!(report, EngineReport::Ready { .. }))
        {
            self.succession.heard(pid, report, now);
        }
        self.succession.ended(pid, status.to_string(), now);
    }

    fn engine(&mut self, pid: Pid) -> Option<&mut Engine> {
        self.all.iter_mut().find(|engine| engine.child.id() == pid)
    }

    /// The line fits into the pipe: nobody waits.
    fn tell(&mut self, pid: Pid, control: &EngineControl) {
        let Some(engine) = self.engine(pid) else { return };
        if let Some(stdin) = &mut engine.stdin {
            let line = serde_json::to_string(control).unwrap_or_default() + "\n";
            if stdin.write_all(line.as_bytes()).is_err() {
                // It is gone already, or will be once its input ends.
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
            // Reaped above, or not ours to wait for: either way nothing is left to do.
            engine.child.try_wait().ok();
        }
        self.all.clear();
        self.publish_pids();
    }

    /// Makes the engines' process ids known to the exit callback.
    pub fn publish_pids(&self) {
        let mut pids = self.all.iter().map(|engine| engine.child.id() as i32);
        for slot in &PIDS {
            slot.store(pids.next().unwrap_or(0), Ordering::Relaxed);
        }
    }
}

impl Engine {
    fn reports(&mut self) -> Vec<EngineReport> {
        let read = |line: String| {
            let report = serde_json::from_str(&line);
            report
                .inspect_err(|error| {
                    pgrx::log!("pg_caption: the engine's report \"{line}\" cannot be read: {error}")
                })
                .ok()
        };
        self.status.read().into_iter().filter_map(read).collect()
    }
}

/// Process ids for the exit callback, which may run in the middle of anything and so looks at
/// nothing else.
static PIDS: [AtomicI32; 8] = [const { AtomicI32::new(0) }; 8];

/// Terminates and reaps the engines published; kills what does not leave in time.
pub fn stop_published() {
    let pids: Vec<i32> =
        PIDS.iter().map(|slot| slot.swap(0, Ordering::Relaxed)).filter(|pid| *pid > 0).collect();
    // SAFETY: signals and waits for our own children by number; a number is not reused before it is
    // reaped here.
    unsafe {
        for pid in &pids {
            libc::kill(*pid, libc::SIGTERM);
        }
        let deadline = Instant::now() + LEAVE;
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
