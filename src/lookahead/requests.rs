//! Requests ahead of their row's turn: on one connection of the session, which no other request
//! uses.
//!
//! Called by `window`. A request that is lost with its engine, or fails for a reason that may have
//! passed, is forgotten: the call then makes its own. Closing the connection cancels all requests.

use crate::api::rule;
use crate::engine::client::EngineClient;
use crate::engine::requests::{self, GRACE};
use crate::settings;
use pg_caption_rules::BlockRule;
use pg_caption_wire::{
    AnswerReuse, CaptionOutcome, CaptionRequest, ClientRole, FailureClass, ImageSource, OutputSpec,
    ServerMessage,
};
use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasher, RandomState};
use std::rc::Rc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// Pause before another attempt to connect, while no engine serves.
const CONNECT_PAUSE: Duration = Duration::from_secs(1);

/// The picture of a request, to compare it with that of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AheadPicture {
    /// Its address.
    Url(String),
    /// Length and digest of its bytes.
    Bytes(usize, [u64; 2]),
}

impl AheadPicture {
    /// The picture with these bytes.
    pub fn of_bytes(bytes: &[u8]) -> AheadPicture {
        // Keyed by chance, so that equal digests cannot be prepared.
        static KEYS: OnceLock<[RandomState; 2]> = OnceLock::new();
        let keys = KEYS.get_or_init(|| [RandomState::new(), RandomState::new()]);
        AheadPicture::Bytes(bytes.len(), [keys[0].hash_one(bytes), keys[1].hash_one(bytes)])
    }

    /// The picture of a call.
    pub fn of_call(url: Option<&str>, bytes: &[u8]) -> AheadPicture {
        url.map_or_else(|| AheadPicture::of_bytes(bytes), |url| AheadPicture::Url(url.into()))
    }
}

/// What a request asks for.
#[derive(Debug, Clone, PartialEq)]
pub struct AheadSpec {
    pub picture: AheadPicture,
    pub outputs: Vec<OutputSpec>,
    pub min_confidence: Option<f32>,
    /// Rules for the words of captions.
    pub rules: Rc<Vec<BlockRule>>,
}

impl AheadSpec {
    /// The position of an output that equals that of a call.
    fn position(&self, picture: &AheadPicture, output: &OutputSpec) -> Option<usize> {
        let is_equal = self.picture == *picture
            && self.min_confidence == settings::min_confidence()
            && self.rules == rule::current();
        is_equal.then(|| self.outputs.iter().position(|own| own == output)).flatten()
    }
}

/// A request ahead.
struct AheadRequest {
    /// Number of the window that made it.
    owner: u64,
    spec: AheadSpec,
    /// Bytes of the picture that were sent along.
    bytes: usize,
    answer: Option<CaptionOutcome>,
}

/// The requests by their number, and the connection of those without an answer.
#[derive(Default)]
struct AheadRequests {
    connection: Option<EngineClient>,
    /// Added to numbers on the connection, so that those of an earlier one stay unknown.
    base: u64,
    requests: HashMap<u64, AheadRequest>,
}

thread_local! {
    /// Taken out while in use: a cancel drops it, and the engine then drops all work for it.
    static REQUESTS: RefCell<Option<AheadRequests>> = const { RefCell::new(None) };
    static CONNECTIONS: Cell<u64> = const { Cell::new(0) };
    /// Until when no connection is tried.
    static PAUSE: RefCell<Option<Instant>> = const { RefCell::new(None) };
}

/// Sends a request for a window. Returns its number; `None`: it cannot be sent now, and the call
/// will make its own.
pub fn submit(owner: u64, spec: AheadSpec, body: &[u8]) -> Option<u64> {
    let mut all = REQUESTS.take().unwrap_or_default();
    all.receive();
    let number = all.submit(owner, spec, body);
    all.receive();
    REQUESTS.set(Some(all));
    number
}

/// Whether another request can be sent without an answer first. True without a connection.
pub fn has_room() -> bool {
    let Some(mut all) = REQUESTS.take() else { return true };
    all.receive();
    let has_room = all.connection.as_ref().is_none_or(EngineClient::has_room);
    REQUESTS.set(Some(all));
    has_room
}

/// Bytes of pictures of a window that the engine has not answered.
pub fn bytes(owner: u64) -> usize {
    REQUESTS.with_borrow(|all| {
        let requests = all.iter().flat_map(|all| all.requests.values());
        let pending = requests.filter(|request| request.owner == owner && request.answer.is_none());
        pending.map(|request| request.bytes).sum()
    })
}

/// Whether all of these requests are answered or lost.
pub fn are_answered(numbers: &[u64]) -> bool {
    REQUESTS.with_borrow(|all| {
        let Some(all) = all else { return true };
        let is_pending = |number| all.requests.get(number).is_some_and(|r| r.answer.is_none());
        !numbers.iter().any(is_pending)
    })
}

/// Waits for the answer to a call, if one of these requests equals it. `None`: the call must make
/// its own request.
pub fn wait(
    numbers: &[u64],
    picture: &AheadPicture,
    output: &OutputSpec,
) -> Option<CaptionOutcome> {
    let mut all = REQUESTS.take()?;
    let deadline = Instant::now() + settings::timeout() + GRACE;
    let equal = numbers.iter().find_map(|number| {
        let at = all.requests.get(number)?.spec.position(picture, output)?;
        Some((*number, at))
    });
    let Some((number, at)) = equal else {
        REQUESTS.set(Some(all));
        return None;
    };
    loop {
        all.receive();
        let request = all.requests.get(&number);
        let is_lost = request.is_none() || all.connection.is_none();
        if let Some(answer) = request.and_then(|request| request.answer.clone()) {
            REQUESTS.set(Some(all));
            return part_of(&answer, at);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if is_lost || left.is_zero() {
            REQUESTS.set(Some(all));
            return (!is_lost).then(|| CaptionOutcome::Failed(requests::timeout()));
        }
        if let Some(connection) = &all.connection {
            connection.wait(Some(left));
        }
    }
}

/// Forgets these requests, which were answered or are not needed further.
pub fn forget(numbers: &[u64]) {
    REQUESTS.with_borrow_mut(|all| {
        if let Some(all) = all {
            numbers.iter().for_each(|number| drop(all.requests.remove(number)));
        }
    });
}

/// Ends the requests of a window. If no other window has requests, those that are not answered are
/// cancelled. Raises nothing.
pub fn release(owner: u64) {
    // The session may be unwinding, with the requests taken out.
    let Ok(mut taken) = REQUESTS.try_with(RefCell::take) else { return };
    let Some(all) = &mut taken else { return };
    all.requests.retain(|_, request| request.owner != owner);
    if !all.requests.is_empty() {
        REQUESTS.set(taken);
    } else if let Some(connection) = all.connection.take_if(|kept| !kept.owes_answers()) {
        requests::keep_idle(connection);
    }
}

fn connect() -> Option<EngineClient> {
    let now = Instant::now();
    if PAUSE.with_borrow(|pause| pause.is_some_and(|until| now < until)) {
        return None;
    }
    let connection = requests::take_idle().or_else(|| EngineClient::connect_now(ClientRole::Call));
    PAUSE.set(connection.is_none().then(|| Instant::now() + CONNECT_PAUSE));
    connection
}

/// The answer to one output of a request. `None`: the reason of a failure may have passed.
fn part_of(answer: &CaptionOutcome, at: usize) -> Option<CaptionOutcome> {
    match answer {
        CaptionOutcome::Done { image, outputs, model, timings } => Some(CaptionOutcome::Done {
            image: image.clone(),
            outputs: vec![outputs.get(at)?.clone()],
            model: model.clone(),
            timings: *timings,
        }),
        CaptionOutcome::Failed(failure) => {
            let is_final = matches!(failure.class, FailureClass::Uncertain | FailureClass::Reject);
            is_final.then(|| CaptionOutcome::Failed(failure.clone()))
        }
        CaptionOutcome::Unchanged => None,
    }
}

impl AheadRequests {
    /// The connection, if it accepts another request; made if it does not exist.
    fn connection(&mut self) -> Option<&mut EngineClient> {
        if self.connection.is_none() {
            self.connection = connect();
            CONNECTIONS.set(CONNECTIONS.get() + 1);
            self.base = CONNECTIONS.get() << 32;
        }
        self.connection.as_mut().filter(|connection| connection.has_room())
    }

    fn submit(&mut self, owner: u64, spec: AheadSpec, body: &[u8]) -> Option<u64> {
        self.connection()?;
        let request = CaptionRequest {
            id: 0,
            share: Some(requests::share()),
            image: match &spec.picture {
                AheadPicture::Url(url) => {
                    ImageSource::Url { url: url.clone(), known: None, shown: None }
                }
                AheadPicture::Bytes(..) => ImageSource::Bytes,
            },
            outputs: spec.outputs.clone(),
            // Requests ahead wait for each other at a host. The call itself waits no longer than
            // without them.
            remaining_ms: settings::timeout().as_millis() as u64,
            from_turn: true,
            min_confidence: spec.min_confidence,
            isolated: false,
            rules: spec.rules.to_vec(),
            earlier: None,
            reuse: AnswerReuse::Any,
        };
        let id = self.connection()?.submit(request, body).ok()?;
        let number = self.base + id;
        let request = AheadRequest { owner, spec, bytes: body.len(), answer: None };
        self.requests.insert(number, request);
        Some(number)
    }

    /// Sends and receives what is possible without waiting. Requests of a lost connection are
    /// forgotten, unless they were answered.
    fn receive(&mut self) {
        while let Some(connection) = &mut self.connection {
            match connection.poll() {
                Ok(Some(ServerMessage::Reply(reply))) => {
                    if let Some(request) = self.requests.get_mut(&(self.base + reply.id)) {
                        request.answer = Some(reply.outcome);
                    }
                }
                Ok(Some(_)) => {}
                Ok(None) if !connection.is_spent() => return,
                Ok(None) | Err(_) => {
                    self.connection = None;
                    self.requests.retain(|_, request| request.answer.is_some());
                }
            }
        }
    }
}
