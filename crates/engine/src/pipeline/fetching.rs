//! The fetch threads: a queued URL whose host admits a request becomes a file in memory. They never
//! wait for a host: a redirect to a host at its limit returns to the queue.

use super::{PictureFile, PicturePipeline, ToDecode, ToFetch};
use crate::answer::JobAnswer;
use crate::catch_panic::catch_panic;
use crate::failures;
use crate::fair_queue::QueueDecision;
use crate::job::JobStage;
use crate::lookahead::LookaheadPlace;
use crate::metrics::{CpuStage, ms, thread_cpu};
use crate::picture::PictureWork;
use crate::request::PictureSource;
use pg_caption_fetch::{
    FetchRequest, FetchResult, FetchStep, Fetcher, HostAdmission, HostPermit, RedirectedFetch,
};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often an idle fetch thread checks whether a host admits a request again. The end of a
/// redirected fetch does not notify it.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// The end of one step of a fetch.
enum FetchOutcome {
    File(PictureFile),
    /// Redirected to another host, whose admission it needs.
    Redirected(Box<RedirectedFetch>),
}

/// The next step of a fetch thread.
enum FetchNext {
    Fetch(PictureWork, HostPermit, Option<Box<RedirectedFetch>>),
    Cooling(PictureWork, String, Instant),
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
                FetchNext::Fetch(mut work, permit, redirected) => {
                    let fetched =
                        catch_panic(|| self.fetch(fetcher, &mut work, permit, redirected))
                            .unwrap_or_else(|_| Err(JobAnswer::Failed(failures::crashed("fetch"))));
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
                work.picture.set_busy_host(&host);
                let (connection, role) = (work.picture.connection, work.picture.role);
                let item = ToFetch { work, host, redirected: Some(redirected) };
                self.queues.lock().urls.push(connection, role, item);
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

    fn next_fetch(self: &Arc<Self>, fetcher: &Fetcher) -> (FetchNext, LookaheadPlace) {
        let mut queues = self.queues.lock();
        loop {
            if queues.ahead < queues.most_ahead && !queues.urls.is_empty() {
                let mut busy: HashSet<String> = HashSet::new();
                let mut admission = None;
                let taken = queues.urls.take(|item| {
                    if !item.work.picture.is_wanted() {
                        return QueueDecision::Drop;
                    }
                    if busy.contains(&item.host) {
                        item.work.picture.set_busy_host(&item.host);
                        return QueueDecision::Skip;
                    }
                    match fetcher.admit(&item.host) {
                        HostAdmission::Busy => {
                            item.work.picture.set_busy_host(&item.host);
                            busy.insert(item.host.clone());
                            QueueDecision::Skip
                        }
                        other => {
                            admission = Some(other);
                            QueueDecision::Take
                        }
                    }
                });
                if let (Some(ToFetch { work, host, redirected }), Some(admission)) =
                    (taken, admission)
                {
                    queues.ahead += 1;
                    if !queues.urls.is_empty() {
                        self.to_fetch.notify_one();
                    }
                    drop(queues);
                    let next = match admission {
                        HostAdmission::Go(permit) => FetchNext::Fetch(work, permit, redirected),
                        HostAdmission::Cooling { until } => FetchNext::Cooling(work, host, until),
                        HostAdmission::Busy => unreachable!("skipped"),
                    };
                    return (next, LookaheadPlace::new(self.clone()));
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
    ) -> Result<FetchOutcome, JobAnswer> {
        let (cpu, began) = (thread_cpu(), Instant::now());
        let picture = work.picture.clone();
        let PictureSource::Url { url, known } = &picture.source else {
            return Err(JobAnswer::Failed(failures::lost()));
        };
        picture.set_stage(JobStage::Fetching);
        self.check_resolver_files();
        let deadline = picture.deadline();
        // Another model captions an unchanged picture again.
        let model = self.terms.get().map(|terms| &terms.model.digest);
        let known = known.as_ref().filter(|known| model == Some(&known.model));
        let (etag, last_modified) = known
            .map(|known| (known.etag.as_deref(), known.last_modified.as_deref()))
            .unwrap_or_default();
        let request =
            FetchRequest { url, etag, last_modified, deadline, cancelled: &picture.cancelled };
        let (mut memory, mut host_share) = (None, None);
        let cancelled = || picture.is_cancelled();
        let fetched = fetcher.fetch(permit, redirected, &request, &mut |host, bytes| {
            let share = self.host_shares.reserve(host, bytes, deadline, cancelled);
            host_share = Some(share.map_err(|e| failures::no_memory(e, bytes))?);
            let reserved = self.files.reserve(bytes, deadline, cancelled);
            memory = Some(reserved.map_err(|e| failures::no_memory(e, bytes))?);
            Ok(())
        });
        // The host has sent its part.
        drop(host_share);
        self.metrics.add_cpu(CpuStage::Fetch, thread_cpu().saturating_sub(cpu));
        work.timings.fetch += ms(began.elapsed());
        match fetched {
            Ok(FetchStep::Done(FetchResult::Body { bytes, etag, last_modified, .. })) => {
                if let Some(memory) = &mut memory {
                    memory.shrink(bytes.len() as u64);
                }
                picture.set_stage(JobStage::Decoding);
                Ok(FetchOutcome::File(PictureFile { bytes, memory, etag, last_modified }))
            }
            Ok(FetchStep::Redirected(redirected)) => Ok(FetchOutcome::Redirected(redirected)),
            Ok(FetchStep::Done(FetchResult::NotModified)) => Err(JobAnswer::Unchanged),
            Err(e) => Err(JobAnswer::Failed(e.failure())),
        }
    }
}
