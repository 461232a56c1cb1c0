//! Tables that may no longer belong to a superuser: the owner was changed, or a role was altered. A
//! superuser's watch then has to be confirmed (`worker/tables.rs`), even if the table comes back to
//! a superuser before a worker reads it.

use super::queue::insert;
use pgrx::prelude::*;

/// Relations after which only the tables that are watched by superusers are checked, all of them.
const MAX_RELATIONS: usize = 1000;

/// What a transaction has altered.
#[derive(Default)]
pub struct OwnerChanges {
    /// Altered relations, of any kind.
    pub relations: Vec<pg_sys::Oid>,
    /// Altered roles that were superusers before.
    pub superusers: Vec<pg_sys::Oid>,
    /// Those of them that are no longer superusers.
    pub demoted: Vec<pg_sys::Oid>,
}

impl OwnerChanges {
    /// At pre-commit: finds the demoted roles. Returns the altered relations.
    pub fn before_commit(&mut self) -> Vec<pg_sys::Oid> {
        let superusers = std::mem::take(&mut self.superusers);
        // SAFETY: a catalog look-up in a transaction; a role that was dropped is no superuser.
        self.demoted = superusers
            .into_iter()
            .filter(|role| unsafe { !pg_sys::superuser_arg(*role) })
            .collect();
        let mut relations = std::mem::take(&mut self.relations);
        relations.sort_unstable_by_key(|oid| oid.to_u32());
        relations.dedup();
        relations
    }
}

/// `$1`: altered relations; NULL: all.
const FORGET: &str = "\
    UPDATE caption.watch AS w SET superuser_since = NULL \
      FROM pg_catalog.pg_class c, pg_catalog.pg_authid r \
     WHERE w.superuser_since IS NOT NULL \
       AND c.oid OPERATOR(pg_catalog.=) w.relation::pg_catalog.oid \
       AND r.oid OPERATOR(pg_catalog.=) c.relowner \
       AND NOT r.rolsuper \
       AND ($1 IS NULL OR c.oid OPERATOR(pg_catalog.=) ANY ($1))";

/// Forgets that superusers have watched these tables, if they do not belong to one.
pub fn forget_superusers(relations: &[pg_sys::Oid]) {
    let relations = (relations.len() <= MAX_RELATIONS).then(|| relations.to_vec());
    insert(FORGET, &[relations.into()]);
}
