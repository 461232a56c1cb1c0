//! The scheduler: which session call the model makes next, and what comes of it. Owned by the model
//! thread.
//!
//! Knows keys, due times and buckets; no request, no socket, no clock of its own (`plan` is the
//! pure decision). A sequence never joins a running batch; rows that finished or were cancelled
//! leave between steps.

mod plan;
#[cfg(test)]
mod tests;

pub use plan::{Act, Bucket, Limits, Ticket};

use pg_caption_captioner::FinishedCaption;
use std::time::{Duration, Instant};

/// What the scheduler drives: the captioner, or a mock.
pub trait Model {
    /// A picture ready for the encoder.
    type Pixels;
    /// What the encoder makes of it.
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
    /// Prefill; some may finish at once.
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
    /// The batch is good for nothing but being dropped.
    fn step(&mut self, batch: &mut Self::Batch) -> Result<Vec<FinishedCaption>, String>;
    /// Drops captions before the next step.
    fn cancel(batch: &mut Self::Batch, keys: &[u64]);
    /// Cache bytes held.
    fn bytes(batch: &Self::Batch) -> usize;
}

/// What came of a call.
#[derive(Debug)]
pub enum Event<F> {
    /// A picture was encoded.
    Encoded {
        /// Of the picture.
        key: u64,
        /// What the encoder made of it.
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
        /// Of the picture or caption.
        key: u64,
        /// What the model said.
        reason: String,
    },
}

struct Row<S> {
    ticket: Ticket,
    start: S,
    spent: Duration,
}

struct Running<M: Model> {
    batch: M::Batch,
    rows: Vec<Row<M::Start>>,
}

/// Everything that waits for the model or runs on it.
pub struct Scheduler<M: Model> {
    limits: Limits,
    pictures: Vec<(Ticket, M::Pixels)>,
    captions: Vec<Row<M::Start>>,
    running: Vec<Running<M>>,
    /// The most a row's cache has been seen to hold.
    row_bytes: usize,
}

impl<M: Model> Scheduler<M> {
    /// An empty one.
    pub fn new(limits: Limits) -> Self {
        Scheduler {
            limits,
            pictures: Vec::new(),
            captions: Vec::new(),
            running: Vec::new(),
            row_bytes: 0,
        }
    }

    /// Adds a picture to encode.
    pub fn picture(&mut self, ticket: Ticket, pixels: M::Pixels) {
        self.pictures.push((ticket, pixels));
    }

    /// Adds a caption to generate.
    pub fn caption(&mut self, ticket: Ticket, start: M::Start) {
        self.captions.push(Row { ticket, start, spent: Duration::ZERO });
    }

    /// Drops everything nobody waits for any more and returns its keys. Called between calls.
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
    pub fn next(&self, held: usize) -> Option<Act> {
        let pictures: Vec<Ticket> = self.pictures.iter().map(|(ticket, _)| *ticket).collect();
        let captions: Vec<Ticket> = self.captions.iter().map(|row| row.ticket).collect();
        let running: Vec<Instant> = self
            .running
            .iter()
            .filter_map(|r| r.rows.iter().map(|row| row.ticket.due).min())
            .collect();
        let caches: usize = self.running.iter().map(|r| M::bytes(&r.batch)).sum();
        let view = plan::View {
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
        act: Act,
        model: &mut M,
        clock: impl Fn() -> Instant,
    ) -> Vec<Event<M::Features>> {
        let before = clock();
        match act {
            Act::Encode(at) => {
                let group = taken(&mut self.pictures, &at);
                let made =
                    model.encode(&group.iter().map(|(_, pixels)| pixels).collect::<Vec<_>>());
                let spent = share(before, clock(), group.len());
                match made {
                    Ok(features) if features.len() == group.len() => {
                        let keys = group.into_iter().map(|(ticket, _)| ticket.key);
                        keys.zip(features)
                            .map(|(key, features)| Event::Encoded { key, features, spent })
                            .collect()
                    }
                    Ok(_) => {
                        failed(group.into_iter().map(|(t, _)| t.key), "the encoder lost a picture")
                    }
                    Err(reason) if group.len() == 1 => {
                        failed(group.into_iter().map(|(t, _)| t.key), &reason)
                    }
                    Err(_) => {
                        self.pictures.extend(
                            group
                                .into_iter()
                                .map(|(t, pixels)| (Ticket { alone: true, ..t }, pixels)),
                        );
                        Vec::new()
                    }
                }
            }
            Act::Begin(at) => {
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
            Act::Step(at) => {
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

    /// A call over these rows failed: alone it was the culprit, among others each tries again
    /// alone.
    fn apart(&mut self, rows: Vec<Row<M::Start>>, reason: &str) -> Vec<Event<M::Features>> {
        if rows.len() == 1 {
            return failed(rows.into_iter().map(|row| row.ticket.key), reason);
        }
        self.captions.extend(
            rows.into_iter().map(|row| Row { ticket: Ticket { alone: true, ..row.ticket }, ..row }),
        );
        Vec::new()
    }

    fn note_bytes(&mut self, at: usize) {
        let running = &self.running[at];
        let rows: usize = running.rows.iter().map(|r| r.ticket.rows).sum();
        self.row_bytes = self.row_bytes.max(M::bytes(&running.batch) / rows.max(1));
    }
}

/// Takes the elements at these positions out, in the positions' order.
fn taken<T>(from: &mut Vec<T>, at: &[usize]) -> Vec<T> {
    let mut slots: Vec<Option<T>> = std::mem::take(from).into_iter().map(Some).collect();
    let out = at.iter().filter_map(|i| slots[*i].take()).collect();
    from.extend(slots.into_iter().flatten());
    out
}

fn share(before: Instant, after: Instant, of: usize) -> Duration {
    after.saturating_duration_since(before) / of.max(1) as u32
}

/// Rows that finished leave; their events.
fn leave<S, F>(rows: &mut Vec<Row<S>>, finished: Vec<FinishedCaption>) -> Vec<Event<F>> {
    let ended = finished.into_iter().filter_map(|finished| {
        let at = rows.iter().position(|row| row.ticket.key == finished.key)?;
        let spent = rows.swap_remove(at).spent;
        Some(Event::Ended { finished, spent })
    });
    ended.collect()
}

fn failed<F>(keys: impl Iterator<Item = u64>, reason: &str) -> Vec<Event<F>> {
    keys.map(|key| Event::Failed { key, reason: reason.into() }).collect()
}
