//! The state of the provider: loading, ready or failed. Set by the engine, read by all its parts.

use super::Provider;
use parking_lot::{Condvar, Mutex};
use pg_caption_wire::Failure;
use std::sync::Arc;

/// The state of the provider.
#[derive(Clone)]
pub enum ProviderState {
    /// Not yet known.
    Loading,
    /// It answers.
    Ready(Arc<dyn Provider>),
    /// It cannot be used; every request is answered with this failure.
    Failed(Failure),
}

impl ProviderState {
    /// As the status shows it.
    pub fn name(&self) -> &'static str {
        match self {
            ProviderState::Loading => "loading",
            ProviderState::Ready(_) => "ready",
            ProviderState::Failed(_) => "failed",
        }
    }
}

/// The state, and a way to wait for it.
pub struct ProviderReadiness {
    state: Mutex<ProviderState>,
    changed: Condvar,
}

impl Default for ProviderReadiness {
    fn default() -> Self {
        ProviderReadiness { state: Mutex::new(ProviderState::Loading), changed: Condvar::new() }
    }
}

impl ProviderReadiness {
    /// The current state.
    pub fn now(&self) -> ProviderState {
        self.state.lock().clone()
    }

    /// Waits while the provider loads.
    pub fn wait(&self) -> ProviderState {
        let mut state = self.state.lock();
        self.changed.wait_while(&mut state, |state| matches!(state, ProviderState::Loading));
        state.clone()
    }

    /// Sets the state and wakes all waiting threads.
    pub fn set(&self, state: ProviderState) {
        *self.state.lock() = state;
        self.changed.notify_all();
    }
}
