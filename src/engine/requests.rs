//! Caption requests of a session: many in flight on one connection, repeated on the next engine if
//! an engine dies.
//!
//! Called by `api::call`. Never outlives the caller's deadline by more than [`GRACE`].

use crate::engine::client::{ConnectionLoss, EngineClient};
use crate::pg::report;
use pg_caption_queue::{EngineLoss, EngineTrial, RequestWork};
use pg_caption_wire::{
    CaptionOutcome, CaptionReply, CaptionRequest, ClientRole, Failure, FailureClass, ImageSource,
    OutputSpec, ServerMessage,
};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::time::{Duration, Instant};

/// How long after the caller's deadline a timeout failure of the engine itself may still arrive.
const GRACE: Duration = Duration::from_millis(250);

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

/// Captions all images, as many at a time as the engine's window allows. Outcomes are in the order
/// of the requests.
///
/// # Errors
/// A failure of class `Engine` that concerns all of them: no engine by `deadline`, no model.
pub fn caption_all(
    requests: &[ImageRequest<'_>],
    min_confidence: Option<f32>,
    deadline: Instant,
) -> Result<Vec<CaptionOutcome>, Failure> {
    let mut batch = RequestBatch::new(requests, min_confidence, deadline);
    // The engine may have closed a kept connection since the last call.
    let mut client = IDLE.with(|idle| idle.borrow_mut().take());
    client = client.take_if(|kept| kept.is_usable());
    while !batch.is_complete() {
        let mut connection = match client.take().filter(|client| !client.is_spent()) {
            Some(connection) => connection,
            None => {
                batch.requeue_lost();
                if batch.is_complete() {
                    break;
                }
                EngineClient::connect(ClientRole::Call, deadline)?
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
    deadline: Instant,
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
        deadline: Instant,
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
            deadline,
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
                let left = (self.deadline + GRACE).saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(Progress::TimedOut);
                }
                connection.wait(Some(left));
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
        // SAFETY: reads a global of the main thread.
        let statement = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
        let remaining = self.deadline.saturating_duration_since(Instant::now());
        CaptionRequest {
            id: 0,
            // The statement's start identifies the statement within one backend's connection.
            share: Some(statement as u64),
            image: match request.url {
                Some(url) => ImageSource::Url { url: url.into(), known: None },
                None => ImageSource::Bytes,
            },
            outputs: request.outputs.to_vec(),
            remaining_ms: remaining.as_millis() as u64,
            min_confidence: self.min_confidence,
            isolated: self.trials[at].is_isolated(),
        }
    }

    /// The outcomes; requests without one have timed out.
    fn into_outcomes(self) -> Vec<CaptionOutcome> {
        let timed_out = || CaptionOutcome::Failed(timeout());
        self.outcomes.into_iter().map(|outcome| outcome.unwrap_or_else(timed_out)).collect()
    }
}

fn timeout() -> Failure {
    let limit = crate::settings::timeout().as_millis() as u64;
    Failure::timeout(Some(limit), "unanswered by the engine")
}
