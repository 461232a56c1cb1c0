//! Requirements of this crate's tests: the workspace and the ONNX Runtime library.

use std::path::{Path, PathBuf};

/// The project's root.
pub(crate) fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("crates/captioner is two levels below the root")
}

/// Initialises ONNX Runtime; `false` and a message if the library is not installed.
pub(crate) fn runtime() -> bool {
    let installed = || workspace().join(".run/onnxruntime/libonnxruntime.so");
    let library = std::env::var_os("PG_CAPTION_ORT").map_or_else(installed, PathBuf::from);
    if !library.exists() {
        println!(
            "skipped: no ONNX Runtime library at {} (PG_CAPTION_ORT names another)",
            library.display()
        );
        return false;
    }
    crate::init(&library, 1).expect("the installed library loads");
    true
}
