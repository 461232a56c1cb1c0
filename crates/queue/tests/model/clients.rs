//! Random actions of clients and faults, while workers run.

use crate::chance::Chance;
use crate::database::{Change, Open};
use crate::simulation::{Simulation, announces};

const KINDS: [&str; 9] = ["ok", "ok", "ok", "ok", "gone", "vague", "slow", "flaky", "poison"];
const KEYS: usize = 14;
const TABLES: [u32; 2] = [101, 102];

fn url(sim: &mut Simulation) -> Option<String> {
    if sim.random.percent(8) {
        return None;
    }
    let number = sim.random.below(12);
    if sim.random.percent(15) {
        let host = sim.random.below(2);
        return Some(format!("host-{host}/{number}."));
    }
    let kind = sim.random.pick(&KINDS)?;
    if kind == "poison" && !sim.random.percent(20) {
        return Some(format!("ok-{number}."));
    }
    Some(format!("{kind}-{number}."))
}

fn key(sim: &mut Simulation) -> String {
    format!("[\"{:02}\"]", sim.random.below(KEYS))
}

/// A change of an unlocked row.
fn change(sim: &mut Simulation, at: usize) -> Option<Change> {
    let oid = sim.random.pick(&TABLES)?;
    let key = key(sim);
    let kind = sim.random.below(100);
    let url = url(sim);
    let cell = sim.random.below(2);
    let text = sim.random.percent(50).then(|| format!("user text {}", sim.random.below(1000)));
    let db = &sim.databases[at];
    let table = db.tables.get(&oid)?;
    if table.locked.is_some() || db.locked_by_worker.contains(&(oid, key.clone())) {
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

/// A client changes a few rows and commits.
pub fn edit(sim: &mut Simulation, at: usize) {
    let count = 1 + sim.random.below(3);
    // One change per row: deleting and inserting a row in one transaction is not modelled.
    let mut changes: Vec<Change> = Vec::new();
    for _ in 0..count {
        if let Some(change) = change(sim, at)
            && !changes.iter().any(|before| row_of(before) == row_of(&change))
        {
            changes.push(change);
        }
    }
    if !changes.is_empty() {
        sim.commit(at, &changes);
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

/// A client calls a function of the extension, or redefines a table.
pub fn call(sim: &mut Simulation, at: usize) {
    let Some(oid) = sim.random.pick(&TABLES) else { return };
    let kind = sim.random.below(11);
    let styles = 1 + sim.random.below(2);
    let table = sim.databases[at].tables.entry(oid).or_default();
    // Waiting for a lock on the table or its watch is not modelled.
    if table.locked.is_some()
        || table.rows.values().any(|record| record.locked.is_some())
        || table.state.as_ref().is_some_and(|t| t.locked.is_some())
    {
        return;
    }
    let watched = table.watch.is_some();
    let change = match kind {
        _ if !watched => Change::Watch(oid, styles),
        0 => Change::Watch(oid, styles),
        1 => Change::Unwatch(oid),
        2 => Change::Rewatch(oid, table.watch.as_ref().map_or(styles, |watch| watch.styles)),
        3 => Change::Pause(oid, true),
        4 | 5 => Change::Pause(oid, false),
        6 => Change::Retry(oid),
        7 => Change::Recaption(oid),
        8 => Change::Prune(oid),
        9 => Change::Truncate(oid),
        _ => Change::Rename(oid),
    };
    sim.commit(at, &[change]);
}

/// A client begins a transaction that stays open for a while, or prepares one.
pub fn begin(sim: &mut Simulation, at: usize) {
    sim.transactions += 1;
    let id = sim.transactions;
    let ends = sim.now + sim.random.millis(15_000);
    let (commits, prepared) = (sim.random.percent(70), sim.random.percent(30));
    let Some(oid) = sim.random.pick(&TABLES) else { return };
    let mut open = Open {
        id,
        ends,
        commits,
        prepared,
        changes: Vec::new(),
        queued: Vec::new(),
        announces: false,
    };
    let kind = sim.random.below(10);
    let changes: Vec<Change> = (0..3).filter_map(|_| change(sim, at)).collect();
    let db = &mut sim.databases[at];
    let Some(table) = db.tables.get_mut(&oid) else { return };
    let is_free =
        table.locked.is_none() && table.rows.values().all(|record| record.locked.is_none());
    match kind {
        // Locks the whole table.
        0 if is_free => table.locked = Some(id),
        // Calls a function of the extension.
        1 if is_free => {
            let Some(state) = table.state.as_mut().filter(|state| state.locked.is_none()) else {
                return;
            };
            state.locked = Some(id);
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
                    Change::Url(_, _, to) => {
                        let has_text = cells.iter().any(|cell| cell.text.is_some());
                        *to != url && (to.is_some() || has_text)
                    }
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
            // The queue row gets its id now and becomes visible with the commit.
            open.announces = !keys.is_empty() || open.changes.iter().any(announces);
            open.queued = db.pages(keys);
        }
    }
    sim.trace(at, || format!("begins {open:?}"));
    let db = &mut sim.databases[at];
    let slow = prepared && open.announces;
    db.open.push(open);
    if slow {
        sim.announce(at, true);
    }
}

/// Injects a fault.
pub fn fault(sim: &mut Simulation) {
    let at = sim.random.below(sim.databases.len());
    match sim.random.below(12) {
        0 | 1 => sim.kill_engine(),
        2 => {
            let until = sim.now + sim.random.millis(5000);
            sim.engine.cannot_until = Some(until);
        }
        3 => {
            sim.engine.connections.values_mut().for_each(|connection| connection.going_away = true)
        }
        4 => {
            let refused = sim.random.percent(50);
            sim.engine.cut(refused);
        }
        5 | 6 => {
            let host = format!("host-{}", sim.random.below(2));
            let until = sim.now + sim.random.millis(60_000);
            sim.engine.cooling.insert(host, until);
        }
        7 | 8 => {
            let running: Vec<usize> = sim.workers.keys().copied().collect();
            if let Some(at) = sim.random.pick(&running) {
                sim.worker_ended(at);
            }
        }
        9 => sim.slots_taken = !sim.slots_taken,
        10 => {
            if !sim.wanted.remove(&at) {
                sim.wanted.insert(at);
            }
        }
        _ => {
            if sim.random.percent(20) {
                sim.restart();
            }
        }
    }
}
