//! Asking the engine: many requests in flight on one connection, sent again to the next engine if
//! one dies.

use crate::engine::client::{Client, Lost};
use pg_caption_wire::{
    CaptionOutcome, CaptionRequest, ClientRole, Failure, FailureClass, ImageSource,
    MAX_ENGINE_DEATHS, OutputSpec, ServerMessage,
};
use pgrx::pg_sys;
use std::cell::RefCell;
use std::collections::HashMap;
use std::time::{Duration, Instant};

/// How long after the caller's deadline the engine's own "too late" may still arrive.
const GRACE: Duration = Duration::from_millis(250);

/// One image to caption.
pub struct Ask<'a> {
    /// Its address, or nothing where `bytes` holds the picture itself.
    pub url: Option<&'a str>,
    /// The encoded picture.
    pub bytes: &'a [u8],
    /// What is wanted of it.
    pub outputs: &'a [OutputSpec],
}

thread_local! {
    // One connection per backend, kept between calls. Taken out while in use: a call that is
    // cancelled drops it on its way out, and with it everything that the engine was doing for it.
    static IDLE: RefCell<Option<Client>> = const { RefCell::new(None) };
}

/// Captions everything in `asks`, all in flight together as far as the window allows; outcomes in
/// the same order.
///
/// # Errors
/// A failure of class `Engine` that concerns all of them: no engine by `deadline`, no model.
pub fn ask(
    asks: &[Ask<'_>],
    min_confidence: Option<f32>,
    deadline: Instant,
) -> Result<Vec<CaptionOutcome>, Failure> {
    let mut outcomes: Vec<Option<CaptionOutcome>> = asks.iter().map(|_| None).collect();
    let mut deaths = vec![0u32; asks.len()];
    let mut unsent: Vec<usize> = (0..asks.len()).rev().collect();
    let mut sent: HashMap<u64, usize> = HashMap::new();
    let mut client = IDLE.with(|idle| idle.borrow_mut().take());
    // Once an engine has died, its requests go one at a time, so that the one to blame is known.
    let mut one_by_one = false;
    while !unsent.is_empty() || !sent.is_empty() {
        // Also one that was kept from an earlier call and told to go away meanwhile, or with its
        // last answer.
        if client.as_ref().is_some_and(Client::is_spent) {
            client = None;
        }
        if client.is_none() {
            let alone = sent.len() == 1;
            for (_, at) in sent.drain() {
                one_by_one = true;
                deaths[at] += u32::from(alone);
                if deaths[at] >= MAX_ENGINE_DEATHS {
                    let failure = Failure::engine_killer(deaths[at]);
                    outcomes[at] = Some(CaptionOutcome::Failed(failure));
                } else {
                    unsent.push(at);
                }
            }
            if unsent.is_empty() {
                break;
            }
            client = Some(Client::connect(ClientRole::Call, deadline)?);
        }
        let Some(connection) = client.as_mut() else { continue };
        while connection.has_room()
            && (!one_by_one || sent.is_empty())
            && let Some(at) = unsent.pop()
        {
            match connection.submit(request(&asks[at], min_confidence, deadline), asks[at].bytes) {
                Ok(id) => {
                    sent.insert(id, at);
                }
                Err(failure) => outcomes[at] = Some(CaptionOutcome::Failed(failure)),
            }
        }
        if sent.is_empty() {
            // Kept from an earlier call, whose answer came after the engine's GoAway: it takes
            // nothing any more.
            if connection.is_spent() {
                client = None;
            }
            continue;
        }
        match connection.poll() {
            Ok(Some(ServerMessage::Reply(reply))) => {
                if let Some(at) = sent.remove(&reply.id) {
                    if let CaptionOutcome::Failed(failure) = &reply.outcome
                        && failure.class == FailureClass::Engine
                    {
                        return Err(failure.clone());
                    }
                    outcomes[at] = Some(reply.outcome);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => {
                let left = (deadline + GRACE).saturating_duration_since(Instant::now());
                if left.is_zero() {
                    return Ok(outcomes
                        .into_iter()
                        .map(|outcome| {
                            outcome.unwrap_or_else(|| CaptionOutcome::Failed(too_late()))
                        })
                        .collect());
                }
                connection.wait(Some(left));
            }
            Err(Lost::Gone) => client = None,
            Err(Lost::Refused(failure)) => return Err(failure),
        }
    }
    IDLE.with(|idle| *idle.borrow_mut() = client);
    Ok(outcomes
        .into_iter()
        .map(|outcome| outcome.unwrap_or_else(|| CaptionOutcome::Failed(too_late())))
        .collect())
}

fn request(ask: &Ask<'_>, min_confidence: Option<f32>, deadline: Instant) -> CaptionRequest {
    // SAFETY: reads a global of the main thread.
    let statement = unsafe { pg_sys::GetCurrentStatementStartTimestamp() };
    CaptionRequest {
        id: 0,
        // The statement's start names it well enough within one backend's connection.
        share: Some(statement as u64),
        image: match ask.url {
            Some(url) => ImageSource::Url { url: url.into(), known: None },
            None => ImageSource::Bytes,
        },
        outputs: ask.outputs.to_vec(),
        remaining_ms: deadline.saturating_duration_since(Instant::now()).as_millis() as u64,
        min_confidence,
    }
}

fn too_late() -> Failure {
    let limit = crate::settings::timeout().as_millis() as u64;
    Failure::timeout(Some(limit), "unanswered by the engine")
}
