//! The engines: one serves, at most one successor loads, older ones drain. What they say on their pipes is read here.

use super::{Listener, spawn};
use crate::exchange::{self, Exchange};
use crate::{settings, shared};
use pg_caption_wire::{Control, Cooldown, EngineConfig, EngineReport};
use pgrx::pg_sys;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::PathBuf;
use std::process::{Child, ChildStdin};
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::{Duration, Instant};

/// Pauses before the next start of an engine that died soon after its last one.
const BACKOFF: [Duration; 5] = [Duration::ZERO, Duration::from_millis(200), Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(30)];
/// An engine that lived this long starts the backoff anew.
const STABLE: Duration = Duration::from_secs(20);
/// Look again for the exit of a process whose pipes have ended.
const REAP: Duration = Duration::from_millis(10);
/// Patience with an engine that was asked to leave, before it is killed.
const LEAVE: Duration = Duration::from_secs(2);
/// Log lines of an engine beyond this many a second are dropped: a fault is logged, not a flood.
const LINES_PER_SECOND: u32 = 20;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Serving,
    Successor,
    Draining,
}

#[derive(Debug, Clone, PartialEq)]
enum State {
    Loading,
    Ready,
    Failed,
}

struct Engine {
    child: Child,
    stdin: Option<ChildStdin>,
    status: Lines,
    stderr: Lines,
    part: Part,
    state: State,
    config: EngineConfig,
    started: Instant,
}

/// A pipe's reading end that gives whole lines out.
struct Lines {
    pipe: File,
    partial: Vec<u8>,
    ended: bool,
    second: Instant,
    count: u32,
}

impl Lines {
    fn new(pipe: OwnedFd) -> io::Result<Self> {
        spawn::make_nonblocking(&pipe)?;
        Ok(Lines { pipe: pipe.into(), partial: Vec::new(), ended: false, second: Instant::now(), count: 0 })
    }

    fn read(&mut self) -> Vec<String> {
        let mut buffer = [0u8; 4096];
        while !self.ended {
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(read) => self.partial.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => self.ended = true,
            }
        }
        let mut lines = Vec::new();
        while let Some(at) = self.partial.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = self.partial.drain(..=at).collect();
            lines.push(String::from_utf8_lossy(&line).trim_end().to_string());
        }
        lines
    }

    fn may_log(&mut self, now: Instant) -> bool {
        if now.duration_since(self.second) >= Duration::from_secs(1) {
            (self.second, self.count) = (now, 0);
        }
        self.count += 1;
        self.count <= LINES_PER_SECOND
    }
}

/// All engines of this launcher.
pub struct Engines {
    listener: Listener,
    program: Option<File>,
    epoll: OwnedFd,
    all: Vec<Engine>,
    deaths: usize,
    start_at: Option<Instant>,
    refused_config: Option<EngineConfig>,
    exchange: Exchange,
    published: Option<Exchange>,
    reported: Option<(i32, Option<String>)>,
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
            pgrx::error!("pg_caption cannot create an epoll descriptor: {}", io::Error::last_os_error());
        }
        // SAFETY: the descriptor was created above and is owned from here on.
        let epoll = unsafe { OwnedFd::from_raw_fd(epoll) };
        // A launcher that follows another goes on counting: somebody may wait for the next number.
        let exchange = Exchange { reloads: exchange::now().reloads + 1, ..Exchange::default() };
        Engines {
            listener,
            program: None,
            epoll,
            all: Vec::new(),
            deaths: 0,
            start_at: None,
            refused_config: None,
            exchange,
            published: None,
            reported: None,
        }
    }

    /// Reads what engines say, buries the dead, starts what is to be started. `reloaded`: the configuration was read anew.
    pub fn tend(&mut self, now: Instant, config: EngineConfig, reloaded: bool) {
        if reloaded {
            self.exchange.reloads += 1;
            self.exchange.refused = None;
            self.refused_config = None;
            self.deaths = 0;
            self.start_at = None;
        }
        self.listen_to_engines(now);
        self.bury(now);
        let wanted = config.model.clone();
        match self.serving() {
            None if self.start_at.is_none_or(|at| at <= now) => self.start(now, config, Part::Serving),
            Some(serving) => {
                let stale = self.all[serving].config != config || (reloaded && self.all[serving].state == State::Failed);
                let busy = self.all.iter().any(|engine| engine.part == Part::Successor);
                if stale && !busy && self.refused_config.as_ref() != Some(&config) {
                    self.start(now, config, Part::Successor);
                }
            }
            None => {}
        }
        self.publish_pids();
        self.publish_models(wanted);
    }

    /// Tells everybody which models the engines have.
    fn publish_models(&mut self, wanted: PathBuf) {
        let model = |part: &[Part], state: State| {
            let engine = self.all.iter().find(|engine| part.contains(&engine.part) && engine.state == state);
            engine.map(|engine| engine.config.model.clone())
        };
        let (serving, coming) = (model(&[Part::Serving], State::Ready), model(&[Part::Serving, Part::Successor], State::Loading));
        let leaving = self.all.iter().any(|engine| engine.part == Part::Draining);
        self.exchange = Exchange { wanted: Some(wanted), serving, coming, leaving, ..std::mem::take(&mut self.exchange) };
        if self.published.as_ref() != Some(&self.exchange) {
            exchange::publish(&self.exchange);
            self.published = Some(self.exchange.clone());
        }
    }

    /// When `tend` has something to do even if nobody speaks.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        if self.all.iter().any(|engine| engine.status.ended) {
            return Some(now + REAP);
        }
        if self.serving().is_none() { Some(self.start_at.unwrap_or(now)) } else { None }
    }

    fn serving(&self) -> Option<usize> {
        self.all.iter().position(|engine| engine.part == Part::Serving)
    }

    fn start(&mut self, now: Instant, config: EngineConfig, part: Part) {
        let told = EngineConfig { wait_until_ready: part == Part::Successor, ..config.clone() };
        match self.try_start(now, config, &told, part) {
            Ok(()) => {}
            Err(error) => {
                let program = settings::engine_program();
                pgrx::log!("pg_caption: cannot start the engine \"{}\": {error}", program.display());
                if part == Part::Serving {
                    self.report(0, Some(format!("The engine program \"{}\" cannot be started: {error}.", program.display())));
                    self.later(now);
                }
            }
        }
    }

    fn try_start(&mut self, now: Instant, config: EngineConfig, told: &EngineConfig, part: Part) -> io::Result<()> {
        if self.program.is_none() {
            self.program = Some(File::open(settings::engine_program())?);
        }
        let Some(program) = &self.program else { return Err(io::ErrorKind::NotFound.into()) };
        let mut started = spawn::start(program, self.listener.as_raw_fd())?;
        let (stdin, stderr) = (started.child.stdin.take(), started.child.stderr.take());
        let (Some(mut stdin), Some(stderr)) = (stdin, stderr) else { return Err(io::ErrorKind::BrokenPipe.into()) };
        let mut line = serde_json::to_vec(told)?;
        line.push(b'\n');
        stdin.write_all(&line)?;
        let engine = Engine {
            status: Lines::new(started.status)?,
            stderr: Lines::new(stderr.into())?,
            child: started.child,
            stdin: Some(stdin),
            part,
            state: State::Loading,
            config,
            started: now,
        };
        self.watch(&engine.status.pipe)?;
        self.watch(&engine.stderr.pipe)?;
        if part == Part::Serving {
            self.report(engine.child.id() as i32, None);
        }
        self.all.push(engine);
        Ok(())
    }

    fn watch(&self, pipe: &File) -> io::Result<()> {
        let mut event = libc::epoll_event { events: libc::EPOLLIN as u32, u64: 0 };
        // SAFETY: both descriptors are open and owned by us; a closed pipe leaves the set by itself.
        match unsafe { libc::epoll_ctl(self.epoll.as_raw_fd(), libc::EPOLL_CTL_ADD, pipe.as_raw_fd(), &mut event) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    }

    fn forget(epoll: &OwnedFd, pipe: &File) {
        // SAFETY: as in `watch`; removing what is not in the set does nothing.
        unsafe { libc::epoll_ctl(epoll.as_raw_fd(), libc::EPOLL_CTL_DEL, pipe.as_raw_fd(), std::ptr::null_mut()) };
    }

    fn listen_to_engines(&mut self, now: Instant) {
        let mut reports = Vec::new();
        for (at, engine) in self.all.iter_mut().enumerate() {
            for line in engine.stderr.read() {
                if engine.stderr.may_log(now) {
                    pgrx::log!("pg_caption engine: {line}");
                }
            }
            for line in engine.status.read() {
                match serde_json::from_str::<EngineReport>(&line) {
                    Ok(report) => reports.push((at, report)),
                    Err(error) => pgrx::log!("pg_caption: the engine's report \"{line}\" cannot be read: {error}"),
                }
            }
            // A pipe at its end stays readable for ever: out of the set with it.
            for lines in [&engine.status, &engine.stderr] {
                if lines.ended {
                    Self::forget(&self.epoll, &lines.pipe);
                }
            }
        }
        for (at, report) in reports {
            self.hear(at, report);
        }
    }

    fn hear(&mut self, at: usize, report: EngineReport) {
        let (part, pid) = (self.all[at].part, self.all[at].child.id() as i32);
        match report {
            EngineReport::Starting => {}
            EngineReport::Cooling { hosts } => self.hand_on(hosts),
            EngineReport::Ready { model } => {
                self.all[at].state = State::Ready;
                pgrx::log!("pg_caption: engine {pid} serves model \"{}\" ({})", model.name, model.family);
                if part == Part::Successor {
                    if let Some(old) = self.serving() {
                        self.drain(old);
                    }
                    self.all[at].part = Part::Serving;
                }
                self.report(pid, None);
            }
            EngineReport::Failed(failure) => {
                self.all[at].state = State::Failed;
                let why = match &failure.detail {
                    Some(detail) => format!("{}: {detail}", failure.message),
                    None => failure.message.clone(),
                };
                pgrx::log!("pg_caption: engine {pid} cannot use its model: {why}");
                self.exchange.refused = Some((self.all[at].config.model.clone(), why.clone()));
                if part == Part::Successor {
                    // The old engine goes on with the model it has.
                    self.refused_config = Some(self.all[at].config.clone());
                    self.drain(at);
                } else {
                    self.report(pid, Some(why));
                }
            }
        }
    }

    /// Asks an engine to finish what it has and leave.
    fn drain(&mut self, at: usize) {
        self.all[at].part = Part::Draining;
        self.tell(at, &Control::Drain);
    }

    /// What an engine that leaves knew of hosts that asked for patience is for the one that serves. (The line fits into the pipe: nobody waits.)
    fn hand_on(&mut self, hosts: Vec<Cooldown>) {
        if let Some(serving) = self.serving().filter(|_| !hosts.is_empty()) {
            self.tell(serving, &Control::Cooling { hosts });
        }
    }

    fn tell(&mut self, at: usize, control: &Control) {
        let engine = &mut self.all[at];
        if let Some(stdin) = &mut engine.stdin {
            let line = serde_json::to_string(control).unwrap_or_default() + "\n";
            if stdin.write_all(line.as_bytes()).is_err() {
                // It is gone already, or will be once its input ends.
                engine.stdin = None;
            }
        }
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
            // Its last words; everything else it said concerned only itself.
            for line in engine.status.read() {
                if let Ok(EngineReport::Cooling { hosts }) = serde_json::from_str(&line) {
                    self.hand_on(hosts);
                }
            }
            for lines in [&engine.status, &engine.stderr] {
                Self::forget(&self.epoll, &lines.pipe);
            }
            match engine.part {
                Part::Serving => {
                    pgrx::log!("pg_caption: engine {} ended ({status}); requests in flight are sent to the next one", engine.child.id());
                    if now.duration_since(engine.started) >= STABLE {
                        self.deaths = 0;
                    }
                    self.report(0, Some(format!("The engine ended ({status}); the next one is being started.")));
                    self.later(now);
                }
                Part::Successor => {
                    pgrx::log!("pg_caption: a successor engine ended while it loaded ({status}); the old one goes on serving");
                    self.exchange.refused = Some((engine.config.model.clone(), format!("the engine ended while it loaded ({status})")));
                    self.refused_config = Some(engine.config);
                }
                Part::Draining => {}
            }
        }
    }

    fn later(&mut self, now: Instant) {
        self.start_at = Some(now + BACKOFF[self.deaths.min(BACKOFF.len() - 1)]);
        self.deaths += 1;
    }

    fn report(&mut self, pid: i32, failure: Option<String>) {
        let news = (pid, failure);
        if self.reported.as_ref() != Some(&news) || news.1.is_none() {
            shared::set_engine(news.0, news.1.as_deref());
            self.reported = Some(news);
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

/// Process ids for the exit callback, which may run in the middle of anything and so looks at nothing else.
static PIDS: [AtomicI32; 8] = [const { AtomicI32::new(0) }; 8];

/// Terminates and reaps the engines published; kills what does not leave in time.
pub fn stop_published() {
    let pids: Vec<i32> = PIDS.iter().map(|slot| slot.swap(0, Ordering::Relaxed)).filter(|pid| *pid > 0).collect();
    // SAFETY: signals and waits for our own children by number; a number is not reused before it is reaped here.
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
