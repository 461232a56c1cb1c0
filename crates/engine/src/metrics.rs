//! Counters of everything the engine has done, and the CPU time of its stages. Written by every
//! stage, read by `Status`.

use pg_caption_wire::StageTimings;
use rustix::time::{ClockId, clock_gettime};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

/// Where CPU time goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stage {
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

/// What the engine has done since it started.
#[derive(Debug, Default)]
pub struct Meters {
    /// Open client connections.
    pub connections: AtomicU32,
    /// Requests accepted and not yet answered or cancelled.
    pub in_flight: AtomicU32,
    /// Requests answered.
    pub answered: AtomicU64,
    /// Pictures encoded.
    pub encoded: AtomicU64,
    /// Encoder calls they took.
    pub encode_calls: AtomicU64,
    /// Captions generated.
    pub generated: AtomicU64,
    cpu_ns: [AtomicU64; 5],
}

impl Meters {
    /// Adds CPU time to a stage.
    pub fn spent(&self, stage: Stage, cpu: Duration) {
        self.cpu_ns[stage as usize].fetch_add(cpu.as_nanos() as u64, Relaxed);
    }

    /// CPU milliseconds by stage; `total` is their sum, `wait` is nothing.
    pub fn cpu_ms(&self) -> StageTimings {
        let ms = |stage: Stage| self.cpu_ns[stage as usize].load(Relaxed) as f64 / 1e6;
        let mut t = StageTimings {
            wait: 0.0,
            fetch: ms(Stage::Fetch),
            decode: ms(Stage::Decode),
            preprocess: ms(Stage::Preprocess),
            encode: ms(Stage::Encode),
            generate: ms(Stage::Generate),
            total: 0.0,
        };
        t.total = t.fetch + t.decode + t.preprocess + t.encode + t.generate;
        t
    }
}

/// CPU time of the calling thread so far.
pub fn thread_cpu() -> Duration {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    Duration::new(t.tv_sec.max(0) as u64, t.tv_nsec as u32)
}

/// The clock of ONNX Runtime's pool: threads that bear the name of the thread that made them.
pub struct PoolClock(Vec<std::fs::File>);

impl PoolClock {
    /// Of every thread of that name but the calling one. None where the kernel does not tell.
    pub fn of_threads_named(name: &str) -> Self {
        let this = rustix::thread::gettid().as_raw_nonzero().get().to_string();
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let others = tasks
            .filter(|task| task.file_name().to_str() != Some(this.as_str()))
            .map(|task| task.path());
        let named = others.filter(|path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
        PoolClock(
            named.filter_map(|path| std::fs::File::open(path.join("schedstat")).ok()).collect(),
        )
    }

    /// CPU time of them all so far.
    pub fn read(&self) -> Duration {
        let nanoseconds = |file: &std::fs::File| {
            use std::os::unix::fs::FileExt;
            let mut text = [0; 64];
            let length = file.read_at(&mut text, 0).ok()?;
            std::str::from_utf8(&text[..length]).ok()?.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(self.0.iter().filter_map(nanoseconds).sum())
    }
}

/// Resident memory of this process, bytes; 0 where the kernel does not tell.
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
    fn cpu_time_adds_up_by_stage() {
        let meters = Meters::default();
        meters.spent(Stage::Fetch, Duration::from_millis(2));
        meters.spent(Stage::Generate, Duration::from_millis(3));
        let cpu = meters.cpu_ms();
        assert_eq!((cpu.fetch, cpu.generate, cpu.encode, cpu.total), (2.0, 3.0, 0.0, 5.0));
    }

    #[test]
    fn work_costs_the_thread_that_does_it() {
        let before = thread_cpu();
        let mut x = 1u64;
        while thread_cpu() - before < Duration::from_millis(3) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(resident_bytes() > 0);
    }

    #[test]
    fn work_of_a_namesake_is_seen_from_another_thread() {
        let (done, wait) = std::sync::mpsc::channel::<()>();
        let (worked, seen) = std::sync::mpsc::channel();
        let namesake = std::thread::Builder::new().name("pool-test".into()).spawn(move || {
            let start = thread_cpu();
            while thread_cpu() - start < Duration::from_millis(20) {}
            worked.send(()).unwrap();
            wait.recv().unwrap();
        });
        seen.recv().unwrap();
        let clock = PoolClock::of_threads_named("pool-test");
        if !clock.0.is_empty() {
            assert!(clock.read() >= Duration::from_millis(10), "{:?}", clock.read());
        }
        done.send(()).unwrap();
        namesake.unwrap().join().unwrap();
    }
}
