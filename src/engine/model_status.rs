//! Which model serves, which one is loading, which one was refused and why: told by the launcher,
//! read by whoever asks about models. Shared memory of its own, since paths are long and asked for
//! rarely.

use crate::shared;
pub use pg_caption_supervisor::handover::Exchange;
use pgrx::prelude::*;
use pgrx::{PGRXSharedMemory, PgLwLock, pg_shmem_init, pg_sys};
use std::path::{Path, PathBuf};

const MAX_TEXT: usize = 1024;

#[derive(Clone, Copy)]
struct Text {
    length: usize,
    bytes: [u8; MAX_TEXT],
}

impl Default for Text {
    fn default() -> Self {
        Text { length: 0, bytes: [0; MAX_TEXT] }
    }
}

impl Text {
    fn of(text: Option<&str>) -> Text {
        let mut own = Text::default();
        let text = text.unwrap_or_default();
        let mut length = text.len().min(MAX_TEXT);
        while !text.is_char_boundary(length) {
            length -= 1;
        }
        own.bytes[..length].copy_from_slice(&text.as_bytes()[..length]);
        own.length = length;
        own
    }

    fn get(&self) -> Option<String> {
        (self.length > 0).then(|| String::from_utf8_lossy(&self.bytes[..self.length]).into_owned())
    }
}

#[derive(Clone, Copy, Default)]
struct State {
    reloads: u64,
    leaving: bool,
    wanted: Text,
    serving: Text,
    coming: Text,
    refused: Text,
    reason: Text,
}

// SAFETY: plain data without pointers.
unsafe impl PGRXSharedMemory for State {}

// SAFETY: the only lock of that name.
static STATE: PgLwLock<State> = unsafe { PgLwLock::new(c"pg_caption exchange") };

/// Requests the memory; in the postmaster, while preloading.
pub fn init() {
    pg_shmem_init!(STATE);
}

/// What the launcher said last; nothing where there is no launcher.
pub fn now() -> Exchange {
    if !shared::preloaded() {
        return Exchange::default();
    }
    let state = *STATE.share();
    let path = |text: Text| text.get().map(PathBuf::from);
    Exchange {
        reloads: state.reloads,
        leaving: state.leaving,
        wanted: path(state.wanted),
        serving: path(state.serving),
        coming: path(state.coming),
        refused: path(state.refused).map(|path| (path, state.reason.get().unwrap_or_default())),
    }
}

/// By the launcher: the whole.
pub fn publish(exchange: &Exchange) {
    let text = |path: Option<&Path>| Text::of(path.map(Path::to_string_lossy).as_deref());
    let refused = exchange.refused.as_ref();
    let state = State {
        reloads: exchange.reloads,
        leaving: exchange.leaving,
        wanted: text(exchange.wanted.as_deref()),
        serving: text(exchange.serving.as_deref()),
        coming: text(exchange.coming.as_deref()),
        refused: text(refused.map(|(path, _)| path.as_path())),
        reason: Text::of(refused.map(|(_, reason)| reason.as_str())),
    };
    *STATE.exclusive() = state;
}
