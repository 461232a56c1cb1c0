//! The channel to the model thread: prepared pictures, and further jobs for encoded pictures.

use crate::captions::CaptionTask;
use crate::provider::work::ProviderWork;
use parking_lot::{Condvar, Mutex};
use pg_caption_captioner::PixelValues;

/// One message to the model thread.
pub enum ModelMessage {
    /// A picture to be encoded.
    Picture(Box<PixelValues>, Box<ProviderWork>),
    /// Captions to be generated of a picture that has been encoded.
    Captions(Box<CaptionTask>),
}

/// The channel. Bounded by the places ahead of the provider and by the windows of the connections.
#[derive(Default)]
pub struct ModelChannel {
    messages: Mutex<Vec<ModelMessage>>,
    arrived: Condvar,
}

impl ModelChannel {
    /// Sends a message.
    pub fn send(&self, message: ModelMessage) {
        self.messages.lock().push(message);
        self.arrived.notify_one();
    }

    /// All messages that have arrived; waits for one if `idle`.
    pub fn receive(&self, idle: bool) -> Vec<ModelMessage> {
        let mut messages = self.messages.lock();
        if idle {
            self.arrived.wait_while(&mut messages, |messages| messages.is_empty());
        }
        std::mem::take(&mut messages)
    }
}
