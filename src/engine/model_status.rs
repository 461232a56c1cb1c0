//! Model status in shared memory: which model serves, which one is loading, which one was refused
//! and why.
//!
//! Written by the launcher, read by sessions. A separate segment, since paths are long and read
//! rarely.

use crate::pg::shared_text::SharedText;
use crate::shared;
use pg_caption_models::{is_cascade, is_remote};
pub use pg_caption_supervisor::handover::ModelSwap;
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgLwLock, pg_shmem_init, pg_sys};
use std::path::{Path, PathBuf};

/// A path or a reason, in at most this many bytes.
type StatusText = SharedText<1024>;

#[derive(Clone, Copy, Default)]
struct SharedStatus {
    reloads: u64,
    leaving: bool,
    serves_remotely: bool,
    wanted: StatusText,
    serving: StatusText,
    loading: StatusText,
    refused: StatusText,
    reason: StatusText,
}

// SAFETY: plain data without pointers.
unsafe impl PGRXSharedMemory for SharedStatus {}

// SAFETY: the only lock of that name.
static STATE: PgLwLock<SharedStatus> = unsafe { PgLwLock::new(c"pg_caption model status") };

/// Requests the memory; in the postmaster, while preloading.
pub fn init() {
    pg_shmem_init!(STATE);
}

/// The status that the launcher published last; empty without a launcher.
pub fn read() -> ModelSwap {
    if !shared::preloaded() {
        return ModelSwap::default();
    }
    let state = *STATE.share();
    let path = |text: StatusText| text.get().map(PathBuf::from);
    ModelSwap {
        reloads: state.reloads,
        leaving: state.leaving,
        wanted: path(state.wanted),
        serving: path(state.serving),
        loading: path(state.loading),
        refused: path(state.refused).map(|path| (path, state.reason.get().unwrap_or_default())),
    }
}

/// Whether the model that serves is on a server, or a cascade, which may have such a model. Every
/// call asks: no path is copied and no file looked at.
pub fn serves_remotely() -> bool {
    shared::preloaded() && STATE.share().serves_remotely
}

/// Publishes the whole status; called by the launcher.
pub fn publish(swap: &ModelSwap) {
    let text = |path: Option<&Path>| StatusText::new(path.map(Path::to_string_lossy).as_deref());
    let refused = swap.refused.as_ref();
    let state = SharedStatus {
        reloads: swap.reloads,
        leaving: swap.leaving,
        serves_remotely: swap
            .serving
            .as_deref()
            .is_some_and(|folder| is_remote(folder) || is_cascade(folder)),
        wanted: text(swap.wanted.as_deref()),
        serving: text(swap.serving.as_deref()),
        loading: text(swap.loading.as_deref()),
        refused: text(refused.map(|(path, _)| path.as_path())),
        reason: StatusText::new(refused.map(|(_, reason)| reason.as_str())),
    };
    *STATE.exclusive() = state;
}
