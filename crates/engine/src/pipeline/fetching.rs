//! The fetch threads: a URL whose turn it is and whose host admits it becomes a file's bytes. They
//! never wait for a host: what is redirected to one at its cap goes back in line.

use super::{Ahead, File, Pipeline, ToDecode, ToFetch, ms, no_room};
use crate::failures;
use crate::fair_queue::Verdict;
use crate::job::{Answer, Source, Stage};
use crate::metrics::{self, thread_cpu};
use crate::picture::Work;
use pg_caption_captioner::catch_panic;
use pg_caption_fetch::{
    FetchRequest, FetchResult, FetchStep, Fetcher, HostAdmission, HostPermit, RedirectedFetch,
};
use std::collections::HashSet;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

/// How often an idle fetch thread looks whether a host has become free through a redirect's end, of
/// which nobody tells it.
const LOOK: Duration = Duration::from_millis(100);

/// What a fetch comes to.
enum Got {
    File(File),
    /// It waits for another host now.
    Elsewhere(Box<RedirectedFetch>),
}

/// What a fetch thread does next.
enum FetchNext {
    Fetch(Work, HostPermit, Option<Box<RedirectedFetch>>),
    Cooling(Work, String, Instant),
}

impl Pipeline {
    pub(super) fn fetch_loop(self: &Arc<Self>) {
        let Ok(fetcher) = &self.fetcher else { return };
        loop {
            let (next, ahead) = self.next_fetch(fetcher);
            match next {
                FetchNext::Cooling(work, host, until) => {
                    drop(ahead);
                    work.end(Answer::Failed(fetcher.host_cooling(&host, until).failure()));
                }
                FetchNext::Fetch(mut work, permit, journey) => {
                    let fetched = catch_panic(|| self.fetch(fetcher, &mut work, permit, journey));
                    match fetched
                        .unwrap_or_else(|_| Err(Answer::Failed(failures::crashed("fetch"))))
                    {
                        Ok(Got::Elsewhere(journey)) => {
                            let host = journey.host().to_owned();
                            work.picture.waits_for_host(&host);
                            let (connection, role) = (work.picture.connection, work.picture.role);
                            self.board().urls.push(
                                connection,
                                role,
                                ToFetch { work, host, journey: Some(journey) },
                            );
                            drop(ahead);
                        }
                        Ok(Got::File(File { bytes, held, etag, last_modified })) => {
                            let item = ToDecode {
                                work,
                                bytes,
                                held,
                                etag,
                                last_modified,
                                ahead: Some(ahead),
                            };
                            self.board().fetched.push(item);
                            self.to_decode.notify_one();
                        }
                        Err(answer) => {
                            drop(ahead);
                            work.end(answer);
                        }
                    }
                }
            }
        }
    }

    fn next_fetch(self: &Arc<Self>, fetcher: &Fetcher) -> (FetchNext, Ahead) {
        let mut board = self.board();
        loop {
            if board.ahead < board.most_ahead && !board.urls.is_empty() {
                let mut busy: HashSet<String> = HashSet::new();
                let mut admission = None;
                let taken = board.urls.take(|item| {
                    if !item.work.picture.wanted() {
                        return Verdict::Drop;
                    }
                    if busy.contains(&item.host) {
                        item.work.picture.waits_for_host(&item.host);
                        return Verdict::Skip;
                    }
                    match fetcher.admit(&item.host) {
                        HostAdmission::Busy => {
                            item.work.picture.waits_for_host(&item.host);
                            busy.insert(item.host.clone());
                            Verdict::Skip
                        }
                        other => {
                            admission = Some(other);
                            Verdict::Take
                        }
                    }
                });
                if let (Some(ToFetch { work, host, journey }), Some(admission)) = (taken, admission)
                {
                    board.ahead += 1;
                    if !board.urls.is_empty() {
                        self.to_fetch.notify_one();
                    }
                    drop(board);
                    let next = match admission {
                        HostAdmission::Go(permit) => FetchNext::Fetch(work, permit, journey),
                        HostAdmission::Cooling { until } => FetchNext::Cooling(work, host, until),
                        HostAdmission::Busy => unreachable!("skipped"),
                    };
                    return (next, Ahead(self.clone()));
                }
            }
            board = if board.urls.is_empty() || board.ahead >= board.most_ahead {
                self.to_fetch.wait(board).unwrap_or_else(PoisonError::into_inner)
            } else {
                self.to_fetch.wait_timeout(board, LOOK).unwrap_or_else(PoisonError::into_inner).0
            };
        }
    }

    fn fetch(
        &self,
        fetcher: &Fetcher,
        work: &mut Work,
        permit: HostPermit,
        journey: Option<Box<RedirectedFetch>>,
    ) -> Result<Got, Answer> {
        let (cpu, began) = (thread_cpu(), Instant::now());
        let picture = work.picture.clone();
        let Source::Url { url, known } = &picture.source else {
            return Err(Answer::Failed(failures::lost()));
        };
        picture.at(Stage::Fetching);
        self.look_at_names();
        let deadline = picture.deadline();
        // Another model has something new to say of an unchanged picture.
        let known = known.as_ref().filter(|known| self.model.get() == Some(&known.model));
        let (etag, last_modified) = known
            .map(|known| (known.etag.as_deref(), known.last_modified.as_deref()))
            .unwrap_or_default();
        let get =
            FetchRequest { url, etag, last_modified, deadline, cancelled: &picture.cancelled };
        let (mut held, mut share) = (None, None);
        let left = || picture.cancelled.load(std::sync::atomic::Ordering::Acquire);
        let fetched = fetcher.fetch(permit, journey, &get, &mut |host, bytes| {
            share =
                Some(self.shares.take(host, bytes, deadline, left).map_err(|e| no_room(e, bytes))?);
            held = Some(self.files.reserve(bytes, deadline, left).map_err(|e| no_room(e, bytes))?);
            Ok(())
        });
        // the host has done its part
        drop(share);
        self.meters.spent(metrics::Stage::Fetch, thread_cpu().saturating_sub(cpu));
        work.timings.fetch += ms(began.elapsed());
        match fetched {
            Ok(FetchStep::Done(FetchResult::Body { bytes, etag, last_modified, .. })) => {
                if let Some(held) = &mut held {
                    held.shrink(bytes.len() as u64);
                }
                picture.at(Stage::Decoding);
                Ok(Got::File(File { bytes, held, etag, last_modified }))
            }
            Ok(FetchStep::Redirected(journey)) => Ok(Got::Elsewhere(journey)),
            Ok(FetchStep::Done(FetchResult::NotModified)) => Err(Answer::Unchanged),
            Err(e) => Err(Answer::Failed(e.failure())),
        }
    }
}
