//! What is ready for the engine and what it has: what is sent next, who is to blame when it dies,
//! and when it is left alone for a while.

use crate::limits::Limits;
use crate::{Job, Watched};
use pg_caption_wire::{CaptionOutcome, CaptionRequest, Failure, FailureClass, MAX_ENGINE_DEATHS};
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Pause before a missing engine is asked again; doubled each time that one cannot serve.
pub const AGAIN: Duration = Duration::from_secs(1);
/// How often it is doubled.
const DOUBLINGS: u32 = 5;
/// For how long hosts are given time to answer before their rows are put off for the sake of the
/// others …
const STUCK: Duration = Duration::from_secs(10);
/// … unless that many answers come a second.
const SLOW: f64 = 2.0;

/// Jobs on their way to the engine and back.
#[derive(Debug, Default)]
pub struct Flight {
    ready: VecDeque<Job>,
    /// In flight when an engine died: sent one at a time, so that the one to blame is known.
    suspects: VecDeque<Job>,
    in_flight: BTreeMap<u64, Job>,
    /// Requests whose jobs were dropped: the engine still works on them, and may die of them.
    abandoned: BTreeSet<u64>,
    connected: bool,
    /// No request before then, or before the engine changes.
    pause: Option<(Instant, u64)>,
    /// How often in a row the engine could not serve.
    failures: u32,
    /// How many answers came.
    answers: u64,
    /// Since when there is more than can be sent, and the answers until then.
    full: Option<(Instant, u64)>,
}

impl Flight {
    /// Whether more jobs are to be read.
    pub fn wants_jobs(&self, limits: &Limits) -> bool {
        if !self.suspects.is_empty() || self.ready.len() >= limits.most_ready {
            return false;
        }
        self.ready.len() < limits.ready
            || self.sendable(limits).take(limits.ready).count() < limits.ready
    }

    /// Those whose host may have another place. Each may have twice as many as are free (dynamic
    /// thresholds, Choudhury and Hahne 1998): one has two thirds of the window, two have two fifths
    /// each, and whoever comes then finds a place.
    fn sendable(&self, limits: &Limits) -> impl Iterator<Item = &Job> {
        let (places, most) = (self.places(), self.most_of_one(limits));
        self.ready
            .iter()
            .filter(move |job| places.get(job.host()).is_none_or(|taken| *taken < most))
    }

    fn most_of_one(&self, limits: &Limits) -> usize {
        2 * limits.window.saturating_sub(self.in_flight.len())
    }

    /// Half of what is ready, where everything is of hosts that have their places and hardly
    /// answer: rows that would keep those behind them from being read.
    pub fn surplus(&mut self, limits: &Limits, now: Instant) -> Vec<Job> {
        if self.ready.len() < limits.ready {
            self.full = None;
        }
        if !self.suspects.is_empty()
            || self.ready.len() < limits.most_ready
            || self.sendable(limits).next().is_some()
        {
            return Vec::new();
        }
        let (since, answers) = *self.full.get_or_insert((now, self.answers));
        let waited = now.saturating_duration_since(since);
        if waited < STUCK {
            return Vec::new();
        }
        if (self.answers - answers) as f64 >= SLOW * waited.as_secs_f64() {
            // Judged anew: it may become slow.
            self.full = Some((now, self.answers));
            return Vec::new();
        }
        self.ready.split_off(self.ready.len() / 2).into()
    }

    /// How many jobs of each host are in flight.
    fn places(&self) -> HashMap<&str, usize> {
        let mut places = HashMap::new();
        for job in self.in_flight.values() {
            *places.entry(job.host()).or_default() += 1;
        }
        places
    }

    /// Takes the first job out whose host has the fewest in flight: a slow host fills its own
    /// places and not everybody's.
    fn next_ready(&mut self, limits: &Limits) -> Option<Job> {
        let places = self.places();
        let taken = |job: &Job| places.get(job.host()).copied().unwrap_or(0);
        let (at, taken) =
            self.ready.iter().map(taken).enumerate().min_by_key(|(_, taken)| *taken)?;
        if taken >= self.most_of_one(limits) { None } else { self.ready.remove(at) }
    }

    /// Takes jobs on.
    pub fn add(&mut self, jobs: Vec<Job>) {
        self.ready.extend(jobs);
    }

    /// Nothing is on its way.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.suspects.is_empty() && self.in_flight.is_empty()
    }

    /// Jobs waiting to be sent.
    pub fn ready(&self) -> usize {
        self.ready.len() + self.suspects.len()
    }

    /// Jobs that the engine has.
    pub fn in_flight(&self) -> impl ExactSizeIterator<Item = &Job> {
        self.in_flight.values()
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Drops the jobs that do not stay.
    pub fn retain(&mut self, stays: impl Fn(&Job) -> bool) {
        self.ready.retain(&stays);
        self.suspects.retain(&stays);
        let abandoned = self.in_flight.extract_if(.., |_, job| !stays(job)).map(|(id, _)| id);
        self.abandoned.extend(abandoned);
    }

    /// Whether something is to be sent now. `epoch` counts the engine's changes.
    pub fn may_send(&mut self, now: Instant, epoch: u64) -> bool {
        if self.ready.is_empty() && self.suspects.is_empty() {
            return false;
        }
        if let Some((until, before)) = self.pause {
            if now < until && before == epoch {
                return false;
            }
            self.pause = None;
        }
        true
    }

    /// The engine answered a hello, or nobody did.
    pub fn connect(&mut self, is_there: bool, now: Instant, epoch: u64) {
        self.connected = is_there;
        self.abandoned.clear();
        if !is_there {
            self.pause = Some((now + AGAIN, epoch));
        }
    }

    /// The next job to send, and its request; `None`: nothing may be sent now. Only where the
    /// connection has room.
    pub fn next(&mut self, tables: &[Watched], limits: &Limits) -> Option<(Job, CaptionRequest)> {
        loop {
            let job = if self.suspects.is_empty() {
                self.next_ready(limits)
            } else if self.in_flight.is_empty() {
                self.suspects.pop_front()
            } else {
                None
            }?;
            if let Some(table) = tables.iter().find(|table| table.oid == job.row.relation) {
                let request = job.request(table);
                return Some((job, request));
            }
        }
    }

    /// A job was sent under this id.
    pub fn sent(&mut self, id: u64, job: Job) {
        self.in_flight.insert(id, job);
    }

    /// An answer arrived: what has landed. `None`: nobody waits for it any more, or the engine
    /// cannot serve and the connection is of no use.
    pub fn answered(
        &mut self,
        id: u64,
        outcome: CaptionOutcome,
        now: Instant,
        epoch: u64,
    ) -> Option<(Job, CaptionOutcome)> {
        self.abandoned.remove(&id);
        self.answers += 1;
        let job = self.in_flight.remove(&id)?;
        match outcome {
            CaptionOutcome::Failed(failure) if failure.class == FailureClass::Engine => {
                // Nothing is charged, everything waits for it. The next try connects anew: by then
                // another engine may listen.
                self.ready.push_front(job);
                self.ready.extend(std::mem::take(&mut self.in_flight).into_values());
                self.connected = false;
                self.pause(now, epoch);
                None
            }
            outcome => {
                self.failures = 0;
                Some((job, outcome))
            }
        }
    }

    /// The connection has served its time and owes no answer.
    pub fn spent(&mut self) {
        self.connected = false;
    }

    /// The engine went away, perhaps with requests in flight, or `refused` us; the jobs that it
    /// died of.
    pub fn lost(&mut self, refused: bool, now: Instant, epoch: u64) -> Vec<(Job, CaptionOutcome)> {
        self.connected = false;
        if refused {
            self.pause(now, epoch);
        }
        let alone = self.in_flight.len() == 1 && self.abandoned.is_empty();
        let mut landed = Vec::new();
        for (_, mut job) in std::mem::take(&mut self.in_flight) {
            if alone {
                job.deaths += 1;
            }
            if job.deaths >= MAX_ENGINE_DEATHS {
                let failure = Failure::engine_killer(job.deaths);
                landed.push((job, CaptionOutcome::Failed(failure)));
            } else {
                self.suspects.push_back(job);
            }
        }
        landed
    }

    fn pause(&mut self, now: Instant, epoch: u64) {
        let pause = AGAIN.saturating_mul(1 << self.failures.min(DOUBLINGS));
        self.failures += 1;
        self.pause = Some((now + pause, epoch));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Row;

    const LIMITS: Limits = Limits { ready: 5, most_ready: 50, window: 9, ..Limits::DEFAULT };

    fn jobs(host: &str, count: usize) -> Vec<Job> {
        let job = |n: usize| Job {
            row: Row { relation: 1, key: format!("{host}{n}") },
            page: None,
            url: format!("https://{host}/{n}.jpg"),
            cells: vec![0],
            ours: serde_json::Map::new(),
            again: false,
            seen: None,
            known: None,
            attempts: 0,
            deaths: 0,
        };
        (0..count).map(job).collect()
    }

    /// Sends what may be sent: the hosts, in order.
    fn fill(flight: &mut Flight) -> Vec<String> {
        let mut sent = Vec::new();
        while flight.in_flight.len() < LIMITS.window {
            let Some(job) = flight.next_ready(&LIMITS) else { break };
            sent.push(job.host().to_owned());
            flight.sent(sent.len() as u64 + 100 * flight.in_flight.len() as u64, job);
        }
        sent
    }

    #[test]
    fn a_slow_host_at_the_head_leaves_places_for_the_others_and_more_is_read_behind_it() {
        let mut flight = Flight::default();
        flight.add(jobs("slow", 20));
        assert!(!flight.wants_jobs(&LIMITS), "nobody has its places yet");
        assert_eq!(fill(&mut flight), ["slow"; 6]);
        assert!(flight.wants_jobs(&LIMITS), "what waits cannot be sent");
        flight.add(jobs("fast", 3));
        assert_eq!(fill(&mut flight), ["fast"; 2], "and one place for who comes next");
        flight.add(jobs("slow", 40));
        assert!(!flight.wants_jobs(&LIMITS), "it has its bound");
    }

    #[test]
    fn several_slow_hosts_leave_places_too() {
        let mut flight = Flight::default();
        for host in ["slow", "slower", "slowest"] {
            flight.add(jobs(host, 15));
        }
        let sent = fill(&mut flight);
        assert!(sent.len() < LIMITS.window, "{sent:?}");
        assert!(flight.wants_jobs(&LIMITS));
        flight.add(jobs("fast", 1));
        assert_eq!(fill(&mut flight), ["fast"]);
    }

    #[test]
    fn rows_of_hosts_that_hardly_answer_are_put_off_before_they_hide_what_is_behind_them_and_those_of_a_quick_one_never()
     {
        for quick in [false, true] {
            let (mut flight, start) = (Flight::default(), Instant::now());
            flight.add(jobs("only", 60));
            fill(&mut flight);
            assert!(flight.surplus(&LIMITS, start).is_empty());
            if quick {
                flight.answers += (SLOW * STUCK.as_secs_f64()) as u64;
            }
            let ready = flight.ready();
            let surplus = flight.surplus(&LIMITS, start + STUCK);
            assert_eq!(
                (surplus.len(), flight.ready()),
                if quick { (0, ready) } else { (ready / 2, ready / 2) },
                "quick: {quick}"
            );
            assert!(flight.surplus(&LIMITS, start + STUCK).is_empty(), "there is room to read on");
            flight.add(jobs("only", 60));
            assert_eq!(
                flight.surplus(&LIMITS, start + STUCK).is_empty(),
                quick,
                "what is known to be slow is not waited for again"
            );
        }
    }

    #[test]
    fn hosts_take_turns_in_the_order_they_came() {
        let mut flight = Flight::default();
        for host in ["a", "a", "b", "a", "b", "c"] {
            flight.add(jobs(host, 1));
        }
        assert_eq!(fill(&mut flight), ["a", "b", "c", "a", "b", "a"]);
    }

    #[test]
    fn a_host_is_what_the_url_says() {
        let host = |url: &str| Job { url: url.into(), ..jobs("x", 1).remove(0) }.host().to_owned();
        assert_eq!(host("https://cdn.example:8443/a/b.jpg?c"), "cdn.example:8443");
        assert_eq!(host("http://cdn.example?size=2"), "cdn.example");
        assert_eq!(host("not a url"), "");
    }
}
