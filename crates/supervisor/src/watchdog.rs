//! Finds engines that hang: frozen ones, and ones whose model call never ends.
//!
//! Asked only while clients wait, so that an idle server is never woken up. An engine that lives
//! answers a ping from a thread of its own, whatever its model does, and reports how long the
//! current step has lasted. Used by the handover; sends and kills nothing itself.

use crate::engine_action::{EngineHang, EnginePid};
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Shortest time between two pings: hundreds of waiting clients cause no more.
const PING_INTERVAL: Duration = Duration::from_secs(5);
/// How long a ping may stay unanswered.
const PONG_TIMEOUT: Duration = Duration::from_secs(10);
/// How long one decoding step or model call may last. No request waits longer for its answer than a
/// row, which waits for five minutes; a batch of a large model on a slow processor takes about one.
const STEP_TIMEOUT: Duration = Duration::from_secs(300);

/// Pings and their answers.
#[derive(Debug, Default)]
pub struct Watchdog {
    /// A client waits.
    doubted: bool,
    /// When engines were asked last.
    asked: Option<Instant>,
    number: u64,
    /// Unanswered pings: number and time.
    unanswered: BTreeMap<EnginePid, (u64, Instant)>,
}

impl Watchdog {
    /// A client waits for an engine.
    pub fn doubt(&mut self) {
        self.doubted = true;
    }

    /// Whether the engines are to be asked now.
    pub fn is_due(&self, now: Instant) -> bool {
        self.ask_at(now).is_some_and(|at| at <= now)
    }

    fn ask_at(&self, now: Instant) -> Option<Instant> {
        self.doubted.then(|| self.asked.map_or(now, |asked| asked + PING_INTERVAL))
    }

    /// All engines are asked now. Returns the number of the ping, and the engines that get it:
    /// those that owe no answer.
    pub fn ask(
        &mut self,
        engines: impl Iterator<Item = EnginePid>,
        now: Instant,
    ) -> (u64, Vec<EnginePid>) {
        (self.doubted, self.asked) = (false, Some(now));
        self.number += 1;
        let asked: Vec<_> = engines.filter(|pid| !self.unanswered.contains_key(pid)).collect();
        self.unanswered.extend(asked.iter().map(|pid| (*pid, (self.number, now))));
        (self.number, asked)
    }

    /// An engine answered. Returns why it hangs nevertheless.
    pub fn answered(&mut self, pid: EnginePid, number: u64, busy: Duration) -> Option<EngineHang> {
        if self.unanswered.get(&pid).is_none_or(|(asked, _)| *asked != number) {
            return None;
        }
        self.unanswered.remove(&pid);
        (busy >= STEP_TIMEOUT).then_some(EngineHang::Step(busy))
    }

    /// The engines that have not answered in time; each is returned once.
    pub fn silent(&mut self, now: Instant) -> Vec<(EnginePid, EngineHang)> {
        let late = self.unanswered.extract_if(.., |_, (_, asked)| now >= *asked + PONG_TIMEOUT);
        late.map(|(pid, (_, asked))| (pid, EngineHang::Silent(now - asked))).collect()
    }

    /// The engine has ended, or is being killed.
    pub fn forget(&mut self, pid: EnginePid) {
        self.unanswered.remove(&pid);
    }

    /// When the next question or the next verdict is due; `None`: no client waits.
    pub fn next_due(&self, now: Instant) -> Option<Instant> {
        let late = self.unanswered.values().map(|(_, asked)| *asked + PONG_TIMEOUT).min();
        [self.ask_at(now), late].into_iter().flatten().min()
    }
}
