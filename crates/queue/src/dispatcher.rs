//! Jobs on their way to the engine and back: what is sent next, which job is the cause when an
//! engine dies, and when no engine is asked for a while.

use crate::limits::WorkerLimits;
use crate::{EngineLoss, EngineTrial, RequestWork, RowJob, WatchedTable};
use pg_caption_backoff::Backoff;
use pg_caption_wire::{CaptionOutcome, CaptionRequest, Failure, FailureClass};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

/// Pauses before the next connection, after a missing engine or one that cannot serve.
pub const RECONNECT: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(32));
/// How long slow hosts may occupy everything that was read before half of their rows are deferred …
const STUCK: Duration = Duration::from_secs(10);
/// … unless the engine answers this many requests per second.
const SLOW: f64 = 2.0;

/// Jobs that are ready, and jobs that the engine has.
#[derive(Debug, Default)]
pub struct Dispatcher {
    ready: VecDeque<RowJob>,
    /// Jobs whose pictures ran when an engine was lost.
    suspects: VecDeque<RowJob>,
    sent: BTreeMap<u64, SentJob>,
    connected: bool,
    /// The engine cannot serve: nothing more is sent, and the connection ends with the last answer.
    closing: bool,
    /// No request before this time unless the engine's epoch changes.
    pause: Option<(Instant, u64)>,
    /// Refusals of the engine to serve, in a row.
    failures: u32,
    /// Number of answers.
    answers: u64,
    /// Since when nothing more could be sent or read, and the answers until then.
    full: Option<(Instant, u64)>,
}

/// A job that the engine has.
#[derive(Debug)]
struct SentJob {
    job: RowJob,
    work: RequestWork,
}

impl Dispatcher {
    /// Whether more jobs should be read.
    pub fn wants_jobs(&self, limits: &WorkerLimits) -> bool {
        if self.ready.len() >= limits.max_ready {
            return false;
        }
        self.ready.len() < limits.ready
            || self.sendable(limits).take(limits.ready).count() < limits.ready
    }

    /// Jobs of hosts that may use another place. Each host may use twice as many places as are free
    /// (dynamic thresholds, Choudhury and Hahne 1998): one host gets two thirds of the window, two
    /// hosts two fifths each, so that another host always finds a place.
    fn sendable(&self, limits: &WorkerLimits) -> impl Iterator<Item = &RowJob> {
        let (places, max) = (self.places(), self.max_places(limits));
        self.ready.iter().filter(move |job| places.get(job.host()).is_none_or(|taken| *taken < max))
    }

    /// Places that one host may use.
    fn max_places(&self, limits: &WorkerLimits) -> usize {
        2 * limits.window.saturating_sub(self.sent.len())
    }

    /// Removes half of the ready jobs if all hosts use all their places and hardly answer: their
    /// rows would keep the rows behind them from being read.
    pub fn surplus(&mut self, limits: &WorkerLimits, now: Instant) -> Vec<RowJob> {
        if self.ready.len() < limits.ready {
            self.full = None;
        }
        if self.ready.len() < limits.max_ready || self.sendable(limits).next().is_some() {
            return Vec::new();
        }
        let (since, answers) = *self.full.get_or_insert((now, self.answers));
        let waited = now.saturating_duration_since(since);
        if waited < STUCK {
            return Vec::new();
        }
        if (self.answers - answers) as f64 >= SLOW * waited.as_secs_f64() {
            // Measure again from here: the hosts may become slow.
            self.full = Some((now, self.answers));
            return Vec::new();
        }
        self.ready.split_off(self.ready.len() / 2).into()
    }

    /// Number of sent jobs of each host.
    fn places(&self) -> HashMap<&str, usize> {
        let mut places = HashMap::new();
        for sent in self.sent.values() {
            *places.entry(sent.job.host()).or_default() += 1;
        }
        places
    }

    /// Takes the first job whose host has the fewest jobs in the engine: a slow host occupies its
    /// own places only.
    fn next_ready(&mut self, limits: &WorkerLimits) -> Option<RowJob> {
        let places = self.places();
        let taken = |job: &RowJob| places.get(job.host()).copied().unwrap_or(0);
        let (at, taken) =
            self.ready.iter().map(taken).enumerate().min_by_key(|(_, taken)| *taken)?;
        if taken >= self.max_places(limits) { None } else { self.ready.remove(at) }
    }

    /// Takes the next suspect, if one may be sent.
    fn next_suspect(&mut self) -> Option<RowJob> {
        let sent = self.sent.values().filter(|sent| sent.job.trial.is_suspect()).count();
        EngineTrial::may_send(self.suspects.len(), sent).then(|| self.suspects.pop_front())?
    }

    /// Adds jobs.
    pub fn add(&mut self, jobs: Vec<RowJob>) {
        self.ready.extend(jobs);
    }

    /// Whether there are no jobs.
    pub fn is_empty(&self) -> bool {
        self.ready.is_empty() && self.suspects.is_empty() && self.sent.is_empty()
    }

    /// Number of jobs to be sent.
    pub fn ready(&self) -> usize {
        self.ready.len() + self.suspects.len()
    }

    /// Jobs that the engine has.
    pub fn in_flight(&self) -> impl ExactSizeIterator<Item = &RowJob> {
        self.sent.values().map(|sent| &sent.job)
    }

    /// Whether there is a connection.
    pub fn is_connected(&self) -> bool {
        self.connected
    }

    /// Drops the jobs for which `stays` is false.
    pub fn retain(&mut self, stays: impl Fn(&RowJob) -> bool) {
        self.ready.retain(&stays);
        self.suspects.retain(&stays);
        self.sent.retain(|_, sent| stays(&sent.job));
    }

    /// Whether a request should be sent now. `epoch` counts the engine's changes.
    pub fn may_send(&mut self, now: Instant, epoch: u64) -> bool {
        // Jobs in flight may have been dropped.
        self.close_if_answered();
        if self.closing || self.ready.is_empty() && self.suspects.is_empty() {
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

    /// An attempt to connect succeeded or failed.
    pub fn connect(&mut self, succeeded: bool, now: Instant, epoch: u64) {
        (self.connected, self.closing) = (succeeded, false);
        if !succeeded {
            self.pause = Some((now + RECONNECT.pause(0), epoch));
        }
    }

    /// The next job to send, and its request; `None`: none may be sent now. Call it only while the
    /// connection has room.
    pub fn next(
        &mut self,
        tables: &[WatchedTable],
        limits: &WorkerLimits,
    ) -> Option<(RowJob, CaptionRequest)> {
        loop {
            let job = self.next_suspect().or_else(|| self.next_ready(limits))?;
            if let Some(table) = tables.iter().find(|table| table.oid == job.row.relation) {
                let request = job.request(table);
                return Some((job, request));
            }
        }
    }

    /// A job was sent under this id.
    pub fn sent(&mut self, id: u64, job: RowJob) {
        self.sent.insert(id, SentJob { job, work: RequestWork::default() });
    }

    /// The engine reports that the picture of a request runs, and whether nothing else does.
    pub fn running(&mut self, id: u64, alone: bool) {
        if let Some(sent) = self.sent.get_mut(&id) {
            sent.work.report(alone);
        }
    }

    /// Takes an answer. Returns the job with it; `None`: the job was dropped, or the engine cannot
    /// serve it. The connection is then closed after the answers to the other jobs.
    pub fn answered(
        &mut self,
        id: u64,
        outcome: CaptionOutcome,
        now: Instant,
        epoch: u64,
    ) -> Option<(RowJob, CaptionOutcome)> {
        self.answers += 1;
        let SentJob { job, .. } = self.sent.remove(&id)?;
        match outcome {
            CaptionOutcome::Failed(failure) if failure.class == FailureClass::Engine => {
                // No attempt is charged; all jobs wait. Those that the engine has are answered
                // first: their captions may be paid already. The next attempt connects again,
                // perhaps to another engine.
                self.put_back(vec![job]);
                if !std::mem::replace(&mut self.closing, true) {
                    self.pause(now, epoch);
                }
                self.close_if_answered();
                None
            }
            outcome => {
                if !self.closing {
                    self.failures = 0;
                }
                self.close_if_answered();
                Some((job, outcome))
            }
        }
    }

    /// Ends a connection on which nothing more is to be sent, once nothing is in flight.
    fn close_if_answered(&mut self) {
        if self.closing && self.sent.is_empty() {
            (self.connected, self.closing) = (false, false);
        }
    }

    /// The engine has closed the connection and owes no answer.
    pub fn spent(&mut self) {
        (self.connected, self.closing) = (false, false);
    }

    /// The engine died, perhaps with requests in flight, or `refused` the connection. Returns the
    /// jobs that are rejected as the cause.
    pub fn lost(
        &mut self,
        refused: bool,
        now: Instant,
        epoch: u64,
    ) -> Vec<(RowJob, CaptionOutcome)> {
        (self.connected, self.closing) = (false, false);
        if refused {
            self.pause(now, epoch);
        }
        let (mut rejected, mut others) = (Vec::new(), Vec::new());
        for SentJob { mut job, work } in std::mem::take(&mut self.sent).into_values() {
            match job.trial.lost(work) {
                EngineLoss::Resend | EngineLoss::Suspect => others.push(job),
                EngineLoss::Reject(failure) => {
                    rejected.push((job, CaptionOutcome::Failed(failure)));
                }
            }
        }
        self.put_back(others);
        rejected
    }

    /// Jobs that were sent are to be sent again, before all others.
    fn put_back(&mut self, jobs: Vec<RowJob>) {
        for job in jobs.into_iter().rev() {
            let queue = if job.trial.is_suspect() { &mut self.suspects } else { &mut self.ready };
            queue.push_front(job);
        }
    }

    fn pause(&mut self, now: Instant, epoch: u64) {
        let pause = RECONNECT.pause(self.failures);
        self.failures += 1;
        self.pause = Some((now + pause, epoch));
    }
}

/// The answer that defers a job of a slow host for the sake of the rows behind it.
pub fn slow_host(job: &RowJob, pause: Duration) -> CaptionOutcome {
    // The host of a signed URL is not known before it is signed.
    let host = Some(job.host()).filter(|host| !host.is_empty());
    let named = host.map_or("the host".into(), |host| format!("host {host}"));
    let mut failure = Failure::new(
        FailureClass::Host,
        "host_busy",
        format!("{named} answers slowly and many rows wait for it"),
    )
    .hint("No action is needed. See \"pg_caption.host_concurrency\".");
    failure.host = host.map(str::to_owned);
    failure.retry_after_ms = Some(pause.as_millis() as u64);
    CaptionOutcome::Failed(failure)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RowKey;

    const LIMITS: WorkerLimits =
        WorkerLimits { ready: 5, max_ready: 50, window: 9, ..WorkerLimits::DEFAULT };

    fn jobs(host: &str, count: usize) -> Vec<RowJob> {
        let job = |n: usize| RowJob {
            row: RowKey { relation: 1, key: format!("{host}{n}") },
            page: None,
            url: format!("https://{host}/{n}.jpg"),
            resolved: None,
            fills: vec![0],
            rendered: Vec::new(),
            context: Vec::new(),
            ledger: serde_json::Map::new(),
            recaption: false,
            validators: None,
            known: None,
            earlier: None,
            reuse: Default::default(),
            refused: None,
            attempts: 0,
            trial: EngineTrial::default(),
        };
        (0..count).map(job).collect()
    }

    /// Sends what may be sent. Returns the hosts, in order.
    fn fill(dispatcher: &mut Dispatcher) -> Vec<String> {
        let mut hosts = Vec::new();
        while dispatcher.sent.len() < LIMITS.window {
            let Some(job) = dispatcher.next_ready(&LIMITS) else { break };
            hosts.push(job.host().to_owned());
            dispatcher.sent(hosts.len() as u64 + 100 * dispatcher.sent.len() as u64, job);
        }
        hosts
    }

    #[test]
    fn slow_host_leaves_places_for_others() {
        let mut dispatcher = Dispatcher::default();
        dispatcher.add(jobs("slow", 20));
        assert!(!dispatcher.wants_jobs(&LIMITS), "no place is used yet");
        assert_eq!(fill(&mut dispatcher), ["slow"; 6]);
        assert!(dispatcher.wants_jobs(&LIMITS), "the ready jobs cannot be sent");
        dispatcher.add(jobs("fast", 3));
        assert_eq!(fill(&mut dispatcher), ["fast"; 2], "one place stays free for another host");
        dispatcher.add(jobs("slow", 40));
        assert!(!dispatcher.wants_jobs(&LIMITS), "the bound is reached");
    }

    #[test]
    fn several_slow_hosts_leave_places_too() {
        let mut dispatcher = Dispatcher::default();
        for host in ["slow", "slower", "slowest"] {
            dispatcher.add(jobs(host, 15));
        }
        let sent = fill(&mut dispatcher);
        assert!(sent.len() < LIMITS.window, "{sent:?}");
        assert!(dispatcher.wants_jobs(&LIMITS));
        dispatcher.add(jobs("fast", 1));
        assert_eq!(fill(&mut dispatcher), ["fast"]);
    }

    #[test]
    fn only_rows_of_slow_hosts_are_deferred() {
        for quick in [false, true] {
            let (mut dispatcher, start) = (Dispatcher::default(), Instant::now());
            dispatcher.add(jobs("only", 60));
            fill(&mut dispatcher);
            assert!(dispatcher.surplus(&LIMITS, start).is_empty());
            if quick {
                dispatcher.answers += (SLOW * STUCK.as_secs_f64()) as u64;
            }
            let ready = dispatcher.ready();
            let surplus = dispatcher.surplus(&LIMITS, start + STUCK);
            assert_eq!(
                (surplus.len(), dispatcher.ready()),
                if quick { (0, ready) } else { (ready / 2, ready / 2) },
                "quick: {quick}"
            );
            let again = dispatcher.surplus(&LIMITS, start + STUCK);
            assert!(again.is_empty(), "there is room to read more");
            dispatcher.add(jobs("only", 60));
            assert_eq!(
                dispatcher.surplus(&LIMITS, start + STUCK).is_empty(),
                quick,
                "a host that is known to be slow gets no second wait"
            );
        }
    }

    #[test]
    fn hosts_alternate_in_order_of_arrival() {
        let mut dispatcher = Dispatcher::default();
        for host in ["a", "a", "b", "a", "b", "c"] {
            dispatcher.add(jobs(host, 1));
        }
        assert_eq!(fill(&mut dispatcher), ["a", "b", "c", "a", "b", "a"]);
    }

    /// All hosts of a dispatcher's jobs in flight.
    fn in_flight(dispatcher: &Dispatcher) -> Vec<&str> {
        dispatcher.in_flight().map(RowJob::host).collect()
    }

    // Two of five rows exceeded the daily limit of a model server. The captions of the other three
    // were thrown away, and requested again.
    #[test]
    fn answers_in_flight_outlast_an_engine_s_refusal() {
        let (mut dispatcher, now) = (Dispatcher::default(), Instant::now());
        dispatcher.connect(true, now, 1);
        dispatcher.add(jobs("a", 3));
        for id in 1..=2 {
            let job = dispatcher.next_ready(&LIMITS).unwrap();
            dispatcher.sent(id, job);
        }
        let refusal = Failure::new(FailureClass::Engine, "daily_limit", "the limit is reached");
        let refused = CaptionOutcome::Failed(refusal);
        assert!(dispatcher.answered(1, refused.clone(), now, 1).is_none());
        assert!(dispatcher.is_connected() && !dispatcher.may_send(now, 1));
        assert!(dispatcher.answered(2, CaptionOutcome::Unchanged, now, 1).is_some());
        assert!(!dispatcher.is_connected(), "the last answer ends the connection");
        assert!(!dispatcher.may_send(now, 1), "the pause goes on");
        assert!(dispatcher.may_send(now, 2), "another engine may serve");
        assert_eq!(dispatcher.ready(), 2);
        // A dropped job is not waited for.
        dispatcher.connect(true, now, 2);
        for id in 3..=4 {
            let job = dispatcher.next_ready(&LIMITS).unwrap();
            dispatcher.sent(id, job);
        }
        dispatcher.answered(3, refused, now, 2);
        dispatcher.retain(|_| false);
        dispatcher.add(jobs("b", 1));
        assert!(dispatcher.may_send(now, 3));
    }

    // 43 rows of a slow host were in flight when an engine was killed. They were sent again one by
    // one, and a row of a fast host waited ten minutes for them.
    #[test]
    fn an_engine_killed_while_it_fetches_delays_no_row() {
        let (mut dispatcher, now) = (Dispatcher::default(), Instant::now());
        dispatcher.add(jobs("slow", 6));
        assert_eq!(fill(&mut dispatcher), ["slow"; 6]);
        assert!(dispatcher.lost(false, now, 1).is_empty());
        dispatcher.add(jobs("fast", 1));
        assert!(dispatcher.may_send(now, 1));
        assert!(fill(&mut dispatcher).contains(&"fast".to_owned()));
        assert!(in_flight(&dispatcher).contains(&"slow"));
        assert!(dispatcher.sent.values().all(|sent| !sent.job.trial.is_suspect()));
    }

    #[test]
    fn suspects_are_sent_among_ordinary_rows() {
        let (mut dispatcher, now) = (Dispatcher::default(), Instant::now());
        dispatcher.add(jobs("a", 4));
        for id in 1..=4 {
            let job = dispatcher.next_ready(&LIMITS).unwrap();
            dispatcher.sent(id, job);
            dispatcher.running(id, false);
        }
        assert!(dispatcher.lost(false, now, 1).is_empty());
        dispatcher.add(jobs("b", 2));
        let mut sent = Vec::new();
        while let Some(job) = dispatcher.next_suspect().or_else(|| dispatcher.next_ready(&LIMITS)) {
            sent.push(job.host().to_owned());
            dispatcher.sent(sent.len() as u64 + 10, job);
        }
        assert_eq!(sent, ["a", "a", "b", "b"], "half of the suspects, and all others");
        assert!(dispatcher.wants_jobs(&LIMITS), "reading goes on");
    }

    #[test]
    fn host_is_taken_from_the_url() {
        let host =
            |url: &str| RowJob { url: url.into(), ..jobs("x", 1).remove(0) }.host().to_owned();
        assert_eq!(host("https://cdn.example:8443/a/b.jpg?c"), "cdn.example:8443");
        assert_eq!(host("http://cdn.example?size=2"), "cdn.example");
        assert_eq!(host("not a url"), "");
    }
}
