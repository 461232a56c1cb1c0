//! `model agree`: captions the same pictures with two models, and shows for each threshold of a
//! cascade how many would go to the second, and how far both agree about the others.

use super::AgreeArgs;
use crate::answer::JobAnswer;
use crate::cli::locate;
use crate::engine::{Engine, EngineOptions};
use crate::job::Job;
use crate::provider::readiness::ProviderState;
use crate::request::{JobExtras, JobSpec, PictureSource};
use pg_caption_style::{DEFAULT_TOKENS, builtin};
use pg_caption_wire::{AnswerReuse, ClientRole, OutputSpec};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

/// A large model on a small machine is slow.
const TIMEOUT: Duration = Duration::from_secs(24 * 3600);
/// Pictures in flight.
const IN_FLIGHT: usize = 32;
/// The thresholds that are shown.
const THRESHOLDS: [f32; 10] = [0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95];

/// A caption and its confidence; `None`: the model gave none.
type AgreeCaption = Option<(String, Option<f32>)>;

/// Runs it. Returns whether both models captioned a picture.
///
/// # Errors
/// A model or a file cannot be used.
pub fn run(options: &AgreeArgs) -> Result<bool, String> {
    let files: Vec<Vec<u8>> = options
        .files
        .iter()
        .map(|path| std::fs::read(path).map_err(|e| format!("{}: {e}", path.display())))
        .collect::<Result<_, _>>()?;
    let first = captions(&options.first, &files, options)?;
    let second = captions(&options.then, &files, options)?;
    let rows: Vec<(AgreeCaption, AgreeCaption)> = first.into_iter().zip(second).collect();
    println!("below  to the second  agreement of the others");
    for threshold in THRESHOLDS {
        let Row { escalated, agreement } = row(&rows, threshold);
        let agreement = agreement.map_or("-".into(), |share| format!("{share:.2}"));
        println!("{threshold:.2}   {:>5.1} %        {agreement}", 100.0 * escalated);
    }
    Ok(rows.iter().any(|(first, second)| first.is_some() && second.is_some()))
}

/// What one threshold means.
#[derive(Debug, PartialEq)]
struct Row {
    /// Share of the pictures that go to the second model.
    escalated: f32,
    /// Mean agreement about those that stay; `None`: both models have captions of none of them.
    agreement: Option<f32>,
}

fn row(rows: &[(AgreeCaption, AgreeCaption)], threshold: f32) -> Row {
    let stays = |first: &AgreeCaption| {
        first.as_ref().is_some_and(|(_, confidence)| confidence.is_none_or(|c| c >= threshold))
    };
    let escalated = rows.iter().filter(|(first, _)| !stays(first)).count();
    let agreements: Vec<f32> = rows
        .iter()
        .filter(|(first, _)| stays(first))
        .filter_map(|(first, second)| Some(agreement(&first.as_ref()?.0, &second.as_ref()?.0)))
        .collect();
    let mean = agreements.iter().sum::<f32>() / agreements.len() as f32;
    Row {
        escalated: escalated as f32 / rows.len().max(1) as f32,
        agreement: (!agreements.is_empty()).then_some(mean),
    }
}

/// The share of words that two texts have in common: 1 for the same words, 0 for none.
fn agreement(one: &str, other: &str) -> f32 {
    let words = |text: &str| -> BTreeSet<String> {
        let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty());
        parts.map(str::to_lowercase).collect()
    };
    let (one, other) = (words(one), words(other));
    let both = one.intersection(&other).count();
    match one.union(&other).count() {
        0 => 1.0,
        all => both as f32 / all as f32,
    }
}

fn captions(
    model: &Path,
    files: &[Vec<u8>],
    options: &AgreeArgs,
) -> Result<Vec<AgreeCaption>, String> {
    let mut config = locate::config(locate::folder(model)?, options.onnxruntime.as_deref())?;
    // All confidences are of interest.
    config.min_confidence = Some(0.0);
    options.settings.apply(&mut config)?;
    let style = builtin(&options.style)
        .ok_or_else(|| format!("unknown style \"{}\": use a built-in one", options.style))?;
    let engine = Engine::start(EngineOptions::new(config)).map_err(|e| e.to_string())?;
    if let ProviderState::Failed(failure) = engine.readiness().wait() {
        return Err(format!("{}: {}", failure.message, failure.detail.unwrap_or_default()));
    }
    let (answers, arrived) = channel();
    let mut found: Vec<AgreeCaption> = vec![None; files.len()];
    let (mut submitted, mut answered) = (0, 0);
    while answered < files.len() {
        while submitted < files.len() && submitted < answered + IN_FLIGHT {
            let output = OutputSpec {
                style: style.clone(),
                max_tokens: DEFAULT_TOKENS,
                context: None,
                min_confidence: None,
            };
            let spec = JobSpec {
                connection: 0,
                role: ClientRole::Call,
                timeout: TIMEOUT,
                from_turn: false,
                source: PictureSource::Bytes { sha256: None },
                outputs: vec![output],
                min_confidence: None,
                rules: Arc::default(),
                extras: JobExtras { apart: true, ..JobExtras::default() },
                earlier: None,
                reuse: AnswerReuse::Nothing,
            };
            let (at, answers) = (submitted, answers.clone());
            let job = Arc::new(Job::new(spec, Instant::now(), move |answer| {
                // The receiver lives until every answer has arrived.
                let _ = answers.send((at, answer));
            }));
            engine.submit(&job, Some((files[submitted].clone(), None)), None);
            submitted += 1;
        }
        let (at, answer) = arrived.recv().map_err(|e| e.to_string())?;
        answered += 1;
        match answer {
            JobAnswer::Done { outputs, .. } => {
                let output = outputs.into_iter().next().and_then(Result::ok);
                found[at] = output.and_then(|c| Some((c.caption.ok()?, c.confidence)));
            }
            JobAnswer::Failed(failure) => {
                let file: &PathBuf = &options.files[at];
                crate::log::line(format_args!("warning: {}: {}", file.display(), failure.message));
            }
            JobAnswer::Unchanged => {}
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_in_common_are_agreement() {
        assert_eq!(agreement("A red cup.", "a RED cup"), 1.0);
        assert_eq!(agreement("a red cup", "a blue cup"), 0.5);
        assert_eq!(agreement("cup", "dog"), 0.0);
    }

    #[test]
    fn refused_and_unsure_captions_are_escalated() {
        let caption = |text: &str, c: f32| Some((text.to_string(), Some(c)));
        let rows = [
            (caption("a cup", 0.9), caption("a cup", 0.9)),
            (caption("a cup", 0.6), caption("a dog", 0.9)),
            (None, caption("a dog", 0.9)),
            (Some(("a cup".into(), None)), None),
        ];
        assert_eq!(row(&rows, 0.8), Row { escalated: 0.5, agreement: Some(1.0) });
        let agreement = (1.0 + 1.0 / 3.0) / 2.0;
        assert_eq!(row(&rows, 0.5), Row { escalated: 0.25, agreement: Some(agreement) });
        assert_eq!(row(&rows[2..3], 0.5), Row { escalated: 1.0, agreement: None });
    }
}
