//! CPU time of ONNX Runtime's thread pool, found by the name of its threads.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::time::Duration;

/// The clock of the pool: its threads inherit the name of the thread that made them.
pub struct PoolClock(Vec<File>);

impl PoolClock {
    /// Covers every thread of that name but the calling one; empty where the kernel does not
    /// provide the times.
    pub fn of_threads_named(name: &str) -> Self {
        let this = rustix::thread::gettid().as_raw_nonzero().get().to_string();
        let tasks = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
        let others = tasks
            .filter(|task| task.file_name().to_str() != Some(this.as_str()))
            .map(|task| task.path());
        let named = others.filter(|path| {
            std::fs::read_to_string(path.join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        });
        PoolClock(named.filter_map(|path| File::open(path.join("schedstat")).ok()).collect())
    }

    /// CPU time of all of them.
    pub fn read(&self) -> Duration {
        let nanoseconds = |file: &File| {
            let mut text = [0; 64];
            let length = file.read_at(&mut text, 0).ok()?;
            std::str::from_utf8(&text[..length]).ok()?.split(' ').next()?.parse::<u64>().ok()
        };
        Duration::from_nanos(self.0.iter().filter_map(nanoseconds).sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::thread_cpu;
    use std::sync::mpsc::channel;

    #[test]
    fn another_thread_of_that_name_is_measured() {
        let (done, wait) = channel::<()>();
        let (worked, seen) = channel();
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
