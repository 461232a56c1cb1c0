//! The state of a database in `caption.database`: whether a worker serves its queue, and if not,
//! why. Pure: the extension gathers the facts.

use std::time::Duration;

/// Facts about the server.
#[derive(Debug, Clone, Copy, Default)]
pub struct ServerFacts {
    /// It is read-only: a standby, or still recovering.
    pub in_recovery: bool,
    /// The launcher runs.
    pub launcher: bool,
    /// `pg_caption.enabled`.
    pub enabled: bool,
    /// Number of databases with a worker.
    pub busy: usize,
    /// `pg_caption.max_workers`.
    pub max_workers: usize,
    /// The last start of a worker found no free slot.
    pub no_slot: bool,
}

/// Facts about one database.
#[derive(Debug, Clone, Copy, Default)]
pub struct DatabaseFacts {
    /// A worker serves it.
    pub served: bool,
    /// Rows were enqueued that no worker has seen, or deferred rows are due.
    pub has_work: bool,
    /// Time until its deferred rows are due, if it has any.
    pub due_in: Option<Duration>,
    /// It accepts connections.
    pub connectable: bool,
    /// Failed workers since the last one that ended in order.
    pub failures: u32,
    /// Time until the next start after a failure, if that is in the future.
    pub retry_in: Option<Duration>,
}

/// State of a database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DatabaseState {
    /// It has a worker.
    Served,
    /// It has no work.
    Idle,
    /// It has work and will get a worker.
    Waiting,
    /// It gets no worker until a user or an administrator changes something.
    Cannot,
}

impl DatabaseState {
    /// The name in the view.
    pub fn name(self) -> &'static str {
        match self {
            DatabaseState::Served => "served",
            DatabaseState::Idle => "idle",
            DatabaseState::Waiting => "waiting",
            DatabaseState::Cannot => "cannot be served",
        }
    }
}

/// State of a database and the reason; `None` where the state needs none.
///
/// ```
/// use pg_caption_supervisor::database_status::{
///     DatabaseFacts, DatabaseState, ServerFacts, database_state,
/// };
///
/// let server = ServerFacts { launcher: true, enabled: true, ..ServerFacts::default() };
/// let database = DatabaseFacts { connectable: true, ..DatabaseFacts::default() };
/// let (state, reason) = database_state(&server, &database);
/// assert_eq!(state, DatabaseState::Cannot);
/// assert_eq!(reason.as_deref(), Some("pg_caption.max_workers is 0"));
/// ```
pub fn database_state(
    server: &ServerFacts,
    database: &DatabaseFacts,
) -> (DatabaseState, Option<String>) {
    let cannot = |why: &str| (DatabaseState::Cannot, Some(why.to_string()));
    if database.served {
        return (DatabaseState::Served, None);
    }
    if server.in_recovery {
        return cannot(
            "this server is a standby: workers run on the primary, and here after a promotion",
        );
    }
    if !database.connectable {
        return cannot("it accepts no connections: ALTER DATABASE … ALLOW_CONNECTIONS true");
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
        let reason = |due: Duration| format!("deferred rows are due in {} s", due.as_secs());
        return (DatabaseState::Idle, database.due_in.map(reason));
    }
    let why = if let Some(retry) = database.retry_in {
        format!(
            "{} workers in a row failed (see the server log); the next one starts in {} s",
            database.failures,
            retry.as_secs()
        )
    } else if server.no_slot {
        "no background worker slot is free: raise max_worker_processes".to_string()
    } else if server.busy >= server.max_workers {
        format!(
            "all {} workers serve other databases; it waits for a turn (pg_caption.max_workers)",
            server.max_workers
        )
    } else {
        "its worker is being started".to_string()
    };
    (DatabaseState::Waiting, Some(why))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: ServerFacts = ServerFacts {
        in_recovery: false,
        launcher: true,
        enabled: true,
        busy: 0,
        max_workers: 2,
        no_slot: false,
    };
    const WORK: DatabaseFacts = DatabaseFacts {
        served: false,
        has_work: true,
        due_in: None,
        connectable: true,
        failures: 0,
        retry_in: None,
    };

    #[test]
    fn each_reason_names_what_to_change() {
        use DatabaseState::{Cannot, Idle, Served, Waiting};
        let minute = Some(Duration::from_secs(60));
        let failing = DatabaseFacts { failures: 3, retry_in: minute, ..WORK };
        for (server, database, expected, word) in [
            (SERVER, DatabaseFacts { served: true, ..WORK }, Served, ""),
            (SERVER, DatabaseFacts { has_work: false, ..WORK }, Idle, ""),
            (SERVER, DatabaseFacts { has_work: false, due_in: minute, ..WORK }, Idle, "60 s"),
            (SERVER, WORK, Waiting, "started"),
            (ServerFacts { busy: 2, ..SERVER }, WORK, Waiting, "pg_caption.max_workers"),
            (ServerFacts { no_slot: true, ..SERVER }, WORK, Waiting, "max_worker_processes"),
            (SERVER, failing, Waiting, "3 workers"),
            (SERVER, DatabaseFacts { connectable: false, ..WORK }, Cannot, "ALLOW_CONNECTIONS"),
            (ServerFacts { enabled: false, ..SERVER }, WORK, Cannot, "pg_caption.enabled"),
            (ServerFacts { max_workers: 0, ..SERVER }, WORK, Cannot, "pg_caption.max_workers"),
            (ServerFacts { launcher: false, ..SERVER }, WORK, Cannot, "launcher"),
            (ServerFacts { in_recovery: true, ..SERVER }, WORK, Cannot, "standby"),
        ] {
            let (state, why) = database_state(&server, &database);
            assert_eq!(state, expected, "{server:?} {database:?}");
            assert!(why.unwrap_or_default().contains(word), "{word}");
        }
    }
}
