//! Drafts: what a reviewer does with the texts of a watch that has `review`.
//!
//! `approve` writes drafts into the table, `decide` rejects and changes them, `sheet` shows them on
//! a page, `import` reads what was decided there. Tables are read and written with the caller's
//! rights; the ledger only between these steps, as the extension.

mod approve;
mod decide;
mod drafts;
mod import;
mod sheet;

use crate::pg::report::notice;

/// Says where the texts of a watch with `review` go.
pub fn announce(table: &str) {
    notice(
        format!("texts of table {table} become drafts"),
        None,
        Some(
            "See them in caption.texts() or caption.contact_sheet(), then call caption.approve()."
                .into(),
        ),
    );
}
