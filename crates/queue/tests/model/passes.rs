//! Prune passes remove bookkeeping of deleted rows when they are due, and delay no row.

use crate::database::{Change, Database};
use crate::simulation::Simulation;
use crate::{TABLE, key, quiet, rest, running, until};
use std::time::Duration;

/// No bookkeeping of deleted rows, and no failure of rows that need no text.
pub fn check(at: usize, db: &Database) {
    for row in db.ledger.keys() {
        assert!(db.record(row).is_some(), "the ledger of database {at} still has {row:?}");
    }
    for (row, code) in &db.failed {
        let table = &db.tables[&row.0];
        let styles = table.watch.as_ref().map_or(0, |watch| watch.styles);
        // A new caption was requested and failed: the old one stays, and so does the failure.
        let before = table.state.as_ref().and_then(|state| state.recaption_before);
        let is_recaptioned = db.ledger.get(row).is_some_and(|entry| Some(entry.at) < before);
        assert!(
            is_recaptioned || db.record(row).is_some_and(|record| record.needs_text(styles)),
            "{row:?} of database {at} still has a failure: {code}"
        );
    }
}

fn insert(number: usize) -> Change {
    Change::Insert(TABLE, key(number), Some(format!("ok-{number}.")))
}

fn delete(numbers: std::ops::Range<usize>) -> Vec<Change> {
    numbers.map(|number| Change::Delete(TABLE, key(number))).collect()
}

fn ledger(sim: &Simulation) -> usize {
    sim.databases[0].ledger.len()
}

/// A server at rest whose table of `rows` rows is filled and pruned.
fn filled(rows: usize) -> Simulation {
    let mut sim = quiet(rows);
    rest(&mut sim);
    assert_eq!(ledger(&sim), rows);
    sim
}

#[test]
fn deleted_rows_are_pruned_a_day_after_the_last_pass() {
    let mut sim = filled(20);
    sim.commit(0, &delete(5..15));
    sim.commit(0, &[insert(20)]);
    rest(&mut sim);
    assert_eq!(ledger(&sim), 21, "not due");
    let batches = sim.batches;
    let next = sim.now + Duration::from_secs(24 * 3600);
    sim.pass(next);
    rest(&mut sim);
    assert_eq!(sim.batches, batches, "no worker starts for it");
    sim.commit(0, &[insert(21)]);
    rest(&mut sim);
    assert_eq!(ledger(&sim), 12);
    check(0, &sim.databases[0]);
}

#[test]
fn truncated_table_is_pruned_by_the_next_worker() {
    let mut sim = filled(20);
    sim.commit(0, &[Change::Truncate(TABLE)]);
    sim.commit(0, &[insert(3)]);
    rest(&mut sim);
    assert_eq!(ledger(&sim), 1);
}

#[test]
fn pass_requested_during_another_sees_all_deletions() {
    let mut sim = filled(60);
    sim.commit(0, &delete(30..60));
    sim.commit(0, &[Change::Prune(TABLE)]);
    until(&mut sim, "half-way", |sim| ledger(sim) < 45);
    sim.commit(0, &delete(0..30));
    sim.commit(0, &[Change::Prune(TABLE)]);
    rest(&mut sim);
    assert_eq!(ledger(&sim), 0);
}

#[test]
fn table_truncated_during_its_pass_is_pruned() {
    let mut sim = filled(60);
    sim.commit(0, &delete(30..60));
    sim.commit(0, &[Change::Prune(TABLE)]);
    until(&mut sim, "half-way", |sim| ledger(sim) < 45);
    sim.commit(0, &[Change::Truncate(TABLE)]);
    rest(&mut sim);
    assert_eq!(ledger(&sim), 0);
}

#[test]
fn pass_continues_after_a_worker_dies() {
    let mut sim = filled(60);
    let before = sim.batches;
    sim.commit(0, &[Change::Prune(TABLE)]);
    for _ in 0..5 {
        let then = sim.batches + 5;
        until(&mut sim, "another five batches later", |sim| sim.batches >= then);
        sim.worker_ended(0);
    }
    rest(&mut sim);
    // Two keys per batch, plus an empty batch for each table.
    assert_eq!(sim.batches - before, 60 / running::LIMITS.prune_rows + 2);
}

#[test]
fn new_row_waits_for_one_batch_at_most() {
    let mut sim = filled(90);
    sim.commit(0, &delete(0..90));
    sim.commit(0, &[Change::Prune(TABLE)]);
    for number in 0..20 {
        let before = ledger(&sim);
        until(&mut sim, "one batch further on", |sim| ledger(sim) < before);
        sim.commit(0, &[insert(number)]);
        let batches = sim.batches;
        until(&mut sim, "on its way", |sim| !sim.engine.busy().is_empty());
        assert!(
            sim.batches <= batches + 1,
            "{} batches before the request for the row",
            sim.batches - batches
        );
        until(&mut sim, "filled", |sim| sim.databases[0].queue.is_empty());
    }
    rest(&mut sim);
    assert_eq!(ledger(&sim), 20);
}

#[test]
fn lingering_worker_runs_a_requested_pass() {
    let mut sim = quiet(20);
    until(&mut sim, "with nothing to do", |sim| {
        ledger(sim) == 20
            && sim.workers[&0].until().is_some_and(|until| until > sim.now + Duration::from_secs(1))
    });
    sim.commit(0, &delete(0..20));
    sim.commit(0, &[Change::Prune(TABLE)]);
    rest(&mut sim);
    assert_eq!(ledger(&sim), 0);
}

#[test]
fn busy_worker_prunes_one_batch_per_second() {
    let mut sim = filled(20);
    sim.commit(0, &delete(10..20));
    let (batches, start) = (sim.batches, sim.now);
    // The engine accepts requests and never answers.
    sim.engine.mute = true;
    sim.commit(0, &[insert(30)]);
    sim.commit(0, &[Change::Prune(TABLE)]);
    until(&mut sim, "pruned", |sim| ledger(sim) == 10);
    assert!(!sim.engine.busy().is_empty(), "it is still busy");
    let seconds = (sim.now - start).as_secs() as usize;
    assert!(
        sim.batches - batches <= seconds + 1,
        "{} batches in {seconds} s",
        sim.batches - batches
    );
}
