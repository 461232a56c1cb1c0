//! The engine of the model: answers in any order, dies, refuses, restarts. The URL of a picture
//! determines its result.

use crate::chance::Chance;
use fastrand::Rng;
use pg_caption_queue::ConnectionEvent;
use pg_caption_wire::{
    CaptionOutcome, CaptionOutput, CaptionRequest, Failure, FailureClass, FinishReason, ImageFacts,
    ImageSource, ModelRef, StageTimings, WrittenCaption,
};
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

/// Unanswered requests per connection.
pub const WINDOW: usize = 4;
/// Attempts after which a row fails.
pub const MAX_ATTEMPTS: i32 = 4;

#[derive(Debug, Default)]
pub struct Connection {
    pub requests: BTreeMap<u64, CaptionRequest>,
    /// Requests whose pictures are in decoder or model, and whether nothing else ever was.
    pub running: BTreeMap<u64, bool>,
    pub events: VecDeque<ConnectionEvent>,
    pub next: u64,
    pub going_away: bool,
    /// The engine died, or refused the connection (`true`): no events after those queued.
    pub lost: Option<bool>,
}

impl Connection {
    pub fn has_room(&self) -> bool {
        let answers = |event: &&ConnectionEvent| matches!(event, ConnectionEvent::Answer { .. });
        let unread = self.events.iter().filter(answers).count();
        !self.going_away && self.requests.len() + unread < WINDOW
    }

    /// The next event.
    pub fn poll(&mut self) -> ConnectionEvent {
        if let Some(heard) = self.events.pop_front() {
            return heard;
        }
        match self.lost {
            Some(refused) => ConnectionEvent::Lost { refused },
            None if self.going_away && self.requests.is_empty() => ConnectionEvent::Spent,
            None => ConnectionEvent::Nothing,
        }
    }

    pub fn is_readable(&self) -> bool {
        !self.events.is_empty()
            || self.lost.is_some()
            || (self.going_away && self.requests.is_empty())
    }
}

#[derive(Debug, Default)]
pub struct Engine {
    pub up: bool,
    pub back: Option<Duration>,
    pub cannot_until: Option<Duration>,
    /// It does not answer.
    pub mute: bool,
    pub connections: BTreeMap<u64, Connection>,
    pub next: u64,
    /// Hosts in cooldown.
    pub cooling: BTreeMap<String, Duration>,
    pub tries: HashMap<String, u32>,
    pub captions: u64,
    /// How often a picture killed the engine.
    pub killed: usize,
    /// How often a connection was lost while this picture ran and no other one did.
    pub alone: HashMap<String, u32>,
}

fn of(url: &str, kind: &str) -> bool {
    url.starts_with(kind)
}

/// Whether a URL may fail with this code.
pub fn may_fail(url: &str, code: &str) -> bool {
    match code {
        "http_410" => of(url, "gone"),
        "low_confidence" => of(url, "vague"),
        // Attempts are charged to a row, not to its URL: those of the previous URL count, too.
        "timeout" => of(url, "slow") || of(url, "flaky"),
        _ => false,
    }
}

impl Engine {
    pub fn connect(&mut self) -> Option<u64> {
        if !self.up {
            return None;
        }
        self.next += 1;
        self.connections.insert(self.next, Connection { next: 1, ..Connection::default() });
        Some(self.next)
    }

    /// Number of pictures in decoder or model.
    pub fn running(&self) -> usize {
        self.connections.values().map(|connection| connection.running.len()).sum()
    }

    /// Connections with unanswered requests.
    pub fn busy(&self) -> Vec<u64> {
        self.connections
            .iter()
            .filter(|(_, connection)| connection.lost.is_none() && !connection.requests.is_empty())
            .map(|(id, _)| *id)
            .collect()
    }

    /// Answers one request; `false`: the request killed the engine.
    pub fn answer(&mut self, random: &mut Rng, now: Duration) -> bool {
        let busy = self.busy();
        let Some(id) = random.pick(&busy) else { return true };
        let Some(connection) = self.connections.get_mut(&id) else { return true };
        let ids: Vec<u64> = connection.requests.keys().copied().collect();
        let Some(request) = random.pick(&ids) else { return true };
        let url = match &connection.requests[&request].image {
            ImageSource::Url { url, .. } => url.clone(),
            ImageSource::Bytes => String::new(),
        };
        let can = self.cannot_until.is_none_or(|until| until <= now);
        if !connection.running.contains_key(&request) && can && self.begins(&url, random, now) {
            self.begin(id, request);
            return true;
        }
        if of(&url, "poison") && can {
            // A picture that waits for its turn kills no engine.
            let kills = self.connections[&id].running.contains_key(&request);
            self.killed += usize::from(kills);
            return !kills;
        }
        let Some(connection) = self.connections.get_mut(&id) else { return true };
        connection.running.remove(&request);
        let Some(asked) = connection.requests.remove(&request) else { return true };
        let outcome = self.outcome(&url, &asked, random, now);
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.events.push_back(ConnectionEvent::Answer { id: request, outcome });
        }
        true
    }

    /// Whether a fetched picture waits for the decoder; others are answered without it.
    fn begins(&self, url: &str, random: &mut Rng, now: Duration) -> bool {
        let host = url.split('/').next().unwrap_or_default();
        let is_cooling = self.cooling.get(host).is_some_and(|until| *until > now);
        of(url, "poison") || (!of(url, "gone") && !of(url, "slow") && !is_cooling && random.bool())
    }

    /// The picture goes to the decoder, unless it or another one must run alone.
    fn begin(&mut self, id: u64, request: u64) {
        let running = || {
            let connections = self.connections.values();
            connections.flat_map(|c| c.running.keys().map(|request| &c.requests[request]))
        };
        let alone = running().next().is_none();
        let is_isolated = self.connections[&id].requests[&request].isolated;
        if !alone && (is_isolated || running().any(|other| other.isolated)) {
            return;
        }
        for connection in self.connections.values_mut() {
            for (id, alone) in &mut connection.running {
                if std::mem::replace(alone, false) {
                    let event = ConnectionEvent::Running { id: *id, alone: false };
                    connection.events.push_back(event);
                }
            }
        }
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.running.insert(request, alone);
        connection.events.push_back(ConnectionEvent::Running { id: request, alone });
    }

    fn outcome(
        &mut self,
        url: &str,
        asked: &CaptionRequest,
        random: &mut Rng,
        now: Duration,
    ) -> CaptionOutcome {
        if self.cannot_until.is_some_and(|until| until > now) {
            return CaptionOutcome::Failed(Failure::new(
                FailureClass::Engine,
                "no_model",
                "no model",
            ));
        }
        let tries = self.tries.entry(url.to_string()).or_default();
        *tries += 1;
        if of(url, "gone") {
            return CaptionOutcome::Failed(Failure::new(FailureClass::Reject, "http_410", "gone"));
        }
        if of(url, "slow") || (of(url, "flaky") && *tries < 3) {
            return CaptionOutcome::Failed(Failure::new(FailureClass::Retry, "timeout", "slow"));
        }
        if let Some(until) = self
            .cooling
            .get(url.split('/').next().unwrap_or_default())
            .filter(|until| **until > now)
        {
            let mut failure = Failure::new(FailureClass::Host, "http_429", "cooling down");
            failure.retry_after_ms = random.percent(50).then(|| (*until - now).as_millis() as u64);
            return CaptionOutcome::Failed(failure);
        }
        if let ImageSource::Url { known: Some(_), .. } = &asked.image
            && random.percent(50)
        {
            return CaptionOutcome::Unchanged;
        }
        let written = |engine: &mut Engine, style: &str| {
            engine.captions += 1;
            let caption = format!("{style} of {url} #{}", engine.captions);
            CaptionOutput::Written(WrittenCaption {
                with_context: false,
                caption,
                finish: FinishReason::Stop,
                tokens: 1,
                confidence: Some(1.0),
                draft: false,
                model: None,
            })
        };
        let outputs = asked
            .outputs
            .iter()
            .map(|output| match of(url, "vague") && output.style.name == "seo" {
                true => CaptionOutput::Failed(Failure::new(
                    FailureClass::Uncertain,
                    "low_confidence",
                    "vague",
                )),
                false => written(self, &output.style.name),
            })
            .collect();
        CaptionOutcome::Done {
            image: ImageFacts {
                format: "jpeg".into(),
                width: 1,
                height: 1,
                bytes: 1,
                sha256: String::new(),
                etag: random.percent(50).then(|| format!("etag of {url}")),
                last_modified: None,
            },
            outputs,
            model: ModelRef { name: "model".into(), digest: "digest".into() },
            timings: StageTimings::default(),
        }
    }

    /// Cuts all connections and loses their requests; queued events can still be read.
    pub fn cut(&mut self, refused: bool) {
        for connection in
            self.connections.values_mut().filter(|connection| connection.lost.is_none())
        {
            let requests = std::mem::take(&mut connection.requests);
            for (id, alone) in std::mem::take(&mut connection.running) {
                if alone && let ImageSource::Url { url, .. } = &requests[&id].image {
                    *self.alone.entry(url.clone()).or_default() += 1;
                }
            }
            connection.lost = Some(refused);
        }
    }

    /// The process dies and restarts at `back`.
    pub fn die(&mut self, back: Duration) {
        self.cut(false);
        self.up = false;
        self.back = Some(back);
    }
}
