//! Whether there is a model: loading, ready or failed. Set once by the model thread, asked by
//! everybody.

use pg_caption_captioner::InputPreparer;
use pg_caption_wire::Failure;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The state of the model.
#[derive(Clone)]
pub enum State {
    /// Not yet known.
    Loading,
    /// It answers.
    Ready(Arc<InputPreparer>),
    /// It cannot be used; every request is answered with this.
    Failed(Failure),
}

impl State {
    /// As the status shows it.
    pub fn name(&self) -> &'static str {
        match self {
            State::Loading => "loading",
            State::Ready(_) => "ready",
            State::Failed(_) => "failed",
        }
    }
}

/// The state, and a way to wait for it.
pub struct Readiness {
    state: Mutex<State>,
    known: Condvar,
}

impl Default for Readiness {
    fn default() -> Self {
        Readiness { state: Mutex::new(State::Loading), known: Condvar::new() }
    }
}

impl Readiness {
    /// What is known now.
    pub fn now(&self) -> State {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Waits while loading.
    pub fn wait(&self) -> State {
        let state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        self.known
            .wait_while(state, |s| matches!(s, State::Loading))
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Makes it known.
    pub fn set(&self, state: State) {
        *self.state.lock().unwrap_or_else(PoisonError::into_inner) = state;
        self.known.notify_all();
    }
}
