//! What people do to a server while its queues are being drained, at random.

use crate::database::{Change, Open};
use crate::simulation::{World, announces};

const KINDS: [&str; 9] = ["ok", "ok", "ok", "ok", "gone", "vague", "slow", "flaky", "poison"];
const KEYS: usize = 14;
const TABLES: [u32; 2] = [101, 102];

fn url(world: &mut World) -> Option<String> {
    if world.random.percent(8) {
        return None;
    }
    let number = world.random.below(12);
    if world.random.percent(15) {
        let host = world.random.below(2);
        return Some(format!("host-{host}/{number}."));
    }
    let kind = world.random.pick(&KINDS)?;
    if kind == "poison" && !world.random.percent(20) {
        return Some(format!("ok-{number}."));
    }
    Some(format!("{kind}-{number}."))
}

fn key(world: &mut World) -> String {
    format!("[\"{:02}\"]", world.random.below(KEYS))
}

/// A change of a row that nobody holds.
fn change(world: &mut World, at: usize) -> Option<Change> {
    let oid = world.random.pick(&TABLES)?;
    let key = key(world);
    let kind = world.random.below(100);
    let url = url(world);
    let cell = world.random.below(2);
    let text = world.random.percent(50).then(|| format!("a person's {}", world.random.below(1000)));
    let db = &world.databases[at];
    let table = db.tables.get(&oid)?;
    if table.locked.is_some() || db.held_by_worker.contains(&(oid, key.clone())) {
        return None;
    }
    match table.rows.get(&key) {
        None => Some(Change::Insert(oid, key, url)),
        Some(record) if record.locked.is_some() => None,
        Some(_) => Some(match kind {
            0..45 => Change::Url(oid, key, url),
            45..85 => Change::Text(oid, key, cell, text),
            _ => Change::Delete(oid, key),
        }),
    }
}

/// Somebody changes a few rows and commits.
pub fn edit(world: &mut World, at: usize) {
    let count = 1 + world.random.below(3);
    // One change a row: a transaction that inserts what another one of ours in this list deletes
    // would be a case of its own.
    let mut changes: Vec<Change> = Vec::new();
    for _ in 0..count {
        if let Some(change) = change(world, at)
            && !changes.iter().any(|before| row_of(before) == row_of(&change))
        {
            changes.push(change);
        }
    }
    if !changes.is_empty() {
        world.commit(at, &changes);
    }
}

fn row_of(change: &Change) -> Option<(u32, String)> {
    match change {
        Change::Insert(oid, key, _)
        | Change::Url(oid, key, _)
        | Change::Text(oid, key, ..)
        | Change::Delete(oid, key) => Some((*oid, key.clone())),
        _ => None,
    }
}

/// Somebody calls one of our functions, or redefines a table.
pub fn call(world: &mut World, at: usize) {
    let Some(oid) = world.random.pick(&TABLES) else { return };
    let kind = world.random.below(11);
    let styles = 1 + world.random.below(2);
    let table = world.databases[at].tables.entry(oid).or_default();
    // Whoever holds the table or its watch is waited for, elsewhere.
    if table.locked.is_some()
        || table.rows.values().any(|record| record.locked.is_some())
        || table.tally.as_ref().is_some_and(|t| t.locked.is_some())
    {
        return;
    }
    let watched = table.watch.is_some();
    let change = match kind {
        _ if !watched => Change::Watch(oid, styles),
        0 => Change::Watch(oid, styles),
        1 => Change::Unwatch(oid),
        2 => Change::WatchAnew(oid, table.watch.as_ref().map_or(styles, |watch| watch.styles)),
        3 => Change::Pause(oid, true),
        4 | 5 => Change::Pause(oid, false),
        6 => Change::Retry(oid),
        7 => Change::Recaption(oid),
        8 => Change::Tidy(oid),
        9 => Change::Truncate(oid),
        _ => Change::Rename(oid),
    };
    world.commit(at, &[change]);
}

/// Somebody begins a transaction that stays open for a while, or prepares one.
pub fn begin(world: &mut World, at: usize) {
    world.transactions += 1;
    let id = world.transactions;
    let ends = world.now + world.random.millis(15_000);
    let (commits, prepared) = (world.random.percent(70), world.random.percent(30));
    let Some(oid) = world.random.pick(&TABLES) else { return };
    let mut open = Open {
        id,
        ends,
        commits,
        prepared,
        changes: Vec::new(),
        queued: Vec::new(),
        announces: false,
    };
    let kind = world.random.below(10);
    let changes: Vec<Change> = (0..3).filter_map(|_| change(world, at)).collect();
    let db = &mut world.databases[at];
    let Some(table) = db.tables.get_mut(&oid) else { return };
    let is_free =
        table.locked.is_none() && table.rows.values().all(|record| record.locked.is_none());
    match kind {
        // The whole table.
        0 if is_free => table.locked = Some(id),
        // A call of ours.
        1 if is_free => {
            let Some(tally) = table.tally.as_mut().filter(|tally| tally.locked.is_none()) else {
                return;
            };
            tally.locked = Some(id);
            open.announces = true;
        }
        _ => {
            let mut keys = Vec::new();
            for change in changes {
                let Some((oid, key)) = row_of(&change) else { continue };
                let Some(record) =
                    db.record_mut(&(oid, key.clone())).filter(|record| record.locked.is_none())
                else {
                    continue;
                };
                record.locked = Some(id);
                let (url, cells) = (record.url.clone(), record.cells.clone());
                let fires = match &change {
                    Change::Url(_, _, to) => to.is_some() && *to != url,
                    Change::Text(_, _, cell, to) => {
                        to.is_none() && url.is_some() && cells[*cell].text.is_some()
                    }
                    _ => false,
                };
                if fires && db.tables[&oid].watch.is_some() {
                    keys.push((oid, key));
                }
                open.changes.push(change);
            }
            // The row of the queue gets its number now, and is seen when the transaction has
            // committed.
            open.announces = !keys.is_empty() || open.changes.iter().any(announces);
            open.queued = db.pages(keys);
        }
    }
    world.trace(at, || format!("begins {open:?}"));
    let db = &mut world.databases[at];
    let slow = prepared && open.announces;
    db.open.push(open);
    if slow {
        world.announce(at, true);
    }
}

/// Something goes wrong.
pub fn fault(world: &mut World) {
    let at = world.random.below(world.databases.len());
    match world.random.below(12) {
        0 | 1 => world.kill_engine(),
        2 => {
            let until = world.now + world.random.millis(5000);
            world.engine.cannot_until = Some(until);
        }
        3 => world
            .engine
            .connections
            .values_mut()
            .for_each(|connection| connection.going_away = true),
        4 => {
            let refused = world.random.percent(50);
            world.engine.cut(refused);
        }
        5 | 6 => {
            let host = format!("host-{}", world.random.below(2));
            let until = world.now + world.random.millis(60_000);
            world.engine.cooling.insert(host, until);
        }
        7 | 8 => {
            let running: Vec<usize> = world.workers.keys().copied().collect();
            if let Some(at) = world.random.pick(&running) {
                world.worker_ended(at);
            }
        }
        9 => world.slots_taken = !world.slots_taken,
        10 => {
            if !world.wanted.remove(&at) {
                world.wanted.insert(at);
            }
        }
        _ => {
            if world.random.percent(20) {
                world.restart();
            }
        }
    }
}
