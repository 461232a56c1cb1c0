//! docs/reference.md is made from the comments of the SQL objects and from the settings of a live
//! server, so that it cannot differ from them. `UPDATE_DOCS=1` writes the page.

use pg_caption_tests::{TestCluster, TestSession, project};
use std::fmt::Write;

/// Signature, result and description of each function and procedure that a client may want to call.
const FUNCTIONS: &str = "
SELECT CASE WHEN n.nspname = 'caption' THEN 'caption.' ELSE '' END || p.proname || '(' || \
       pg_get_function_arguments(p.oid) || ')',
       CASE WHEN p.prokind = 'p' THEN '' ELSE pg_get_function_result(p.oid) END,
       obj_description(p.oid, 'pg_proc'),
       CASE WHEN has_function_privilege('public', p.oid, 'EXECUTE') THEN 'every role' \
            ELSE 'roles with EXECUTE' END
  FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
       JOIN pg_depend d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
       JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_caption'
 WHERE p.prorettype NOT IN ('trigger'::regtype, 'event_trigger'::regtype)
 ORDER BY n.nspname = 'caption', p.proname, pg_get_function_arguments(p.oid)";

/// Name, kind and description of each view and table.
const RELATIONS: &str = "
SELECT c.oid::regclass::text, CASE c.relkind WHEN 'v' THEN 'view' ELSE 'table' END,
       obj_description(c.oid, 'pg_class')
  FROM pg_class c JOIN pg_depend d ON d.classid = 'pg_class'::regclass AND d.objid = c.oid \
       AND d.deptype = 'e'
       JOIN pg_extension e ON e.oid = d.refobjid AND e.extname = 'pg_caption'
 WHERE c.relkind IN ('v', 'r') ORDER BY c.relkind DESC, 1";

/// Columns of a view or table, with types and descriptions.
const COLUMNS: &str = "
SELECT attname, format_type(atttypid, atttypmod), coalesce(col_description(attrelid, attnum), '')
  FROM pg_attribute WHERE attrelid = '$1'::regclass AND attnum > 0 AND NOT attisdropped
 ORDER BY attnum";

/// Settings with default, values, context and description.
const SETTINGS: &str = "
SELECT name, CASE WHEN boot_val = '' THEN '''''' ELSE boot_val || coalesce(' ' || unit, '') END,
       CASE WHEN vartype = 'enum' THEN array_to_string(enumvals, ', ') WHEN min_val IS NULL \
            THEN vartype ELSE min_val || ' to ' || max_val END,
       CASE context WHEN 'user' THEN 'session' ELSE 'server' END,
       short_desc || coalesce(' ' || nullif(extra_desc, ''), '')
  FROM pg_settings WHERE name ~ '^pg_caption[.][a-z_]+$' ORDER BY name";

/// A text in lines of at most 100 columns.
fn wrapped(text: &str) -> String {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let line = lines.last_mut().expect("one line");
        if !line.is_empty() && line.chars().count() + word.chars().count() >= 100 {
            lines.push(word.into());
        } else {
            *line = format!("{line} {word}").trim().into();
        }
    }
    lines.join("\n")
}

/// A table of Markdown.
fn table(page: &mut String, head: &[&str], rows: &[Vec<String>]) {
    let _ = writeln!(page, "| {} |\n|{}", head.join(" | "), "---|".repeat(head.len()));
    for row in rows {
        let cells: Vec<String> = row.iter().map(|cell| cell.replace('|', "\\|")).collect();
        let _ = writeln!(page, "| {} |", cells.join(" | "));
    }
    page.push('\n');
}

fn rows(session: &mut TestSession, sql: &str) -> Vec<Vec<String>> {
    let rows = session.rows(sql).into_iter();
    rows.map(|row| row.into_iter().map(Option::unwrap_or_default).collect()).collect()
}

fn reference(session: &mut TestSession) -> String {
    let mut page = String::from(
        "# Reference\n\nThis page is made from the comments of the SQL objects and from the \
         settings of a server. Do not\nedit it: `UPDATE_DOCS=1` and the live test `reference` \
         write it. docs/errors.md has the error codes.\n\n## Functions and procedures\n",
    );
    for function in rows(session, FUNCTIONS) {
        let [signature, result, description, callers] = &function[..] else { unreachable!() };
        let _ = writeln!(page, "\n```sql");
        let call = if result.is_empty() { "CALL " } else { "" };
        // One argument a line where the signature is long.
        let end = if result.is_empty() { String::new() } else { format!("\n    -> {result}") };
        let signature = match signature.len() > 80 {
            true => signature.replacen('(', "(\n    ", 1).replace(", ", ",\n    "),
            false => signature.clone(),
        };
        let end = end.replacen("TABLE(", "TABLE (\n        ", 1);
        let end = if end.contains("TABLE (") { end.replace(", ", ",\n        ") } else { end };
        let _ = writeln!(page, "{call}{signature}{end}\n```");
        let _ = writeln!(page, "{}", wrapped(&format!("{description} Callers: {callers}.")));
    }
    page.push_str("\n## Views and tables\n");
    for relation in rows(session, RELATIONS) {
        let [name, kind, description] = &relation[..] else { unreachable!() };
        let description = wrapped(&format!("A {kind}. {description}"));
        let _ = writeln!(page, "\n### `{name}`\n{description}\n");
        let columns: Vec<Vec<String>> = rows(session, &COLUMNS.replace("$1", name))
            .into_iter()
            .map(|row| vec![format!("`{}`", row[0]), row[1].clone(), row[2].clone()])
            .collect();
        table(&mut page, &["column", "type", "contents"], &columns);
    }
    page.push_str("## Settings\ndocs/settings.md says more about some of them.\n\n");
    let settings: Vec<Vec<String>> = rows(session, SETTINGS)
        .into_iter()
        .map(|mut row| {
            row[0] = format!("`{}`", row[0]);
            row[1] = format!("`{}`", row[1]);
            row
        })
        .collect();
    table(&mut page, &["setting", "default", "values", "kind", "description"], &settings);
    while page.contains("\n\n\n") {
        page = page.replace("\n\n\n", "\n\n");
    }
    format!("{}\n", page.trim_end())
}

#[test]
fn the_reference_describes_this_server() {
    let db = TestCluster::shared().database();
    let page = reference(&mut db.session());
    let path = project().join("docs/reference.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(&path, &page).expect("docs/reference.md can be written");
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    let differs = found.lines().zip(page.lines()).find(|(found, made)| found != made);
    assert!(found == page, "UPDATE_DOCS=1 writes docs/reference.md; it differs: {differs:?}");
    assert!(page.matches("```sql").count() > 40 && page.contains("`pg_caption.timeout`"), "{page}");
}
