//! Which functions are `caption_image` of the extension, and whether a plan calls one of them.
//!
//! Called for every plan: the list of functions that a plan depends on is checked, which is empty
//! for most. Object ids are kept until a function of the database changes.

use crate::lookahead::nodes;
use pgrx::pg_sys;
use std::cell::{Cell, RefCell};
use std::ffi::CStr;

const EXTENSION: &CStr = c"pg_caption";
const FUNCTION: &CStr = c"caption_image";

/// What the first argument of a function is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PictureArgument {
    /// An address.
    Url,
    /// The encoded picture.
    Bytes,
}

impl PictureArgument {
    /// The argument with this number, as `as i32` gives it.
    pub fn from_number(number: i32) -> PictureArgument {
        match number {
            0 => PictureArgument::Url,
            _ => PictureArgument::Bytes,
        }
    }
}

/// One function `caption_image` of this database.
#[derive(Debug, Clone, Copy)]
struct CaptionFunction {
    oid: pg_sys::Oid,
    picture: PictureArgument,
    /// Its hash in the cache of functions, by which plans name it.
    hash: u32,
}

thread_local! {
    static FUNCTIONS: RefCell<Vec<CaptionFunction>> = const { RefCell::new(Vec::new()) };
    /// Counts the changes of functions.
    static CHANGES: Cell<u64> = const { Cell::new(1) };
    /// The changes that the list includes.
    static LOADED: Cell<u64> = const { Cell::new(0) };
}

/// Asks to be informed of changes.
pub fn init() {
    // SAFETY: called once per process; the callback raises nothing.
    unsafe {
        pg_sys::CacheRegisterSyscacheCallback(
            pg_sys::SysCacheIdentifier::PROCOID as i32,
            Some(forget),
            pg_sys::Datum::null(),
        );
    }
}

unsafe extern "C-unwind" fn forget(_: pg_sys::Datum, _: i32, _: u32) {
    CHANGES.set(CHANGES.get() + 1);
}

/// Whether a plan depends on one of the functions.
///
/// # Safety
/// `plan` is a finished plan.
pub unsafe fn is_mentioned(plan: *mut pg_sys::PlannedStmt) -> bool {
    // SAFETY: as promised by the caller.
    let invalidations =
        || unsafe { nodes::items::<pg_sys::PlanInvalItem>((*plan).invalItems).map(|item| *item) };
    let procedures = pg_sys::SysCacheIdentifier::PROCOID as i32;
    let mut named = invalidations().filter(|item| item.cacheId == procedures).peekable();
    if named.peek().is_none() {
        return false;
    }
    load();
    FUNCTIONS.with_borrow(|functions| {
        named.any(|item| functions.iter().any(|function| function.hash == item.hashValue))
    })
}

/// What a function takes; `None`: it is not one of the functions.
pub fn picture_argument(function: pg_sys::Oid) -> Option<PictureArgument> {
    FUNCTIONS.with_borrow(|functions| {
        let found = functions.iter().find(|known| known.oid == function);
        found.map(|known| known.picture)
    })
}

/// The function that a node calls; `None`: the node is not a call of one of the functions.
///
/// # Safety
/// `node` is an expression or null.
pub unsafe fn call(node: *mut pg_sys::Node) -> Option<(*mut pg_sys::FuncExpr, PictureArgument)> {
    // SAFETY: the tag names the type of the node.
    unsafe {
        if nodes::tag(node) != pg_sys::NodeTag::T_FuncExpr {
            return None;
        }
        let call = node.cast::<pg_sys::FuncExpr>();
        picture_argument((*call).funcid).map(|picture| (call, picture))
    }
}

/// Whether an expression contains a call.
///
/// # Safety
/// As of [`nodes::walk`].
pub unsafe fn is_called_in(node: *mut pg_sys::Node) -> bool {
    // SAFETY: as promised by the caller.
    unsafe { nodes::walk(node, &mut |part| call(part).is_some()) }
}

/// Reads the functions from the catalog, unless they are known.
fn load() {
    let changes = CHANGES.get();
    if LOADED.get() == changes {
        return;
    }
    FUNCTIONS.set(read());
    LOADED.set(changes);
}

fn read() -> Vec<CaptionFunction> {
    let mut found = Vec::new();
    // SAFETY: in a transaction, as every planner is. The list is released below; an error in
    // between releases it as well.
    unsafe {
        let extension = pg_sys::get_extension_oid(EXTENSION.as_ptr(), true);
        if extension == pg_sys::InvalidOid {
            return found;
        }
        let list = pg_sys::SearchSysCacheList(
            pg_sys::SysCacheIdentifier::PROCNAMEARGSNSP as i32,
            1,
            pg_sys::Datum::from(FUNCTION.as_ptr()),
            pg_sys::Datum::null(),
            pg_sys::Datum::null(),
        );
        for member in (*list).members.as_slice((*list).n_members as usize) {
            let row = pg_sys::GETSTRUCT(&raw mut (**member).tuple);
            let row = &*row.cast::<pg_sys::FormData_pg_proc>();
            let first = row.proargtypes.values.as_slice(row.pronargs as usize).first().copied();
            let picture = match first {
                Some(pg_sys::TEXTOID) => PictureArgument::Url,
                Some(pg_sys::BYTEAOID) => PictureArgument::Bytes,
                _ => continue,
            };
            let owner = pg_sys::getExtensionOfObject(pg_sys::ProcedureRelationId, row.oid);
            if owner == extension {
                let key = pg_sys::Datum::from(row.oid);
                let none = pg_sys::Datum::null();
                let hash = pg_sys::GetSysCacheHashValue(
                    pg_sys::SysCacheIdentifier::PROCOID as i32,
                    key,
                    none,
                    none,
                    none,
                );
                found.push(CaptionFunction { oid: row.oid, picture, hash });
            }
        }
        pg_sys::ReleaseCatCacheList(list);
    }
    found
}
