//! The pictures in decoder or model: only they can make the engine die.
//!
//! A client is informed before its picture runs, so that after a death it knows whom to suspect. A
//! picture that is already suspected runs isolated: it waits until no other picture runs, and the
//! next ones wait for it. Pictures enter in the order of their arrival here, so that neither kind
//! starves the other. Entered by decode threads, left when the last caption is done.

use crate::job::Job;
use crate::picture::Picture;
use parking_lot::{Condvar, Mutex};
use std::collections::BTreeMap;
use std::sync::{Arc, Weak};
use std::time::Duration;

/// How often a waiting picture is checked for callers that have left.
const CHECK_INTERVAL: Duration = Duration::from_millis(100);

/// All running pictures, and those that wait to run.
#[derive(Default)]
pub struct RunningPictures {
    state: Mutex<RunningState>,
    changed: Condvar,
}

#[derive(Default)]
struct RunningState {
    next: u64,
    running: BTreeMap<u64, RunningEntry>,
    /// Pictures that wait, in the order of arrival, and whether they run isolated.
    waiting: BTreeMap<u64, bool>,
}

struct RunningEntry {
    jobs: Vec<Weak<Job>>,
    /// Nothing else has run since.
    alone: bool,
    isolated: bool,
}

/// A running picture. It stops running when this is dropped.
pub struct RunningPicture {
    all: Arc<RunningPictures>,
    number: u64,
}

impl RunningPictures {
    /// Waits until the picture may run, and informs the clients of its jobs. `None`: all of them
    /// have left.
    pub fn enter(self: &Arc<Self>, picture: &Picture) -> Option<Arc<RunningPicture>> {
        let isolated = picture.any(Job::is_isolated);
        let mut state = self.state.lock();
        let number = state.number();
        state.waiting.insert(number, isolated);
        let mut is_wanted = picture.is_wanted();
        while is_wanted && !state.may_run(number, isolated) {
            self.changed.wait_for(&mut state, CHECK_INTERVAL);
            is_wanted = picture.is_wanted();
        }
        state.waiting.remove(&number);
        if is_wanted {
            state.add(number, picture.jobs(), isolated);
        }
        drop(state);
        self.changed.notify_all();
        is_wanted.then(|| Arc::new(RunningPicture { all: self.clone(), number }))
    }

    /// Further captions of a picture that was encoded before: they run without waiting, because a
    /// thread that reads messages must not wait.
    pub fn enter_now(self: &Arc<Self>, job: &Arc<Job>) -> Arc<RunningPicture> {
        let mut state = self.state.lock();
        let number = state.number();
        state.add(number, vec![job.clone()], false);
        drop(state);
        Arc::new(RunningPicture { all: self.clone(), number })
    }
}

impl RunningState {
    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn may_run(&self, number: u64, isolated: bool) -> bool {
        let mut earlier = self.waiting.range(..number).map(|(_, isolated)| *isolated);
        if isolated {
            self.running.is_empty() && earlier.next().is_none()
        } else {
            !self.running.values().any(|other| other.isolated) && !earlier.any(|isolated| isolated)
        }
    }

    /// The clients are informed under the lock: before the work begins, and in order.
    fn add(&mut self, number: u64, jobs: Vec<Arc<Job>>, isolated: bool) {
        for other in self.running.values_mut() {
            if std::mem::replace(&mut other.alone, false) {
                let jobs = other.jobs.iter().filter_map(Weak::upgrade);
                jobs.for_each(|job| job.report_running(false));
            }
        }
        let alone = self.running.is_empty();
        jobs.iter().for_each(|job| job.report_running(alone));
        let jobs = jobs.iter().map(Arc::downgrade).collect();
        self.running.insert(number, RunningEntry { jobs, alone, isolated });
    }
}

impl RunningPicture {
    /// A job has joined the picture: its client is informed, too.
    pub fn join(&self, job: &Arc<Job>) {
        let mut state = self.all.state.lock();
        let Some(entry) = state.running.get_mut(&self.number) else { return };
        let is_same = |known: &Weak<Job>| std::ptr::eq(known.as_ptr(), Arc::as_ptr(job));
        if !entry.jobs.iter().any(is_same) {
            job.report_running(entry.alone);
            entry.jobs.push(Arc::downgrade(job));
        }
    }
}

impl Drop for RunningPicture {
    fn drop(&mut self) {
        let mut state = self.all.state.lock();
        // The next picture may kill the engine before the answer of this one has arrived: the
        // client must not take it for one that ran alone. Informed under the lock, as above.
        if let Some(entry) = state.running.remove(&self.number).filter(|entry| entry.isolated) {
            entry.jobs.iter().filter_map(Weak::upgrade).for_each(|job| job.report_running(false));
        }
        drop(state);
        self.all.changed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::job::tests::job;
    use pg_caption_wire::ClientRole;
    use std::sync::mpsc::{Receiver, channel};
    use std::thread;
    use std::time::Instant;

    struct Waiting {
        job: Arc<Job>,
        picture: Arc<Picture>,
        reports: Receiver<bool>,
    }

    /// A picture with one job, and what its client is sent.
    fn waiting(isolated: bool) -> Waiting {
        let (send, reports) = channel();
        let (job, _) = job(1, ClientRole::Call, Duration::from_secs(60), Instant::now());
        let job = Arc::new(job.reporting(isolated, move |alone| {
            let _ = send.send(alone);
        }));
        Waiting { picture: Picture::new(&job), job, reports }
    }

    fn reported(of: &Waiting) -> Vec<bool> {
        of.reports.try_iter().collect()
    }

    #[test]
    fn company_is_reported_to_both_clients() {
        let (all, first, second, third) =
            (Arc::<RunningPictures>::default(), waiting(false), waiting(false), waiting(false));
        let one = all.enter(&first.picture).unwrap();
        assert_eq!(reported(&first), [true]);
        let two = all.enter(&second.picture).unwrap();
        assert_eq!((reported(&first), reported(&second)), (vec![false], vec![false]));
        drop((one, two));
        let _three = all.enter(&third.picture).unwrap();
        assert_eq!(reported(&third), [true]);
        assert_eq!((reported(&first), reported(&second)), (vec![], vec![]));
    }

    #[test]
    fn the_end_of_an_isolated_picture_is_reported() {
        let (all, isolated, next) =
            (Arc::<RunningPictures>::default(), waiting(true), waiting(false));
        drop(all.enter(&isolated.picture).unwrap());
        let _running = all.enter(&next.picture).unwrap();
        assert_eq!((reported(&isolated), reported(&next)), (vec![true, false], vec![true]));
    }

    #[test]
    fn a_joining_job_is_informed_once() {
        let (all, first, other) =
            (Arc::<RunningPictures>::default(), waiting(false), waiting(false));
        let running = all.enter(&first.picture).unwrap();
        for _ in 0..2 {
            running.join(&other.job);
            running.join(&first.job);
        }
        assert_eq!((reported(&first), reported(&other)), (vec![true], vec![true]));
    }

    #[test]
    fn an_isolated_picture_runs_alone() {
        let all = Arc::<RunningPictures>::default();
        let first = waiting(false);
        let running = all.enter(&first.picture).unwrap();
        let (entered, order) = channel();
        let mut threads = Vec::new();
        for isolated in [true, false, true, false] {
            let (all, entered) = (all.clone(), entered.clone());
            let before = all.state.lock().waiting.len();
            let each = all.clone();
            threads.push(thread::spawn(move || {
                let of = waiting(isolated);
                let running = each.enter(&of.picture).unwrap();
                let now: Vec<bool> =
                    each.state.lock().running.values().map(|entry| entry.isolated).collect();
                entered.send((isolated, now.len() == 1 || !now.contains(&true))).unwrap();
                drop(running);
            }));
            while all.state.lock().waiting.len() == before {
                thread::yield_now();
            }
        }
        assert!(order.try_recv().is_err(), "the first isolated one waits, the others wait for it");
        drop(running);
        threads.into_iter().for_each(|thread| thread.join().unwrap());
        let order: Vec<_> = order.try_iter().collect();
        assert_eq!(order, [(true, true), (false, true), (true, true), (false, true)]);
    }

    #[test]
    fn a_left_caller_ends_the_wait() {
        let (all, first, second) =
            (Arc::<RunningPictures>::default(), waiting(false), waiting(true));
        let _running = all.enter(&first.picture).unwrap();
        thread::scope(|scope| {
            scope.spawn(|| {
                while all.state.lock().waiting.is_empty() {
                    thread::yield_now();
                }
                second.job.cancel();
            });
            assert!(all.enter(&second.picture).is_none());
        });
        assert!(all.enter(&waiting(false).picture).is_some(), "no place is taken");
    }
}
