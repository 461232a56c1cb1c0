//! Faults of a long run: processes that die or freeze, restarts, reloads, and moods of a host.

use super::Turmoil;
use super::hosts::{Hosts, Mood};
use fastrand::Rng;
use pg_caption_tests::{
    Signal, StopMode, TestCluster, TestDatabase, TestSession, eventually, signal_if_alive,
    start_time,
};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

const ENGINE: &str = "pg_caption_engine serve";
const WORKER: &str = "pg_caption worker";
const LAUNCHER: &str = "pg_caption launcher";

/// Settings that change, each with its values.
const CHANGED: [(&str, &[&str]); 5] = [
    ("pg_caption.threads", &["1", "2"]),
    ("pg_caption.max_workers", &["1", "2", "4"]),
    ("pg_caption.host_concurrency", &["1", "6"]),
    ("pg_caption.max_batch", &["1", "8"]),
    ("pg_caption.enabled", &["on", "off", "on"]),
];

/// What was done, and what must be undone.
pub struct Faults {
    random: Rng,
    /// How often each fault was caused.
    counts: BTreeMap<String, usize>,
    /// Server processes that were killed: PostgreSQL restarts all sessions after each.
    crashes: usize,
    /// Frozen engines, and when they continue.
    frozen: Vec<(u32, Instant)>,
    /// All engines that were seen, and when each was started: a long run uses process ids again.
    engines: BTreeSet<(u32, u64)>,
}

impl Faults {
    pub fn new(seed: u64) -> Faults {
        Faults {
            random: Rng::with_seed(seed),
            counts: BTreeMap::new(),
            crashes: 0,
            frozen: Vec::new(),
            engines: BTreeSet::new(),
        }
    }

    /// Causes faults until the turmoil ends.
    pub fn run(&mut self, turmoil: &Turmoil) {
        while !turmoil.is_over() {
            std::thread::sleep(Duration::from_millis(self.random.u64(100..2000)));
            let engines = turmoil.db.cluster.processes_titled(ENGINE).into_iter();
            self.engines.extend(engines.filter_map(|pid| Some((pid, start_time(pid)?))));
            self.thaw(Some(Instant::now()));
            let what = self.cause(turmoil.db.cluster, turmoil.hosts);
            *self.counts.entry(what).or_default() += 1;
        }
    }

    /// Causes one fault; returns its name.
    fn cause(&mut self, cluster: &TestCluster, hosts: &Hosts) -> String {
        match self.random.u32(..24) {
            0..5 => self.signal(cluster, ENGINE, Signal::KILL),
            5 => self.signal(cluster, ENGINE, Signal::TERM),
            6..8 => {
                for engine in cluster.processes_titled(ENGINE) {
                    let until = Duration::from_millis(self.random.u64(200..8000));
                    self.frozen.push((engine, Instant::now() + until));
                }
                self.signal(cluster, ENGINE, Signal::STOP)
            }
            8..11 => self.signal(cluster, WORKER, Signal::TERM),
            11 => self.signal(cluster, LAUNCHER, Signal::TERM),
            12 => {
                self.crashes += cluster.processes_titled(WORKER).len();
                self.signal(cluster, WORKER, Signal::KILL)
            }
            13..16 => {
                let (name, values) = CHANGED[self.random.usize(..CHANGED.len())];
                let value = values[self.random.usize(..values.len())];
                administrator(cluster, &format!("ALTER SYSTEM SET {name} = '{value}'"));
                administrator(cluster, "SELECT pg_reload_conf()");
                format!("{name} = {value}")
            }
            16 => {
                let how = [StopMode::Fast, StopMode::Immediate, StopMode::Kill];
                let how = how[self.random.usize(..how.len())];
                // After an immediate stop an engine ends by itself, but not while it is frozen.
                if how == StopMode::Immediate {
                    self.thaw(None);
                }
                cluster.restart(how);
                format!("restart {how:?}")
            }
            17 => {
                administrator(
                    cluster,
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                     WHERE backend_type = 'client backend' AND pid <> pg_backend_pid()",
                );
                "all sessions terminated".into()
            }
            _ => {
                let moods = [
                    Mood::Fine,
                    Mood::Fine,
                    Mood::Status(404),
                    Mood::Status(429),
                    Mood::Status(500),
                    Mood::Status(503),
                    Mood::HangUp,
                    Mood::Silent,
                ];
                let mood = moods[self.random.usize(..moods.len())];
                hosts.set_mood(mood);
                format!("host {mood:?}")
            }
        }
    }

    /// Sends a signal to the processes of that title.
    fn signal(&mut self, cluster: &TestCluster, title: &str, kind: Signal) -> String {
        for pid in cluster.processes_titled(title) {
            signal_if_alive(pid, kind);
        }
        format!("{kind:?} {title}")
    }

    /// Lets frozen engines continue, those that are due or all.
    fn thaw(&mut self, now: Option<Instant>) {
        self.frozen.retain(|(pid, until)| {
            let stays = now.is_some_and(|now| now < *until);
            if !stays {
                signal_if_alive(*pid, Signal::CONT);
            }
            stays
        });
    }

    /// Ends all faults.
    pub fn end(&mut self, db: &TestDatabase, hosts: &Hosts) {
        self.thaw(None);
        hosts.set_mood(Mood::Fine);
        for (name, _) in CHANGED {
            administrator(db.cluster, &format!("ALTER SYSTEM SET {name} TO DEFAULT"));
        }
        administrator(db.cluster, "SELECT pg_reload_conf()");
        if self.random.bool() {
            db.cluster.restart(StopMode::Fast);
        }
    }

    /// What was done, most frequent first.
    pub fn summary(&self) -> String {
        let mut counts: Vec<_> = self.counts.iter().collect();
        counts.sort_by_key(|(_, count)| std::cmp::Reverse(**count));
        let text: Vec<_> = counts.iter().map(|(what, count)| format!("{count} x {what}")).collect();
        text.join(", ")
    }

    /// No crash that no fault explains, and one engine at most.
    pub fn assert_explained(&mut self, cluster: &TestCluster) {
        let log = cluster.log();
        let crashes = log.matches("terminating any other active server processes").count();
        assert!(
            crashes <= self.crashes,
            "{crashes} crashes, {} of them caused:\n{}",
            self.crashes,
            cluster.log_tail("was terminated by signal")
        );
        for unexpected in ["PANIC", "panicked at", "TRAP:", "stack depth limit"] {
            let line = log.lines().find(|line| line.contains(unexpected));
            assert_eq!(line, None, "the server log");
        }
        eventually("one engine is left", || {
            let running = cluster.processes_titled(ENGINE);
            let old = self.engines.iter().filter(|(pid, _)| !running.contains(pid));
            running.len() <= 1
                && old.into_iter().all(|(pid, started)| start_time(*pid) != Some(*started))
        });
    }
}

/// Runs SQL as the administrator, once the server accepts connections.
fn administrator(cluster: &TestCluster, sql: &str) {
    eventually("an administrator is served", || {
        TestSession::open(&cluster.config("postgres"))
            .is_ok_and(|mut session| session.try_rows(sql).is_ok())
    });
}
