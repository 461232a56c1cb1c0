//! The handover of engines on a model of their processes: single scenarios, then random faults in
//! any order.

use pg_caption_supervisor::handover::{
    EngineAction, EngineHandover, EngineHang, EnginePid, EngineStart, EngineTrouble, HandoverEvent,
    ModelSwap,
};
use pg_caption_wire::{
    EngineConfig, EngineControl, EngineReport, Failure, FailureClass, HostCooldown, ModelStatus,
    ModelUse,
};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// The process of an engine.
#[derive(Debug)]
struct Process {
    config: EngineConfig,
    state: State,
    leaving: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Loading,
    Ready,
    Failed,
}

/// A launcher and its engines' processes.
#[derive(Debug)]
struct Launcher {
    handover: EngineHandover,
    config: EngineConfig,
    now: Instant,
    processes: HashMap<EnginePid, Process>,
    next_pid: EnginePid,
    starts: Vec<Instant>,
    may_start: bool,
    broken: BTreeSet<String>,
    announced: (Option<EnginePid>, Option<EngineTrouble>),
    changes: usize,
    sent: Vec<(EnginePid, EngineControl)>,
    /// Not reaped yet.
    killed: Vec<EnginePid>,
    log: Vec<HandoverEvent>,
}

fn config(model: &str) -> EngineConfig {
    EngineConfig { model: format!("/models/{model}").into(), ..EngineConfig::default() }
}

fn host(name: &str) -> HostCooldown {
    HostCooldown { host: name.into(), remaining_ms: 1000, streak: 1, last: None }
}

fn model(name: &str) -> ModelStatus {
    ModelStatus {
        name: name.into(),
        digest: String::new(),
        family: "florence2".into(),
        bytes: 0,
        min_confidence: None,
        local: None,
        remote: None,
    }
}

impl Launcher {
    fn new() -> Launcher {
        Launcher {
            handover: EngineHandover::new(0),
            config: config("a"),
            now: Instant::now(),
            processes: HashMap::new(),
            next_pid: 1,
            starts: Vec::new(),
            may_start: true,
            broken: BTreeSet::new(),
            announced: (None, None),
            changes: 0,
            sent: Vec::new(),
            killed: Vec::new(),
            log: Vec::new(),
        }
    }

    /// With an engine that is ready.
    fn serving() -> Launcher {
        let mut launcher = Launcher::new();
        launcher.tend();
        launcher.load(1);
        launcher
    }

    /// One round of the launcher.
    fn tend(&mut self) {
        self.act();
        for round in 0.. {
            assert!(round < 4, "engines are started without a pause");
            let Some(start) = self.handover.wanted(&self.config, self.now) else { break };
            self.start(start);
        }
        self.handover.kill_hanging(&self.config, self.now);
        self.handover.watch(self.now);
        self.act();
        self.handover.kill_hanging(&self.config, self.now);
        self.handover.watch(self.now);
        assert_eq!(self.handover.actions(), [], "actions are repeated");
        std::mem::take(&mut self.killed).into_iter().for_each(|pid| self.end(pid));
        self.check();
    }

    fn start(&mut self, start: EngineStart) {
        if self.may_start {
            let pid = self.next_pid;
            self.next_pid += 1;
            self.starts.push(self.now);
            self.processes.insert(
                pid,
                Process { config: start.config.clone(), state: State::Loading, leaving: false },
            );
            self.handover.started(start, pid, self.now);
        } else {
            self.handover.not_started(start, "cannot be started".into(), self.now);
        }
        self.act();
    }

    fn act(&mut self) {
        for action in self.handover.actions() {
            match action {
                EngineAction::Send(pid, control) => {
                    if control == EngineControl::Drain {
                        let is_needed = self
                            .processes
                            .get(&pid)
                            .is_some_and(|process| process.state == State::Ready);
                        let others = self.ready().into_iter().filter(|other| *other != pid).count();
                        assert!(
                            !is_needed || others == 1,
                            "engine {pid} is asked to leave while {others} others are ready"
                        );
                        self.processes.get_mut(&pid).expect("the addressed engine").leaving = true;
                    }
                    self.sent.push((pid, control));
                }
                EngineAction::Kill(pid) => {
                    assert!(self.processes[&pid].leaving || self.is_frozen(pid));
                    self.killed.push(pid);
                }
                EngineAction::Announce { serving, trouble } => {
                    self.announced = (serving, trouble);
                    self.changes += 1;
                }
                EngineAction::Log(event) => self.log.push(event),
            }
        }
    }

    /// Whether the log says why an engine is killed.
    fn is_frozen(&self, pid: EnginePid) -> bool {
        let of_pid = |event: &HandoverEvent| match event {
            HandoverEvent::Frozen(of, _) | HandoverEvent::Superseded(of) => *of == pid,
            _ => false,
        };
        self.log.iter().any(of_pid)
    }

    /// Ready engines that were not asked to leave.
    fn ready(&self) -> Vec<EnginePid> {
        let mut pids: Vec<EnginePid> = self
            .processes
            .iter()
            .filter(|(_, p)| p.state == State::Ready && !p.leaving)
            .map(|(pid, _)| *pid)
            .collect();
        pids.sort_unstable();
        pids
    }

    fn check(&self) {
        let staying: Vec<_> = self.processes.values().filter(|process| !process.leaving).collect();
        let successors = staying
            .iter()
            .filter(|process| process.config.wait_until_ready && process.state == State::Loading)
            .count();
        assert!(staying.len() <= 2 && successors <= 1, "too many engines: {self:?}");
        if let [pid] = self.ready()[..] {
            assert_eq!(self.announced, (Some(pid), None), "callers are shown another state");
        }
        let swap = self.handover.model_swap(self.config.model.clone());
        let serving = self.ready().first().map(|pid| self.processes[pid].config.model.clone());
        assert_eq!(swap.serving, serving);
    }

    fn load(&mut self, pid: EnginePid) {
        let Some(process) =
            self.processes.get_mut(&pid).filter(|process| process.state == State::Loading)
        else {
            return;
        };
        let name = process.config.model.file_name().expect("a name").to_string_lossy().into_owned();
        let report = if self.broken.contains(&name) {
            process.state = State::Failed;
            EngineReport::Failed(
                Failure::new(FailureClass::Engine, "no_model", "no model").detail(name),
            )
        } else {
            process.state = State::Ready;
            EngineReport::Ready { model: Box::new(model(&name)) }
        };
        self.handover.reported(pid, report, self.now);
        self.tend();
    }

    fn end(&mut self, pid: EnginePid) {
        if self.processes.remove(&pid).is_some() {
            self.handover.ended(pid, "signal: 9".into(), self.now);
        }
    }

    fn die(&mut self, pid: EnginePid) {
        self.end(pid);
        self.tend();
    }

    fn reload(&mut self, config: EngineConfig) {
        self.config = config;
        self.handover.reloaded();
        self.tend();
    }

    fn report(&mut self, pid: EnginePid, report: EngineReport) {
        self.handover.reported(pid, report, self.now);
    }

    fn next_due(&self) -> Option<Instant> {
        self.handover.next_due(&self.config, self.now)
    }

    fn swap(&self, wanted: &str) -> ModelSwap {
        self.handover.model_swap(wanted.into())
    }

    fn loading(&self) -> Vec<EnginePid> {
        let loading = self.processes.iter().filter(|(_, process)| process.state == State::Loading);
        loading.map(|(pid, _)| *pid).collect()
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.tend();
    }
}

#[test]
fn engine_lifecycle_counts_three_changes() {
    let mut launcher = Launcher::new();
    launcher.tend();
    assert_eq!((launcher.changes, launcher.announced.clone()), (1, (Some(1), None)));
    launcher.load(1);
    assert_eq!((launcher.changes, launcher.announced.clone()), (2, (Some(1), None)));
    launcher.may_start = false;
    launcher.end(1);
    launcher.act();
    assert_eq!(
        (launcher.changes, launcher.announced.clone()),
        (3, (None, Some(EngineTrouble::Ended("signal: 9".into()))))
    );
}

#[test]
fn old_engine_leaves_once_the_new_one_is_ready() {
    let mut launcher = Launcher::serving();
    launcher.reload(config("b"));
    assert!(launcher.processes[&2].config.wait_until_ready && !launcher.processes[&1].leaving);
    assert_eq!(launcher.swap("/models/b").loading, Some("/models/b".into()));
    launcher.load(2);
    assert_eq!(launcher.ready(), [2]);
    assert!(launcher.processes[&1].leaving);
    assert!(launcher.swap("/models/b").leaving);
    launcher.die(1);
    let swap = launcher.swap("/models/b");
    assert_eq!((swap.serving, swap.leaving, swap.reloads), (Some("/models/b".into()), false, 2));
}

#[test]
fn refused_model_is_retried_after_a_reload_only() {
    let mut launcher = Launcher::serving();
    launcher.broken.insert("b".into());
    launcher.reload(config("b"));
    launcher.load(2);
    assert_eq!(launcher.ready(), [1]);
    assert_eq!(
        launcher.swap("/models/b").refused,
        Some(("/models/b".into(), "no model: b".into()))
    );
    launcher.die(2);
    launcher.pass(Duration::from_secs(3600));
    assert_eq!(launcher.starts.len(), 2);
    launcher.broken.clear();
    launcher.reload(config("b"));
    launcher.load(3);
    assert_eq!(launcher.ready(), [3]);
    assert_eq!(launcher.swap("/models/b").refused, None);
}

#[test]
fn old_engine_serves_if_its_successor_dies() {
    let mut launcher = Launcher::serving();
    launcher.reload(config("b"));
    launcher.die(2);
    assert_eq!((launcher.ready(), launcher.starts.len()), (vec![1], 2));
    let (model, why) = launcher.swap("/models/b").refused.expect("a reason");
    assert_eq!((model, why.contains("signal: 9")), ("/models/b".into(), true));
    assert!(matches!(launcher.log.last(), Some(HandoverEvent::SuccessorEnded(2, _))));
}

#[test]
fn engine_without_model_shows_the_newest_reason() {
    let mut launcher = Launcher::new();
    launcher.broken.extend(["a".to_owned(), "b".to_owned()]);
    launcher.tend();
    launcher.load(1);
    assert_eq!(launcher.announced, (Some(1), Some(EngineTrouble::NoModel("no model: a".into()))));
    launcher.reload(config("b"));
    launcher.load(2);
    assert_eq!(launcher.announced, (Some(1), Some(EngineTrouble::NoModel("no model: b".into()))));
    launcher.die(2);
    // The model is supplied; nothing else changes.
    launcher.broken.clear();
    launcher.reload(config("b"));
    launcher.load(3);
    assert_eq!((launcher.ready(), launcher.announced.clone()), (vec![3], (Some(3), None)));
}

#[test]
fn reload_retries_failed_models_only() {
    let mut launcher = Launcher::serving();
    launcher.reload(config("a"));
    assert_eq!(launcher.starts.len(), 1);
    let mut launcher = Launcher::new();
    launcher.broken.insert("a".into());
    launcher.tend();
    launcher.load(1);
    launcher.reload(config("a"));
    assert_eq!(launcher.starts.len(), 2);
    launcher.pass(Duration::from_secs(3600));
    assert_eq!(launcher.starts.len(), 2);
}

#[test]
fn pauses_between_deaths_grow_until_one_is_stable() {
    let mut launcher = Launcher::serving();
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let pid = *launcher.processes.keys().next().expect("an engine");
        let died = launcher.now;
        launcher.die(pid);
        while launcher.processes.is_empty() {
            let due = launcher.next_due().expect("a time to start the next one");
            launcher.pass(due - launcher.now);
        }
        pauses.push(launcher.now - died);
    }
    assert_eq!(pauses, [0, 200, 1000, 5000, 30_000, 30_000].map(Duration::from_millis));
    let pid = launcher.next_pid - 1;
    launcher.load(pid);
    launcher.pass(Duration::from_secs(21));
    launcher.die(pid);
    assert_eq!(launcher.processes.len(), 1);
}

#[test]
fn failed_start_is_announced_once_and_retried() {
    let mut launcher = Launcher::new();
    launcher.may_start = false;
    launcher.tend();
    assert_eq!(
        launcher.announced,
        (None, Some(EngineTrouble::NotStarted("cannot be started".into())))
    );
    let due = launcher.next_due().expect("a time to try again");
    assert!(due > launcher.now);
    launcher.may_start = true;
    launcher.pass(due - launcher.now);
    assert_eq!(launcher.announced, (Some(1), None));
}

#[test]
fn outdated_engine_gets_another_successor_after_a_pause() {
    let mut launcher = Launcher::serving();
    launcher.report(1, EngineReport::Outdated);
    launcher.tend();
    launcher.report(1, EngineReport::Outdated);
    launcher.tend();
    let is_outdated = |event: &&HandoverEvent| matches!(event, HandoverEvent::Outdated(_));
    assert_eq!(launcher.log.iter().filter(is_outdated).count(), 1);
    assert_eq!(launcher.starts.len(), 2);
    launcher.die(2);
    let due = launcher.next_due().expect("a time to try again");
    assert!(due >= launcher.now + Duration::from_secs(10));
    launcher.pass(due - launcher.now);
    launcher.load(3);
    assert_eq!(launcher.ready(), [3]);
    launcher.die(1);
    assert_eq!(launcher.next_due(), None);
}

#[test]
fn hanging_engine_is_killed_after_its_longest_fetch() {
    let mut launcher = Launcher::serving();
    launcher.reload(config("b"));
    launcher.load(2);
    let due = launcher.next_due().expect("a time to kill it");
    assert!(due > launcher.now + Duration::from_millis(launcher.config.fetch_timeout_ms));
    launcher.pass(due - launcher.now);
    assert_eq!(launcher.processes.keys().copied().collect::<Vec<_>>(), [2]);
    assert_eq!(launcher.log.last(), Some(&HandoverEvent::Hangs(1)));
}

#[test]
fn the_use_of_a_model_outlives_its_engine() {
    let mut launcher = Launcher::serving();
    let used = |digest: &str, requests| ModelUse {
        digest: digest.into(),
        day: 9,
        requests,
        tokens: 10 * requests,
    };
    for requests in [3, 7, 5] {
        launcher.report(1, EngineReport::Used(used("a", requests)));
    }
    launcher.report(1, EngineReport::Used(used("b", 1)));
    let known = |launcher: &Launcher, engine| launcher.processes[&engine].config.daily_use.clone();
    let received = |launcher: &Launcher, engine| -> Vec<ModelUse> {
        let of = launcher.sent.iter().filter(|(pid, _)| *pid == engine);
        of.filter_map(|(_, control)| match control {
            EngineControl::Used(used) => Some(used.clone()),
            _ => None,
        })
        .collect()
    };
    assert_eq!(received(&launcher, 1), []);
    launcher.die(1);
    launcher.pass(Duration::from_secs(1));
    launcher.load(2);
    // It knows them before its first request.
    assert_eq!(known(&launcher, 2), [used("a", 7), used("b", 1)]);
    // An engine that leaves has used more while its successor loaded.
    launcher.reload(config("b"));
    launcher.report(2, EngineReport::Used(used("a", 8)));
    launcher.tend();
    assert_eq!(received(&launcher, 3).last(), Some(&used("a", 8)));
    for model in 0..100 {
        launcher.report(2, EngineReport::Used(used(&model.to_string(), 1)));
    }
    launcher.load(3);
    launcher.reload(config("c"));
    assert!(known(&launcher, 4).len() <= 8, "a compromised engine fills no memory");
}

#[test]
fn host_cooldowns_are_passed_to_the_new_engine() {
    let mut launcher = Launcher::serving();
    launcher.report(1, EngineReport::Cooling { hosts: vec![host("x")] });
    launcher.act();
    assert!(launcher.sent.is_empty(), "an engine is not sent its own report");
    launcher.reload(config("b"));
    launcher.load(2);
    for (name, count) in [("x", 1), ("y", 2)] {
        launcher.report(1, EngineReport::Cooling { hosts: vec![host(name)] });
        launcher.act();
        let cooling: Vec<_> = launcher
            .sent
            .iter()
            .filter(|(pid, control)| *pid == 2 && matches!(control, EngineControl::Cooling { .. }))
            .collect();
        assert_eq!(cooling.len(), count);
    }
}

impl Launcher {
    /// The number of the last ping that an engine got.
    fn pinged(&self, pid: EnginePid) -> Option<u64> {
        self.sent.iter().rev().find_map(|(to, control)| match control {
            EngineControl::Ping { number } if *to == pid => Some(*number),
            _ => None,
        })
    }

    /// A client waits for an engine.
    fn doubt(&mut self) {
        self.handover.doubt();
        self.tend();
    }
}

// A frozen engine stayed in service for ever.
#[test]
fn a_silent_engine_is_killed_while_clients_wait() {
    let mut launcher = Launcher::serving();
    launcher.pass(Duration::from_secs(3600));
    assert_eq!((launcher.next_due(), launcher.pinged(1)), (None, None), "no client waits");
    launcher.doubt();
    assert!(launcher.pinged(1).is_some());
    launcher.pass(Duration::from_secs(9));
    assert_eq!(launcher.ready(), [1]);
    let due = launcher.next_due().expect("a time to kill it");
    launcher.pass(due - launcher.now);
    assert!(matches!(launcher.log.last(), Some(HandoverEvent::Frozen(1, EngineHang::Silent(_)))));
    launcher.pass(Duration::ZERO);
    assert_eq!(launcher.processes.keys().copied().collect::<Vec<_>>(), [2]);
}

#[test]
fn an_answering_engine_stays() {
    let mut launcher = Launcher::serving();
    for _ in 0..100 {
        launcher.doubt();
        let number = launcher.pinged(1).expect("a ping");
        launcher.report(1, EngineReport::Pong { number, busy_ms: 200_000 });
        launcher.tend();
        assert_eq!(launcher.next_due(), None);
        launcher.pass(Duration::from_secs(20));
    }
    assert_eq!(launcher.ready(), [1]);
}

#[test]
fn an_endless_model_call_is_killed() {
    let mut launcher = Launcher::serving();
    launcher.doubt();
    let number = launcher.pinged(1).expect("a ping");
    launcher.report(1, EngineReport::Pong { number: number + 1, busy_ms: 300_000 });
    launcher.tend();
    assert_eq!(launcher.ready(), [1], "an answer to no question");
    launcher.report(1, EngineReport::Pong { number, busy_ms: 300_000 });
    launcher.tend();
    let hang = EngineHang::Step(Duration::from_secs(300));
    assert!(launcher.log.contains(&HandoverEvent::Frozen(1, hang)));
    assert!(!launcher.processes.contains_key(&1));
}

#[test]
fn many_waiting_clients_cause_few_pings() {
    let mut launcher = Launcher::serving();
    for _ in 0..200 {
        launcher.doubt();
        if let Some(number) = launcher.pinged(1) {
            launcher.report(1, EngineReport::Pong { number, busy_ms: 0 });
        }
        launcher.pass(Duration::from_millis(100));
    }
    let pings = launcher.sent.iter().filter(|(_, c)| matches!(c, EngineControl::Ping { .. }));
    assert!((3..=5).contains(&pings.count()), "in 20 seconds");
}

// After a changed setting, a worker stayed connected to the frozen old engine for ten minutes.
#[test]
fn a_frozen_old_engine_is_killed_too() {
    let mut launcher = Launcher::serving();
    launcher.reload(config("b"));
    launcher.load(2);
    launcher.doubt();
    let number = launcher.pinged(2).expect("a ping");
    launcher.report(2, EngineReport::Pong { number, busy_ms: 0 });
    launcher.pass(Duration::from_secs(10));
    assert_eq!(launcher.processes.keys().copied().collect::<Vec<_>>(), [2]);
    assert_eq!(launcher.ready(), [2]);
}

#[test]
fn a_starting_engine_is_not_pinged() {
    let mut launcher = Launcher::new();
    launcher.tend();
    launcher.doubt();
    assert_eq!(launcher.pinged(1), None);
    launcher.pass(Duration::from_secs(60));
    launcher.doubt();
    assert!(launcher.pinged(1).is_some(), "it never started");
}

#[test]
fn a_new_socket_needs_new_engines() {
    let mut launcher = Launcher::serving();
    launcher.reload(config("b"));
    launcher.handover.relistened();
    launcher.load(2);
    assert_eq!(launcher.ready(), [2], "it was started with the old socket");
    launcher.tend();
    launcher.load(3);
    assert_eq!((launcher.ready(), launcher.next_due().is_some()), (vec![3], true));
    launcher.leave();
    assert_eq!((launcher.starts.len(), launcher.next_due()), (3, None));
}

// 18 kills of engines that had answered cost seven minutes of pauses.
#[test]
fn an_engine_that_answered_is_replaced_immediately() {
    let mut launcher = Launcher::serving();
    let begin = launcher.now;
    for pid in 1..=30 {
        launcher.report(pid, EngineReport::Answered);
        launcher.die(pid);
        launcher.load(pid + 1);
    }
    assert_eq!((launcher.now, launcher.ready()), (begin, vec![31]));
    launcher.report(31, EngineReport::Answered);
    launcher.die(31);
    assert!(launcher.processes.is_empty(), "thirty in a minute are enough");
    assert_eq!(launcher.next_due(), Some(begin + Duration::from_secs(60)));
    launcher.pass(Duration::from_secs(60));
    launcher.load(32);
    launcher.report(32, EngineReport::Answered);
    launcher.die(32);
    assert_eq!(launcher.loading(), [33], "the minute is over");
}

#[test]
fn pauses_grow_between_engines_without_answers() {
    let mut launcher = Launcher::serving();
    for pid in 1..=2 {
        launcher.die(pid);
        launcher.pass(Duration::from_millis(200));
    }
    launcher.load(3);
    launcher.report(3, EngineReport::Answered);
    launcher.die(3);
    assert_eq!(launcher.loading(), [4]);
    launcher.die(4);
    assert_eq!(launcher.loading(), [5], "a first death");
    launcher.die(5);
    assert!(launcher.loading().is_empty());
}

// The graph of a model never ended: no other model could be chosen.
#[test]
fn another_choice_ends_a_load() {
    let mut launcher = Launcher::serving();
    launcher.reload(config("b"));
    assert_eq!(launcher.loading(), [2]);
    launcher.reload(config("c"));
    launcher.pass(Duration::ZERO);
    assert_eq!((launcher.ready(), launcher.loading()), (vec![1], vec![3]));
    launcher.load(3);
    assert_eq!(launcher.ready(), [3]);
}

#[test]
fn a_model_that_never_loads_is_given_up() {
    let mut launcher = Launcher::serving();
    launcher.reload(config("b"));
    launcher.pass(Duration::from_secs(900));
    assert_eq!((launcher.ready(), launcher.loading()), (vec![1], vec![]));
    let swap = launcher.handover.model_swap("b".into());
    let (model, why) = swap.refused.expect("a reason");
    assert_eq!(
        (model, why),
        ("/models/b".into(), "It did not load within 15 minutes.".to_string())
    );
    launcher.pass(Duration::from_secs(900));
    assert!(launcher.loading().is_empty(), "only another reload tries it again");
}

// An engine that was taken over filled the server log with 76 MB in 20 seconds.
#[test]
fn repeated_reports_are_neither_logged_nor_passed_on() {
    let mut launcher = Launcher::serving();
    launcher.reload(config("b"));
    launcher.load(2);
    let (log, changes, sent) = (launcher.log.len(), launcher.changes, launcher.sent.len());
    for _ in 0..1000 {
        launcher.report(1, EngineReport::Ready { model: Box::new(model("a")) });
        launcher.report(1, EngineReport::Cooling { hosts: vec![host("x")] });
        launcher.report(2, EngineReport::Ready { model: Box::new(model("b")) });
        launcher.act();
    }
    assert_eq!((launcher.log.len(), launcher.changes), (log, changes));
    assert!(launcher.sent.len() - sent < 10);
}

/// One event of a launcher and its engines.
#[derive(Debug, Clone)]
enum Event {
    Reload(usize),
    Break(usize),
    Repair(usize),
    Load(usize),
    Die(usize),
    Leave,
    Outdated(usize),
    Doubt,
    Pong(usize, u64),
    Relisten,
    Answered(usize),
    MayStart(bool),
    TimePasses(u64),
}

const MODELS: [&str; 3] = ["a", "b", "c"];

fn event() -> impl Strategy<Value = Event> {
    let model = 0..MODELS.len();
    prop_oneof![
        1 => model.clone().prop_map(Event::Reload),
        1 => model.clone().prop_map(Event::Break),
        1 => model.prop_map(Event::Repair),
        4 => (0usize..4).prop_map(Event::Load),
        2 => (0usize..4).prop_map(Event::Die),
        1 => Just(Event::Leave),
        1 => (0usize..4).prop_map(Event::Outdated),
        1 => Just(Event::Doubt),
        2 => (0usize..4, 0u64..400_000).prop_map(|(at, ms)| Event::Pong(at, ms)),
        1 => Just(Event::Relisten),
        1 => (0usize..4).prop_map(Event::Answered),
        1 => any::<bool>().prop_map(Event::MayStart),
        2 => (0u64..70_000).prop_map(Event::TimePasses),
    ]
}

impl Launcher {
    fn nth(&self, at: usize) -> Option<EnginePid> {
        let mut pids: Vec<EnginePid> = self.processes.keys().copied().collect();
        pids.sort_unstable();
        pids.get(at).copied()
    }

    fn leave(&mut self) {
        let leaving: Vec<EnginePid> = self
            .processes
            .iter()
            .filter(|(_, process)| process.leaving)
            .map(|(pid, _)| *pid)
            .collect();
        leaving.into_iter().for_each(|pid| self.die(pid));
    }

    fn apply(&mut self, event: Event) {
        match event {
            Event::Reload(at) => self.reload(config(MODELS[at])),
            Event::Break(at) => drop(self.broken.insert(MODELS[at].into())),
            Event::Repair(at) => drop(self.broken.remove(MODELS[at])),
            Event::Load(at) => self.nth(at).into_iter().for_each(|pid| self.load(pid)),
            Event::Die(at) => self.nth(at).into_iter().for_each(|pid| self.die(pid)),
            Event::Leave => self.leave(),
            Event::Outdated(at) => {
                if let Some(pid) = self.nth(at) {
                    self.report(pid, EngineReport::Outdated);
                    self.tend();
                }
            }
            Event::Doubt => self.doubt(),
            Event::Pong(at, busy_ms) => {
                if let Some((pid, number)) = self.nth(at).and_then(|p| Some((p, self.pinged(p)?))) {
                    self.report(pid, EngineReport::Pong { number, busy_ms });
                    self.tend();
                }
            }
            Event::Relisten => {
                self.handover.relistened();
                self.tend();
            }
            Event::Answered(at) => {
                if let Some(pid) = self.nth(at) {
                    self.report(pid, EngineReport::Answered);
                }
            }
            Event::MayStart(may) => self.may_start = may,
            Event::TimePasses(ms) => self.pass(Duration::from_millis(ms)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// For every order of events: no ready engine is asked to leave before another one is ready,
    /// and callers are shown the real state (both checked at every step). Once the faults end, one
    /// engine serves the model in the settings and the launcher sleeps.
    #[test]
    fn one_engine_serves_once_the_faults_end(
        events in prop::collection::vec(event(), 0..60),
        last in 0..MODELS.len(),
    ) {
        let mut launcher = Launcher::new();
        launcher.tend();
        for event in events {
            launcher.apply(event);
        }
        (launcher.may_start, launcher.broken) = (true, BTreeSet::new());
        launcher.reload(config(MODELS[last]));
        for step in 0.. {
            prop_assert!(step < 30, "no end: {launcher:?}");
            launcher.leave();
            let loading = launcher.loading();
            if loading.is_empty() {
                let Some(due) = launcher.next_due() else { break };
                launcher.pass(due.saturating_duration_since(launcher.now));
            }
            loading.into_iter().for_each(|pid| launcher.load(pid));
        }
        let serving = launcher.ready();
        prop_assert_eq!(serving.len(), 1);
        prop_assert_eq!(launcher.processes.len(), 1);
        prop_assert_eq!(&launcher.processes[&serving[0]].config.model, &launcher.config.model);
        let swap = launcher.handover.model_swap(launcher.config.model.clone());
        prop_assert_eq!(swap.serving, swap.wanted);
        prop_assert_eq!((swap.loading, swap.leaving, swap.refused), (None, false, None));
    }
}
