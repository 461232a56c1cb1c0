//! The CSV that the page saves and `caption.import_review()` reads.
//!
//! Spreadsheets run cells that begin like a formula. Such cells get an apostrophe in front, which
//! is taken away again.

use csv::ReaderBuilder;

/// Largest CSV that is read, bytes.
pub const MAX_REVIEW_BYTES: usize = 50 * 1024 * 1024;
/// The columns of the CSV.
pub const REVIEW_COLUMNS: [&str; 6] = ["key", "column", "decision", "text", "reason", "version"];
/// Longest name of a column that an error shows, characters.
const MAX_SHOWN: usize = 40;

/// Why a CSV cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// See [`MAX_REVIEW_BYTES`].
    #[error("it has more than 50 MB")]
    TooLarge,
    /// The first line lacks a column of [`REVIEW_COLUMNS`].
    #[error("its first line has no column \"{0}\"")]
    NoColumn(&'static str),
    /// A quote is not closed, or a line has another number of cells than the first.
    #[error("line {0} has another number of cells than the first line")]
    Uneven(u64),
    /// A decision is neither approve, reject nor empty.
    #[error("line {0} has the decision \"{1}\"")]
    UnknownDecision(u64, String),
}

/// What a reviewer decided about a draft.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Write it.
    Approve,
    /// Do not write it, nor ask for it again.
    Reject,
    /// Nothing yet; an edited text stays a draft.
    Later,
}

/// One line of a review.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReviewLine {
    /// The key of the row, a JSON object as the reviewer's file has it.
    pub key: String,
    /// The column of the text.
    pub column: String,
    /// What to do.
    pub decision: Decision,
    /// The text, edited or not.
    pub text: String,
    /// Why it was rejected; may be empty.
    pub reason: String,
    /// The version of the draft that the reviewer saw.
    pub version: String,
}

/// Whether a spreadsheet would run a cell, or a reader would take its apostrophe away.
fn is_formula(cell: &str) -> bool {
    cell.trim_start_matches('\'').starts_with(['=', '+', '-', '@', '\t', '\r'])
}

/// A cell that no spreadsheet runs.
///
/// ```
/// use pg_caption_sheet::{defused, restored};
///
/// assert_eq!(defused("=1+1"), "'=1+1");
/// assert_eq!(restored(&defused("'=1+1")), "'=1+1");
/// ```
pub fn defused(cell: &str) -> String {
    if is_formula(cell) { format!("'{cell}") } else { cell.to_owned() }
}

/// The inverse of [`defused`].
pub fn restored(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|rest| is_formula(rest)).unwrap_or(cell)
}

/// The lines of a review. Cells are separated by commas, or by semicolons or tabs as spreadsheets
/// of some languages save them. The columns may be in any order, with others among them.
///
/// # Errors
/// [`ReviewError`].
pub fn read_review(csv: &str) -> Result<Vec<ReviewLine>, ReviewError> {
    if csv.len() > MAX_REVIEW_BYTES {
        return Err(ReviewError::TooLarge);
    }
    let csv = csv.trim_start_matches('\u{feff}');
    let first = csv.lines().next().unwrap_or_default();
    let delimiter = [b',', b';', b'\t']
        .into_iter()
        .max_by_key(|delimiter| first.bytes().filter(|byte| byte == delimiter).count())
        .unwrap_or(b',');
    let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(csv.as_bytes());
    let names = reader.headers().map_err(|_| ReviewError::Uneven(1))?.clone();
    let mut at = [0; REVIEW_COLUMNS.len()];
    for (at, column) in at.iter_mut().zip(REVIEW_COLUMNS) {
        let position = names.iter().position(|name| name.trim().eq_ignore_ascii_case(column));
        *at = position.ok_or(ReviewError::NoColumn(column))?;
    }
    let mut lines = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| {
            ReviewError::Uneven(error.position().map_or(0, csv::Position::line))
        })?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = |column: usize| restored(record.get(at[column]).unwrap_or_default()).to_owned();
        let decision = match cell(2).trim().to_ascii_lowercase().as_str() {
            "approve" => Decision::Approve,
            "reject" => Decision::Reject,
            "" => Decision::Later,
            other => {
                let shown = other.chars().take(MAX_SHOWN).collect();
                return Err(ReviewError::UnknownDecision(line, shown));
            }
        };
        lines.push(ReviewLine {
            key: cell(0),
            column: cell(1),
            decision,
            text: cell(3),
            reason: cell(4),
            version: cell(5),
        });
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_are_defused_and_restored() {
        for text in ["=1", "+1", "-1", "@a", "\tx", "'=1", "''-", "'a", "Red cup", "", "'"] {
            let cell = defused(text);
            assert!(!cell.starts_with(['=', '+', '-', '@', '\t', '\r']), "{cell:?}");
            assert_eq!(restored(&cell), text);
        }
    }

    #[test]
    fn any_separator_and_order_is_read() {
        let line = ReviewLine {
            key: "{\"id\": 3}".into(),
            column: "alt".into(),
            decision: Decision::Approve,
            text: "-20 %, a \"red\"\ncup".into(),
            reason: String::new(),
            version: "0a".into(),
        };
        for csv in [
            "key,column,decision,text,reason,version\r\n\
             \"{\"\"id\"\": 3}\",alt,approve,\"'-20 %, a \"\"red\"\"\ncup\",,0a\r\n",
            "\u{feff}version;reason;text;decision;column;key;note\n\
             0a;;\"'-20 %, a \"\"red\"\"\ncup\";Approve;alt;\"{\"\"id\"\": 3}\";x\n",
        ] {
            assert_eq!(read_review(csv), Ok(vec![line.clone()]));
        }
    }

    #[test]
    fn broken_files_are_refused() {
        let head = "key,column,decision,text,reason,version\n";
        for (csv, error) in [
            (String::new(), ReviewError::NoColumn("key")),
            ("key,column\n".into(), ReviewError::NoColumn("decision")),
            (format!("{head}a,b\n"), ReviewError::Uneven(2)),
            (
                format!("{head}k,alt,perhaps,t,,v\n"),
                ReviewError::UnknownDecision(2, "perhaps".into()),
            ),
            (" ".repeat(MAX_REVIEW_BYTES + 1), ReviewError::TooLarge),
        ] {
            assert_eq!(read_review(&csv), Err(error));
        }
        assert_eq!(read_review(head), Ok(Vec::new()));
    }
}
