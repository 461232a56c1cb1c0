//! The scheduler: which session call the model makes next, and its result. Owned by the model
//! thread.
//!
//! Knows keys, due times and buckets; no requests, no sockets, no clock of its own (`plan` is the
//! pure decision). A caption never joins a running batch; finished and cancelled rows leave between
//! steps.

mod plan;
#[cfg(test)]
mod tests;

pub use plan::{BatchBucket, BatchLimits, ScheduleTicket, SessionCall};

use pg_caption_captioner::FinishedCaption;
use std::time::{Duration, Instant};

/// The model as the scheduler drives it: the captioner, or a mock.
pub trait ScheduledModel {
    /// A picture ready for the encoder.
    type Pixels;
    /// A picture after the encoder.
    type Features;
    /// What generation starts from.
    type Start;
    /// Captions being generated together.
    type Batch;
    /// One encoder call.
    ///
    /// # Errors
    /// The whole call failed.
    fn encode(&mut self, pictures: &[&Self::Pixels]) -> Result<Vec<Self::Features>, String>;
    /// Prefill; some captions may finish in it.
    ///
    /// # Errors
    /// The whole call failed.
    fn begin(
        &mut self,
        captions: &[(u64, &Self::Start)],
    ) -> Result<(Self::Batch, Vec<FinishedCaption>), String>;
    /// One step of everything in the batch.
    ///
    /// # Errors
    /// The batch is unusable and must be dropped.
    fn step(&mut self, batch: &mut Self::Batch) -> Result<Vec<FinishedCaption>, String>;
    /// Drops captions before the next step.
    fn cancel(batch: &mut Self::Batch, keys: &[u64]);
    /// Cache bytes held.
    fn bytes(batch: &Self::Batch) -> usize;
}

/// A result of a call.
#[derive(Debug)]
pub enum CallEvent<F> {
    /// A picture was encoded.
    Encoded {
        /// Key of the picture.
        key: u64,
        /// The picture after the encoder.
        features: F,
        /// Its share of the call.
        spent: Duration,
    },
    /// A caption ended.
    Ended {
        /// The caption.
        finished: FinishedCaption,
        /// Its share of the calls.
        spent: Duration,
    },
    /// A picture or caption cannot be processed.
    Failed {
        /// Key of the picture or caption.
        key: u64,
        /// The model's error.
        reason: String,
    },
}

struct Row<S> {
    ticket: ScheduleTicket,
    start: S,
    spent: Duration,
}

struct Running<M: ScheduledModel> {
    batch: M::Batch,
    rows: Vec<Row<M::Start>>,
}

/// All pictures and captions that wait for the model or run on it.
pub struct ModelScheduler<M: ScheduledModel> {
    limits: BatchLimits,
    pictures: Vec<(ScheduleTicket, M::Pixels)>,
    captions: Vec<Row<M::Start>>,
    running: Vec<Running<M>>,
    /// The most a row's cache has been seen to hold.
    row_bytes: usize,
}

impl<M: ScheduledModel> ModelScheduler<M> {
    /// An empty one.
    pub fn new(limits: BatchLimits) -> Self {
        ModelScheduler {
            limits,
            pictures: Vec::new(),
            captions: Vec::new(),
            running: Vec::new(),
            row_bytes: 0,
        }
    }

    /// Adds a picture to encode.
    pub fn add_picture(&mut self, ticket: ScheduleTicket, pixels: M::Pixels) {
        self.pictures.push((ticket, pixels));
    }

    /// Adds a caption to generate.
    pub fn add_caption(&mut self, ticket: ScheduleTicket, start: M::Start) {
        self.captions.push(Row { ticket, start, spent: Duration::ZERO });
    }

    /// Drops unwanted pictures and captions and returns their keys. Called between session calls.
    pub fn retain(&mut self, mut wanted: impl FnMut(u64) -> bool) -> Vec<u64> {
        let mut dropped = Vec::new();
        let mut keep = |key| {
            let wanted = wanted(key);
            if !wanted {
                dropped.push(key);
            }
            wanted
        };
        self.pictures.retain(|(ticket, _)| keep(ticket.key));
        self.captions.retain(|row| keep(row.ticket.key));
        for running in &mut self.running {
            let mut leaving = Vec::new();
            running.rows.retain(|row| {
                let stays = keep(row.ticket.key);
                if !stays {
                    leaving.push(row.ticket.key);
                }
                stays
            });
            if !leaving.is_empty() {
                M::cancel(&mut running.batch, &leaving);
            }
        }
        self.running.retain(|r| !r.rows.is_empty());
        dropped
    }

    /// The next call. `held`: bytes of features kept for captions.
    pub fn next(&self, held: usize) -> Option<SessionCall> {
        let pictures: Vec<ScheduleTicket> =
            self.pictures.iter().map(|(ticket, _)| *ticket).collect();
        let captions: Vec<ScheduleTicket> = self.captions.iter().map(|row| row.ticket).collect();
        let running: Vec<Instant> = self
            .running
            .iter()
            .filter_map(|r| r.rows.iter().map(|row| row.ticket.due).min())
            .collect();
        let caches: usize = self.running.iter().map(|r| M::bytes(&r.batch)).sum();
        let view = plan::PlanView {
            pictures: &pictures,
            captions: &captions,
            running: &running,
            bytes: held + caches,
            row_bytes: self.row_bytes,
        };
        plan::next(&view, &self.limits)
    }

    /// Makes the call. `clock` is read before and after it.
    pub fn run(
        &mut self,
        call: SessionCall,
        model: &mut M,
        clock: impl Fn() -> Instant,
    ) -> Vec<CallEvent<M::Features>> {
        let before = clock();
        match call {
            SessionCall::Encode(at) => {
                let group = taken(&mut self.pictures, &at);
                let made =
                    model.encode(&group.iter().map(|(_, pixels)| pixels).collect::<Vec<_>>());
                let spent = share(before, clock(), group.len());
                match made {
                    Ok(features) if features.len() == group.len() => {
                        let keys = group.into_iter().map(|(ticket, _)| ticket.key);
                        keys.zip(features)
                            .map(|(key, features)| CallEvent::Encoded { key, features, spent })
                            .collect()
                    }
                    Ok(_) => failed(
                        group.into_iter().map(|(t, _)| t.key),
                        "the encoder returned too few pictures",
                    ),
                    Err(reason) if group.len() == 1 => {
                        failed(group.into_iter().map(|(t, _)| t.key), &reason)
                    }
                    Err(_) => {
                        self.pictures.extend(
                            group
                                .into_iter()
                                .map(|(t, pixels)| (ScheduleTicket { alone: true, ..t }, pixels)),
                        );
                        Vec::new()
                    }
                }
            }
            SessionCall::Begin(at) => {
                let mut rows = taken(&mut self.captions, &at);
                let begun = model.begin(
                    &rows.iter().map(|row| (row.ticket.key, &row.start)).collect::<Vec<_>>(),
                );
                let spent = share(before, clock(), rows.len());
                rows.iter_mut().for_each(|row| row.spent += spent);
                match begun {
                    Ok((batch, finished)) => {
                        let events = leave(&mut rows, finished);
                        if !rows.is_empty() {
                            self.running.push(Running { batch, rows });
                            self.note_bytes(self.running.len() - 1);
                        }
                        events
                    }
                    Err(reason) => self.apart(rows, &reason),
                }
            }
            SessionCall::Step(at) => {
                let running = &mut self.running[at];
                let stepped = model.step(&mut running.batch);
                let spent = share(before, clock(), running.rows.len());
                running.rows.iter_mut().for_each(|row| row.spent += spent);
                match stepped {
                    Ok(finished) => {
                        let events = leave(&mut running.rows, finished);
                        if running.rows.is_empty() {
                            self.running.swap_remove(at);
                        } else {
                            self.note_bytes(at);
                        }
                        events
                    }
                    Err(reason) => {
                        let rows = self.running.swap_remove(at).rows;
                        self.apart(rows, &reason)
                    }
                }
            }
        }
    }

    /// A call over these rows failed. A single row is the cause; of several, each is retried alone.
    fn apart(&mut self, rows: Vec<Row<M::Start>>, reason: &str) -> Vec<CallEvent<M::Features>> {
        if rows.len() == 1 {
            return failed(rows.into_iter().map(|row| row.ticket.key), reason);
        }
        self.captions.extend(
            rows.into_iter()
                .map(|row| Row { ticket: ScheduleTicket { alone: true, ..row.ticket }, ..row }),
        );
        Vec::new()
    }

    fn note_bytes(&mut self, at: usize) {
        let running = &self.running[at];
        let rows: usize = running.rows.iter().map(|r| r.ticket.rows).sum();
        self.row_bytes = self.row_bytes.max(M::bytes(&running.batch) / rows.max(1));
    }
}

/// Removes the elements at these positions and returns them in the order of the positions.
fn taken<T>(from: &mut Vec<T>, at: &[usize]) -> Vec<T> {
    let mut slots: Vec<Option<T>> = std::mem::take(from).into_iter().map(Some).collect();
    let out = at.iter().filter_map(|i| slots[*i].take()).collect();
    from.extend(slots.into_iter().flatten());
    out
}

fn share(before: Instant, after: Instant, of: usize) -> Duration {
    after.saturating_duration_since(before) / of.max(1) as u32
}

/// Removes finished rows and returns their events.
fn leave<S, F>(rows: &mut Vec<Row<S>>, finished: Vec<FinishedCaption>) -> Vec<CallEvent<F>> {
    let ended = finished.into_iter().filter_map(|finished| {
        let at = rows.iter().position(|row| row.ticket.key == finished.key)?;
        let spent = rows.swap_remove(at).spent;
        Some(CallEvent::Ended { finished, spent })
    });
    ended.collect()
}

fn failed<F>(keys: impl Iterator<Item = u64>, reason: &str) -> Vec<CallEvent<F>> {
    keys.map(|key| CallEvent::Failed { key, reason: reason.into() }).collect()
}
