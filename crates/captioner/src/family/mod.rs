//! Model families. A family is one file: it owns names, masks, positions and embeddings, never
//! search, batching or scheduling.
//!
//! Two halves serve two kinds of threads: [`FamilyPreparer`] is shared by the decode threads and
//! uses no session; [`FamilyRunner`] owns the sessions and is used by one thread.
//!
//! Adding a family takes one file here (with its `mod` line) and one row of
//! `pg_caption_models::families`. The file has both halves and `open`; its tensors are named cache
//! entries of the right kind. Batch, searches, scheduler and SQL do not change: `batch/tests.rs`
//! drives them with a family of fixed states, sparse layers and three rows of positions.
//! Encoder-decoders share `decoder.rs`.

mod chat;
mod decoder;
mod embedder;
mod encoder;
mod florence2;
mod hoist;
mod idefics3;
mod python;
mod traits;
mod trial;
mod vision_encoder_decoder;

use crate::ModelError;
use crate::folder::ModelFolder;
use crate::generation::GenerationSettings;
use crate::text::TextTokenizer;
use pg_caption_models::{ModelFamily, family, model_types};
use std::sync::Arc;
pub(crate) use traits::{FamilyPreparer, FamilyRunner, FamilySessions, OpenedFamily};

/// Opens a family with the folder's settings and tokenizer.
type Open =
    fn(&ModelFolder, &GenerationSettings, &Arc<TextTokenizer>) -> Result<OpenedFamily, ModelError>;

macro_rules! openers {
    ($($module:ident: $model_types:tt, $graphs:tt;)*) => {
        /// The name of each family, and the function that opens it.
        const OPENERS: &[(&str, Open)] = &[$(($model_types[0], $module::open)),*];
    };
}
pg_caption_models::families!(openers);

/// A family that has not been opened yet.
pub(crate) struct KnownFamily {
    family: &'static ModelFamily,
    open: Open,
}

/// The family of `config.json`'s `model_type`. Asked before any other file is read: a folder of an
/// unknown family may have none of them.
pub(crate) fn known(folder: &ModelFolder) -> Result<KnownFamily, ModelError> {
    let model_type = folder.model_type()?;
    let found = family(&model_type).and_then(|family| {
        let (_, open) = OPENERS.iter().find(|(name, _)| *name == family.name())?;
        Some(KnownFamily { family, open: *open })
    });
    found.ok_or_else(|| ModelError::UnknownFamily {
        path: folder.file("config.json"),
        model_type,
        supported: model_types().join(", "),
    })
}

impl KnownFamily {
    /// Opens it.
    pub(crate) fn open(
        self,
        folder: &ModelFolder,
        settings: &GenerationSettings,
        text: &Arc<TextTokenizer>,
    ) -> Result<(&'static ModelFamily, OpenedFamily), ModelError> {
        Ok((self.family, (self.open)(folder, settings, text)?))
    }
}
