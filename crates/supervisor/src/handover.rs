//! Which engine serves, which one loads to take over, which ones leave: the launcher's decisions
//! over an injected clock, without processes and pipes. The launcher tells what engines say and how
//! they end; this says which one to start, what to tell them, and what callers may know.
//!
//! Promised (and tried by `tests/succession.rs` with random faults): one engine serves at a time;
//! it is asked to leave only once another one answers; a model that does not load leaves it
//! serving; an engine that dies is replaced, after pauses that grow; what is known of hosts that
//! asked for patience is handed on.

use pg_caption_wire::{EngineConfig, EngineControl, EngineReport, HostCooldown};
use std::fmt;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pauses before the next start of an engine that died soon after its last one.
const BACKOFF: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];
/// An engine that lived this long starts the pauses anew.
const STABLE: Duration = Duration::from_secs(20);
/// Before another successor is tried for an engine that asked to be replaced, when the last one
/// could not take over.
const ASK_AGAIN: Duration = Duration::from_secs(60);
/// Patience with an engine that was asked to leave, beyond its longest fetch: then it hangs.
const LEAVE: Duration = Duration::from_secs(600);

/// An engine's process id: nobody else's before its end was told.
pub type Pid = u32;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Serving,
    Successor,
    Leaving { since: Instant },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Loading,
    Ready,
    Failed,
}

#[derive(Debug)]
struct Engine {
    pid: Pid,
    part: Part,
    state: State,
    config: EngineConfig,
    started: Instant,
    /// It asked for a successor.
    outdated: bool,
    /// Without a model, while the configuration was read again: perhaps there is one now.
    try_again: bool,
}

/// An engine to start.
#[derive(Debug, Clone, PartialEq)]
pub struct Start {
    /// What to tell it.
    pub config: EngineConfig,
}

impl Start {
    /// It loads while another one serves.
    pub fn is_successor(&self) -> bool {
        self.config.wait_until_ready
    }
}

/// What to do, in order.
#[derive(Debug, PartialEq)]
pub enum Action {
    /// A line for an engine's standard input; one that has left need not be told.
    Tell(Pid, EngineControl),
    /// It was asked to leave and hangs.
    Kill(Pid),
    /// What callers and workers are told: who serves, and what is wrong. Each counts as a change of
    /// the engine.
    Announce {
        /// The serving engine, which may still load.
        serving: Option<Pid>,
        /// Why there is none, or none with a model.
        trouble: Option<Trouble>,
    },
    /// For the log.
    Log(Said),
}

/// Why no engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// It could not even be started.
    NotStarted(String),
    /// It ended; the next one is on its way.
    Ended(String),
    /// It runs, without a model.
    NoModel(String),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Trouble::NotStarted(why) => write!(f, "The engine program {why}."),
            Trouble::Ended(how) => {
                write!(f, "The engine ended ({how}); the next one is being started.")
            }
            Trouble::NoModel(why) => f.write_str(why),
        }
    }
}

/// What is worth a line in the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// It answers.
    Serves(Pid, String),
    /// Its model cannot be used.
    NoModel(Pid, String),
    /// The serving engine ended.
    Ended(Pid, String),
    /// A successor ended before it answered.
    SuccessorEnded(Pid, String),
    /// The engine cannot be started.
    NotStarted(String),
    /// It wants to be replaced.
    Outdated(Pid),
    /// It did not leave.
    Hangs(Pid),
}

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Said::Serves(pid, model) => write!(f, "engine {pid} serves model {model}"),
            Said::NoModel(pid, why) => write!(f, "engine {pid} cannot use its model: {why}"),
            Said::Ended(pid, how) => {
                write!(f, "engine {pid} ended ({how}); requests in flight are sent to the next one")
            }
            Said::SuccessorEnded(pid, how) => {
                write!(f, "engine {pid} ended while it loaded ({how}); the old one goes on serving")
            }
            Said::NotStarted(why) => write!(f, "the engine program {why}"),
            Said::Outdated(pid) => write!(
                f,
                "engine {pid} asks to be replaced: files of the system that it reads are others than at its start"
            ),
            Said::Hangs(pid) => {
                write!(f, "engine {pid} was asked to leave and has not; it is killed")
            }
        }
    }
}

/// How the launcher sees its engines' models. Folders, absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Exchange {
    /// Counts the configuration's readings by the launcher.
    pub reloads: u64,
    /// What the settings name.
    pub wanted: Option<PathBuf>,
    /// Of the engine that answers.
    pub serving: Option<PathBuf>,
    /// Of an engine that is loading.
    pub coming: Option<PathBuf>,
    /// An engine of before is still there, finishing what it had taken.
    pub leaving: bool,
    /// What could not be loaded last, and why; until the configuration is read again.
    pub refused: Option<(PathBuf, String)>,
}

/// All engines of a launcher.
#[derive(Debug)]
pub struct Succession {
    engines: Vec<Engine>,
    /// Of serving engines, in a row.
    deaths: usize,
    /// The next serving engine is not started before.
    not_before: Option<Instant>,
    /// No successor is tried with this, until the configuration is read again.
    refused_config: Option<EngineConfig>,
    /// No successor is tried before for an engine that asked for one.
    ask_again: Option<Instant>,
    refused: Option<(PathBuf, String)>,
    reloads: u64,
    announced: Option<(Option<Pid>, Option<Trouble>)>,
    actions: Vec<Action>,
}

impl Succession {
    /// Without an engine. `reloads`: of the launcher before; somebody may wait for the next number.
    pub fn new(reloads: u64) -> Self {
        Succession {
            engines: Vec::new(),
            deaths: 0,
            not_before: None,
            refused_config: None,
            ask_again: None,
            refused: None,
            reloads: reloads + 1,
            announced: None,
            actions: Vec::new(),
        }
    }

    /// What is to be done since the last time.
    pub fn actions(&mut self) -> Vec<Action> {
        std::mem::take(&mut self.actions)
    }

    /// The configuration was read anew: what was refused is tried again.
    pub fn reloaded(&mut self) {
        self.reloads += 1;
        (self.refused, self.refused_config, self.not_before, self.ask_again) =
            (None, None, None, None);
        self.deaths = 0;
        for engine in &mut self.engines {
            engine.try_again |= engine.part == Part::Serving && engine.state == State::Failed;
        }
    }

    /// The engine to start now, if any; then [`Succession::started`] or
    /// [`Succession::not_started`].
    pub fn wanted(&self, config: &EngineConfig, now: Instant) -> Option<Start> {
        if self.due(config, now)? > now {
            return None;
        }
        let wait_until_ready = self.serving().is_some();
        Some(Start { config: EngineConfig { wait_until_ready, ..config.clone() } })
    }

    /// When something is to be done even if nobody speaks.
    pub fn next_due(&self, config: &EngineConfig, now: Instant) -> Option<Instant> {
        let hangs = self.engines.iter().filter_map(Engine::hangs_at).min();
        [self.due(config, now), hangs].into_iter().flatten().min()
    }

    /// When an engine is to be started.
    fn due(&self, config: &EngineConfig, now: Instant) -> Option<Instant> {
        let Some(serving) = self.serving() else { return Some(self.not_before.unwrap_or(now)) };
        if self.engines.iter().any(|engine| engine.part == Part::Successor) {
            return None;
        }
        let differs = serving.try_again || !same(&serving.config, config);
        let is_refused = self.refused_config.as_ref().is_some_and(|refused| same(refused, config));
        let changed = (differs && !is_refused).then_some(now);
        let asked = serving.outdated.then(|| self.ask_again.unwrap_or(now));
        [changed, asked].into_iter().flatten().min()
    }

    /// An engine was started.
    pub fn started(&mut self, start: Start, pid: Pid, now: Instant) {
        let part = if start.is_successor() { Part::Successor } else { Part::Serving };
        for engine in &mut self.engines {
            engine.try_again = false;
        }
        self.engines.push(Engine {
            pid,
            part,
            state: State::Loading,
            config: start.config,
            started: now,
            outdated: false,
            try_again: false,
        });
        if part == Part::Serving {
            self.announce(Some(pid), None);
        }
    }

    /// It could not be started.
    pub fn not_started(&mut self, start: Start, why: String, now: Instant) {
        self.log(Said::NotStarted(why.clone()));
        if start.is_successor() {
            self.refuse(start.config, format!("The engine program {why}."), now);
        } else {
            self.announce(None, Some(Trouble::NotStarted(why)));
            self.later(now);
        }
    }

    /// An engine said something.
    pub fn heard(&mut self, pid: Pid, report: EngineReport, now: Instant) {
        let Some(at) = self.engines.iter().position(|engine| engine.pid == pid) else { return };
        match report {
            EngineReport::Starting => {}
            EngineReport::Cooling { hosts } => self.hand_on(pid, hosts),
            EngineReport::Outdated => {
                if !std::mem::replace(&mut self.engines[at].outdated, true) {
                    self.log(Said::Outdated(pid));
                }
            }
            EngineReport::Ready { model } => {
                self.engines[at].state = State::Ready;
                self.log(Said::Serves(pid, format!("\"{}\" ({})", model.name, model.family)));
                match self.engines[at].part {
                    Part::Successor => {
                        if let Some(old) =
                            self.engines.iter().position(|engine| engine.part == Part::Serving)
                        {
                            self.dismiss(old, now);
                        }
                        self.engines[at].part = Part::Serving;
                        self.ask_again = None;
                        self.announce(Some(pid), None);
                    }
                    Part::Serving => self.announce(Some(pid), None),
                    Part::Leaving { .. } => {}
                }
            }
            EngineReport::Failed(failure) => {
                self.engines[at].state = State::Failed;
                let why = match failure.detail {
                    Some(detail) => format!("{}: {detail}", failure.message),
                    None => failure.message,
                };
                self.log(Said::NoModel(pid, why.clone()));
                match self.engines[at].part {
                    Part::Successor => {
                        self.refuse(self.engines[at].config.clone(), why, now);
                        self.dismiss(at, now);
                    }
                    Part::Serving => {
                        self.refused = Some((self.engines[at].config.model.clone(), why.clone()));
                        self.announce(Some(pid), Some(Trouble::NoModel(why)));
                    }
                    Part::Leaving { .. } => {}
                }
            }
        }
    }

    /// An engine's process has ended, and what it had said was told before.
    pub fn ended(&mut self, pid: Pid, how: String, now: Instant) {
        let Some(at) = self.engines.iter().position(|engine| engine.pid == pid) else { return };
        let engine = self.engines.swap_remove(at);
        match engine.part {
            Part::Serving => {
                self.log(Said::Ended(pid, how.clone()));
                if now.duration_since(engine.started) >= STABLE {
                    self.deaths = 0;
                }
                self.announce(None, Some(Trouble::Ended(how)));
                self.later(now);
            }
            Part::Successor => {
                self.log(Said::SuccessorEnded(pid, how.clone()));
                self.refuse(
                    engine.config,
                    format!("the engine ended while it loaded ({how})"),
                    now,
                );
            }
            Part::Leaving { .. } => {}
        }
    }

    /// Asks for the end of those that were asked to leave and hang.
    pub fn kill_hanging(&mut self, now: Instant) {
        for engine in &mut self.engines {
            if engine.hangs_at().is_some_and(|at| at <= now) {
                // Again only if this one does not help either.
                engine.part = Part::Leaving { since: now };
                self.actions
                    .extend([Action::Log(Said::Hangs(engine.pid)), Action::Kill(engine.pid)]);
            }
        }
    }

    /// How models stand. `wanted`: what the settings name.
    pub fn exchange(&self, wanted: PathBuf) -> Exchange {
        let model = |is: &dyn Fn(&Engine) -> bool| {
            self.engines.iter().find(|engine| is(engine)).map(|engine| engine.config.model.clone())
        };
        Exchange {
            reloads: self.reloads,
            wanted: Some(wanted),
            serving: model(&|engine| engine.part == Part::Serving && engine.state == State::Ready),
            coming: model(&|engine| {
                matches!(engine.part, Part::Serving | Part::Successor)
                    && engine.state == State::Loading
            }),
            leaving: self.engines.iter().any(|engine| matches!(engine.part, Part::Leaving { .. })),
            refused: self.refused.clone(),
        }
    }

    fn serving(&self) -> Option<&Engine> {
        self.engines.iter().find(|engine| engine.part == Part::Serving)
    }

    /// The old engine goes on with the model it has.
    fn refuse(&mut self, config: EngineConfig, why: String, now: Instant) {
        self.refused = Some((config.model.clone(), why.clone()));
        self.refused_config = Some(config);
        self.ask_again = Some(now + ASK_AGAIN);
        // Unless it has none: then the newest reason is the one to mend.
        if let Some(pid) =
            self.serving().filter(|engine| engine.state == State::Failed).map(|engine| engine.pid)
        {
            self.announce(Some(pid), Some(Trouble::NoModel(why)));
        }
    }

    /// Asks an engine to finish what it has and leave.
    fn dismiss(&mut self, at: usize, now: Instant) {
        self.engines[at].part = Part::Leaving { since: now };
        self.actions.push(Action::Tell(self.engines[at].pid, EngineControl::Drain));
    }

    /// What an engine that leaves knew of hosts that asked for patience is for the one that serves.
    fn hand_on(&mut self, from: Pid, hosts: Vec<HostCooldown>) {
        let serving =
            self.serving().map(|engine| engine.pid).filter(|pid| *pid != from && !hosts.is_empty());
        self.actions.extend(serving.map(|pid| Action::Tell(pid, EngineControl::Cooling { hosts })));
    }

    fn later(&mut self, now: Instant) {
        self.not_before = Some(now + BACKOFF[self.deaths.min(BACKOFF.len() - 1)]);
        self.deaths += 1;
    }

    fn log(&mut self, said: Said) {
        self.actions.push(Action::Log(said));
    }

    /// The same trouble is told once; that an engine comes or answers is always news.
    fn announce(&mut self, serving: Option<Pid>, trouble: Option<Trouble>) {
        let news = (serving, trouble);
        if self.announced.as_ref() != Some(&news) || news.1.is_none() {
            self.actions.push(Action::Announce { serving: news.0, trouble: news.1.clone() });
            self.announced = Some(news);
        }
    }
}

impl Engine {
    fn hangs_at(&self) -> Option<Instant> {
        let Part::Leaving { since } = self.part else { return None };
        Some(since + Duration::from_millis(self.config.fetch_timeout_ms) + LEAVE)
    }
}

/// Whether two configurations ask for the same engine: how it is to begin is no difference.
fn same(one: &EngineConfig, other: &EngineConfig) -> bool {
    let begun = |config: &EngineConfig| EngineConfig { wait_until_ready: false, ..config.clone() };
    begun(one) == begun(other)
}
