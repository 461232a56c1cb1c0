//! Which engine serves, which one loads its model to take over, which ones leave: the launcher's
//! decisions over an injected clock, without processes and pipes. The launcher reports messages and
//! exits of engines; the handover decides what to start, what to send, and what callers are shown.
//!
//! Guarantees, tested by `tests/handover.rs` with random faults: one engine serves at a time. It is
//! asked to leave only once another one is ready. A model that cannot be loaded leaves it serving.
//! A dead engine that has answered is replaced immediately, others after growing pauses. One that
//! hangs while clients wait is killed. Known cooldowns of hosts are passed to the next
//! engine.

pub use crate::engine_action::{
    EngineAction, EngineHang, EnginePid, EngineStart, EngineTrouble, HandoverEvent,
};
use crate::watchdog::Watchdog;
use pg_caption_wire::{EngineConfig, EngineControl, EngineReport, HostCooldown, ModelUse};
use std::collections::VecDeque;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// Pauses before the next start, by deaths of engines in a row that had answered nothing. Not a
/// `Backoff`: a first death costs no pause, and later pauses grow by a factor of five.
const RESTART_PAUSES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(200),
    Duration::from_secs(1),
    Duration::from_secs(5),
    Duration::from_secs(30),
];
/// The death of an engine that served this long counts as a first one.
const STABLE: Duration = Duration::from_secs(20);
/// Engines that had answered are replaced without a pause this often in [`REPLACEMENT_PERIOD`].
const REPLACEMENTS: usize = 30;
/// The period in which immediate replacements are counted.
const REPLACEMENT_PERIOD: Duration = Duration::from_secs(60);
/// How long an engine that has reported nothing may take to start, before it must answer pings.
const START_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a model may load, its first answer included. Reading 20 GB from a slow disk takes six
/// minutes; a graph that never ends would load for ever.
const LOAD_TIMEOUT: Duration = Duration::from_secs(900);
/// Models whose use of daily limits is kept.
const MODELS_IN_USE: usize = 8;
/// Reports of cooldowns that one engine may pass on; each is sent to another engine's input.
const COOLING_REPORTS: u32 = 8;
/// Pause before an engine that asked for a successor gets another one, after one that failed.
const SUCCESSOR_PAUSE: Duration = Duration::from_secs(60);
/// How long an engine may take to leave, beyond its longest fetch, before it counts as hanging.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Role {
    Serving,
    Successor,
    Leaving { since: Instant },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ModelState {
    Loading,
    Ready,
    Failed,
}

#[derive(Debug)]
struct Engine {
    pid: EnginePid,
    role: Role,
    model: ModelState,
    config: EngineConfig,
    started: Instant,
    /// It needs a successor: it asked for one, or serves a socket that was removed.
    outdated: bool,
    /// It has sent a report.
    reported: bool,
    /// It has answered a request.
    answered: bool,
    /// Reports of cooldowns that were passed on.
    cooling_reports: u32,
    /// It hangs and was killed.
    killed: bool,
    /// It has no model, and the configuration was reloaded: a model may be available now.
    retry: bool,
}

/// The launcher's view of its engines' models. Folders are absolute.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ModelSwap {
    /// Counts how often launchers loaded the configuration.
    pub reloads: u64,
    /// The model in the settings.
    pub wanted: Option<PathBuf>,
    /// The model of the engine that is ready.
    pub serving: Option<PathBuf>,
    /// The model of an engine that loads.
    pub loading: Option<PathBuf>,
    /// An earlier engine still finishes its requests.
    pub leaving: bool,
    /// The last model that could not be loaded, and why; until the next reload.
    pub refused: Option<(PathBuf, String)>,
}

/// All engines of a launcher.
///
/// ```
/// use pg_caption_supervisor::handover::EngineHandover;
/// use pg_caption_wire::EngineConfig;
/// use std::time::Instant;
///
/// let (config, now) = (EngineConfig::default(), Instant::now());
/// let mut handover = EngineHandover::new(0);
/// let start = handover.wanted(&config, now).expect("no engine serves yet");
/// handover.started(start, 4711, now);
/// assert!(handover.wanted(&config, now).is_none());
/// ```
#[derive(Debug)]
pub struct EngineHandover {
    engines: Vec<Engine>,
    /// Deaths in a row of serving engines that had answered nothing.
    deaths: usize,
    /// The last starts without a pause after an engine that had answered.
    replaced: VecDeque<Instant>,
    watchdog: Watchdog,
    /// When the next serving engine may start.
    not_before: Option<Instant>,
    /// No successor is started with this configuration until the next reload.
    refused_config: Option<EngineConfig>,
    /// When an engine that asked for a successor may get one.
    successor_at: Option<Instant>,
    /// What engines used of the daily limits of their models, the last model last.
    used: Vec<ModelUse>,
    refused: Option<(PathBuf, String)>,
    reloads: u64,
    announced: Option<(Option<EnginePid>, Option<EngineTrouble>)>,
    actions: Vec<EngineAction>,
}

impl EngineHandover {
    /// Without an engine. `reloads`: of the previous launcher; a session may wait for the next
    /// number.
    pub fn new(reloads: u64) -> Self {
        EngineHandover {
            engines: Vec::new(),
            deaths: 0,
            replaced: VecDeque::new(),
            watchdog: Watchdog::default(),
            not_before: None,
            refused_config: None,
            successor_at: None,
            used: Vec::new(),
            refused: None,
            reloads: reloads + 1,
            announced: None,
            actions: Vec::new(),
        }
    }

    /// The actions since the last call.
    pub fn actions(&mut self) -> Vec<EngineAction> {
        std::mem::take(&mut self.actions)
    }

    /// The configuration was reloaded: refused models are tried again.
    pub fn reloaded(&mut self) {
        self.reloads += 1;
        (self.refused, self.refused_config) = (None, None);
        (self.not_before, self.successor_at) = (None, None);
        self.deaths = 0;
        for engine in &mut self.engines {
            engine.retry |= engine.role == Role::Serving && engine.model == ModelState::Failed;
        }
    }

    /// The engine to start now, if any; then call [`EngineHandover::started`] or
    /// [`EngineHandover::not_started`].
    pub fn wanted(&self, config: &EngineConfig, now: Instant) -> Option<EngineStart> {
        if self.start_at(config, now)? > now {
            return None;
        }
        let wait_until_ready = self.serving().is_some();
        let daily_use = self.used.clone();
        Some(EngineStart { config: EngineConfig { wait_until_ready, daily_use, ..config.clone() } })
    }

    /// When the next action is due without a message or exit of an engine.
    pub fn next_due(&self, config: &EngineConfig, now: Instant) -> Option<Instant> {
        let hangs = self.engines.iter().filter_map(Engine::hangs_at).min();
        let loads = self.engines.iter().filter_map(Engine::load_ends_at).min();
        let watch = self.watchdog.next_due(now);
        [self.start_at(config, now), hangs, loads, watch].into_iter().flatten().min()
    }

    /// When an engine is to be started.
    fn start_at(&self, config: &EngineConfig, now: Instant) -> Option<Instant> {
        let Some(serving) = self.serving() else { return Some(self.not_before.unwrap_or(now)) };
        if self.engines.iter().any(|engine| engine.role == Role::Successor) {
            return None;
        }
        let differs = serving.retry || !is_same(&serving.config, config);
        let is_refused =
            self.refused_config.as_ref().is_some_and(|refused| is_same(refused, config));
        let changed = (differs && !is_refused).then_some(now);
        let outdated = serving.outdated.then(|| self.successor_at.unwrap_or(now));
        [changed, outdated].into_iter().flatten().min()
    }

    /// An engine was started.
    pub fn started(&mut self, start: EngineStart, pid: EnginePid, now: Instant) {
        let role = if start.is_successor() { Role::Successor } else { Role::Serving };
        for engine in &mut self.engines {
            engine.retry = false;
        }
        self.engines.push(Engine {
            pid,
            role,
            model: ModelState::Loading,
            config: start.config,
            started: now,
            outdated: false,
            reported: false,
            answered: false,
            cooling_reports: 0,
            killed: false,
            retry: false,
        });
        if role == Role::Serving {
            self.announce(Some(pid), None);
        }
    }

    /// The engine could not be started.
    pub fn not_started(&mut self, start: EngineStart, why: String, now: Instant) {
        self.log(HandoverEvent::NotStarted(why.clone()));
        if start.is_successor() {
            self.refuse(start.config, format!("The engine program {why}."), now);
        } else {
            self.announce(None, Some(EngineTrouble::NotStarted(why)));
            self.pause_restart(now);
        }
    }

    /// An engine sent a report.
    pub fn reported(&mut self, pid: EnginePid, report: EngineReport, now: Instant) {
        let Some(at) = self.engines.iter().position(|engine| engine.pid == pid) else { return };
        self.engines[at].reported = true;
        let is_loading = self.engines[at].model == ModelState::Loading;
        match report {
            EngineReport::Starting => {}
            EngineReport::Answered => self.engines[at].answered = true,
            EngineReport::Pong { number, busy_ms } => {
                let busy = Duration::from_millis(busy_ms);
                if let Some(hang) = self.watchdog.answered(pid, number, busy) {
                    self.kill(at, HandoverEvent::Frozen(pid, hang));
                }
            }
            EngineReport::Cooling { hosts } => self.pass_on(at, hosts),
            EngineReport::Used(used) => self.note_use(pid, used),
            EngineReport::Outdated => {
                if !std::mem::replace(&mut self.engines[at].outdated, true) {
                    self.log(HandoverEvent::Outdated(pid));
                }
            }
            // Of an engine that was taken over: repeated reports do not fill the log.
            EngineReport::Ready { .. } | EngineReport::Failed(_) if !is_loading => {}
            EngineReport::Ready { model } => {
                let model = format!("\"{}\" ({})", model.name, model.family);
                self.log(HandoverEvent::Ready(pid, model));
                self.ready(at, now);
            }
            EngineReport::Failed(failure) => {
                let why = match failure.detail {
                    Some(detail) => format!("{}: {detail}", failure.message),
                    None => failure.message,
                };
                self.log(HandoverEvent::NoModel(pid, why.clone()));
                self.without_model(at, why, now);
            }
        }
    }

    fn ready(&mut self, at: usize, now: Instant) {
        self.engines[at].model = ModelState::Ready;
        let pid = self.engines[at].pid;
        match self.engines[at].role {
            Role::Successor => {
                if let Some(old) =
                    self.engines.iter().position(|engine| engine.role == Role::Serving)
                {
                    self.ask_to_leave(old, now);
                }
                self.engines[at].role = Role::Serving;
                self.successor_at = None;
                self.announce(Some(pid), None);
            }
            Role::Serving => self.announce(Some(pid), None),
            Role::Leaving { .. } => {}
        }
    }

    fn without_model(&mut self, at: usize, why: String, now: Instant) {
        self.engines[at].model = ModelState::Failed;
        let (pid, config) = (self.engines[at].pid, self.engines[at].config.clone());
        match self.engines[at].role {
            Role::Successor => {
                self.refuse(config, why, now);
                self.ask_to_leave(at, now);
            }
            Role::Serving => {
                self.refused = Some((config.model, why.clone()));
                self.announce(Some(pid), Some(EngineTrouble::NoModel(why)));
            }
            Role::Leaving { .. } => {}
        }
    }

    /// An engine's process has ended; all its reports were passed before.
    pub fn ended(&mut self, pid: EnginePid, how: String, now: Instant) {
        let Some(at) = self.engines.iter().position(|engine| engine.pid == pid) else { return };
        let engine = self.engines.swap_remove(at);
        self.watchdog.forget(pid);
        match engine.role {
            Role::Serving => {
                self.log(HandoverEvent::Ended(pid, how.clone()));
                if engine.answered || now.duration_since(engine.started) >= STABLE {
                    self.deaths = 0;
                }
                self.announce(None, Some(EngineTrouble::Ended(how)));
                if engine.answered { self.replace(now) } else { self.pause_restart(now) }
            }
            Role::Successor => {
                self.log(HandoverEvent::SuccessorEnded(pid, how.clone()));
                let why = format!("the engine ended while it loaded ({how})");
                self.refuse(engine.config, why, now);
            }
            Role::Leaving { .. } => {}
        }
    }

    /// Kills engines that were asked to leave and hang, and those whose model does not load. A
    /// successor for another configuration than `config` stops loading, however far it is.
    pub fn kill_hanging(&mut self, config: &EngineConfig, now: Instant) {
        for engine in &mut self.engines {
            if engine.hangs_at().is_some_and(|at| at <= now) {
                // Another time only if this one has no effect.
                engine.role = Role::Leaving { since: now };
                let event = HandoverEvent::Hangs(engine.pid);
                self.actions.extend([EngineAction::Log(event), EngineAction::Kill(engine.pid)]);
            }
        }
        for at in 0..self.engines.len() {
            let engine = &self.engines[at];
            if engine.load_ends_at().is_none() {
                continue;
            }
            let is_successor = engine.role == Role::Successor;
            if is_successor && !is_same(&engine.config, config) {
                self.stop_loading(at, HandoverEvent::Superseded(engine.pid), now);
            } else if engine.load_ends_at().is_some_and(|at| at <= now) {
                let hang = EngineHang::Load(now - engine.started);
                let (pid, config) = (engine.pid, engine.config.clone());
                if is_successor {
                    let minutes = LOAD_TIMEOUT.as_secs() / 60;
                    self.refuse(config, format!("It did not load within {minutes} minutes."), now);
                }
                self.stop_loading(at, HandoverEvent::Frozen(pid, hang), now);
            }
        }
    }

    /// Kills an engine that loads. A successor is replaced as soon as another one is wanted.
    fn stop_loading(&mut self, at: usize, event: HandoverEvent, now: Instant) {
        if self.engines[at].role == Role::Successor {
            self.engines[at].role = Role::Leaving { since: now };
        }
        self.kill(at, event);
    }

    /// A client waits for an engine longer than usual.
    pub fn doubt(&mut self) {
        self.watchdog.doubt();
    }

    /// Asks the engines for a sign of life if clients wait, and kills those that gave none. Returns
    /// whether they were asked: every doubt until now is settled then.
    pub fn watch(&mut self, now: Instant) -> bool {
        for (pid, hang) in self.watchdog.silent(now) {
            if let Some(at) = self.engines.iter().position(|engine| engine.pid == pid) {
                self.kill(at, HandoverEvent::Frozen(pid, hang));
            }
        }
        if !self.watchdog.is_due(now) {
            return false;
        }
        let engines = self.engines.iter().filter(|engine| engine.answers_pings(now));
        let (number, asked) = self.watchdog.ask(engines.map(|engine| engine.pid), now);
        let ping = |pid| EngineAction::Send(pid, EngineControl::Ping { number });
        self.actions.extend(asked.into_iter().map(ping));
        true
    }

    /// The launcher listens on another socket: every engine needs a successor that has it.
    pub fn relistened(&mut self) {
        self.engines.iter_mut().for_each(|engine| engine.outdated = true);
        self.successor_at = None;
    }

    /// Kills an engine, for the reason that the event states.
    fn kill(&mut self, at: usize, event: HandoverEvent) {
        let pid = self.engines[at].pid;
        self.engines[at].killed = true;
        self.watchdog.forget(pid);
        self.log(event);
        self.actions.push(EngineAction::Kill(pid));
    }

    /// The state of the models. `wanted`: the model in the settings.
    pub fn model_swap(&self, wanted: PathBuf) -> ModelSwap {
        let model = |is: &dyn Fn(&Engine) -> bool| {
            self.engines.iter().find(|engine| is(engine)).map(|engine| engine.config.model.clone())
        };
        let is_leaving = |engine: &Engine| matches!(engine.role, Role::Leaving { .. });
        ModelSwap {
            reloads: self.reloads,
            wanted: Some(wanted),
            serving: model(&|engine| {
                engine.role == Role::Serving && engine.model == ModelState::Ready
            }),
            loading: model(&|engine| !is_leaving(engine) && engine.model == ModelState::Loading),
            leaving: self.engines.iter().any(is_leaving),
            refused: self.refused.clone(),
        }
    }

    fn serving(&self) -> Option<&Engine> {
        self.engines.iter().find(|engine| engine.role == Role::Serving)
    }

    /// The old engine continues with its model.
    fn refuse(&mut self, config: EngineConfig, why: String, now: Instant) {
        self.refused = Some((config.model.clone(), why.clone()));
        self.refused_config = Some(config);
        self.successor_at = Some(now + SUCCESSOR_PAUSE);
        // If the old engine has no model either, callers are shown the newest reason.
        let failed = self.serving().filter(|engine| engine.model == ModelState::Failed);
        if let Some(pid) = failed.map(|engine| engine.pid) {
            self.announce(Some(pid), Some(EngineTrouble::NoModel(why)));
        }
    }

    /// Asks an engine to finish its requests and leave.
    fn ask_to_leave(&mut self, at: usize, now: Instant) {
        self.engines[at].role = Role::Leaving { since: now };
        self.actions.push(EngineAction::Send(self.engines[at].pid, EngineControl::Drain));
    }

    /// Sends cooldowns of hosts that one engine knows to the serving one.
    fn pass_on(&mut self, from: usize, hosts: Vec<HostCooldown>) {
        let Engine { pid: from, cooling_reports, .. } = &mut self.engines[from];
        *cooling_reports = cooling_reports.saturating_add(1);
        if *cooling_reports > COOLING_REPORTS || hosts.is_empty() {
            return;
        }
        let from = *from;
        let serving = self.serving().map(|engine| engine.pid).filter(|pid| *pid != from);
        let send = |pid| EngineAction::Send(pid, EngineControl::Cooling { hosts });
        self.actions.extend(serving.map(send));
    }

    /// Keeps what an engine used, for the next one. An engine that leaves has used more meanwhile.
    fn note_use(&mut self, from: EnginePid, used: ModelUse) {
        let known = self.used.iter().position(|known| known.digest == used.digest);
        if known.is_some_and(|known| !used.exceeds(&self.used[known])) {
            return;
        }
        let replaced = known.or((self.used.len() >= MODELS_IN_USE).then_some(0));
        if let Some(at) = replaced {
            self.used.remove(at);
        }
        let others =
            self.engines.iter().filter(|engine| engine.pid != from && !engine.is_leaving());
        let send =
            |engine: &Engine| EngineAction::Send(engine.pid, EngineControl::Used(used.clone()));
        self.actions.extend(others.map(send));
        self.used.push(used);
    }

    /// The next engine starts without a pause, unless too many did.
    fn replace(&mut self, now: Instant) {
        self.replaced.retain(|at| *at + REPLACEMENT_PERIOD > now);
        let oldest = self.replaced.len().checked_sub(REPLACEMENTS).map(|at| self.replaced[at]);
        let at = oldest.map_or(now, |oldest| oldest + REPLACEMENT_PERIOD);
        self.not_before = Some(at);
        self.replaced.push_back(at);
    }

    fn pause_restart(&mut self, now: Instant) {
        let pause = RESTART_PAUSES[self.deaths.min(RESTART_PAUSES.len() - 1)];
        self.not_before = Some(now + pause);
        self.deaths += 1;
    }

    fn log(&mut self, event: HandoverEvent) {
        self.actions.push(EngineAction::Log(event));
    }

    /// The same trouble is announced once; a new or ready engine always.
    fn announce(&mut self, serving: Option<EnginePid>, trouble: Option<EngineTrouble>) {
        let state = (serving, trouble);
        if self.announced.as_ref() != Some(&state) || state.1.is_none() {
            self.actions.push(EngineAction::Announce { serving, trouble: state.1.clone() });
            self.announced = Some(state);
        }
    }
}

impl Engine {
    fn is_leaving(&self) -> bool {
        matches!(self.role, Role::Leaving { .. })
    }

    /// Whether an unanswered ping means that it hangs.
    fn answers_pings(&self, now: Instant) -> bool {
        !self.killed && (self.reported || now.duration_since(self.started) >= START_TIMEOUT)
    }

    fn hangs_at(&self) -> Option<Instant> {
        let Role::Leaving { since } = self.role else { return None };
        Some(since + Duration::from_millis(self.config.fetch_timeout_ms) + LEAVE_TIMEOUT)
    }

    /// When its model has loaded for too long.
    fn load_ends_at(&self) -> Option<Instant> {
        let loads = self.model == ModelState::Loading && !self.is_leaving() && !self.killed;
        loads.then(|| self.started + LOAD_TIMEOUT)
    }
}

/// Whether two configurations require the same engine. How and after what use of daily limits it
/// starts is no difference.
fn is_same(one: &EngineConfig, other: &EngineConfig) -> bool {
    let plain = |config: &EngineConfig| EngineConfig {
        wait_until_ready: false,
        daily_use: Vec::new(),
        ..config.clone()
    };
    plain(one) == plain(other)
}
