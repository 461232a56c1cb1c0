//! The lint of texts, one by one and over a table.

use pg_caption_tests::{TestSession, shared_database};

/// The rules that a call of `caption.lint` reports.
fn rules(session: &mut TestSession, arguments: &str) -> String {
    session.text(&format!(
        "SELECT coalesce(string_agg(rule, ' ' ORDER BY \"position\", rule), '') \
         FROM caption.lint({arguments})"
    ))
}

#[test]
fn a_text_is_checked_by_its_style() {
    let db = shared_database();
    let mut session = db.session();
    for (arguments, expected) in [
        ("'Red cup on a wooden table'", ""),
        ("''", ""),
        ("NULL", "missing"),
        ("'Image of a red cup'", "opener"),
        ("'IMG_1234.jpg'", "file_name"),
        ("'Image'", "vague"),
        ("'TODO'", "placeholder"),
        ("'Red cup', 'concise', ARRAY['Blue cup', NULL, 'red cup']", "repeated"),
        ("repeat('Red cups on a wooden table ', 10)", "too_long"),
    ] {
        let found = rules(&mut session, arguments);
        assert!(
            found == expected || (!expected.is_empty() && found.contains(expected)),
            "{arguments}: {found:?}, not {expected:?}"
        );
    }
    assert_eq!(
        session.rows("SELECT github, \"position\" FROM caption.lint('IMG_1234.jpg')")[0],
        [Some("filename-alt-text".to_owned()), Some("1".to_owned())]
    );
    // Rows of caption.style and long texts.
    session.run("INSERT INTO caption.style (name, max_chars) VALUES ('concise', 12)");
    assert_eq!(rules(&mut session, "'Red cup on a wooden table'"), "too_long");
    assert!(rules(&mut session, "repeat('ä', 1000000)").contains("too_long"));
    let error = session.error("SELECT caption.lint('Red cup', 'no_such')");
    assert_eq!(error.code().code(), "22023", "{error}");
}

#[test]
fn an_audit_finds_the_rows_to_correct() {
    let db = shared_database();
    let mut session = db.products(&[]);
    session.run(
        "INSERT INTO products (id, image_url, alt, seo) OVERRIDING SYSTEM VALUE VALUES \
         (1, NULL, 'Red cup', 'A red cup with a gold rim stands on a wooden table.'), \
         (2, NULL, 'Image of a cup', 'A blue cup with a gold rim stands on a wooden table.'), \
         (3, NULL, 'Red cup', NULL)",
    );
    session.run("SELECT caption.watch('products')");
    assert_eq!(
        session.rows(
            "SELECT key->>'id', column_name, rule FROM caption.audit('products') ORDER BY 1, 2, 3"
        ),
        [
            ["1", "alt", "repeated"],
            ["2", "alt", "opener"],
            ["3", "alt", "repeated"],
            ["3", "seo", "missing"],
        ]
        .map(|row| row.map(|value| Some(value.to_owned())).to_vec())
    );
    session.run("CREATE TABLE other (id int)");
    assert_eq!(session.error("SELECT * FROM caption.audit('other')").code().code(), "42704");
}
