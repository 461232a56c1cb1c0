//! The engine's memory is bounded by its budget, however many requests arrive at a time.

mod harness;

use harness::{Engine, bytes, model};
use pg_caption_wire::{CaptionOutcome, ClientRole, EngineConfig, EngineReport, FailureClass};

/// Bytes: the smallest budget of the engine. A quarter of it holds files, half of it decoders'
/// buffers.
const BUDGET: u64 = 64 << 20;
/// Memory of batches, thread stacks, the allocator and ONNX Runtime's arena.
const SLACK: u64 = 48 << 20;

fn ready() -> Option<Engine> {
    let mut engine = Engine::start(&EngineConfig { memory: BUDGET, ..model()? });
    assert_eq!(engine.report(), EngineReport::Starting);
    assert!(matches!(engine.report(), EngineReport::Ready { .. }));
    Some(engine)
}

/// An uncompressed picture with sides of `side` pixels: as large in the file as in memory.
fn bitmap(side: u32) -> Vec<u8> {
    let row = (side * 3).next_multiple_of(4);
    let mut file = b"BM".to_vec();
    for word in [54 + row * side, 0, 54, 40, side, side, 1 | 24 << 16, 0, row * side, 0, 0, 0, 0] {
        file.extend(word.to_le_bytes());
    }
    file.extend((0..row * side).map(|at| ((at / 7) ^ (at / row)) as u8));
    file
}

/// Highest resident memory so far.
fn peak(engine: &Engine) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", engine.child.id())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

#[test]
fn many_large_pictures_wait_within_the_budget() {
    let Some(engine) = ready() else { return };
    let picture = bitmap(1500);
    let request = |id: u64| match engine
        .connect()
        .hello(ClientRole::Call)
        .request(bytes(id, &["concise"]), &picture)
    {
        CaptionOutcome::Done { .. } => {}
        other => panic!("{other:?}"),
    };
    // One first, so that the model's buffers are allocated.
    request(0);
    let before = peak(&engine);
    std::thread::scope(|scope| (0..60).for_each(|id| drop(scope.spawn(move || request(id)))));
    let grown = peak(&engine) - before;
    let total = 60 * picture.len() as u64;
    println!("{} MB of pictures: {} MB more than for one", total >> 20, grown >> 20);
    assert!(total > 3 * (BUDGET + SLACK), "without a budget it would show");
    assert!(grown <= BUDGET + SLACK, "{grown} bytes more");
}

#[test]
fn a_picture_beyond_the_budget_is_refused() {
    let Some(engine) = ready() else { return };
    let mut client = engine.connect().hello(ClientRole::Call);
    // A file larger than the budget for files, and a truncated one whose pixels are more than the
    // budget for decoding.
    for (id, file) in [bitmap(2600), bitmap(3500)[..1000].to_vec()].into_iter().enumerate() {
        let CaptionOutcome::Failed(failure) = client.request(bytes(id as u64, &["concise"]), &file)
        else {
            panic!("not refused")
        };
        assert_eq!(
            (failure.class, failure.code.as_str()),
            (FailureClass::Reject, "too_much_memory"),
            "{failure:?}"
        );
        let text = format!("{} {}", failure.message, failure.detail.unwrap_or_default());
        assert!(text.bytes().filter(u8::is_ascii_digit).count() >= 14, "{text}");
        assert!(failure.hint.unwrap().contains("pg_caption.memory"));
    }
}
