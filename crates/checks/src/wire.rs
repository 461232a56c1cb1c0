//! Frames between extension and engine.

use crate::CheckResult;
use pg_caption_wire::{
    ClientMessage, EngineConfig, EngineControl, EngineReport, ServerMessage, frame::FrameReader,
};
use serde::de::DeserializeOwned;
use std::fmt::Debug;

/// Frames are the same for every fragmentation, and invalid messages do not panic.
pub fn wire(bytes: &[u8]) -> CheckResult {
    let step = bytes.first().map_or(1, |first| usize::from(*first % 23) + 1);
    same_frames::<ClientMessage>(bytes, step)?;
    same_frames::<ServerMessage>(bytes, step)?;
    // Pipes carry one message a line.
    for line in bytes.split(|byte| *byte == b'\n') {
        drop(serde_json::from_slice::<EngineConfig>(line));
        drop(serde_json::from_slice::<EngineControl>(line));
        drop(serde_json::from_slice::<EngineReport>(line));
    }
    Ok(())
}

fn same_frames<M: DeserializeOwned + Debug>(bytes: &[u8], step: usize) -> CheckResult {
    let (whole, cut) = (read::<M>(bytes, bytes.len().max(1)), read::<M>(bytes, step));
    if whole == cut {
        Ok(())
    } else {
        Err(format!("whole: {whole:?}\nin pieces of {step}: {cut:?}"))
    }
}

/// All frames, and the error that ends them, if any.
fn read<M: DeserializeOwned + Debug>(bytes: &[u8], step: usize) -> Vec<String> {
    let (mut reader, mut seen) = (FrameReader::default(), Vec::new());
    for piece in bytes.chunks(step) {
        reader.feed(piece);
        loop {
            match reader.next_frame::<M>() {
                Ok(Some((message, body))) => seen.push(format!("{message:?} {body:?}")),
                Ok(None) => break,
                Err(error) => {
                    seen.push(error.to_string());
                    return seen;
                }
            }
        }
    }
    seen
}
