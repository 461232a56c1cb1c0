//! Inputs and outputs of a decoder's graphs: names, kinds and shapes.

use crate::cache::EntryKind;
use crate::runtime::GraphSession;

/// Inputs that the decoder feeds without the family.
const OWN: [&str; 5] =
    ["use_cache_branch", "attention_mask", "position_ids", "cache_position", "num_logits_to_keep"];

/// Checks that each input of a graph is fed, and that each past it reads is an output of the graph
/// before it, of the same type.
pub(super) fn check(
    graph: &GraphSession,
    past_from: Option<&GraphSession>,
    tokens: &str,
    constants: &[&str],
) -> Result<(), String> {
    for input in graph.inputs() {
        if let Some(before) = past_from {
            let (stated, past) = (graph.input(input).map(|(ty, _)| ty), present(input));
            // An input common to both halves is created once; an output of one half is an input of
            // the other.
            let other = before
                .input(input)
                .or_else(|| before.output(&past).filter(|_| input.starts_with("past_")))
                .map(|(ty, _)| ty);
            let own = graph.output(&past).filter(|_| input.starts_with("past_")).map(|(ty, _)| ty);
            if let (Some(stated), Some(other)) =
                (stated, [other, own].into_iter().flatten().find(|ty| Some(*ty) != stated))
            {
                return Err(format!(
                    "input \"{input}\" is of type {stated}, but it receives type {other}"
                ));
            }
        }
        if input == tokens || constants.contains(&input) || OWN.contains(&input) {
            continue;
        }
        match past_from {
            Some(before) if input.starts_with("past_") => {
                let output = present(input);
                let shape = graph.input(input).map_or(&[][..], |(_, shape)| shape);
                let constant = kind(input, shape) == EntryKind::Constant;
                if !before.outputs().any(|o| o == output)
                    || !(constant || graph.outputs().any(|o| o == output))
                {
                    return Err(format!("no output \"{output}\" for input \"{input}\""));
                }
            }
            _ => return Err(format!("unknown input \"{input}\"")),
        }
    }
    if !graph.wants(tokens) {
        return Err(format!("no input \"{tokens}\""));
    }
    if !graph.outputs().any(|output| output == "logits") {
        return Err("no output \"logits\"".into());
    }
    Ok(())
}

/// The inputs that take a past, with their kinds.
pub(super) fn pasts(graph: &GraphSession) -> Vec<(String, EntryKind)> {
    let names = graph.inputs().filter(|name| name.starts_with("past_"));
    names
        .map(|name| {
            (name.to_owned(), kind(name, graph.input(name).map_or(&[][..], |(_, shape)| shape)))
        })
        .collect()
}

/// The output that becomes this past: `present.0.key` for `past_key_values.0.key`, `present_conv.0`
/// for `past_conv.0`.
pub(super) fn present(past: &str) -> String {
    match past.strip_prefix("past_key_values") {
        Some(rest) => format!("present{rest}"),
        None => past.replacen("past_", "present_", 1),
    }
}

/// Cross-attention entries depend only on the picture. Other entries grow if a length is unstated.
pub(super) fn kind(past: &str, shape: &[i64]) -> EntryKind {
    if past.contains(".encoder.") {
        EntryKind::Constant
    } else if shape.iter().skip(1).any(|n| *n < 0) {
        EntryKind::Growing
    } else {
        EntryKind::Fixed
    }
}

/// The shape of a past of length 0: stated dimensions stay, axis 0 is the row, other unstated
/// dimensions are 0.
pub(super) fn empty(shape: &[i64], rows: i64) -> Vec<i64> {
    shape.iter().enumerate().map(|(axis, n)| if axis == 0 { rows } else { (*n).max(0) }).collect()
}
