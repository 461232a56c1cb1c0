//! Answers every job whose deadline has passed. One thread; the stages then find the job closed and
//! drop its work.

use crate::answer::JobAnswer;
use crate::job::Job;
use parking_lot::{Condvar, Mutex};
use pg_caption_wire::Failure;
use std::collections::BinaryHeap;
use std::sync::{Arc, Weak};
use std::time::Instant;

/// Entries of answered jobs are removed when the heap has grown to twice its size after the last
/// removal, at least this.
const SWEEP: usize = 1024;

struct Entry(Instant, Weak<Job>);

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl Eq for Entry {}
impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Entry {
    /// Earliest first out of a max-heap.
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        other.0.cmp(&self.0)
    }
}

#[derive(Default)]
struct Heap {
    entries: BinaryHeap<Entry>,
    sweep_at: usize,
}

/// The deadlines of all open jobs.
#[derive(Default)]
pub struct JobDeadlines {
    heap: Mutex<Heap>,
    earlier: Condvar,
}

impl JobDeadlines {
    /// Adds a job.
    pub fn watch(&self, job: &Arc<Job>) {
        let mut heap = self.heap.lock();
        let deadline = job.deadline();
        let first = heap.entries.peek().is_none_or(|e| deadline < e.0);
        heap.entries.push(Entry(deadline, Arc::downgrade(job)));
        if heap.entries.len() > heap.sweep_at.max(SWEEP) {
            heap.entries.retain(|e| e.1.upgrade().is_some_and(|j| j.is_open()));
            heap.sweep_at = heap.entries.len() * 2;
        }
        drop(heap);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Open jobs whose deadline is at or before `now`, and the next deadline.
    fn due(&self, now: Instant) -> (Vec<Arc<Job>>, Option<Instant>) {
        let mut heap = self.heap.lock();
        let mut due = Vec::new();
        while heap.entries.peek().is_some_and(|e| e.0 <= now) {
            let entry = heap.entries.pop().expect("peeked");
            due.extend(entry.1.upgrade().filter(|j| j.is_open()));
        }
        (due, heap.entries.peek().map(|e| e.0))
    }

    /// The thread: never returns. `failure` makes the answer; `None`: the deadline has moved.
    pub fn run(&self, failure: impl Fn(&Job, Instant) -> Option<Failure>) -> ! {
        loop {
            let now = Instant::now();
            let (due, _) = self.due(now);
            for job in due {
                match failure(&job, now) {
                    Some(failure) => drop(job.answer(JobAnswer::Failed(failure))),
                    None => self.watch(&job),
                }
            }
            let mut heap = self.heap.lock();
            // A job added between the check above and this lock is seen here.
            match heap.entries.peek().map(|e| e.0) {
                Some(at) => {
                    let pause = at.saturating_duration_since(Instant::now());
                    self.earlier.wait_for(&mut heap, pause);
                }
                None => self.earlier.wait(&mut heap),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::job;
    use pg_caption_wire::ClientRole;
    use std::time::Duration;

    #[test]
    fn open_jobs_fall_due_in_order() {
        let (deadlines, now) = (JobDeadlines::default(), Instant::now());
        let jobs: Vec<_> = [30, 10, 20]
            .map(|ms| Arc::new(job(1, ClientRole::Call, Duration::from_millis(ms), now).0))
            .into();
        jobs.iter().for_each(|j| deadlines.watch(j));
        assert!(deadlines.due(now).0.is_empty());
        jobs[1].answer(JobAnswer::Unchanged);
        let (due, next) = deadlines.due(now + Duration::from_millis(20));
        assert_eq!(due.len(), 1);
        assert!(Arc::ptr_eq(&due[0], &jobs[2]));
        assert_eq!(next, Some(now + Duration::from_millis(30)));
    }

    #[test]
    fn a_time_limit_begins_with_the_turn() {
        let (deadlines, timeout, now) =
            (JobDeadlines::default(), Duration::from_secs(9), Instant::now());
        let (waiting, _answers) = job(1, ClientRole::Call, timeout, now);
        let waiting = Arc::new(waiting.with_turn());
        deadlines.watch(&waiting);
        let due = deadlines.due(now + 2 * timeout).0;
        assert_eq!(due.len(), 1);
        assert!(due[0].deadline() >= now + timeout, "its time has not begun");
        waiting.begin();
        let deadline = waiting.deadline();
        std::thread::sleep(Duration::from_millis(2));
        waiting.begin();
        assert_eq!(waiting.deadline(), deadline);
    }

    #[test]
    fn answered_jobs_do_not_accumulate() {
        let (deadlines, now) = (JobDeadlines::default(), Instant::now());
        for _ in 0..10 * SWEEP {
            deadlines.watch(&Arc::new(job(1, ClientRole::Call, Duration::from_secs(60), now).0));
        }
        assert!(deadlines.heap.lock().entries.len() <= 2 * SWEEP);
    }
}
