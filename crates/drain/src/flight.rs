//! What is ready for the engine and what it has: what is sent next, who is to blame when it dies, and when it is left alone for a while.

use crate::{Job, Watched};
use pg_caption_wire::{Class, Failure, Outcome, Request};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

/// Pause before a missing engine is asked again; doubled each time that one cannot serve.
pub const AGAIN: Duration = Duration::from_secs(1);
/// How often it is doubled.
const DOUBLINGS: u32 = 5;
/// Engines that a picture may cost, in flight alone, before it is taken for the reason.
const MAX_DEATHS: u32 = 3;

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
}

impl Flight {
    /// Whether more jobs are to be read, with so many at most waiting to be sent.
    pub fn wants_jobs(&self, ready: usize) -> bool {
        self.ready.len() < ready && self.suspects.is_empty()
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

    /// The next job to send, and its request; `None`: nothing may be sent now. Only where the connection has room.
    pub fn next(&mut self, tables: &[Watched]) -> Option<(Job, Request)> {
        loop {
            let job = if self.suspects.is_empty() {
                self.ready.pop_front()
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

    /// An answer arrived: what has landed. `None`: nobody waits for it any more, or the engine cannot serve and the connection is of no use.
    pub fn answered(&mut self, id: u64, outcome: Outcome, now: Instant, epoch: u64) -> Option<(Job, Outcome)> {
        self.abandoned.remove(&id);
        let job = self.in_flight.remove(&id)?;
        match outcome {
            Outcome::Failed(failure) if failure.class == Class::Engine => {
                // Nothing is charged, everything waits for it. The next try connects anew: by then another engine may listen.
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

    /// The engine went away, perhaps with requests in flight, or `refused` us; the jobs that it died of.
    pub fn lost(&mut self, refused: bool, now: Instant, epoch: u64) -> Vec<(Job, Outcome)> {
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
            if job.deaths >= MAX_DEATHS {
                let failure = Failure::new(Class::Reject, "engine_killer", "the caption engine died each time it worked on this picture")
                    .detail(format!("{MAX_DEATHS} engines were lost with nothing else in flight."));
                landed.push((job, Outcome::Failed(failure)));
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
