//! Model swaps under load: no call fails, and no call waits for the model that loads.

use crate::models::{engines, picture};
use pg_caption_tests::{ModelsDirectory, TestDatabase, TestSession, eventually};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CALLERS: usize = 4;

/// Keeps a model loading: a named pipe replaces its generation settings, and its engine waits for
/// the writer.
struct LoadingModel {
    file: PathBuf,
    content: Vec<u8>,
}

impl LoadingModel {
    /// Replaces the file by a pipe.
    fn of(models: &ModelsDirectory, name: &str) -> LoadingModel {
        let file = models.folder(name).join("generation_config.json");
        let content = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        mknodat(CWD, &file, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        LoadingModel { file, content }
    }

    /// Sends the content to the engine and restores the file.
    fn finish(self) {
        let mut pipe = None;
        eventually("an engine reads the model's settings", || {
            // Fails without a reader.
            pipe = open(&self.file, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok();
            pipe.is_some()
        });
        fs::remove_file(&self.file).unwrap();
        fs::write(&self.file, &self.content).unwrap();
        File::from(pipe.expect("an open pipe")).write_all(&self.content).unwrap();
    }
}

/// The results of callers that call without a pause.
#[derive(Default)]
struct CallCounts {
    done: AtomicBool,
    answered: [AtomicUsize; CALLERS],
    slowest: Mutex<Duration>,
}

impl CallCounts {
    fn of(&self, caller: usize) -> usize {
        self.answered[caller].load(Ordering::Relaxed)
    }

    fn all(&self) -> usize {
        (0..CALLERS).map(|caller| self.of(caller)).sum()
    }

    /// Calls until `done` is set.
    fn run(&self, caller: usize, db: &TestDatabase<'_>, picture: &str) {
        let mut session = db.session();
        while !self.done.load(Ordering::Relaxed) {
            let began = Instant::now();
            // Any failure raises an error: a loading model, a lost engine, a deferred answer.
            let caption =
                session.text(&format!("SELECT coalesce(caption_image({picture}), 'uncertain')"));
            assert!(!caption.is_empty());
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = began.elapsed().max(*slowest);
            self.answered[caller].fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// The process id of the serving engine and its number of answers.
fn engine(session: &mut TestSession) -> (i64, i64) {
    (
        session.number("SELECT pid FROM caption.engine_status()"),
        session.number("SELECT answered FROM caption.engine_status()"),
    )
}

// A thousand calls across ten swaps are all answered, and none waits for the model that loads.
#[test]
fn ten_model_swaps_fail_no_call() {
    let models = ModelsDirectory::of(&["first", "second"]);
    let cluster = models.cluster("first");
    let db = cluster.database();
    let calls = CallCounts::default();
    let picture = picture();
    /// Ends the callers, even if the test fails.
    struct EndGuard<'a>(&'a AtomicBool);
    impl Drop for EndGuard<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let end = EndGuard(&calls.done);
        for caller in 0..CALLERS {
            let (calls, db, picture) = (&calls, &db, &picture);
            scope.spawn(move || calls.run(caller, db, picture));
        }
        let mut session = db.session();
        for swap in 0..10 {
            let (name, old) = (["second", "first"][swap % 2], ["first", "second"][swap % 2]);
            let loading = LoadingModel::of(&models, name);
            session.run(&format!("SELECT caption.use_model('{name}')"));
            let loads =
                format!("(SELECT state = 'loading' FROM caption.models() WHERE name = '{name}')");
            db.eventually(&loads);
            // Every caller makes whole calls while the new model loads.
            let (pid, answered) = engine(&mut session);
            let before: Vec<usize> = (0..CALLERS).map(|caller| calls.of(caller)).collect();
            eventually("every caller is answered while the model loads", || {
                (0..CALLERS).all(|caller| calls.of(caller) >= before[caller] + 5)
            });
            assert!(session.holds(&loads), "the new model still loads");
            let (same, more) = engine(&mut session);
            assert_eq!(same, pid, "the old engine still serves");
            assert!(
                more >= answered + 4 * CALLERS as i64,
                "the old engine answers: {answered}, then {more}"
            );
            assert!(
                session.holds(&format!("(SELECT model = '{old}' FROM caption.engine_status())"))
            );
            loading.finish();
            session.run(&format!("SELECT caption.use_model('{name}', wait => true)"));
            assert!(
                session.holds(&format!("(SELECT model = '{name}' FROM caption.engine_status())"))
            );
            let before = calls.all();
            eventually("calls continue", || calls.all() >= before + 80);
        }
        drop(end);
    });
    println!("{} calls; the slowest took {:?}", calls.all(), calls.slowest.lock().unwrap());
    assert!(calls.all() >= 1000);
    eventually("the old engines end", || engines(&cluster) == 1);
    assert!(
        !cluster.log().contains("requests in flight are sent to the next one"),
        "{}",
        cluster.log_tail("in flight")
    );
}
