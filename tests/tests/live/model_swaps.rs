//! One model exchanged for another while everybody goes on: no call fails, and none waits for the
//! model that loads.

use crate::models::{engines, picture};
use pg_caption_tests::{Database, Models, Session, eventually};
use rustix::fs::{CWD, FileType, Mode, OFlags, mknodat, open};
use std::fs::{self, File};
use std::io::Write;
use std::path::PathBuf;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

const CALLERS: usize = 4;

/// A model that loads for as long as this lives: in place of its generation settings there is a
/// pipe, which its engine alone reads.
struct Held {
    file: PathBuf,
    content: Vec<u8>,
}

impl Held {
    fn of(models: &Models, name: &str) -> Held {
        let file = models.folder(name).join("generation_config.json");
        let content = fs::read(&file).unwrap();
        fs::remove_file(&file).unwrap();
        mknodat(CWD, &file, FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
        Held { file, content }
    }

    /// Says what the engine waits to read; the file is an ordinary one again.
    fn let_go(self) {
        let mut pipe = None;
        eventually("an engine reads the model's settings", || {
            // Refused while nobody reads.
            pipe = open(&self.file, OFlags::WRONLY | OFlags::NONBLOCK, Mode::empty()).ok();
            pipe.is_some()
        });
        fs::remove_file(&self.file).unwrap();
        fs::write(&self.file, &self.content).unwrap();
        File::from(pipe.expect("it was opened")).write_all(&self.content).unwrap();
    }
}

/// Callers that never stop, and what became of their calls.
#[derive(Default)]
struct Calls {
    done: AtomicBool,
    answered: [AtomicUsize; CALLERS],
    slowest: Mutex<Duration>,
}

impl Calls {
    fn of(&self, caller: usize) -> usize {
        self.answered[caller].load(Ordering::Relaxed)
    }

    fn all(&self) -> usize {
        (0..CALLERS).map(|caller| self.of(caller)).sum()
    }

    fn go_on(&self, caller: usize, db: &Database<'_>, picture: &str) {
        let mut session = db.session();
        while !self.done.load(Ordering::Relaxed) {
            let began = Instant::now();
            // Whatever an engine cannot do raises: a model that loads, one that is lost, an answer
            // that is put off.
            let caption =
                session.text(&format!("SELECT coalesce(caption_image({picture}), 'uncertain')"));
            assert!(!caption.is_empty());
            let mut slowest = self.slowest.lock().unwrap();
            *slowest = began.elapsed().max(*slowest);
            self.answered[caller].fetch_add(1, Ordering::Relaxed);
        }
    }
}

fn engine(session: &mut Session) -> (i64, i64) {
    (
        session.number("SELECT pid FROM caption.engine_status()"),
        session.number("SELECT answered FROM caption.engine_status()"),
    )
}

#[test]
fn ten_model_swaps_fail_no_call() {
    let models = Models::of(&["first", "second"]);
    let cluster = models.cluster("first");
    let db = cluster.database();
    let calls = Calls::default();
    let picture = picture();
    /// Ends the callers, also when this test fails.
    struct Ends<'a>(&'a AtomicBool);
    impl Drop for Ends<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let ends = Ends(&calls.done);
        for caller in 0..CALLERS {
            let (calls, db, picture) = (&calls, &db, &picture);
            scope.spawn(move || calls.go_on(caller, db, picture));
        }
        let mut session = db.session();
        for exchange in 0..10 {
            let (name, old) =
                (["second", "first"][exchange % 2], ["first", "second"][exchange % 2]);
            let held = Held::of(&models, name);
            session.run(&format!("SELECT caption.use_model('{name}')"));
            let loads =
                format!("(SELECT state = 'loading' FROM caption.models() WHERE name = '{name}')");
            db.eventually(&loads);
            // While the new model loads, and it does until it is let go, every caller makes calls
            // from beginning to end.
            let (pid, answered) = engine(&mut session);
            let before: Vec<usize> = (0..CALLERS).map(|caller| calls.of(caller)).collect();
            eventually("every caller is answered while the model loads", || {
                (0..CALLERS).all(|caller| calls.of(caller) >= before[caller] + 5)
            });
            assert!(session.holds(&loads), "the new model was not let go");
            let (same, more) = engine(&mut session);
            assert_eq!(same, pid, "the old engine serves");
            assert!(
                more >= answered + 4 * CALLERS as i64,
                "it is the one that answers: {answered}, then {more}"
            );
            assert!(
                session.holds(&format!("(SELECT model = '{old}' FROM caption.engine_status())"))
            );
            held.let_go();
            session.run(&format!("SELECT caption.use_model('{name}', wait => true)"));
            assert!(
                session.holds(&format!("(SELECT model = '{name}' FROM caption.engine_status())"))
            );
            let before = calls.all();
            eventually("calls go on", || calls.all() >= before + 80);
        }
        drop(ends);
    });
    println!("{} calls; the slowest took {:?}", calls.all(), calls.slowest.lock().unwrap());
    assert!(calls.all() >= 1000);
    eventually("the old engines have left", || engines(&cluster) == 1);
    assert!(
        !cluster.log().contains("requests in flight are sent to the next one"),
        "{}",
        cluster.log_tail("in flight")
    );
}
