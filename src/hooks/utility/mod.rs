//! Utility hook: keeps a watch in step with the statements that alter its table. Called by
//! PostgreSQL for every utility statement, in every backend.
//!
//! The triggers of a watch depend on its columns, so PostgreSQL refuses to drop a column or to
//! change its type. Before such a statement the watch gives way; after it the watch follows
//! (`api::watch::redefine`). Statements about other tables pass unchanged.

mod statement;

use crate::api::watch::redefine;
use crate::pg::guc_scope::GucScope;
use pgrx::pg_sys;
use statement::{Alteration, AlteredTable};
use std::cell::Cell;

thread_local! {
    /// The hook that was installed before this one.
    static PREVIOUS: Cell<pg_sys::ProcessUtility_hook_type> = const { Cell::new(None) };
}

/// Installs the hook; whenever the library is loaded.
pub fn init() {
    // SAFETY: a global that is changed while libraries are loaded, by one thread.
    unsafe {
        PREVIOUS.set(pg_sys::ProcessUtility_hook);
        pg_sys::ProcessUtility_hook = Some(on_statement);
    }
}

unsafe extern "C-unwind" {
    // tcop/utility.h. The generated binding is guarded, see below.
    fn standard_ProcessUtility(
        statement: *mut pg_sys::PlannedStmt,
        query: *const core::ffi::c_char,
        read_only_tree: bool,
        context: pg_sys::ProcessUtilityContext::Type,
        parameters: pg_sys::ParamListInfo,
        environment: *mut pg_sys::QueryEnvironment,
        destination: *mut pg_sys::DestReceiver,
        completion: *mut pg_sys::QueryCompletion,
    );
}

/// Not guarded, nor is the statement itself: its errors pass unchanged. A guard would replace them
/// by an error with less information.
unsafe extern "C-unwind" fn on_statement(
    statement: *mut pg_sys::PlannedStmt,
    query: *const core::ffi::c_char,
    read_only_tree: bool,
    context: pg_sys::ProcessUtilityContext::Type,
    parameters: pg_sys::ParamListInfo,
    environment: *mut pg_sys::QueryEnvironment,
    destination: *mut pg_sys::DestReceiver,
    completion: *mut pg_sys::QueryCompletion,
) {
    // SAFETY: passes the arguments on; no value here would have to be dropped by a passing error.
    unsafe {
        let is_relevant = statement::may_alter_tables((*statement).utilityStmt);
        let watches = if is_relevant { before(statement) } else { WatchList::EMPTY };
        match PREVIOUS.get() {
            Some(previous) => previous(
                statement,
                query,
                read_only_tree,
                context,
                parameters,
                environment,
                destination,
                completion,
            ),
            None => standard_ProcessUtility(
                statement,
                query,
                read_only_tree,
                context,
                parameters,
                environment,
                destination,
                completion,
            ),
        }
        if watches.needs_work {
            after(statement, watches);
        }
    }
}

/// Watched tables whose triggers are created again after the statement. Plain data, which an error
/// of the statement may leave behind: PostgreSQL frees the array.
#[derive(Clone, Copy)]
#[repr(C)]
struct WatchList {
    /// Whether `after` has anything to do.
    needs_work: bool,
    tables: *const pg_sys::Oid,
    count: usize,
}

impl WatchList {
    const EMPTY: WatchList = WatchList { needs_work: false, tables: std::ptr::null(), count: 0 };

    /// # Safety
    /// The array is alive: in the memory context of the statement.
    unsafe fn tables<'a>(self) -> &'a [pg_sys::Oid] {
        if self.count == 0 {
            return &[];
        }
        // SAFETY: as promised by the caller; `before` made it with this length.
        unsafe { std::slice::from_raw_parts(self.tables, self.count) }
    }

    fn after(tables: &[pg_sys::Oid]) -> WatchList {
        if tables.is_empty() {
            return WatchList { needs_work: true, ..WatchList::EMPTY };
        }
        // SAFETY: allocates an array in the memory context of the statement, and fills it.
        unsafe {
            let copy: *mut pg_sys::Oid = pg_sys::palloc(size_of_val(tables)).cast();
            std::ptr::copy_nonoverlapping(tables.as_ptr(), copy, tables.len());
            WatchList { needs_work: true, tables: copy, count: tables.len() }
        }
    }
}

/// Whether a statement in this session may concern a watch.
fn is_active() -> bool {
    // SAFETY: reads globals; the look-up is one in a transaction. pg_upgrade creates the
    // extension's objects one by one.
    unsafe {
        !pg_sys::IsBinaryUpgrade
            && !pg_sys::RecoveryInProgress()
            && pg_sys::IsTransactionState()
            && pg_sys::get_extension_oid(c"pg_caption".as_ptr(), true) != pg_sys::InvalidOid
    }
}

/// The scope of `redefine`: its names and operators are PostgreSQL's own.
fn pinned_path() -> GucScope {
    let scope = GucScope::sealed();
    scope.set(c"search_path", c"pg_catalog, pg_temp");
    scope
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn before(statement: *mut pg_sys::PlannedStmt) -> WatchList {
    if !is_active() {
        return WatchList::EMPTY;
    }
    // SAFETY: a utility statement that PostgreSQL is about to run.
    for table in unsafe { statement::dropped_tables((*statement).utilityStmt) } {
        let _path = pinned_path();
        redefine::warn_of_end(table);
    }
    // SAFETY: as above.
    let Some(AlteredTable { relation, alterations }) =
        (unsafe { statement::altered_table((*statement).utilityStmt) })
    else {
        return WatchList::EMPTY;
    };
    let _path = pinned_path();
    let (mut dropped, mut retyped, mut is_followed) = (Vec::new(), Vec::new(), false);
    for alteration in &alterations {
        match alteration {
            Alteration::DropColumn(column) => dropped.push(column),
            Alteration::RetypeColumn(name) => retyped.push(name.as_str()),
            Alteration::Detach(partition) => redefine::detach(relation, *partition),
            Alteration::RenameColumn { .. } | Alteration::RenameTable => is_followed = true,
        }
    }
    redefine::drop_columns(relation, &dropped);
    let tables = redefine::release(relation, &retyped);
    if tables.is_empty() && !is_followed { WatchList::EMPTY } else { WatchList::after(&tables) }
}

#[pgrx::pg_guard]
unsafe extern "C-unwind" fn after(statement: *mut pg_sys::PlannedStmt, watches: WatchList) {
    // SAFETY: the statement has just run; its tree lives until the end of the command.
    let altered = unsafe { statement::altered_table((*statement).utilityStmt) };
    let _path = pinned_path();
    // SAFETY: made by `before` in the memory of this statement.
    for table in unsafe { watches.tables() } {
        redefine::resume(*table);
    }
    let Some(AlteredTable { relation, alterations }) = altered else { return };
    for alteration in &alterations {
        match alteration {
            Alteration::RenameColumn { from, to } => redefine::rename_column(relation, from, to),
            Alteration::RenameTable => redefine::warn_of_swap(relation),
            _ => {}
        }
    }
}
