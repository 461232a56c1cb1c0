//! How much the server accepts at the same time: requests in flight, and bytes of their bodies.

use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Bytes that one permit stands for.
const UNIT: u64 = 64 << 10;
/// How long a request waits for memory before the client is sent away.
const PATIENCE: Duration = Duration::from_secs(2);

/// What is left for further requests.
pub struct HttpAdmission {
    requests: Arc<Semaphore>,
    memory: Arc<Semaphore>,
    most: usize,
    largest: u64,
}

/// The place of one request, given back when it is dropped.
pub struct HttpPlace {
    _request: OwnedSemaphorePermit,
    _memory: OwnedSemaphorePermit,
}

impl HttpAdmission {
    /// At most `requests` in flight, each with a body of at most `largest` bytes, and all bodies
    /// together of eight such bodies.
    pub fn new(requests: usize, largest: u64) -> HttpAdmission {
        HttpAdmission {
            requests: Arc::new(Semaphore::new(requests)),
            memory: Arc::new(Semaphore::new(units(largest) as usize * 8)),
            most: requests,
            largest,
        }
    }

    /// A place for a request with a body of this announced length; `None`: the server is full.
    pub async fn enter(&self, length: Option<u64>) -> Option<HttpPlace> {
        let request = self.requests.clone().try_acquire_owned().ok()?;
        let bytes = units(length.unwrap_or(self.largest).min(self.largest));
        let memory = self.memory.clone().acquire_many_owned(bytes);
        let memory = timeout(PATIENCE, memory).await.ok()?.ok()?;
        Some(HttpPlace { _request: request, _memory: memory })
    }

    /// Requests in flight, and the most there may be.
    pub fn in_flight(&self) -> (usize, usize) {
        (self.most - self.requests.available_permits(), self.most)
    }
}

fn units(bytes: u64) -> u32 {
    bytes.div_ceil(UNIT).clamp(1, u64::from(u32::MAX >> 8)) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_full_server_sends_clients_away() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let admission = HttpAdmission::new(2, 1 << 20);
            let first = admission.enter(Some(10)).await;
            let second = admission.enter(None).await;
            assert!(first.is_some() && second.is_some());
            assert_eq!(admission.in_flight(), (2, 2));
            assert!(admission.enter(Some(10)).await.is_none());
            drop(first);
            assert!(admission.enter(Some(10)).await.is_some());
        });
    }

    #[test]
    fn bodies_share_a_bounded_memory() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let admission = HttpAdmission::new(100, 1 << 20);
            let mut places = Vec::new();
            while let Some(place) = admission.enter(None).await {
                places.push(place);
            }
            assert_eq!(places.len(), 8);
            assert!(admission.enter(Some(u64::MAX)).await.is_none());
        });
    }
}
