//! Passes over ledger and failures: what is kept of rows that are gone goes, when it is due, and
//! holds nobody up.

use crate::database::{Change, Database};
use crate::simulation::World;
use crate::{TABLE, key, quiet, rest, running, until};
use std::time::Duration;

/// Nothing is kept of rows that are gone, and no failure of rows that want nothing.
pub fn check(at: usize, db: &Database) {
    for row in db.written.keys() {
        assert!(db.record(row).is_some(), "the ledger of database {at} still has {row:?}");
    }
    for (row, code) in &db.failed {
        let styles = db.tables[&row.0].watch.as_ref().map_or(0, |watch| watch.styles);
        assert!(
            db.record(row).is_some_and(|record| record.wants(styles)),
            "{row:?} of database {at} is still said to have failed: {code}"
        );
    }
}

fn insert(number: usize) -> Change {
    Change::Insert(TABLE, key(number), Some(format!("ok-{number}.")))
}

fn delete(numbers: std::ops::Range<usize>) -> Vec<Change> {
    numbers.map(|number| Change::Delete(TABLE, key(number))).collect()
}

fn ledger(world: &World) -> usize {
    world.databases[0].written.len()
}

/// A server at rest whose table of so many rows is filled, and its pass made.
fn filled(rows: usize) -> World {
    let mut world = quiet(rows);
    rest(&mut world);
    assert_eq!(ledger(&world), rows);
    world
}

#[test]
fn rows_deleted_meanwhile_are_forgotten_by_the_first_worker_a_day_after_the_last_pass() {
    let mut world = filled(20);
    world.commit(0, &delete(5..15));
    world.commit(0, &[insert(20)]);
    rest(&mut world);
    assert_eq!(ledger(&world), 21, "not due");
    let batches = world.batches;
    let next = world.now + Duration::from_secs(24 * 3600);
    world.pass(next);
    rest(&mut world);
    assert_eq!(world.batches, batches, "nobody is woken for it");
    world.commit(0, &[insert(21)]);
    rest(&mut world);
    assert_eq!(ledger(&world), 12);
    check(0, &world.databases[0]);
}

#[test]
fn a_truncated_table_is_forgotten_by_the_next_worker() {
    let mut world = filled(20);
    world.commit(0, &[Change::Truncate(TABLE)]);
    world.commit(0, &[insert(3)]);
    rest(&mut world);
    assert_eq!(ledger(&world), 1);
}

#[test]
fn a_pass_that_is_asked_for_in_the_middle_of_one_sees_all_that_was_deleted_before() {
    let mut world = filled(60);
    world.commit(0, &delete(30..60));
    world.commit(0, &[Change::Tidy(TABLE)]);
    until(&mut world, "half-way", |world| ledger(world) < 45);
    world.commit(0, &delete(0..30));
    world.commit(0, &[Change::Tidy(TABLE)]);
    rest(&mut world);
    assert_eq!(ledger(&world), 0);
}

#[test]
fn a_table_truncated_in_the_middle_of_its_pass_is_forgotten() {
    let mut world = filled(60);
    world.commit(0, &delete(30..60));
    world.commit(0, &[Change::Tidy(TABLE)]);
    until(&mut world, "half-way", |world| ledger(world) < 45);
    world.commit(0, &[Change::Truncate(TABLE)]);
    rest(&mut world);
    assert_eq!(ledger(&world), 0);
}

#[test]
fn a_pass_goes_on_where_a_worker_that_died_has_left_it() {
    let mut world = filled(60);
    let before = world.batches;
    world.commit(0, &[Change::Tidy(TABLE)]);
    for _ in 0..5 {
        let then = world.batches + 5;
        until(&mut world, "another five batches later", |world| world.batches >= then);
        world.worker_ended(0);
    }
    rest(&mut world);
    // Two a batch, and one that finds no failure, one no entry.
    assert_eq!(world.batches - before, 60 / running::LIMITS.tidied + 2);
}

#[test]
fn what_waits_is_held_up_by_one_batch_at_most() {
    let mut world = filled(90);
    world.commit(0, &delete(0..90));
    world.commit(0, &[Change::Tidy(TABLE)]);
    for number in 0..20 {
        let before = ledger(&world);
        until(&mut world, "one batch further on", |world| ledger(world) < before);
        world.commit(0, &[insert(number)]);
        let batches = world.batches;
        until(&mut world, "on its way", |world| !world.engine.busy().is_empty());
        assert!(
            world.batches <= batches + 1,
            "{} batches before the row was asked for",
            world.batches - batches
        );
        until(&mut world, "filled", |world| world.databases[0].queue.is_empty());
    }
    rest(&mut world);
    assert_eq!(ledger(&world), 20);
}

#[test]
fn a_pass_asked_for_while_a_worker_lingers_is_made_before_it_leaves() {
    let mut world = quiet(20);
    until(&mut world, "with nothing to do", |world| {
        ledger(world) == 20
            && world.workers[&0]
                .until()
                .is_some_and(|until| until > world.now + Duration::from_secs(1))
    });
    world.commit(0, &delete(0..20));
    world.commit(0, &[Change::Tidy(TABLE)]);
    rest(&mut world);
    assert_eq!(ledger(&world), 0);
}

#[test]
fn a_worker_that_is_busy_for_long_makes_a_pass_nevertheless_a_batch_a_second() {
    let mut world = filled(20);
    world.commit(0, &delete(10..20));
    let (batches, start) = (world.batches, world.now);
    // The engine takes requests and never answers.
    world.engine.mute = true;
    world.commit(0, &[insert(30)]);
    world.commit(0, &[Change::Tidy(TABLE)]);
    until(&mut world, "tidy", |world| ledger(world) == 10);
    assert!(!world.engine.busy().is_empty(), "it is still busy");
    let seconds = (world.now - start).as_secs() as usize;
    assert!(
        world.batches - batches <= seconds + 1,
        "{} batches in {seconds} s",
        world.batches - batches
    );
}
