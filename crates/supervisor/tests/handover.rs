//! The succession of engines on a model of their processes: single stories, then random faults in
//! any order.

use pg_caption_supervisor::handover::{Action, Pid, Said, Start, Succession, Trouble};
use pg_caption_wire::{
    EngineConfig, EngineControl, EngineReport, Failure, FailureClass, HostCooldown, ModelStatus,
};
use proptest::prelude::*;
use std::collections::{BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// An engine as its process would be.
#[derive(Debug)]
struct Process {
    config: EngineConfig,
    state: State,
    is_leaving: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Loading,
    Ready,
    Failed,
}

/// A launcher's shell, and the machine around it.
#[derive(Debug)]
struct World {
    succession: Succession,
    config: EngineConfig,
    now: Instant,
    processes: HashMap<Pid, Process>,
    next_pid: Pid,
    starts: Vec<Instant>,
    may_start: bool,
    broken: BTreeSet<String>,
    announced: (Option<Pid>, Option<Trouble>),
    changes: usize,
    told: Vec<(Pid, EngineControl)>,
    /// Still there until they are reaped.
    killed: Vec<Pid>,
    log: Vec<Said>,
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
        graphs: Vec::new(),
        batch_invariant: true,
        hoisted: false,
        min_confidence: None,
        passed_over: Vec::new(),
    }
}

impl World {
    fn new() -> World {
        World {
            succession: Succession::new(0),
            config: config("a"),
            now: Instant::now(),
            processes: HashMap::new(),
            next_pid: 1,
            starts: Vec::new(),
            may_start: true,
            broken: BTreeSet::new(),
            announced: (None, None),
            changes: 0,
            told: Vec::new(),
            killed: Vec::new(),
            log: Vec::new(),
        }
    }

    /// With an engine that answers.
    fn serving() -> World {
        let mut world = World::new();
        world.tend();
        world.load(1);
        world
    }

    /// What the launcher does whenever it wakes.
    fn tend(&mut self) {
        self.act();
        for round in 0.. {
            assert!(round < 4, "engines are started without a pause");
            let Some(start) = self.succession.wanted(&self.config, self.now) else { break };
            self.start(start);
        }
        self.succession.kill_hanging(self.now);
        self.act();
        self.succession.kill_hanging(self.now);
        assert_eq!(self.succession.actions(), [], "what was just done is done again");
        std::mem::take(&mut self.killed).into_iter().for_each(|pid| self.end(pid));
        self.check();
    }

    fn start(&mut self, start: Start) {
        if self.may_start {
            let pid = self.next_pid;
            self.next_pid += 1;
            self.starts.push(self.now);
            self.processes.insert(
                pid,
                Process { config: start.config.clone(), state: State::Loading, is_leaving: false },
            );
            self.succession.started(start, pid, self.now);
        } else {
            self.succession.not_started(start, "cannot be started".into(), self.now);
        }
        self.act();
    }

    fn act(&mut self) {
        for action in self.succession.actions() {
            match action {
                Action::Tell(pid, control) => {
                    if control == EngineControl::Drain {
                        let is_needed = self
                            .processes
                            .get(&pid)
                            .is_some_and(|process| process.state == State::Ready);
                        let others =
                            self.answering().into_iter().filter(|other| *other != pid).count();
                        assert!(
                            !is_needed || others == 1,
                            "engine {pid} is asked to leave while {others} others answer"
                        );
                        self.processes
                            .get_mut(&pid)
                            .expect("an engine that is told something")
                            .is_leaving = true;
                    }
                    self.told.push((pid, control));
                }
                Action::Kill(pid) => {
                    assert!(self.processes[&pid].is_leaving);
                    self.killed.push(pid);
                }
                Action::Announce { serving, trouble } => {
                    self.announced = (serving, trouble);
                    self.changes += 1;
                }
                Action::Log(said) => self.log.push(said),
            }
        }
    }

    /// Those that answer and are to go on with it.
    fn answering(&self) -> Vec<Pid> {
        let mut pids: Vec<Pid> = self
            .processes
            .iter()
            .filter(|(_, p)| p.state == State::Ready && !p.is_leaving)
            .map(|(pid, _)| *pid)
            .collect();
        pids.sort_unstable();
        pids
    }

    fn check(&self) {
        let staying: Vec<_> =
            self.processes.values().filter(|process| !process.is_leaving).collect();
        let successors = staying
            .iter()
            .filter(|process| process.config.wait_until_ready && process.state == State::Loading)
            .count();
        assert!(staying.len() <= 2 && successors <= 1, "too many engines: {self:?}");
        if let [pid] = self.answering()[..] {
            assert_eq!(
                self.announced,
                (Some(pid), None),
                "callers are told something else than is"
            );
        }
        let exchange = self.succession.exchange(self.config.model.clone());
        let serving = self.answering().first().map(|pid| self.processes[pid].config.model.clone());
        assert_eq!(exchange.serving, serving);
    }

    fn load(&mut self, pid: Pid) {
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
            EngineReport::Ready { model: model(&name) }
        };
        self.succession.heard(pid, report, self.now);
        self.tend();
    }

    fn end(&mut self, pid: Pid) {
        if self.processes.remove(&pid).is_some() {
            self.succession.ended(pid, "signal: 9".into(), self.now);
        }
    }

    fn die(&mut self, pid: Pid) {
        self.end(pid);
        self.tend();
    }

    fn reload(&mut self, config: EngineConfig) {
        self.config = config;
        self.succession.reloaded();
        self.tend();
    }

    fn pass(&mut self, time: Duration) {
        self.now += time;
        self.tend();
    }
}

#[test]
fn that_an_engine_comes_answers_and_goes_are_three_changes_although_nothing_is_wrong_at_first() {
    let mut world = World::new();
    world.tend();
    assert_eq!((world.changes, world.announced.clone()), (1, (Some(1), None)));
    world.load(1);
    assert_eq!((world.changes, world.announced.clone()), (2, (Some(1), None)));
    world.may_start = false;
    world.end(1);
    world.act();
    assert_eq!(
        (world.changes, world.announced.clone()),
        (3, (None, Some(Trouble::Ended("signal: 9".into()))))
    );
}

#[test]
fn the_old_engine_is_asked_to_leave_only_once_the_new_one_answers() {
    let mut world = World::serving();
    world.reload(config("b"));
    assert!(world.processes[&2].config.wait_until_ready && !world.processes[&1].is_leaving);
    assert_eq!(world.succession.exchange("/models/b".into()).coming, Some("/models/b".into()));
    world.load(2);
    assert_eq!(world.answering(), [2]);
    assert!(world.processes[&1].is_leaving);
    assert!(world.succession.exchange("/models/b".into()).leaving);
    world.die(1);
    let exchange = world.succession.exchange("/models/b".into());
    assert_eq!(
        (exchange.serving, exchange.leaving, exchange.reloads),
        (Some("/models/b".into()), false, 2)
    );
}

#[test]
fn a_model_that_does_not_load_leaves_the_old_one_serving_and_is_tried_again_only_after_a_reload() {
    let mut world = World::serving();
    world.broken.insert("b".into());
    world.reload(config("b"));
    world.load(2);
    assert_eq!(world.answering(), [1]);
    assert_eq!(
        world.succession.exchange("/models/b".into()).refused,
        Some(("/models/b".into(), "no model: b".into()))
    );
    world.die(2);
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.starts.len(), 2);
    world.broken.clear();
    world.reload(config("b"));
    world.load(3);
    assert_eq!(world.answering(), [3]);
    assert_eq!(world.succession.exchange("/models/b".into()).refused, None);
}

#[test]
fn a_successor_that_dies_while_it_loads_is_said_and_the_old_one_serves_on() {
    let mut world = World::serving();
    world.reload(config("b"));
    world.die(2);
    assert_eq!((world.answering(), world.starts.len()), (vec![1], 2));
    let (model, why) = world.succession.exchange("/models/b".into()).refused.expect("a reason");
    assert_eq!((model, why.contains("signal: 9")), ("/models/b".into(), true));
    assert!(matches!(world.log.last(), Some(Said::SuccessorEnded(2, _))));
}

#[test]
fn the_first_engine_without_a_model_stays_and_says_the_newest_reason() {
    let mut world = World::new();
    world.broken.extend(["a".to_owned(), "b".to_owned()]);
    world.tend();
    world.load(1);
    assert_eq!(world.announced, (Some(1), Some(Trouble::NoModel("no model: a".into()))));
    world.reload(config("b"));
    world.load(2);
    assert_eq!(world.announced, (Some(1), Some(Trouble::NoModel("no model: b".into()))));
    world.die(2);
    // The model is supplied; nothing else changes.
    world.broken.clear();
    world.reload(config("b"));
    world.load(3);
    assert_eq!((world.answering(), world.announced.clone()), (vec![3], (Some(3), None)));
}

#[test]
fn the_same_settings_read_again_try_a_failed_model_again_and_leave_a_good_one_alone() {
    let mut world = World::serving();
    world.reload(config("a"));
    assert_eq!(world.starts.len(), 1);
    let mut world = World::new();
    world.broken.insert("a".into());
    world.tend();
    world.load(1);
    world.reload(config("a"));
    assert_eq!(world.starts.len(), 2);
    world.pass(Duration::from_secs(3600));
    assert_eq!(world.starts.len(), 2);
}

#[test]
fn pauses_between_deaths_grow_and_a_long_life_begins_them_anew() {
    let mut world = World::serving();
    let mut pauses = Vec::new();
    for _ in 0..6 {
        let pid = *world.processes.keys().next().expect("an engine");
        let died = world.now;
        world.die(pid);
        while world.processes.is_empty() {
            let due = world
                .succession
                .next_due(&world.config, world.now)
                .expect("a time to start the next one");
            world.pass(due - world.now);
        }
        pauses.push(world.now - died);
    }
    assert_eq!(pauses, [0, 200, 1000, 5000, 30_000, 30_000].map(Duration::from_millis));
    let pid = world.next_pid - 1;
    world.load(pid);
    world.pass(Duration::from_secs(21));
    world.die(pid);
    assert_eq!(world.processes.len(), 1);
}

#[test]
fn a_program_that_cannot_be_started_is_said_once_and_tried_after_growing_pauses() {
    let mut world = World::new();
    world.may_start = false;
    world.tend();
    assert_eq!(world.announced, (None, Some(Trouble::NotStarted("cannot be started".into()))));
    let due = world.succession.next_due(&world.config, world.now).expect("a time to try again");
    assert!(due > world.now);
    world.may_start = true;
    world.pass(due - world.now);
    assert_eq!(world.announced, (Some(1), None));
}

#[test]
fn an_engine_that_asks_to_be_replaced_is_and_again_after_a_pause_if_that_failed() {
    let mut world = World::serving();
    world.succession.heard(1, EngineReport::Outdated, world.now);
    world.tend();
    world.succession.heard(1, EngineReport::Outdated, world.now);
    world.tend();
    assert_eq!(world.log.iter().filter(|said| matches!(said, Said::Outdated(_))).count(), 1);
    assert_eq!(world.starts.len(), 2);
    world.die(2);
    let due = world.succession.next_due(&world.config, world.now).expect("a time to try again");
    assert!(due >= world.now + Duration::from_secs(10));
    world.pass(due - world.now);
    world.load(3);
    assert_eq!(world.answering(), [3]);
    world.die(1);
    assert_eq!(world.succession.next_due(&world.config, world.now), None);
}

#[test]
fn one_that_was_asked_to_leave_and_hangs_is_killed_and_not_before_its_longest_fetch_is_over() {
    let mut world = World::serving();
    world.reload(config("b"));
    world.load(2);
    let due = world.succession.next_due(&world.config, world.now).expect("a time to kill it");
    assert!(due > world.now + Duration::from_millis(world.config.fetch_timeout_ms));
    world.pass(due - world.now);
    assert_eq!(world.processes.keys().copied().collect::<Vec<_>>(), [2]);
    assert_eq!(world.log.last(), Some(&Said::Hangs(1)));
}

#[test]
fn patience_that_hosts_asked_for_is_handed_on_until_the_old_engine_is_gone() {
    let mut world = World::serving();
    world.succession.heard(1, EngineReport::Cooling { hosts: vec![host("x")] }, world.now);
    world.act();
    assert!(world.told.is_empty(), "it knows what it said itself");
    world.reload(config("b"));
    world.load(2);
    for (name, told) in [("x", 1), ("y", 2)] {
        world.succession.heard(1, EngineReport::Cooling { hosts: vec![host(name)] }, world.now);
        world.act();
        let cooling: Vec<_> = world
            .told
            .iter()
            .filter(|(pid, control)| *pid == 2 && matches!(control, EngineControl::Cooling { .. }))
            .collect();
        assert_eq!(cooling.len(), told);
    }
}

/// One thing that happens to a launcher and its engines.
#[derive(Debug, Clone)]
enum Event {
    Reload(usize),
    Breaks(usize),
    Mended(usize),
    Loads(usize),
    Dies(usize),
    Leaves,
    AsksToBeReplaced(usize),
    MayStart(bool),
    TimePasses(u64),
}

const MODELS: [&str; 3] = ["a", "b", "c"];

fn event() -> impl Strategy<Value = Event> {
    let model = 0..MODELS.len();
    prop_oneof![
        1 => model.clone().prop_map(Event::Reload),
        1 => model.clone().prop_map(Event::Breaks),
        1 => model.prop_map(Event::Mended),
        4 => (0usize..4).prop_map(Event::Loads),
        2 => (0usize..4).prop_map(Event::Dies),
        1 => Just(Event::Leaves),
        1 => (0usize..4).prop_map(Event::AsksToBeReplaced),
        1 => any::<bool>().prop_map(Event::MayStart),
        2 => (0u64..70_000).prop_map(Event::TimePasses),
    ]
}

impl World {
    fn nth(&self, at: usize) -> Option<Pid> {
        let mut pids: Vec<Pid> = self.processes.keys().copied().collect();
        pids.sort_unstable();
        pids.get(at).copied()
    }

    fn leave(&mut self) {
        let leaving: Vec<Pid> = self
            .processes
            .iter()
            .filter(|(_, process)| process.is_leaving)
            .map(|(pid, _)| *pid)
            .collect();
        leaving.into_iter().for_each(|pid| self.die(pid));
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Reload(at) => self.reload(config(MODELS[at])),
            Event::Breaks(at) => drop(self.broken.insert(MODELS[at].into())),
            Event::Mended(at) => drop(self.broken.remove(MODELS[at])),
            Event::Loads(at) => self.nth(at).into_iter().for_each(|pid| self.load(pid)),
            Event::Dies(at) => self.nth(at).into_iter().for_each(|pid| self.die(pid)),
            Event::Leaves => self.leave(),
            Event::AsksToBeReplaced(at) => {
                if let Some(pid) = self.nth(at) {
                    self.succession.heard(pid, EngineReport::Outdated, self.now);
                    self.tend();
                }
            }
            Event::MayStart(may) => self.may_start = may,
            Event::TimePasses(ms) => self.pass(Duration::from_millis(ms)),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    /// Whatever happened, in whatever order: nobody who answers is sent away before another one
    /// answers, callers are told what is (both checked at every step), and once the faults end, one
    /// engine serves what the settings name and the launcher sleeps.
    #[test]
    fn whatever_happens_one_engine_serves_in_the_end(events in prop::collection::vec(event(), 0..60), last in 0..MODELS.len()) {
        let mut world = World::new();
        world.tend();
        for event in events {
            world.happens(event);
        }
        (world.may_start, world.broken) = (true, BTreeSet::new());
        world.reload(config(MODELS[last]));
        for step in 0.. {
            prop_assert!(step < 30, "no end: {world:?}");
            world.leave();
            let loading: Vec<Pid> = world.processes.iter().filter(|(_, process)| process.state == State::Loading).map(|(pid, _)| *pid).collect();
            if loading.is_empty() {
                let Some(due) = world.succession.next_due(&world.config, world.now) else { break };
                world.pass(due.saturating_duration_since(world.now));
            }
            loading.into_iter().for_each(|pid| world.load(pid));
        }
        let serving = world.answering();
        prop_assert_eq!(serving.len(), 1);
        prop_assert_eq!(world.processes.len(), 1);
        prop_assert_eq!(&world.processes[&serving[0]].config.model, &world.config.model);
        let exchange = world.succession.exchange(world.config.model.clone());
        prop_assert_eq!((exchange.serving, exchange.coming, exchange.leaving, exchange.refused), (exchange.wanted, None, false, None));
    }
}
