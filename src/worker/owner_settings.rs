//! The settings of a table's owner, as its own sessions have them (ALTER ROLE … SET, ALTER
//! DATABASE … SET): code of a table runs with these. The worker's own statements are planned
//! before, with `search_path = pg_catalog`.

use super::transaction::spi;
use super::{FORCED, FORCED_LATER};
use crate::hooks::enqueue::PINNED;
use crate::pg::guc_scope::{GucScope, current};
use pgrx::prelude::*;
use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::sync::OnceLock;

/// `search_path` of the configuration file, which a role without its own setting has.
static SERVER_PATH: OnceLock<CString> = OnceLock::new();

/// Settings that are never applied, apart from those that the worker forces: time limits, and what
/// belongs to a session rather than to its code.
const LEFT_OUT: [&CStr; 9] = [
    c"lock_timeout",
    c"idle_session_timeout",
    c"deadlock_timeout",
    c"transaction_timeout",
    c"synchronous_commit",
    c"session_authorization",
    c"client_encoding",
    c"temp_tablespaces",
    c"max_stack_depth",
];

/// In the order in which PostgreSQL lets later ones win: all roles, database, role, role in the
/// database.
const SETTINGS: &str = "\
    SELECT array_agg(c.setting ORDER BY s.setrole <> 0, s.setdatabase <> 0) \
      FROM pg_catalog.pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c (setting) \
     WHERE s.setrole IN (0, $1) \
       AND s.setdatabase IN (0, (SELECT d.oid FROM pg_catalog.pg_database d \
                                  WHERE d.datname = current_database()))";

/// Keeps the server's `search_path`; before the worker connects to its database.
pub fn keep_server_path() {
    SERVER_PATH.get_or_init(|| current(c"search_path", CStr::to_owned));
}

/// The settings of owners, read once in a transaction.
#[derive(Default)]
pub struct OwnerSettings {
    owners: HashMap<u32, Vec<(CString, CString)>>,
}

impl OwnerSettings {
    /// A scope with the settings of an owner, within the scope of the owner's rights.
    pub fn scope(&mut self, owner: u32) -> GucScope {
        let settings = self.owners.entry(owner).or_insert_with(|| read(owner));
        let scope = GucScope::sealed();
        for (name, value) in settings {
            scope.try_set(name, value);
        }
        scope
    }

    /// A new transaction may see other settings.
    pub fn forget(&mut self) {
        self.owners.clear();
    }
}

fn read(owner: u32) -> Vec<(CString, CString)> {
    let found: Option<Vec<String>> = {
        let _extension = crate::pg::identity::as_extension();
        spi(Spi::get_one_with_args(SETTINGS, &[pg_sys::Oid::from(owner).into()]))
    };
    let path = SERVER_PATH.get().map(|path| (c"search_path".to_owned(), path.clone()));
    let settings = found.into_iter().flatten().filter_map(|setting| {
        let (name, value) = setting.split_once('=')?;
        Some((CString::new(name).ok()?, CString::new(value).ok()?))
    });
    let is_superuser = super::checks::is_superuser(owner);
    let is_applied = |name: &CStr| match name == c"search_path" {
        // Other roles may create objects in the schemas of a path.
        true => !is_superuser,
        false => !is_left_out(name),
    };
    path.into_iter().chain(settings).filter(|(name, _)| is_applied(name)).collect()
}

fn is_left_out(name: &CStr) -> bool {
    let forced = FORCED.iter().chain(&FORCED_LATER).chain(&PINNED).map(|(name, _)| *name);
    let same = |other: &CStr| other.to_bytes().eq_ignore_ascii_case(name.to_bytes());
    LEFT_OUT.into_iter().chain(forced).any(same)
}
