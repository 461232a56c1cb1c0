//! Counters of the engine and the CPU time of its stages. Written by every stage, read by `Status`.

use crate::steps::StepClock;
use parking_lot::Mutex;
use pg_caption_wire::{SavedWork, StageTimings};
use rustix::time::{ClockId, clock_gettime};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// The stages whose CPU time is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CpuStage {
    /// Network.
    Fetch,
    /// Bytes to pixels.
    Decode,
    /// Resize and normalise.
    Preprocess,
    /// Image encoder, ONNX Runtime's threads included.
    Encode,
    /// Prefill and decode steps, ONNX Runtime's threads included.
    Generate,
}

/// Totals since the engine started.
#[derive(Debug, Default)]
pub struct EngineMetrics {
    /// Open client connections.
    pub connections: AtomicU32,
    /// Requests accepted and not yet answered or cancelled.
    pub in_flight: AtomicU32,
    /// Requests answered.
    pub answered: AtomicU64,
    /// Pictures encoded.
    pub encoded: AtomicU64,
    /// Encoder calls for them.
    pub encode_calls: AtomicU64,
    /// Captions generated.
    pub generated: AtomicU64,
    /// What was not done twice.
    pub saved: SavedCounters,
    /// Decoding steps and model calls in progress.
    pub steps: StepClock,
    cpu_ns: [AtomicU64; 5],
    busy: Mutex<BusyClock>,
}

/// How long at least one request was in flight.
#[derive(Debug, Default)]
struct BusyClock {
    in_flight: u32,
    /// Since when; `None`: none is in flight.
    since: Option<Instant>,
    /// Before that.
    total: Duration,
}

impl BusyClock {
    fn time(&self) -> Duration {
        self.total + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

/// Work that was not done twice, since the engine started; see `SavedWork`.
#[derive(Debug, Default)]
pub struct SavedCounters {
    /// Fetches.
    pub fetches: AtomicU64,
    /// Encodings.
    pub encodings: AtomicU64,
    /// Captions.
    pub captions: AtomicU64,
    from_memo: AtomicU64,
    from_ledger: AtomicU64,
}

impl SavedCounters {
    /// Captions of the memo.
    pub fn count_memo(&self, captions: u64) {
        self.captions.fetch_add(captions, Ordering::Relaxed);
        self.from_memo.fetch_add(captions, Ordering::Relaxed);
    }

    /// A picture whose captions are those of the ledger.
    pub fn count_ledger(&self, captions: u64) {
        self.encodings.fetch_add(1, Ordering::Relaxed);
        self.captions.fetch_add(captions, Ordering::Relaxed);
        self.from_ledger.fetch_add(captions, Ordering::Relaxed);
    }

    /// The counters.
    pub fn now(&self, memo_bytes: u64) -> SavedWork {
        let load = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        SavedWork {
            fetches: load(&self.fetches),
            encodings: load(&self.encodings),
            captions: load(&self.captions),
            from_memo: load(&self.from_memo),
            from_ledger: load(&self.from_ledger),
            memo_bytes,
        }
    }
}

/// Counts one request as in flight until dropped.
pub struct InFlightGuard(Arc<EngineMetrics>);

impl InFlightGuard {
    /// Counts the request as answered, not cancelled.
    pub fn answered(&self) {
        self.0.answered.fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for InFlightGuard {
    fn drop(&mut self) {
        let mut busy = self.0.busy.lock();
        busy.in_flight -= 1;
        if busy.in_flight == 0 {
            (busy.total, busy.since) = (busy.time(), None);
        }
        drop(busy);
        self.0.in_flight.fetch_sub(1, Ordering::Release);
    }
}

impl EngineMetrics {
    /// Counts a request as in flight.
    pub fn count_in(self: &Arc<Self>) -> InFlightGuard {
        let mut busy = self.busy.lock();
        busy.in_flight += 1;
        busy.since.get_or_insert_with(Instant::now);
        drop(busy);
        self.in_flight.fetch_add(1, Ordering::Acquire);
        InFlightGuard(self.clone())
    }

    /// Milliseconds in which at least one request was in flight.
    pub fn busy_ms(&self) -> f64 {
        ms(self.busy.lock().time())
    }

    /// Adds CPU time to a stage.
    pub fn add_cpu(&self, stage: CpuStage, cpu: Duration) {
        self.cpu_ns[stage as usize].fetch_add(cpu.as_nanos() as u64, Ordering::Relaxed);
    }

    /// CPU milliseconds by stage; `total` is their sum, `wait` is 0.
    pub fn cpu_ms(&self) -> StageTimings {
        let ms = |stage: CpuStage| self.cpu_ns[stage as usize].load(Ordering::Relaxed) as f64 / 1e6;
        let mut t = StageTimings {
            wait: 0.0,
            fetch: ms(CpuStage::Fetch),
            decode: ms(CpuStage::Decode),
            preprocess: ms(CpuStage::Preprocess),
            encode: ms(CpuStage::Encode),
            generate: ms(CpuStage::Generate),
            total: 0.0,
        };
        t.total = t.fetch + t.decode + t.preprocess + t.encode + t.generate;
        t
    }
}

/// CPU time of the calling thread.
pub fn thread_cpu() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.max(0) as u64, t.tv_nsec as u32)
}

/// Milliseconds.
pub fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1000.0
}

/// Resident memory of this process in bytes; 0 where the kernel does not provide it.
pub fn resident_bytes() -> u64 {
    let pages = std::fs::read_to_string("/proc/self/statm")
        .ok()
        .and_then(|s| s.split(' ').nth(1)?.parse::<u64>().ok());
    pages.unwrap_or(0) * rustix::param::page_size() as u64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_summed_by_stage() {
        let metrics = EngineMetrics::default();
        metrics.add_cpu(CpuStage::Fetch, Duration::from_millis(2));
        metrics.add_cpu(CpuStage::Generate, Duration::from_millis(3));
        let cpu = metrics.cpu_ms();
        assert_eq!((cpu.fetch, cpu.generate, cpu.encode, cpu.total), (2.0, 3.0, 0.0, 5.0));
    }

    #[test]
    fn work_costs_its_own_thread_cpu_time() {
        let before = thread_cpu();
        let mut x = 1u64;
        while thread_cpu() - before < Duration::from_millis(3) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(resident_bytes() > 0);
    }
}
