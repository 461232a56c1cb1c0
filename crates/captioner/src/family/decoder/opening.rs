//! Opening a decoder: which layout loads, whether its step graph is split, and how rows share
//! constants.

use super::ports::{check, pasts};
use super::{Layout, TextDecoder};
use crate::ModelError;
use crate::cache::{ConstantSharing, EntryKind};
use crate::family::{hoist, trial};
use crate::folder::{GraphSource, ModelFolder};
use crate::runtime::GraphSession;

impl TextDecoder {
    /// Opens the first layout that loads, or the two halves of it that compute the same with less
    /// work. `constants` are the inputs that the family provides in prefill.
    pub fn open(
        folder: &ModelFolder,
        tokens: &'static str,
        constants: &[&str],
    ) -> Result<(TextDecoder, Vec<GraphSource>), ModelError> {
        let (mut decoder, files) = Self::hoisted(folder, tokens, constants)?;
        let sharing = trial::sharing(&mut decoder, constants);
        decoder.share(sharing);
        Ok((decoder, files))
    }

    fn hoisted(
        folder: &ModelFolder,
        tokens: &'static str,
        constants: &[&str],
    ) -> Result<(TextDecoder, Vec<GraphSource>), ModelError> {
        let (mut published, files) = Self::published(folder, tokens, constants)?;
        let Some(step) = published.repeated_step(constants).map(|graph| graph.path().to_path_buf())
        else {
            return Ok((published, files));
        };
        // Record the published graph's results and drop it before opening its halves: both together
        // would need twice the memory.
        let Ok(published_logits) = trial::run(&mut published, constants) else {
            return Ok((published, files));
        };
        drop(published);
        match hoist::cut(&step, constants) {
            Ok((once, graph)) => {
                let mut halves = TextDecoder {
                    layout: Layout::Merged { branch: false, graph },
                    once: Some(once),
                    tokens,
                    sharing: ConstantSharing::None,
                };
                match trial::run(&mut halves, constants) {
                    Ok(logits) if trial::same(&published_logits, &logits) => Ok((halves, files)),
                    _ => Self::published(folder, tokens, constants),
                }
            }
            Err(_) => Self::published(folder, tokens, constants),
        }
    }

    /// The step graph, if it computes constants of a picture that a cache could keep.
    fn repeated_step(&self, constants: &[&str]) -> Option<&GraphSession> {
        let step = match &self.layout {
            Layout::Merged { graph, .. } | Layout::Pair { next: graph, .. } => graph,
            Layout::Alone { .. } => return None,
        };
        // A cache with entries for the picture's keys and values keeps them.
        let keeps = pasts(step).iter().any(|(_, kind)| *kind == EntryKind::Constant);
        (!keeps && constants.iter().any(|root| step.wants(root))).then_some(step)
    }

    /// Opens the first layout that loads.
    fn published(
        folder: &ModelFolder,
        tokens: &'static str,
        constants: &[&str],
    ) -> Result<(TextDecoder, Vec<GraphSource>), ModelError> {
        let fed = |graph: &GraphSession, past_from: Option<&GraphSession>| {
            check(graph, past_from, tokens, constants)
        };
        let mut reasons = Vec::new();
        type Open<'a> = &'a dyn Fn() -> Result<(Layout, Vec<GraphSource>), ModelError>;
        let layouts: [Open; 3] = [
            &|| {
                let (graph, file) = folder.load("decoder_model_merged", |g| fed(g, Some(g)))?;
                if pasts(&graph).is_empty() {
                    return Ok((Layout::Alone { graph }, vec![file]));
                }
                Ok((Layout::Merged { branch: graph.wants("use_cache_branch"), graph }, vec![file]))
            },
            &|| {
                // Without the second half there is no need to load the first.
                folder.installed("decoder_with_past_model")?;
                let (first, first_file) = folder.load("decoder_model", |g| fed(g, None))?;
                let (next, next_file) =
                    folder.load("decoder_with_past_model", |g| match pasts(g).is_empty() {
                        true => Err("no input takes a past".into()),
                        false => fed(g, Some(&first)),
                    })?;
                Ok((Layout::Pair { first, next }, vec![first_file, next_file]))
            },
            &|| {
                let (graph, file) = folder.load("decoder_model", |g| fed(g, None))?;
                Ok((Layout::Alone { graph }, vec![file]))
            },
        ];
        let mut absent = Vec::new();
        for open in layouts {
            match open() {
                Ok((layout, mut files)) => {
                    if let Some(first) = files.first_mut() {
                        first.skipped.splice(..0, reasons);
                    }
                    return Ok((
                        TextDecoder { layout, once: None, tokens, sharing: ConstantSharing::None },
                        files,
                    ));
                }
                // An absent layout is reported only if all are absent.
                Err(ModelError::NotInstalled { expected, .. }) => {
                    absent.push(format!("no {expected} in onnx/"))
                }
                Err(error) => reasons.push(error.to_string()),
            }
        }
        // The pair and the decoder alone start with the same file.
        reasons.dedup();
        absent.dedup();
        Err(ModelError::NoGraph {
            folder: folder.path.clone(),
            graph: "decoder".into(),
            reason: [reasons, absent].concat().join("; "),
        })
    }
}
