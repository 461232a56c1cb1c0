//! The code blocks of Markdown pages, for the tests that run them.

use std::path::Path;

/// The paths of README.md and of the pages of the book in a checkout, relative to it.
///
/// # Panics
/// If a folder cannot be read.
pub fn pages(project: &Path) -> Vec<String> {
    let mut found = vec!["README.md".to_owned()];
    for folder in ["docs", "docs/monitoring"] {
        let files = std::fs::read_dir(project.join(folder)).expect("a folder of pages").flatten();
        let names = files.map(|file| format!("{folder}/{}", file.file_name().display()));
        found.extend(names.filter(|name| name.ends_with(".md")));
    }
    found
}

/// A fenced block of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CodeBlock<'a> {
    /// The word after the fence, for example `sql`; else empty.
    pub language: &'a str,
    /// The lines between the fences, without the last end of line.
    pub text: &'a str,
}

/// The fenced blocks of a page, in order.
///
/// ```
/// let block = pg_caption_checks::code_blocks("Try:\n```sh\nmake demo\n```\n").next().unwrap();
/// assert_eq!((block.language, block.text), ("sh", "make demo"));
/// ```
pub fn code_blocks(page: &str) -> impl Iterator<Item = CodeBlock<'_>> {
    page.split("\n```").skip(1).step_by(2).map(|block| {
        let (language, text) = block.split_once('\n').unwrap_or((block, ""));
        CodeBlock { language, text }
    })
}

/// The lines of a page that are indented as code.
pub fn indented_code(page: &str) -> impl Iterator<Item = &str> {
    let outside = page.split("\n```").step_by(2).flat_map(str::lines);
    outside.filter_map(|line| line.strip_prefix("    "))
}
