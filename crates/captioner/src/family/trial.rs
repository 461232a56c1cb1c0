//! What a decoder says of a made-up picture: how a published graph is compared with two halves of
//! it, and how it is found out that a step takes what depends on the picture once for all beams.
//! Called by the decoder when a model is loaded; nothing is kept.

use super::decoder::Decoder;
use crate::cache::Sharing;
use crate::{ModelError, tensor};
use ort::value::{DynValue, TensorElementType};

/// Rows, positions of the picture (where the graph states none) and steps of a trial: rows whose
/// order would show, and pasts of 0 to 3.
const ROWS: usize = 3;
const POSITIONS: usize = 6;
const STEPS: usize = 3;

/// The logits of a few steps of three captions, with an empty past and with one of up to three
/// positions, rows traded in between.
///
/// # Errors
/// Inputs of shapes that nothing can be made up for; calls that fail.
pub(super) fn run(decoder: &mut Decoder, constants: &[&str]) -> Result<Vec<f32>, ModelError> {
    steps(decoder, constants, ROWS, |step| if step == 2 { &[2, 0, 1] } else { &[0, 1, 2] })
}

/// How few rows of the constants the decoder's steps take: a single one for all beams of a caption,
/// where that gives the same bits.
pub(super) fn sharing(decoder: &mut Decoder, constants: &[&str]) -> Sharing {
    if !constants.iter().any(|name| decoder.wants(name)) {
        return Sharing::None;
    }
    let mut beams = |sharing| {
        decoder.share(sharing);
        steps(decoder, constants, 1, |step| if step == 1 { &[0, 0, 0] } else { &[2, 0, 0] })
    };
    match (beams(Sharing::None), beams(Sharing::OneCaption)) {
        (Ok(each), Ok(shared)) if same(&each, &shared) => Sharing::OneCaption,
        _ => Sharing::None,
    }
}

/// Whether two trials gave the same bits.
pub(super) fn same(a: &[f32], b: &[f32]) -> bool {
    !a.is_empty() && a.len() == b.len() && a.iter().zip(b).all(|(a, b)| a.to_bits() == b.to_bits())
}

/// Logits of the prefill of `captions` and of the steps after it; `order` says where the rows of a
/// step come from.
fn steps(
    decoder: &mut Decoder,
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

/// What an encoder could have said of a picture, for a decoder's input of this name.
fn picture(
    decoder: &Decoder,
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

/// One token a row, another one for each row and step; as ids, or as embeddings where the decoder
/// takes those.
fn tokens(decoder: &Decoder, rows: usize, step: usize) -> Result<DynValue, ModelError> {
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

/// Numbers between -1 and 1 that are the same every time (a linear congruential generator, Knuth's
/// constants).
fn noise(count: usize, seed: u64) -> Vec<f32> {
    let mut state = seed.wrapping_add(1);
    let mut next = || {
        state =
            state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((state >> 40) as f32) / (1u64 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}
