//! What docs/errors.md says about each code.

use pg_caption_tests::project;
use std::collections::BTreeMap;

/// Class by code, and SQLSTATE by class, as docs/errors.md has them.
pub struct Documented {
    classes: BTreeMap<String, String>,
    states: BTreeMap<String, String>,
}

impl Documented {
    /// Reads the page.
    pub fn read() -> Documented {
        let path = project().join("docs/errors.md");
        let page = std::fs::read_to_string(path).expect("docs/errors.md");
        let (head, codes) = page.split_once("\n## Codes\n").expect("the codes");
        let (codes, _) = codes.split_once("\n## What a column may hold\n").expect("their end");
        let rows = |text: &str| -> Vec<Vec<String>> {
            let rows = text.lines().filter(|line| line.starts_with("| `"));
            rows.map(|row| row.split('|').map(|cell| cell.trim().to_owned()).collect()).collect()
        };
        let quoted = |cell: &str| -> Vec<String> {
            cell.split('`').skip(1).step_by(2).map(String::from).collect()
        };
        let mut documented = Documented { classes: BTreeMap::new(), states: BTreeMap::new() };
        for row in rows(head).iter().filter(|row| row.len() == 6) {
            documented.states.extend(Some((row[1].replace('`', ""), row[4].replace('`', ""))));
        }
        for row in rows(codes) {
            for code in quoted(&row[1]) {
                documented.classes.insert(code, row[2].clone());
            }
        }
        documented
    }

    /// The class of a code. Statuses of a kind have one entry.
    pub fn class(&self, code: &str) -> &str {
        let kind = if matches!(code, "http_500" | "http_502") { "http_5xx" } else { code };
        self.classes.get(kind).unwrap_or_else(|| panic!("{code} is not in docs/errors.md"))
    }

    /// The SQLSTATE of a class that is an error.
    pub fn state(&self, class: &str) -> &str {
        &self.states[class]
    }

    /// All codes, without the entries for kinds of statuses.
    pub fn codes(&self) -> impl Iterator<Item = &String> {
        self.classes.keys().filter(|code| !code.ends_with("xx"))
    }
}
