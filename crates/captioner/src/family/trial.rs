//! Trial runs of a decoder on invented features. They compare a published graph with its two
//! halves, and find out whether a step takes one row of constants for all beams. Called when a
//! model is loaded; keeps nothing.

use super::decoder::TextDecoder;
use crate::cache::ConstantSharing;
use crate::{ModelError, tensor};
use ort::value::{DynValue, TensorElementType};

/// Rows, positions of the picture (where the graph states none) and steps of a trial: several rows,
/// so that their order matters, and pasts of 0 to 3 positions.
const ROWS: usize = 3;
const POSITIONS: usize = 6;
const STEPS: usize = 3;

/// The logits of three captions after the prefill and after each step, with rows that change
/// places.
///
/// # Errors
/// Inputs whose shapes are not supported; calls that fail.
pub(super) fn run(decoder: &mut TextDecoder, constants: &[&str]) -> Result<Vec<f32>, ModelError> {
    steps(decoder, constants, ROWS, |step| if step == 2 { &[2, 0, 1] } else { &[0, 1, 2] })
}

/// How many rows of the constants the decoder's steps take: a single one for all beams of a
/// caption, if that gives the same bits.
pub(super) fn sharing(decoder: &mut TextDecoder, constants: &[&str]) -> ConstantSharing {
    if !constants.iter().any(|name| decoder.wants(name)) {
        return ConstantSharing::None;
    }
    let mut beams = |sharing| {
        decoder.share(sharing);
        steps(decoder, constants, 1, |step| if step == 1 { &[0, 0, 0] } else { &[2, 0, 0] })
    };
    match (beams(ConstantSharing::None), beams(ConstantSharing::OneCaption)) {
        (Ok(each), Ok(shared)) if same(&each, &shared) => ConstantSharing::OneCaption,
        _ => ConstantSharing::None,
    }
}

/// Whether two trials gave the same bits.
pub(super) fn same(a: &[f32], b: &[f32]) -> bool {
    !a.is_empty() && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Logits of the prefill of `captions` and of the steps after it; `order` states which row each row
/// of a step continues.
fn steps(
    decoder: &mut TextDecoder,
    constants: &[&str],
    captions: usize,
    order: impl Fn(usize) -> &'static [usize],
) -> Result<Vec<f32>, ModelError> {
    let mut given = Vec::new();
    // Some exports state how many positions a picture has.
    let positions = decoder.positions(constants).unwrap_or(POSITIONS);
    for (seed, name) in constants.iter().enumerate().filter(|(_, name)| decoder.wants(name)) {
        given.push((*name, picture(decoder, name, [captions, positions], seed as u64)?));
    }
    let prompt = tokens(decoder, captions, 0)?;
    let (logits, mut cache) = decoder.prefill(prompt, given)?;
    let mut all: Vec<f32> = (0..captions).flat_map(|row| logits.row(row).to_vec()).collect();
    for step in 1..=STEPS {
        cache.rearrange(order(step))?;
        let fed = tokens(decoder, cache.rows(), step)?;
        let logits = decoder.step(&mut cache, fed)?;
        all.extend((0..cache.rows()).flat_map(|row| logits.row(row).to_vec()));
    }
    Ok(all)
}

/// Invented encoder output for an input of the decoder.
fn picture(
    decoder: &TextDecoder,
    name: &str,
    [rows, positions]: [usize; 2],
    seed: u64,
) -> Result<DynValue, ModelError> {
    let ty = decoder.input_type(name).unwrap_or(TensorElementType::Float32);
    let shape = decoder.input_shape(name).unwrap_or_default();
    match (&shape[..], ty) {
        ([_, _, width], _) if *width > 0 => {
            let shape = vec![rows as i64, positions as i64, *width];
            let length = tensor::length(&shape)?;
            tensor::of_floats(shape, noise(length, seed), ty)
        }
        ([_, _], TensorElementType::Int64) => {
            let shape = vec![rows as i64, positions as i64];
            let length = tensor::length(&shape)?;
            tensor::tensor(shape, vec![1i64; length])
        }
        _ => Err(ModelError::run("decoder", format!("no trial for {name} of shape {shape:?}"))),
    }
}

/// One token per row, different for each row and step: as ids, or as embeddings if the decoder
/// takes those.
fn tokens(decoder: &TextDecoder, rows: usize, step: usize) -> Result<DynValue, ModelError> {
    let name = decoder.tokens();
    let ty = decoder.input_type(name).unwrap_or(TensorElementType::Int64);
    match decoder.input_shape(name).unwrap_or_default()[..] {
        [_, _] => tensor::tensor(
            vec![rows as i64, 1],
            (0..rows).map(|row| (1 + row + 2 * step) as i64).collect(),
        ),
        [_, _, width] if width > 0 => {
            let shape = vec![rows as i64, 1, width];
            tensor::length(&shape)?;
            let embedded = (0..rows)
                .flat_map(|row| noise(width as usize, (100 + ROWS * step + row) as u64))
                .collect();
            tensor::of_floats(shape, embedded, ty)
        }
        ref other => {
            Err(ModelError::run("decoder", format!("no trial for {name} of shape {other:?}")))
        }
    }
}

/// Repeatable random numbers from -1 to 1.
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut random = fastrand::Rng::with_seed(seed);
    (0..count).map(|_| random.f32() * 2.0 - 1.0).collect()
}
