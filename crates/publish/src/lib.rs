//! What a page shows of a caption: templates with words of the row, fallbacks for pictures without
//! a caption, and the lint of texts that models or users wrote.
//!
//! Pure text. The worker renders with it before it writes; SQL calls the lint.

mod cell;
mod fallback;
mod faults;
mod lint;
mod merge;
mod template;

pub use cell::{MAX_CELL, MAX_READ, cell_text};
pub use lint::{LintFinding, LintRule, MAX_NEIGHBOURS, lint};
pub use template::{
    MAX_NAME, MAX_PLACEHOLDERS, MAX_TEMPLATE, TemplateError, TextTemplate, rename_column,
};
