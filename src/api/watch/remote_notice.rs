//! Says at `caption.watch` what becomes of captions for which a model server states no confidence.

use crate::engine::model_status;
use crate::pg::report::notice;
use crate::settings;
use pg_caption_models::{FolderGuard, RemoteSettings, WithoutConfidence};

/// A notice, if the model that serves is on a server and such captions are not written.
pub fn report() {
    let Some(folder) = model_status::read().serving else { return };
    if !pg_caption_models::is_remote(&folder) {
        return;
    }
    let read = FolderGuard::new(&folder, &settings::models_directory(), None)
        .and_then(|guard| RemoteSettings::of_folder(&guard));
    // A folder that cannot be read any longer is reported by caption.models().
    let Ok(remote) = read else { return };
    let what = match remote.without_confidence {
        WithoutConfidence::Write => return,
        WithoutConfidence::Review => "wait for a review",
        WithoutConfidence::Refuse => "are refused",
    };
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    notice(
        format!("captions without a confidence {what}"),
        Some(format!(
            "Some model servers state none; \"without_confidence\" in remote.json of model \
             \"{name}\" decides about these captions."
        )),
        None,
    );
}
