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

use crate::engine::model_status;
use crate::pg::report::notice;
use pg_caption_models::{MAX_CONFIG, REMOTE_FILE, RemoteSettings, WithoutConfidence, read_file};
use std::path::Path;

/// Says where the texts of a watch go, if they become drafts.
pub fn announce(table: &str, review: bool) {
    let hint = "See them in caption.texts() or caption.contact_sheet(), then call \
                caption.approve().";
    if review {
        notice(format!("texts of table {table} become drafts"), None, Some(hint.into()));
    } else if let Some(model) = model_status::read().serving.filter(|path| wants_review(path)) {
        let name = model.file_name().unwrap_or_default().to_string_lossy().into_owned();
        notice(
            format!("texts of table {table} become drafts"),
            Some(format!("The model {name} gives no confidence, and its folder wants a review.")),
            Some(hint.into()),
        );
    }
}

/// Whether the folder of a remote model says that its texts are reviewed.
fn wants_review(model: &Path) -> bool {
    let path = model.join(REMOTE_FILE);
    let settings = read_file(&path, MAX_CONFIG).ok();
    let settings = settings.and_then(|json| RemoteSettings::parse(&json, &path).ok());
    settings.is_some_and(|settings| settings.without_confidence == WithoutConfidence::Review)
}
