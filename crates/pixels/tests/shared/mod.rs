//! Location of the shared test files.

use std::path::{Path, PathBuf};

/// A folder of the shared files, or `None` and a message that the test was skipped.
pub fn folder(name: &str) -> Option<PathBuf> {
    let root = std::env::var_os("PG_CAPTION_SHARED").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared"),
        PathBuf::from,
    );
    let folder = root.join(name);
    if !folder.is_dir() {
        eprintln!("skipped: {} is absent", folder.display());
        return None;
    }
    Some(folder)
}
