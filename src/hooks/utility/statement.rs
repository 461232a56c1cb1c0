//! Reads what a utility statement alters about a table, from its parse tree. Changes nothing.

use crate::api::watch::redefine::DroppedColumn;
use pgrx::pg_sys;
use std::ffi::CStr;

/// A table and what a statement alters about it, as far as watches are concerned.
pub struct AlteredTable {
    pub relation: pg_sys::Oid,
    pub alterations: Vec<Alteration>,
}

/// One alteration.
pub enum Alteration {
    DropColumn(DroppedColumn),
    /// The type of a column of this name.
    RetypeColumn(String),
    RenameColumn {
        from: String,
        to: String,
    },
    /// The table has another name or schema.
    RenameTable,
    /// A partition is detached.
    Detach(pg_sys::Oid),
}

/// Whether a statement is of a kind that [`altered_table`] reads. Cheap: all statements are asked.
///
/// # Safety
/// `statement` is the node of a utility statement.
pub unsafe fn may_alter_tables(statement: *const pg_sys::Node) -> bool {
    use pg_sys::NodeTag::*;
    // SAFETY: as promised by the caller.
    let tag = unsafe { (*statement).type_ };
    matches!(tag, T_AlterTableStmt | T_RenameStmt | T_AlterObjectSchemaStmt | T_DropStmt)
}

/// What a statement alters; `None`: nothing that concerns a watch, or no existing table. After the
/// statement, a renamed table is found by its new name.
///
/// # Safety
/// `statement` is the node of a utility statement.
pub unsafe fn altered_table(statement: *mut pg_sys::Node) -> Option<AlteredTable> {
    use pg_sys::NodeTag::*;
    // SAFETY: as promised by the caller; the tag says which statement it is.
    unsafe {
        match (*statement).type_ {
            T_AlterTableStmt => altered(statement.cast()),
            T_RenameStmt => renamed(statement.cast()),
            T_AlterObjectSchemaStmt => moved(statement.cast()),
            _ => None,
        }
    }
}

/// The tables that a statement drops.
///
/// # Safety
/// `statement` is the node of a utility statement.
pub unsafe fn dropped_tables(statement: *mut pg_sys::Node) -> Vec<pg_sys::Oid> {
    // SAFETY: as promised by the caller; the objects of DROP TABLE are lists of names.
    unsafe {
        let statement: *mut pg_sys::DropStmt = match (*statement).type_ {
            pg_sys::NodeTag::T_DropStmt => statement.cast(),
            _ => return Vec::new(),
        };
        let Some(names) = (*statement).objects.as_ref() else { return Vec::new() };
        if (*statement).removeType != pg_sys::ObjectType::OBJECT_TABLE {
            return Vec::new();
        }
        let name = |at| (*names.elements.add(at)).ptr_value.cast();
        (0..names.length as usize)
            .filter_map(|at| find(pg_sys::makeRangeVarFromNameList(name(at))))
            .collect()
    }
}

/// # Safety
/// As of [`altered_table`].
unsafe fn altered(statement: *mut pg_sys::AlterTableStmt) -> Option<AlteredTable> {
    // SAFETY: as promised by the caller.
    unsafe {
        if (*statement).objtype != pg_sys::ObjectType::OBJECT_TABLE {
            return None;
        }
        let alterations: Vec<Alteration> = commands((*statement).cmds).collect();
        let relation = find((*statement).relation).filter(|_| !alterations.is_empty())?;
        Some(AlteredTable { relation, alterations })
    }
}

/// # Safety
/// `list` is null or the list of the commands of an ALTER TABLE.
unsafe fn commands(list: *mut pg_sys::List) -> impl Iterator<Item = Alteration> {
    // SAFETY: as promised by the caller.
    unsafe {
        let count = list.as_ref().map_or(0, |list| list.length as usize);
        (0..count).filter_map(move |at| {
            let command: *mut pg_sys::AlterTableCmd = (*(*list).elements.add(at)).ptr_value.cast();
            alteration(command)
        })
    }
}

/// # Safety
/// `command` is one of the commands of an ALTER TABLE.
unsafe fn alteration(command: *mut pg_sys::AlterTableCmd) -> Option<Alteration> {
    use pg_sys::AlterTableType::{
        AT_AlterColumnType as RETYPE, AT_DetachPartition as DETACH, AT_DropColumn as DROP,
    };
    // SAFETY: as promised by the caller; which fields are set depends on the kind.
    unsafe {
        match (*command).subtype {
            DROP => Some(Alteration::DropColumn(DroppedColumn {
                name: text((*command).name)?,
                cascade: (*command).behavior == pg_sys::DropBehavior::DROP_CASCADE,
            })),
            RETYPE => Some(Alteration::RetypeColumn(text((*command).name)?)),
            DETACH => {
                let detached: *mut pg_sys::PartitionCmd = (*command).def.cast();
                Some(Alteration::Detach(find((*detached).name)?))
            }
            _ => None,
        }
    }
}

/// # Safety
/// As of [`altered_table`].
unsafe fn renamed(statement: *mut pg_sys::RenameStmt) -> Option<AlteredTable> {
    use pg_sys::ObjectType::*;
    // SAFETY: as promised by the caller; these two kinds have a relation.
    unsafe {
        match (*statement).renameType {
            OBJECT_COLUMN if (*statement).relationType == OBJECT_TABLE => {
                let (from, to) = (text((*statement).subname)?, text((*statement).newname)?);
                let relation = find((*statement).relation)?;
                Some(AlteredTable {
                    relation,
                    alterations: vec![Alteration::RenameColumn { from, to }],
                })
            }
            OBJECT_TABLE => under_new_name((*statement).relation, |name| {
                name.relname = (*statement).newname;
            }),
            _ => None,
        }
    }
}

/// # Safety
/// As of [`altered_table`].
unsafe fn moved(statement: *mut pg_sys::AlterObjectSchemaStmt) -> Option<AlteredTable> {
    // SAFETY: as promised by the caller.
    unsafe {
        if (*statement).objectType != pg_sys::ObjectType::OBJECT_TABLE {
            return None;
        }
        under_new_name((*statement).relation, |name| name.schemaname = (*statement).newschema)
    }
}

/// The table under its old name, else under its new one.
///
/// # Safety
/// `name` is the name of a table in a parse tree.
unsafe fn under_new_name(
    name: *mut pg_sys::RangeVar,
    rename: impl FnOnce(&mut pg_sys::RangeVar),
) -> Option<AlteredTable> {
    // SAFETY: as promised by the caller; the copy shares its texts with the tree.
    unsafe {
        let mut new_name = *name.as_ref()?;
        rename(&mut new_name);
        // Another table may have the old name by now: the new name comes first.
        let relation = find(&mut new_name).or_else(|| find(name))?;
        Some(AlteredTable { relation, alterations: vec![Alteration::RenameTable] })
    }
}

/// A relation by its name in the parse tree. Takes no lock: PostgreSQL does, and checks rights.
///
/// # Safety
/// `name` is null or the name of a relation in a parse tree.
unsafe fn find(name: *mut pg_sys::RangeVar) -> Option<pg_sys::Oid> {
    // SAFETY: as promised by the caller.
    unsafe {
        let oid = pg_sys::RangeVarGetRelidExtended(
            name.as_ref()?,
            pg_sys::NoLock as i32,
            pg_sys::RVROption::RVR_MISSING_OK,
            None,
            std::ptr::null_mut(),
        );
        Some(oid).filter(|oid| *oid != pg_sys::InvalidOid)
    }
}

/// # Safety
/// `text` is null or a C string.
unsafe fn text(text: *const core::ffi::c_char) -> Option<String> {
    // SAFETY: as promised by the caller.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned())
}
