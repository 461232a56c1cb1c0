//! The templates of a fill, checked against the columns of its table.
//!
//! Called by `watch` and by the worker.

use pg_caption_publish::{TemplateError, TextTemplate};
use pg_caption_style::FillDefinition;

/// What a fill writes besides the caption.
pub struct FillTemplates {
    /// Combines the caption with words of the row.
    pub caption: Option<TextTemplate>,
    /// The text of a picture without a caption.
    pub fallback: Option<TextTemplate>,
}

impl FillTemplates {
    /// `columns`: those of the table.
    ///
    /// # Errors
    /// [`TemplateError`].
    pub fn read(fill: &FillDefinition, columns: &[String]) -> Result<Self, TemplateError> {
        let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
        let caption = fill.template.as_deref();
        let fallback = fill.fallback.as_deref();
        Ok(FillTemplates {
            caption: caption.map(|t| TextTemplate::for_captions(t, &columns)).transpose()?,
            fallback: fallback.map(|t| TextTemplate::for_fallbacks(t, &columns)).transpose()?,
        })
    }

    /// The columns whose words they show; some may be repeated.
    pub fn columns(&self) -> impl Iterator<Item = &str> {
        self.caption.iter().chain(&self.fallback).flat_map(|template| template.columns())
    }
}
