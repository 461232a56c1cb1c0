//! What the engine costs in front of a model server, which is scripted: the share of its rate that
//! 16 slots with answers after 200 ms reach, and the time that a request takes beyond the server's.
//!
//! Run with `cargo bench -p pg_caption_engine --bench remote`.

#[path = "../tests/harness/mod.rs"]
mod harness;

use harness::{Client, Engine, bytes};
use pg_caption_checks::{ScriptedAnswer, ScriptedServer};
use pg_caption_pixels::{RgbPicture, encode_png};
use pg_caption_wire::{
    CaptionOutcome, ClientMessage, ClientRole, EngineConfig, EngineReport, StageTimings,
};
use std::sync::{Condvar, Mutex};
use std::time::{Duration, Instant};

const SLOTS: usize = 16;
const ANSWER: Duration = Duration::from_millis(200);
const PICTURES: u64 = 1200;

/// A server's slots: further requests wait.
#[derive(Default)]
struct Slots {
    used: Mutex<usize>,
    freed: Condvar,
}

impl Slots {
    fn hold(&self, time: Duration) {
        let used = self.used.lock().unwrap();
        let mut used = self.freed.wait_while(used, |used| *used >= SLOTS).unwrap();
        *used += 1;
        drop(used);
        std::thread::sleep(time);
        *self.used.lock().unwrap() -= 1;
        self.freed.notify_one();
    }
}

fn main() {
    let slots = Slots::default();
    let server = ScriptedServer::start(move |request| {
        let fast = request.instruction() == "fast";
        slots.hold(if fast { Duration::ZERO } else { ANSWER });
        ScriptedAnswer::text("A cat on a mat", Some(0.9))
    });
    let models = tempfile::tempdir().unwrap();
    let folder = models.path().join("far");
    std::fs::create_dir(&folder).unwrap();
    let remote = format!(
        r#"{{"protocol": "openai", "base_url": "{}", "model": "m", "concurrency": 64}}"#,
        server.url()
    );
    std::fs::write(folder.join("remote.json"), remote).unwrap();
    let mut engine = Engine::start(&EngineConfig {
        model: folder,
        models_directory: models.path().into(),
        ..EngineConfig::default()
    });
    assert_eq!(engine.report(), EngineReport::Starting);
    assert!(matches!(engine.report(), EngineReport::Ready { .. }));
    let mut client = engine.connect().hello(ClientRole::Worker);
    // Small for the rate: two cores decode too few large ones.
    let (small, photo) = (photo(320, 240), photo(1024, 768));

    let began = Instant::now();
    let _ = run(&mut client, &small, "slow", PICTURES, 64);
    let rate = PICTURES as f64 / began.elapsed().as_secs_f64();
    let possible = SLOTS as f64 / ANSWER.as_secs_f64();
    println!("rate: {rate:.1} of {possible:.1} per second, {:.3}", rate / possible);

    let timings = run(&mut client, &photo, "fast", 200, 1);
    let mut beyond: Vec<f64> = timings.iter().map(|t| t.total - t.decode - t.preprocess).collect();
    beyond.sort_by(f64::total_cmp);
    println!(
        "a request beyond decode and encode: median {:.2} ms, 95 % {:.2} ms",
        beyond[beyond.len() / 2],
        beyond[beyond.len() * 95 / 100]
    );
}

/// A picture with some detail.
fn photo(width: u32, height: u32) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(1);
    let data = (0..width * height)
        .flat_map(|at| {
            let noise = random.u8(0..24);
            [(at % width / 5) as u8 + noise, (at / width / 4) as u8, noise]
        })
        .collect();
    encode_png(&RgbPicture { width, height, data })
}

fn run(
    client: &mut Client,
    photo: &[u8],
    instruction: &str,
    count: u64,
    window: u64,
) -> Vec<StageTimings> {
    let (mut sent, mut timings) = (0, Vec::new());
    while (timings.len() as u64) < count {
        while sent < count && sent - (timings.len() as u64) < window {
            let mut request = bytes(sent, &["concise"]);
            request.outputs[0].style.instruction = instruction.into();
            client.send(&ClientMessage::Request(request), photo);
            sent += 1;
        }
        match client.reply().outcome {
            CaptionOutcome::Done { timings: times, .. } => timings.push(times),
            other => panic!("{other:?}"),
        }
    }
    timings
}
