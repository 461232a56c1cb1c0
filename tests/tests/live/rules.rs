//! `caption.rule`: words that are refused or replaced.

use pg_caption_tests::{TestServer, shared_database};

/// A word of a caption that no rule below has otherwise.
fn longest_word(caption: &str) -> String {
    let words = caption.split(|c: char| !c.is_ascii_alphabetic());
    words.max_by_key(|word| word.len()).expect("a word").to_lowercase()
}

#[test]
fn rules_refuse_and_replace_words() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(1));
    let caption = "SELECT caption_image(image_url) FROM products";
    let before = session.text(caption);
    let word = longest_word(&before);
    let code =
        "SELECT coalesce(error_code, caption) FROM products, caption_images(ARRAY[image_url])";
    session.run(&format!(
        "INSERT INTO caption.rule (pattern, action) VALUES (upper('{word}'), 'refuse')"
    ));
    assert_eq!(session.text(code), "blocked_word");
    session.notices();
    assert_eq!(session.value(caption), None);
    assert!(session.notices()[0].message().contains("blocked word"));
    // A watch obeys the rule, and a change of rules.
    session.run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT code FROM caption.failure"), "blocked_word");
    session.run("UPDATE caption.rule SET action = 'replace', replacement = 'Zebra crossing'");
    let replaced = session.text(caption);
    assert!(replaced.to_lowercase().contains("zebra crossing"), "{replaced}");
    assert!(!replaced.to_lowercase().contains(&word), "{replaced}");
    session.run("SELECT caption.retry('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.text("SELECT alt FROM products"), replaced);
    // Effective within a block, and for one style only.
    session.run(&format!(
        "DO $$ BEGIN UPDATE caption.rule SET style = 'seo'; \
         ASSERT (SELECT caption_image(image_url) FROM products) = '{before}'; END $$"
    ));
    let seo = "SELECT caption_image(image_url, 'seo') FROM products";
    assert!(!session.text(seo).to_lowercase().contains(&word));
}

#[test]
fn an_unusable_rule_is_not_stored() {
    let db = shared_database();
    let mut session = db.session();
    for (rule, code) in [
        ("('', 'refuse', NULL)", "23514"),
        ("('  ', 'refuse', NULL)", "23514"),
        ("(E'a\\nb', 'refuse', NULL)", "23514"),
        ("(repeat('x', 201), 'refuse', NULL)", "23514"),
        ("('x', 'allow', NULL)", "23514"),
        ("('x', 'replace', NULL)", "23514"),
        ("('x', 'refuse', 'y')", "23514"),
        ("('x', 'replace', E'\\u0085')", "23514"),
        ("SELECT i || repeat('x', 100), 'refuse', NULL FROM generate_series(1, 600) i", "54000"),
    ] {
        let values = if rule.starts_with('(') { "VALUES " } else { "" };
        let insert =
            format!("INSERT INTO caption.rule (pattern, action, replacement) {values}{rule}");
        assert_eq!(session.error(&insert).code().code(), code, "{rule}");
    }
    // The gender-neutral set, alone or for one style.
    session.run("INSERT INTO caption.rule SELECT * FROM caption.neutral_wording()");
    session.run(
        "INSERT INTO caption.rule SELECT n.pattern, n.action, n.replacement, 'seo' \
         FROM caption.neutral_wording() n",
    );
    assert!(session.number("SELECT count(*) FROM caption.rule") > 200);
    let again = "INSERT INTO caption.rule SELECT * FROM caption.neutral_wording()";
    assert_eq!(session.error(again).code().code(), "23505");
    session.run(
        "DELETE FROM caption.rule r USING caption.neutral_wording() n \
                 WHERE r.pattern = n.pattern",
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.rule"), 0);
    // All roles read the rules, granted ones write them; dumps have them.
    session.run("CREATE ROLE rule_reader; SET ROLE rule_reader");
    assert_eq!(session.number("SELECT count(*) FROM caption.rule"), 0);
    let insert = "INSERT INTO caption.rule VALUES ('x', 'refuse')";
    assert_eq!(session.error(insert).code().code(), "42501");
    session.run("RESET ROLE; DROP ROLE rule_reader");
    assert!(session.holds(
        "(SELECT 'caption.rule'::regclass = ANY (extconfig) FROM pg_extension \
         WHERE extname = 'pg_caption')"
    ));
}
