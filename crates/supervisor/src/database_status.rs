//! What is said of a database in `caption.database`: whether its queue is being drained, and if
//! not, why not. Pure: the extension gathers the facts.

use std::time::Duration;

/// What is known of the server.
#[derive(Debug, Clone, Copy, Default)]
pub struct Server {
    /// Read-only: a standby, or still recovering.
    pub in_recovery: bool,
    /// The launcher is there.
    pub launcher: bool,
    /// `pg_caption.enabled`.
    pub enabled: bool,
    /// Databases that have a worker now.
    pub busy: usize,
    /// `pg_caption.max_workers`.
    pub max_workers: usize,
    /// The last start of a worker found no free slot.
    pub no_slot: bool,
}

/// What is known of one database.
#[derive(Debug, Clone, Copy, Default)]
pub struct Database {
    /// A worker serves it.
    pub served: bool,
    /// Something was committed that no worker has seen, or deferred rows are due.
    pub has_work: bool,
    /// Time until its deferred rows are due, if it has any.
    pub due_in: Option<Duration>,
    /// It takes connections.
    pub connectable: bool,
    /// Workers that ended badly since the last one that did not.
    pub failures: u32,
    /// Time until the next one is tried, if that is in the future.
    pub retry_in: Option<Duration>,
}

/// How a database is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// A worker is there.
    Served,
    /// Nothing is to be done now.
    Idle,
    /// It has work and will get a worker.
    Waiting,
    /// It gets no worker until somebody changes something.
    Cannot,
}

impl State {
    /// As the view shows it.
    pub fn name(self) -> &'static str {
        match self {
            State::Served => "served",
            State::Idle => "idle",
            State::Waiting => "waiting",
            State::Cannot => "cannot be served",
        }
    }
}

/// How a database is, and why: `None` where the state says everything.
pub fn state(server: &Server, database: &Database) -> (State, Option<String>) {
    let cannot = |why: &str| (State::Cannot, Some(why.to_string()));
    if database.served {
        return (State::Served, None);
    }
    if server.in_recovery {
        return cannot(
            "this server is a standby: queues are drained where they can be written, and here after a promotion",
        );
    }
    if !database.connectable {
        return cannot("it takes no connections: ALTER DATABASE … ALLOW_CONNECTIONS true");
    }
    if !server.launcher {
        return cannot("the launcher is not running; see the server log");
    }
    if !server.enabled {
        return cannot("pg_caption.enabled is off");
    }
    if server.max_workers == 0 {
        return cannot("pg_caption.max_workers is 0");
    }
    if !database.has_work {
        return (
            State::Idle,
            database.due_in.map(|due| format!("deferred rows are due in {} s", due.as_secs())),
        );
    }
    let why = if let Some(retry) = database.retry_in {
        format!(
            "{} workers in a row ended badly (see the server log); the next one is tried in {} s",
            database.failures,
            retry.as_secs()
        )
    } else if server.no_slot {
        "no background worker slot is free: raise max_worker_processes".to_string()
    } else if server.busy >= server.max_workers {
        format!(
            "all {} workers serve other databases; it gets its turn (pg_caption.max_workers)",
            server.max_workers
        )
    } else {
        "its worker is being started".to_string()
    };
    (State::Waiting, Some(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const WELL: Server = Server {
        in_recovery: false,
        launcher: true,
        enabled: true,
        busy: 0,
        max_workers: 2,
        no_slot: false,
    };
    const WORK: Database = Database {
        served: false,
        has_work: true,
        due_in: None,
        connectable: true,
        failures: 0,
        retry_in: None,
    };

    #[test]
    fn every_reason_is_named_and_says_what_to_change() {
        let minute = Some(Duration::from_secs(60));
        for (server, database, state_then, word) in [
            (WELL, Database { served: true, ..WORK }, State::Served, ""),
            (WELL, Database { has_work: false, ..WORK }, State::Idle, ""),
            (WELL, Database { has_work: false, due_in: minute, ..WORK }, State::Idle, "60 s"),
            (WELL, WORK, State::Waiting, "started"),
            (Server { busy: 2, ..WELL }, WORK, State::Waiting, "pg_caption.max_workers"),
            (Server { no_slot: true, ..WELL }, WORK, State::Waiting, "max_worker_processes"),
            (WELL, Database { failures: 3, retry_in: minute, ..WORK }, State::Waiting, "3 workers"),
            (WELL, Database { connectable: false, ..WORK }, State::Cannot, "ALLOW_CONNECTIONS"),
            (Server { enabled: false, ..WELL }, WORK, State::Cannot, "pg_caption.enabled"),
            (Server { max_workers: 0, ..WELL }, WORK, State::Cannot, "pg_caption.max_workers"),
            (Server { launcher: false, ..WELL }, WORK, State::Cannot, "launcher"),
            (Server { in_recovery: true, ..WELL }, WORK, State::Cannot, "standby"),
        ] {
            let (state, why) = state(&server, &database);
            assert_eq!(state, state_then, "{server:?} {database:?}");
            assert!(why.unwrap_or_default().contains(word), "{word}");
        }
    }
}
