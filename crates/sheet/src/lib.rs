//! The contact sheet: one HTML page of pictures with their texts, on which a reviewer edits and
//! marks, and the CSV that it saves.
//!
//! Pure: `caption.contact_sheet()` and `pg_caption_engine sheet` fill the same page.

mod address;
mod page;
mod review;

pub use address::page_address;
pub use page::{SheetCard, SheetPage, SheetText};
pub use review::{
    Decision, MAX_REVIEW_BYTES, REVIEW_COLUMNS, ReviewError, ReviewLine, defused, read_review,
    restored,
};
