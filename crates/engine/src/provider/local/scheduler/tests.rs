//! Schedules with a mock model and a mock clock: every promise of the scheduler, and random
//! schedules in which each accepted item is answered exactly once.

use super::*;
use std::cell::Cell;
use std::collections::{HashMap, HashSet};

/// A model whose captions take the number of steps in their start, and which fails on selected
/// pictures and captions.
#[derive(Default)]
struct Mock {
    calls: Vec<String>,
    poison: HashSet<u64>,
}

#[derive(Clone, Copy)]
struct Start {
    steps: u32,
    poisoned_at: Option<u32>,
}

struct MockBatch {
    rows: Vec<(u64, Start, u32)>,
}

fn done(key: u64) -> FinishedCaption {
    FinishedCaption {
        key,
        ids: vec![1],
        finish: pg_caption_wire::FinishReason::Stop,
        confidence: 1.0,
    }
}

impl ScheduledModel for Mock {
    type Pixels = u64;
    type Features = u64;
    type Start = Start;
    type Batch = MockBatch;

    fn encode(&mut self, pictures: &[&u64]) -> Result<Vec<u64>, String> {
        self.calls.push(format!("encode {}", pictures.len()));
        match pictures.iter().find(|p| self.poison.contains(p)) {
            Some(p) => Err(format!("poison {p}")),
            None => Ok(pictures.iter().map(|p| **p).collect()),
        }
    }

    fn begin(
        &mut self,
        captions: &[(u64, &Start)],
    ) -> Result<(MockBatch, Vec<FinishedCaption>), String> {
        self.calls.push(format!("begin {}", captions.len()));
        let mut batch =
            MockBatch { rows: captions.iter().map(|(key, start)| (*key, **start, 0)).collect() };
        let finished = advance(&mut batch)?;
        Ok((batch, finished))
    }

    fn step(&mut self, batch: &mut MockBatch) -> Result<Vec<FinishedCaption>, String> {
        self.calls.push(format!("step {}", batch.rows.len()));
        assert!(!batch.rows.is_empty(), "a step of an empty batch");
        advance(batch)
    }

    fn cancel(batch: &mut MockBatch, keys: &[u64]) {
        batch.rows.retain(|(key, ..)| !keys.contains(key));
    }

    fn bytes(batch: &MockBatch) -> usize {
        batch.rows.iter().map(|(_, _, at)| 10 + *at as usize).sum()
    }
}

fn advance(batch: &mut MockBatch) -> Result<Vec<FinishedCaption>, String> {
    if let Some((key, ..)) = batch.rows.iter().find(|(_, start, at)| start.poisoned_at == Some(*at))
    {
        return Err(format!("poison {key}"));
    }
    batch.rows.iter_mut().for_each(|row| row.2 += 1);
    let finished = batch
        .rows
        .iter()
        .filter(|(_, start, at)| at > &start.steps)
        .map(|(key, ..)| done(*key))
        .collect();
    batch.rows.retain(|(_, start, at)| at <= &start.steps);
    Ok(finished)
}

struct Run {
    scheduler: ModelScheduler<Mock>,
    model: Mock,
    start: Instant,
    now: Cell<u64>,
    answered: HashMap<u64, Result<(), String>>,
}

impl Run {
    fn new(limits: BatchLimits) -> Run {
        Run {
            scheduler: ModelScheduler::new(limits),
            model: Mock::default(),
            start: Instant::now(),
            now: Cell::new(0),
            answered: HashMap::new(),
        }
    }

    fn ticket(&self, key: u64, due: u64, turn: u64, bucket: u64) -> ScheduleTicket {
        ScheduleTicket {
            key,
            due: self.start + Duration::from_millis(due),
            turn,
            bucket: BatchBucket([bucket, 0, 0]),
            rows: 1,
            alone: false,
        }
    }

    fn caption(&mut self, key: u64, due: u64, steps: u32) {
        let ticket = self.ticket(key, due, key, 1);
        self.scheduler.add_caption(ticket, Start { steps, poisoned_at: None });
    }

    /// One call; false without work. Each call takes a millisecond.
    fn once(&mut self) -> bool {
        let Some(call) = self.scheduler.next(0) else { return false };
        let (start, now) = (self.start, &self.now);
        let clock = || {
            now.set(now.get() + 1);
            start + Duration::from_millis(now.get())
        };
        for event in self.scheduler.run(call, &mut self.model, clock) {
            let (key, result) = match event {
                CallEvent::Encoded { key, features, .. } => {
                    assert_eq!(key, features, "features of another picture");
                    (key, Ok(()))
                }
                CallEvent::Ended { finished, spent } => {
                    assert!(spent > Duration::ZERO);
                    (finished.key, Ok(()))
                }
                CallEvent::Failed { key, reason } => (key, Err(reason)),
            };
            assert!(self.answered.insert(key, result).is_none(), "{key} answered twice");
        }
        true
    }

    fn all(&mut self) {
        while self.once() {}
    }
}

const LIMITS: BatchLimits = BatchLimits { pictures: 4, rows: 4, bytes: 1 << 20 };

#[test]
fn waiting_pictures_are_encoded_together() {
    let mut run = Run::new(LIMITS);
    for key in 0..6 {
        let ticket = run.ticket(key, key, key, 1);
        run.scheduler.add_picture(ticket, key);
    }
    run.all();
    assert_eq!(run.model.calls, ["encode 4", "encode 2"]);
    assert_eq!(run.answered.len(), 6);
}

#[test]
fn a_new_caption_forms_a_batch_of_its_own() {
    let mut run = Run::new(LIMITS);
    run.caption(1, 10, 3);
    run.once();
    run.caption(2, 5, 1);
    run.all();
    assert_eq!(run.model.calls, ["begin 1", "begin 1", "step 1", "step 1", "step 1", "step 1"]);
    assert_eq!(run.answered.len(), 2);
}

#[test]
fn urgent_captions_overtake_running_batches() {
    let mut run = Run::new(LIMITS);
    run.caption(1, 100, 50);
    run.once();
    run.once();
    run.caption(2, 1, 2);
    while !run.answered.contains_key(&2) {
        assert!(run.once());
    }
    assert_eq!(run.model.calls.len(), 5, "{:?}", run.model.calls);
    run.all();
    assert_eq!(run.answered.len(), 2);
}

#[test]
fn cancelled_rows_leave_before_the_next_step() {
    let mut run = Run::new(LIMITS);
    (1..=3).for_each(|key| run.caption(key, key, 3));
    run.once();
    assert_eq!(run.scheduler.retain(|key| key != 2), [2]);
    run.all();
    assert_eq!(run.model.calls, ["begin 3", "step 2", "step 2", "step 2"]);
    assert_eq!(run.answered.keys().copied().collect::<HashSet<_>>(), HashSet::from([1, 3]));
}

#[test]
fn an_abandoned_batch_costs_no_step() {
    let mut run = Run::new(LIMITS);
    run.caption(1, 1, 9);
    run.once();
    run.scheduler.retain(|_| false);
    assert!(!run.once());
}

#[test]
fn a_failing_picture_costs_only_itself() {
    let mut run = Run::new(LIMITS);
    run.model.poison.insert(2);
    for key in 1..=4 {
        let ticket = run.ticket(key, key, key, 1);
        run.scheduler.add_picture(ticket, key);
    }
    run.all();
    assert_eq!(run.answered[&2], Err("poison 2".into()));
    assert!([1, 3, 4].iter().all(|key| run.answered[key].is_ok()));
}

#[test]
fn a_failing_caption_costs_only_itself() {
    for poisoned_at in [0, 2] {
        let mut run = Run::new(LIMITS);
        run.caption(1, 1, 4);
        let ticket = run.ticket(2, 1, 2, 1);
        run.scheduler.add_caption(ticket, Start { steps: 4, poisoned_at: Some(poisoned_at) });
        run.caption(3, 1, 4);
        run.all();
        assert_eq!(run.answered[&2], Err("poison 2".into()));
        assert!([1, 3].iter().all(|key| run.answered[key].is_ok()));
    }
}

#[test]
fn random_schedules_answer_each_item_once() {
    for seed in 1..=300 {
        let mut generator = fastrand::Rng::with_seed(seed);
        let mut random = move |n: u64| generator.u64(..n);
        let limits = BatchLimits {
            pictures: 1 + random(5) as usize,
            rows: 1 + random(6) as usize,
            bytes: 1 + random(200) as usize,
        };
        let mut run = Run::new(limits);
        let (mut accepted, mut cancelled) = (HashSet::new(), HashSet::new());
        for key in 0..60 {
            let ticket = ScheduleTicket {
                rows: 1 + random(3) as usize,
                ..run.ticket(key, random(500), random(4), random(3))
            };
            accepted.insert(key);
            if random(2) == 0 {
                if random(10) == 0 {
                    run.model.poison.insert(key);
                }
                run.scheduler.add_picture(ticket, key);
            } else {
                let poisoned_at = (random(10) == 0).then(|| random(5) as u32);
                run.scheduler.add_caption(ticket, Start { steps: random(8) as u32, poisoned_at });
            }
            for _ in 0..random(4) {
                run.once();
            }
            if random(8) == 0 {
                let gone = random(key + 1);
                cancelled.extend(run.scheduler.retain(|k| k != gone));
            }
        }
        run.all();
        let answered: HashSet<u64> = run.answered.keys().copied().collect();
        assert!(answered.is_disjoint(&cancelled), "seed {seed}: answered after it was cancelled");
        assert_eq!(
            answered.union(&cancelled).copied().collect::<HashSet<_>>(),
            accepted,
            "seed {seed}"
        );
    }
}
