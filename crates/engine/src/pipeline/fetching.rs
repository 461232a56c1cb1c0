//! The fetch threads: a queued URL whose host admits a request becomes a file in memory. Clients
//! share the threads. They wait neither for a host nor, for longer than a second, for memory: a
//! redirect to a host at its limit, and a file without memory, return to the queue.
//!
//! A call also waits in the queue for the end of a host's pause, if its own time allows. A row of a
//! worker fails: the worker keeps the rows of a paused host itself.

use super::{PictureFile, PicturePipeline, PipelineQueues, RunningFetch, ToDecode, ToFetch};
use crate::answer::JobAnswer;
use crate::catch_panic::catch_panic;
use crate::failures;
use crate::fair_queue::QueueDecision;
use crate::file_memory::{FileClaim, FileMemoryError};
use crate::job::JobStage;
use crate::lookahead::LookaheadPlace;
use crate::metrics::{CpuStage, ms, thread_cpu};
use crate::picture::{Picture, PictureWork};
use crate::request::PictureSource;
use pg_caption_fetch::{
    BodyRoom, FetchClient, FetchError, FetchRequest, FetchResult, FetchStep, Fetcher,
    HostAdmission, HostPermit, RedirectedFetch, RoomError,
};
use pg_caption_wire::{ClientRole, FailureClass};
use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// How often an idle fetch thread checks whether a host admits a request again. The end of a
/// redirected fetch does not notify it.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// A fetch that runs as long may have to give its thread to a client that has none.
const UNDISTURBED: Duration = Duration::from_secs(1);

/// The end of one step of a fetch.
enum FetchOutcome {
    File(PictureFile),
    /// Redirected to another host, whose admission it needs.
    Redirected(Box<RedirectedFetch>),
    /// It starts again: other files needed its memory, whose claim it keeps, or its host asked for
    /// a pause.
    Restarted(Option<FileClaim>),
}

/// The memory of a fetch, and what ends it early.
struct FetchRights {
    claim: Option<FileClaim>,
    displaced: Arc<AtomicBool>,
}

/// The next step of a fetch thread.
enum FetchNext {
    Fetch(PictureWork, HostPermit, Option<Box<RedirectedFetch>>, FetchRights),
    Cooling(PictureWork, String, Instant),
}

/// Whether a picture waits for a host that is paused until then.
fn waits(picture: &Picture, until: Instant) -> bool {
    picture.role == ClientRole::Call && until < picture.deadline()
}

fn client(picture: &Picture) -> FetchClient {
    FetchClient { connection: picture.connection, role: picture.role }
}

impl PipelineQueues {
    /// A fetch has a thread.
    fn started(&mut self, client: FetchClient, displaced: &Arc<AtomicBool>) {
        self.threads.take(client);
        let displaced = displaced.clone();
        self.running.push(RunningFetch { client, since: Instant::now(), displaced });
    }

    /// A fetch has left its thread.
    fn ended(&mut self, displaced: &Arc<AtomicBool>) {
        let at = self.running.iter().position(|fetch| Arc::ptr_eq(&fetch.displaced, displaced));
        if let Some(at) = at {
            let fetch = self.running.swap_remove(at);
            self.threads.give_back(fetch.client);
        }
    }

    /// Sends the oldest fetch of a client back to the queue, unless one is on its way.
    fn displace(&mut self, client: FetchClient) {
        let leaving = |fetch: &RunningFetch| fetch.displaced.load(Ordering::Relaxed);
        let own = || self.running.iter().filter(|fetch| fetch.client == client);
        if own().any(leaving) {
            return;
        }
        if let Some(oldest) = own().min_by_key(|fetch| fetch.since)
            && oldest.since.elapsed() >= UNDISTURBED
        {
            oldest.displaced.store(true, Ordering::Relaxed);
        }
    }
}

impl PicturePipeline {
    pub(super) fn fetch_loop(self: &Arc<Self>) {
        let Ok(fetcher) = &self.fetcher else { return };
        loop {
            let (next, place) = self.next_fetch(fetcher);
            match next {
                FetchNext::Cooling(work, host, until) => {
                    drop(place);
                    work.end(JobAnswer::Failed(fetcher.host_cooling(&host, until).failure()));
                }
                FetchNext::Fetch(mut work, permit, redirected, rights) => {
                    let displaced = rights.displaced.clone();
                    let fetched =
                        catch_panic(|| self.fetch(fetcher, &mut work, permit, redirected, rights))
                            .unwrap_or_else(|_| Err(JobAnswer::Failed(failures::crashed("fetch"))));
                    self.queues.lock().ended(&displaced);
                    self.pass_on(work, fetched, place);
                }
            }
        }
    }

    fn pass_on(
        &self,
        work: PictureWork,
        fetched: Result<FetchOutcome, JobAnswer>,
        place: LookaheadPlace,
    ) {
        match fetched {
            Ok(FetchOutcome::Redirected(redirected)) => {
                let host = redirected.host().to_owned();
                self.return_to_queue(work, host, Some(redirected), None);
                drop(place);
            }
            Ok(FetchOutcome::Restarted(claim)) => {
                let PictureSource::Url { url, shown, .. } = &work.picture.source else { return };
                match pg_caption_fetch::host_key(url) {
                    Ok(host) => self.return_to_queue(work, host, None, claim),
                    Err(e) => {
                        let failure = e.showing(shown.as_deref()).failure();
                        work.end(JobAnswer::Failed(failure));
                    }
                }
                drop(place);
            }
            Ok(FetchOutcome::File(file)) => {
                self.queues.lock().fetched.push(ToDecode { work, file, place: Some(place) });
                self.to_decode.notify_one();
            }
            Err(answer) => {
                drop(place);
                work.end(answer);
            }
        }
    }

    /// The fetch waits outside the threads.
    fn return_to_queue(
        &self,
        work: PictureWork,
        host: String,
        redirected: Option<Box<RedirectedFetch>>,
        claim: Option<FileClaim>,
    ) {
        work.picture.set_busy_host(&host);
        let (connection, role) = (work.picture.connection, work.picture.role);
        let item = ToFetch { work, host, redirected, claim };
        self.queues.lock().urls.push(connection, role, item);
    }

    fn next_fetch(self: &Arc<Self>, fetcher: &Fetcher) -> (FetchNext, LookaheadPlace) {
        let mut queues = self.queues.lock();
        loop {
            if queues.ahead < queues.most_ahead && !queues.urls.is_empty() {
                let mut busy: HashSet<String> = HashSet::new();
                let mut admission = None;
                let mut starving = None;
                let PipelineQueues { urls, threads, .. } = &mut *queues;
                let taken = urls.take(|item| {
                    if !item.work.picture.is_wanted() {
                        return QueueDecision::Drop;
                    }
                    let is_busy = busy.contains(&item.host);
                    if is_busy {
                        item.work.picture.set_busy_host(&item.host);
                    }
                    let client = client(&item.work.picture);
                    let is_admitted = threads.admits(client);
                    if !is_busy && !is_admitted {
                        starving = starving.or_else(|| threads.to_displace(client));
                    }
                    if is_busy || !is_admitted {
                        // It could not use the memory: later files may have it.
                        item.claim.iter().for_each(FileClaim::rest);
                        return QueueDecision::Skip;
                    }
                    if item.claim.as_ref().is_some_and(|claim| !claim.try_whole()) {
                        return QueueDecision::Skip;
                    }
                    let admitted = fetcher.admit(&item.host);
                    let is_skipped = match admitted {
                        HostAdmission::Go(_) => false,
                        HostAdmission::Busy => busy.insert(item.host.clone()),
                        HostAdmission::Cooling { until } => waits(&item.work.picture, until),
                    };
                    if is_skipped {
                        item.claim.iter().for_each(FileClaim::release);
                        item.work.picture.set_busy_host(&item.host);
                        return QueueDecision::Skip;
                    }
                    admission = Some(admitted);
                    QueueDecision::Take
                });
                if let (Some(ToFetch { work, host, redirected, claim }), Some(admission)) =
                    (taken, admission)
                {
                    queues.ahead += 1;
                    let displaced = match &claim {
                        Some(claim) => claim.displaced().clone(),
                        None => Arc::default(),
                    };
                    if let HostAdmission::Go(_) = admission {
                        work.picture.begin();
                        queues.started(client(&work.picture), &displaced);
                    }
                    if !queues.urls.is_empty() {
                        self.to_fetch.notify_one();
                    }
                    drop(queues);
                    let next = match admission {
                        HostAdmission::Go(permit) => FetchNext::Fetch(
                            work,
                            permit,
                            redirected,
                            FetchRights { claim, displaced },
                        ),
                        HostAdmission::Cooling { until } => FetchNext::Cooling(work, host, until),
                        HostAdmission::Busy => unreachable!("skipped"),
                    };
                    return (next, LookaheadPlace::new(self.clone()));
                }
                if let Some(greedy) = starving {
                    queues.displace(greedy);
                }
            }
            if queues.urls.is_empty() || queues.ahead >= queues.most_ahead {
                self.to_fetch.wait(&mut queues);
            } else {
                self.to_fetch.wait_for(&mut queues, POLL_INTERVAL);
            }
        }
    }

    fn fetch(
        &self,
        fetcher: &Fetcher,
        work: &mut PictureWork,
        permit: HostPermit,
        redirected: Option<Box<RedirectedFetch>>,
        rights: FetchRights,
    ) -> Result<FetchOutcome, JobAnswer> {
        let (cpu, began) = (thread_cpu(), Instant::now());
        let picture = work.picture.clone();
        let PictureSource::Url { url, known, shown } = &picture.source else {
            return Err(JobAnswer::Failed(failures::lost()));
        };
        picture.set_stage(JobStage::Fetching);
        self.check_resolver_files();
        let deadline = picture.deadline();
        // Another model captions an unchanged picture again.
        let model = self.terms.get().map(|terms| &terms.model.digest);
        let known = known.as_ref().filter(|known| model == Some(&known.model) && !work.needs_file);
        let (etag, last_modified) = known
            .map(|known| (known.etag.as_deref(), known.last_modified.as_deref()))
            .unwrap_or_default();
        let FetchRights { mut claim, displaced } = rights;
        let request = FetchRequest {
            url,
            etag,
            last_modified,
            deadline,
            cancelled: &picture.cancelled,
            displaced: &displaced,
            client: client(&picture),
        };
        let connection = picture.connection;
        let fetched = fetcher.fetch(permit, redirected, &request, &mut |host, room| {
            if !self.files.needs_claim(room.needed) {
                return Ok(());
            }
            let BodyRoom { needed, most } = room;
            let refused = |e| RoomError::Refused(Box::new(failures::no_memory(e, most)));
            let claim = match &mut claim {
                Some(claim) => claim,
                none => {
                    let new = self.files.claim(connection, host, most, displaced.clone());
                    none.insert(new.map_err(refused)?)
                }
            };
            claim.grow(needed, most, deadline, || picture.is_cancelled()).map_err(|e| match e {
                FileMemoryError::Refused(e) => refused(e),
                FileMemoryError::Displaced => RoomError::Displaced,
            })
        });
        self.metrics.add_cpu(CpuStage::Fetch, thread_cpu().saturating_sub(cpu));
        work.timings.fetch += ms(began.elapsed());
        match fetched {
            Ok(FetchStep::Done(FetchResult::Body {
                bytes,
                etag,
                last_modified,
                fresh_for,
                ..
            })) => {
                claim.iter().for_each(|claim| claim.settle(bytes.len() as u64));
                picture.set_stage(JobStage::Decoding);
                Ok(FetchOutcome::File(PictureFile {
                    bytes,
                    memory: claim,
                    etag,
                    last_modified,
                    fresh_for,
                }))
            }
            Ok(FetchStep::Redirected(redirected)) => Ok(FetchOutcome::Redirected(redirected)),
            Ok(FetchStep::Done(FetchResult::NotModified)) => {
                let jobs = picture.jobs();
                if let Some(terms) = self.terms.get() {
                    for job in jobs.iter().filter(|job| job.needs_captions()) {
                        self.answers.answer_unmodified(job, terms);
                    }
                }
                // The thresholds or the rules of now do not accept the ledger's captions.
                if jobs.iter().any(|job| job.needs_captions() && job.is_open()) {
                    work.needs_file = true;
                    claim.iter().for_each(FileClaim::release);
                    return Ok(FetchOutcome::Restarted(claim));
                }
                Err(JobAnswer::Unchanged)
            }
            Err(FetchError::Displaced { .. }) => {
                claim.iter().for_each(FileClaim::release);
                Ok(FetchOutcome::Restarted(claim))
            }
            Err(e @ FetchError::Status { .. })
                if !work.was_paused && ends_in_time(&e, &picture) =>
            {
                work.was_paused = true;
                Ok(FetchOutcome::Restarted(None))
            }
            Err(e) => Err(JobAnswer::Failed(e.showing(shown.as_deref()).failure())),
        }
    }
}

/// Whether the pause that a host has asked for ends within the time of a call.
fn ends_in_time(error: &FetchError, picture: &Picture) -> bool {
    error.class() == FailureClass::Host
        && error.retry_after().is_some_and(|pause| waits(picture, Instant::now() + pause))
}
