//! The line in front of the server: who is sent next, and what is known of the server. Kept behind
//! one lock; the sender threads do the rest without it.

use super::picture::{RemotePicture, SentPicture};
use crate::captions::CaptionTask;
use crate::fair_queue::{FairQueue, QueueDecision};
use crate::job::Job;
use crate::provider::work::ProviderWork;
use parking_lot::Mutex;
use pg_caption_models::RemoteSettings;
use pg_caption_remote::{
    DailyBudget, PaceDecision, RemoteFault, RequestPace, ServerQuirks, SuspectPictures, UsageTable,
};
use pg_caption_wire::Failure;
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// A caption that cannot be sent so long before its deadline is answered with the reason.
const GRACE: Duration = Duration::from_millis(200);

/// A job whose captions are being asked for, by several threads.
pub struct OpenTask {
    task: Mutex<Option<CaptionTask>>,
    /// Captions without a result.
    open: AtomicUsize,
    pub job: Arc<Job>,
    pub picture: Arc<SentPicture>,
}

impl OpenTask {
    pub fn new(task: CaptionTask, picture: Arc<SentPicture>) -> OpenTask {
        OpenTask {
            open: AtomicUsize::new(task.missing().len()),
            job: task.job_handle(),
            picture,
            task: Mutex::new(Some(task)),
        }
    }

    /// Sets the result of one caption; the last one answers the job.
    pub fn finish(
        &self,
        at: usize,
        result: Result<crate::provider::values::RawCaption, Failure>,
        spent: Duration,
    ) {
        let mut task = self.task.lock();
        if let Some(task) = task.as_mut() {
            task.finish(at, result, spent);
        }
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(task) = task.take()
        {
            task.answer();
        }
    }
}

/// One caption in the line.
#[derive(Clone)]
pub struct LineCaption {
    pub open: Arc<OpenTask>,
    /// Position of the output.
    pub at: usize,
    /// It is sent while nothing else is.
    pub alone: bool,
    /// It was sent before, and the server did not answer.
    pub is_repeated: bool,
}

/// A picture whose captions are not in the line yet.
struct LinePicture {
    file: RemotePicture,
    work: ProviderWork,
}

/// What a sender thread does next.
pub enum NextStep {
    /// Accept the picture, add its captions, and give the slot back.
    Accept(RemotePicture, Box<ProviderWork>),
    /// Send a request; a slot is taken.
    Send(LineCaption),
    /// Answer with the reason why nothing is sent.
    Refuse(LineCaption, RemoteFault),
    /// The same for a picture.
    RefusePicture(Box<ProviderWork>, RemoteFault),
    /// Nothing to do, until something changes or this time comes.
    Wait(Option<Instant>),
}

/// The line, and what is known of the server.
pub struct RemoteLine {
    pictures: FairQueue<LinePicture>,
    captions: FairQueue<LineCaption>,
    /// Captions to be sent again. They take turns with all others: one that ends the connection
    /// each time must not keep the server from serving.
    repeated: FairQueue<LineCaption>,
    /// Whether the next turn is theirs.
    is_turn_of_repeated: bool,
    /// Suspects. One whose trial is due waits until nothing is in flight, and everything waits for
    /// it.
    alone: VecDeque<LineCaption>,
    waiting: usize,
    pub pace: RequestPace,
    pub quirks: ServerQuirks,
    pub suspects: SuspectPictures,
    pub budget: DailyBudget,
    pub usage: UsageTable,
    /// Why the server is paused.
    pub paused_by: Option<RemoteFault>,
    /// The last failure that concerned all requests.
    pub trouble: Option<Failure>,
}

impl RemoteLine {
    pub fn new(settings: &RemoteSettings) -> RemoteLine {
        RemoteLine {
            pictures: FairQueue::default(),
            captions: FairQueue::default(),
            repeated: FairQueue::default(),
            is_turn_of_repeated: true,
            alone: VecDeque::new(),
            waiting: 0,
            pace: RequestPace::new(settings.concurrency, settings.requests_per_minute),
            quirks: ServerQuirks::default(),
            suspects: SuspectPictures::default(),
            budget: DailyBudget::new(settings),
            usage: UsageTable::new(settings.price),
            paused_by: None,
            trouble: None,
        }
    }

    /// Pictures and captions in the line, those of callers that have left included.
    pub fn waiting(&self) -> usize {
        self.waiting
    }

    pub fn add_picture(&mut self, file: RemotePicture, work: ProviderWork) {
        let (connection, role) = (work.picture().connection, work.picture().role);
        self.waiting += 1;
        self.pictures.push(connection, role, LinePicture { file, work });
    }

    /// Adds the captions without a result. Returns their number.
    pub fn add_captions(&mut self, open: &Arc<OpenTask>) -> usize {
        let missing = open.task.lock().as_ref().map(CaptionTask::missing).unwrap_or_default();
        for at in &missing {
            let open = open.clone();
            self.add(LineCaption { open, at: *at, alone: false, is_repeated: false });
        }
        missing.len()
    }

    /// Adds one caption, again if it was sent before.
    pub fn add(&mut self, mut caption: LineCaption) {
        self.waiting += 1;
        caption.alone = self.suspects.is_suspect(&caption.open.picture.sha256);
        if caption.alone {
            return self.alone.push_back(caption);
        }
        let (connection, role) = (caption.open.job.connection, caption.open.job.role);
        match caption.is_repeated {
            true => self.repeated.push(connection, role, caption),
            false => self.captions.push(connection, role, caption),
        }
    }

    /// The suspect to try now. A failure says something about it only after the server has served
    /// another picture, so the others go first.
    fn due(&self) -> Option<usize> {
        let is_due = |caption: &LineCaption| self.suspects.is_due(&caption.open.picture.sha256);
        let due = self.alone.iter().position(is_due);
        due.or_else(|| self.has_only_suspects().then_some(0).filter(|_| !self.alone.is_empty()))
    }

    fn has_only_suspects(&self) -> bool {
        self.captions.is_empty() && self.repeated.is_empty() && self.pictures.is_empty()
    }

    /// What to do next; takes a slot if something is to be sent or accepted.
    pub fn next(&mut self, now: Instant) -> NextStep {
        let before = self.alone.len();
        self.alone.retain(|caption| caption.open.job.is_open());
        self.waiting -= before - self.alone.len();
        if self.is_empty() {
            return NextStep::Wait(None);
        }
        let due = self.due();
        let decision = match due {
            None => self.pace.admit(now),
            Some(_) => self.pace.admit_alone(now),
        };
        match decision {
            PaceDecision::Go => self.take(due).unwrap_or_else(|| {
                // All callers have left.
                self.pace.finished(now, now, pg_caption_remote::PaceOutcome::Unknown, 0.0);
                NextStep::Wait(None)
            }),
            PaceDecision::Full => NextStep::Wait(None),
            PaceDecision::Wait(until) => self.refuse(now, until),
        }
    }

    fn is_empty(&self) -> bool {
        self.alone.is_empty() && self.has_only_suspects()
    }

    fn take(&mut self, due: Option<usize>) -> Option<NextStep> {
        if let Some(caption) = due.and_then(|at| self.alone.remove(at)) {
            self.waiting -= 1;
            return Some(NextStep::Send(caption));
        }
        self.is_turn_of_repeated = !self.is_turn_of_repeated;
        match self.is_turn_of_repeated {
            true => self.take_repeated().or_else(|| self.take_first()),
            false => self.take_first().or_else(|| self.take_repeated()),
        }
    }

    fn take_repeated(&mut self) -> Option<NextStep> {
        let waiting = &mut self.waiting;
        let caption = self.repeated.take(|caption| {
            *waiting -= 1;
            match caption.open.job.is_open() {
                true => QueueDecision::Take,
                false => QueueDecision::Drop,
            }
        })?;
        Some(NextStep::Send(caption))
    }

    /// What was not sent yet: captions before pictures, which would wait for them.
    fn take_first(&mut self) -> Option<NextStep> {
        let waiting = &mut self.waiting;
        let mut decide = |wanted: bool| {
            *waiting -= 1;
            if wanted { QueueDecision::Take } else { QueueDecision::Drop }
        };
        if let Some(caption) = self.captions.take(|caption| decide(caption.open.job.is_open())) {
            return Some(NextStep::Send(caption));
        }
        let picture = self.pictures.take(|item| decide(item.work.picture().is_wanted()))?;
        Some(NextStep::Accept(picture.file, Box::new(picture.work)))
    }

    /// While nothing is sent: what cannot wait so long is answered with the reason.
    fn refuse(&mut self, now: Instant, until: Instant) -> NextStep {
        let wait = until.saturating_duration_since(now);
        let paused = self.pace.paused_until(now).and_then(|_| self.paused_by.clone());
        let fault = match paused {
            Some(RemoteFault::Busy { status, reason, .. }) => {
                RemoteFault::Busy { status, reason, wait: Some(wait) }
            }
            Some(fault) => fault,
            None => RemoteFault::Limited { wait },
        };
        let latest = until + GRACE;
        let is_late = |deadline: Instant| match deadline < latest {
            true => QueueDecision::Take,
            false => QueueDecision::Skip,
        };
        let late = self.alone.iter().position(|caption| caption.open.job.deadline() < latest);
        let caption = late
            .and_then(|at| self.alone.remove(at))
            .or_else(|| self.captions.take(|caption| is_late(caption.open.job.deadline())))
            .or_else(|| self.repeated.take(|caption| is_late(caption.open.job.deadline())));
        if let Some(caption) = caption {
            self.waiting -= 1;
            return NextStep::Refuse(caption, fault);
        }
        if let Some(item) = self.pictures.take(|item| is_late(item.work.picture().deadline())) {
            self.waiting -= 1;
            return NextStep::RefusePicture(Box::new(item.work), fault);
        }
        NextStep::Wait(Some(until))
    }
}
