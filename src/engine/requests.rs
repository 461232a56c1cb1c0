//! Caption requests of a session: many in flight on one connection, repeated on the next engine if
//! an engine dies.
//!
//! Called by `api::call`. Never outlives the caller's deadline by more than [`GRACE`]. The requests
//! of an array have a time limit each, which the engine measures; the launcher sees that it lives.

use crate::engine::client::{ConnectionLoss, EngineClient};
use crate::pg::report;
use pg_caption_queue::{EngineLoss, EngineTrial, RequestWork};
use pg_caption_rules::BlockRule;
use pg_caption_wire::{
    AnswerReuse, CaptionOutcome, CaptionReply, CaptionRequest, ClientRole, Failure, FailureClass,
    ImageSource, OutputSpec, ServerMessage,
};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long after the caller's deadline a timeout failure of the engine itself may still arrive.
pub const GRACE: Duration = Duration::from_millis(250);

/// The time limit of a call.
#[derive(Debug, Clone, Copy)]
pub enum TimeLimit {
    /// Of all requests together, from now.
    Whole(Duration),
    /// Of each request, from when its turn comes at its host.
    Each(Duration),
}

/// A time limit that runs.
#[derive(Debug, Clone, Copy)]
struct RunningLimit {
    limit: TimeLimit,
    began: Instant,
}

impl RunningLimit {
    /// When the wait for an engine ends.
    fn connect_by(self) -> Instant {
        match self.limit {
            TimeLimit::Whole(limit) => self.began + limit,
            TimeLimit::Each(limit) => Instant::now() + limit,
        }
    }

    /// How long the call still waits for the engine's answers; `None`: as long as it lives.
    fn left(self) -> Option<Duration> {
        match self.limit {
            TimeLimit::Whole(limit) => {
                Some((self.began + limit + GRACE).saturating_duration_since(Instant::now()))
            }
            TimeLimit::Each(_) => None,
        }
    }

    /// What the engine may use for a request, and whether that begins with its turn.
    fn of_request(self) -> (Duration, bool) {
        match self.limit {
            TimeLimit::Whole(limit) => {
                ((self.began + limit).saturating_duration_since(Instant::now()), false)
            }
            TimeLimit::Each(limit) => (limit, true),
        }
    }
}

/// One image to caption.
pub struct ImageRequest<'a> {
    /// Its address; `None` if `bytes` is the image.
    pub url: Option<&'a str>,
    /// The encoded image.
    pub bytes: &'a [u8],
    /// The wanted captions.
    pub outputs: &'a [OutputSpec],
}

thread_local! {
    /// One connection per backend, kept between calls. It is taken out while in use: a cancelled
    /// call drops it, and the engine then drops all work for it.
    static IDLE: RefCell<Option<EngineClient>> = const { RefCell::new(None) };
}

/// Takes the kept connection, if it is still usable: the engine may have closed it since.
pub fn take_idle() -> Option<EngineClient> {
    IDLE.take().take_if(|kept| kept.is_usable())
}

/// Keeps a connection that owes no answer for later calls.
pub fn keep_idle(connection: EngineClient) {
    IDLE.set(Some(connection));
}

/// Captions all images, as many at a time as the engine's window allows. Outcomes are in the order
/// of the requests.
///
/// # Errors
/// A failure of class `Engine` that concerns all of them: no engine within `limit`, no model.
pub fn caption_all(
    requests: &[ImageRequest<'_>],
    min_confidence: Option<f32>,
    rules: &[BlockRule],
    limit: TimeLimit,
) -> Result<Vec<CaptionOutcome>, Failure> {
    let limit = RunningLimit { limit, began: Instant::now() };
    let mut batch = RequestBatch::new(requests, min_confidence, rules, limit);
    let mut client = take_idle();
    while !batch.is_complete() {
        let mut connection = match client.take().filter(|client| !client.is_spent()) {
            Some(connection) => connection,
            None => {
                batch.requeue_lost();
                if batch.is_complete() {
                    break;
                }
                EngineClient::connect(ClientRole::Call, limit.connect_by())?
            }
        };
        batch.send(&mut connection);
        match batch.receive(&mut connection)? {
            Progress::Connected => client = Some(connection),
            // A connection that the engine closed on purpose is not lost to a picture.
            Progress::Disconnected if connection.is_closing() => batch.requeue_unseen(),
            Progress::Disconnected => {}
            // The connection still owes answers: it is dropped.
            Progress::TimedOut => return Ok(batch.into_outcomes()),
        }
    }
    IDLE.with(|idle| *idle.borrow_mut() = client);
    Ok(batch.into_outcomes())
}

/// State of the connection after one step of receiving.
enum Progress {
    Connected,
    Disconnected,
    TimedOut,
}

/// The requests of one call. They are named by their position.
struct RequestBatch<'a> {
    requests: &'a [ImageRequest<'a>],
    min_confidence: Option<f32>,
    rules: &'a [BlockRule],
    limit: RunningLimit,
    outcomes: Vec<Option<CaptionOutcome>>,
    /// Engines lost while a request's picture ran.
    trials: Vec<EngineTrial>,
    /// Positions of requests to send, the next one last.
    unsent: Vec<usize>,
    /// Positions of requests that may have made an engine die, to be sent again.
    suspects: VecDeque<usize>,
    /// Requests in flight, by the id on the connection.
    in_flight: HashMap<u64, SentRequest>,
}

/// A request in flight.
struct SentRequest {
    /// Its position.
    at: usize,
    work: RequestWork,
}

impl<'a> RequestBatch<'a> {
    fn new(
        requests: &'a [ImageRequest<'a>],
        min_confidence: Option<f32>,
        rules: &'a [BlockRule],
        limit: RunningLimit,
    ) -> RequestBatch<'a> {
        let count = requests.len();
        let mut outcomes = report::reserved(count);
        outcomes.extend(requests.iter().map(|_| None));
        let mut trials = report::reserved(count);
        trials.resize(count, EngineTrial::default());
        let mut unsent = report::reserved(count);
        unsent.extend((0..count).rev());
        RequestBatch {
            requests,
            min_confidence,
            rules,
            limit,
            outcomes,
            trials,
            unsent,
            suspects: VecDeque::new(),
            in_flight: HashMap::new(),
        }
    }

    fn is_complete(&self) -> bool {
        self.unsent.is_empty() && self.suspects.is_empty() && self.in_flight.is_empty()
    }

    /// Takes back the requests that were in flight on a lost connection. [`EngineTrial`] decides
    /// which ones are suspects, and which one is rejected as the cause.
    fn requeue_lost(&mut self) {
        for (_, SentRequest { at, work }) in self.in_flight.drain() {
            match self.trials[at].lost(work) {
                EngineLoss::Resend => self.unsent.push(at),
                EngineLoss::Suspect => self.suspects.push_back(at),
                EngineLoss::Reject(failure) => {
                    self.outcomes[at] = Some(CaptionOutcome::Failed(failure));
                }
            }
        }
    }

    /// Takes back the requests that crossed the engine's GoAway: it never read them, or finished
    /// its others and left.
    fn requeue_unseen(&mut self) {
        self.unsent.extend(self.in_flight.drain().map(|(_, sent)| sent.at));
    }

    /// Sends as many requests as the connection accepts.
    fn send(&mut self, connection: &mut EngineClient) {
        while connection.has_room()
            && let Some(at) = self.next()
        {
            match connection.submit(self.encode(at), self.requests[at].bytes) {
                Ok(id) => {
                    self.in_flight.insert(id, SentRequest { at, work: RequestWork::default() });
                }
                Err(failure) => self.outcomes[at] = Some(CaptionOutcome::Failed(failure)),
            }
        }
    }

    /// Takes the next request to send: a suspect if one may be sent, else an ordinary one.
    fn next(&mut self) -> Option<usize> {
        let sent = self.in_flight.values().filter(|sent| self.trials[sent.at].is_suspect()).count();
        match EngineTrial::may_send(self.suspects.len(), sent) {
            true => self.suspects.pop_front(),
            false => self.unsent.pop(),
        }
    }

    /// Handles one message, or waits until something may have arrived.
    ///
    /// # Errors
    /// A failure that concerns all requests.
    fn receive(&mut self, connection: &mut EngineClient) -> Result<Progress, Failure> {
        if self.in_flight.is_empty() {
            return Ok(Progress::Connected);
        }
        match connection.poll() {
            Ok(Some(ServerMessage::Reply(reply))) => self.complete(reply)?,
            Ok(Some(ServerMessage::Running { id, alone })) => {
                if let Some(sent) = self.in_flight.get_mut(&id) {
                    sent.work.report(alone);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                let left = self.limit.left();
                if left.is_some_and(|left| left.is_zero()) {
                    return Ok(Progress::TimedOut);
                }
                connection.wait(left);
            }
            Err(ConnectionLoss::Closed) => return Ok(Progress::Disconnected),
            Err(ConnectionLoss::Refused(failure)) => return Err(failure),
        }
        Ok(Progress::Connected)
    }

    fn complete(&mut self, reply: CaptionReply) -> Result<(), Failure> {
        let Some(SentRequest { at, .. }) = self.in_flight.remove(&reply.id) else {
            return Ok(());
        };
        match reply.outcome {
            CaptionOutcome::Failed(failure) if failure.class == FailureClass::Engine => {
                Err(failure)
            }
            outcome => {
                self.outcomes[at] = Some(outcome);
                Ok(())
            }
        }
    }

    fn encode(&self, at: usize) -> CaptionRequest {
        let request = &self.requests[at];
        let (remaining, from_turn) = self.limit.of_request();
        CaptionRequest {
            id: 0,
            share: Some(share()),
            image: match request.url {
                Some(url) => ImageSource::Url { url: url.into(), known: None, shown: None },
                None => ImageSource::Bytes,
            },
            outputs: request.outputs.to_vec(),
            remaining_ms: remaining.as_millis() as u64,
            from_turn,
            min_confidence: self.min_confidence,
            isolated: self.trials[at].is_isolated(),
            rules: self.rules.to_vec(),
            earlier: None,
            reuse: AnswerReuse::Any,
        }
    }

    /// The outcomes; requests without one have timed out.
    fn into_outcomes(self) -> Vec<CaptionOutcome> {
        let timed_out = || CaptionOutcome::Failed(timeout());
        self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(timed_out)).collect()
    }
}

/// What requests of one statement have in common: its start identifies the statement within one
/// backend's connection.
pub fn share() -> u64 {
    // SAFETY: reads a global of the main thread.
    unsafe { pg_sys::GetCurrentStatementStartTimestamp() as u64 }
}

/// The failure of a request that was not answered in time.
pub fn timeout() -> Failure {
    let limit = crate::settings::timeout().as_millis() as u64;
    Failure::timeout(Some(limit), "unanswered by the engine")
}
