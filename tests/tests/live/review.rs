//! Drafts and their review: nothing is in the table before a reviewer wants it.

use pg_caption_tests::{ServerAnswer, TestServer, TestSession, quote_literal, shared_database};

/// Key, column, state of each text.
fn states(session: &mut TestSession) -> String {
    session.text(
        "SELECT coalesce(string_agg(concat_ws(' ', key->>'id', column_name, state), ', ' \
                ORDER BY key->>'id', column_name, state), '') FROM caption.texts('products')",
    )
}

/// Ids of the rows whose alt is not empty.
fn filled(session: &mut TestSession) -> String {
    session.text(
        "SELECT coalesce(string_agg(id::text, ' ' ORDER BY id), '') FROM products WHERE alt <> ''",
    )
}

fn wait(session: &mut TestSession) {
    session.run("CALL caption.wait('products')");
}

#[test]
fn drafts_are_written_once_approved() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(4));
    session
        .run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}', review => true)");
    let notices = session.notices();
    assert!(notices.iter().any(|n| n.message().contains("become drafts")), "{notices:?}");
    wait(&mut session);
    assert_eq!(filled(&mut session), "");
    assert_eq!(states(&mut session), "1 alt draft, 2 alt draft, 3 alt draft, 4 alt draft");
    assert_eq!(session.number("SELECT drafts FROM caption.progress"), 4);
    assert_eq!(session.number("SELECT failed FROM caption.progress"), 0);
    // Nothing is asked for again while a draft waits.
    let requests = web.total();
    session.run("UPDATE products SET seo = 'x'; UPDATE products SET alt = ''");
    session.run("SELECT caption.watch('products')");
    wait(&mut session);
    assert_eq!(web.total(), requests);
    // By key, by condition; a row that its table refuses stops no other, and triggers find what
    // they find in the session.
    session.run(
        "CREATE TABLE seen (id int); \
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           INSERT INTO seen VALUES (NEW.id); RETURN NEW; END $$; \
         CREATE TRIGGER see BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION see(); \
         ALTER TABLE products ADD CONSTRAINT no_third CHECK (id <> 3 OR alt = '')",
    );
    let approve = "SELECT key->>'id', column_name, error FROM caption.approve";
    let one = format!("{approve}('products', keys => ARRAY['{{\"id\": 1}}'::jsonb])");
    assert_eq!(session.rows(&one), Vec::<Vec<Option<String>>>::new());
    assert_eq!(filled(&mut session), "1");
    let refused = session.rows(&format!("{approve}('products', condition => 'id IN (2, 3)')"));
    assert_eq!(refused.len(), 1, "{refused:?}");
    assert_eq!(refused[0][..2], [Some("3".to_owned()), Some("alt".to_owned())]);
    assert!(refused[0][2].as_ref().is_some_and(|e| e.contains("no_third")), "{refused:?}");
    assert_eq!(states(&mut session), "1 alt approved, 2 alt approved, 3 alt draft, 4 alt draft");
    assert_eq!(session.number("SELECT count(*) FROM seen"), 2);
    session.run("DROP TRIGGER see ON products");
    assert_eq!(session.number("SELECT filled FROM caption.progress"), 2);
    assert!(session.holds(
        "(SELECT bool_and(text = alt) FROM caption.texts('products') c \
                            JOIN products p ON c.key = jsonb_build_object('id', p.id) \
                            WHERE state = 'approved')"
    ));
    // Confidence, and a text that a user wrote meanwhile.
    assert!(session.rows(&format!("{approve}('products', min_confidence => 1)")).is_empty());
    session.run("UPDATE products SET alt = 'By hand' WHERE id = 4");
    let refused = session.rows(&format!("{approve}('products', condition => 'id = 4')"));
    assert_eq!(refused[0][2].as_deref(), Some("the column has a text that a user wrote"));
    assert_eq!(session.text("SELECT alt FROM products WHERE id = 4"), "By hand");
    // An approved text of another picture is taken away; its successor is a draft.
    let other = web.serve("/other.jpg", ServerAnswer::picture(5));
    session.run(&format!("UPDATE products SET image_url = '{other}' WHERE id = 1"));
    wait(&mut session);
    assert_eq!(filled(&mut session), "2 4");
    assert!(states(&mut session).starts_with("1 alt draft, "), "{}", states(&mut session));
    // A draft of a picture that the row had.
    session.run("SELECT caption.pause('products')");
    session.run("UPDATE products SET image_url = image_url || '?2' WHERE id = 1");
    let refused = session.rows(&format!("{approve}('products', condition => 'id = 1')"));
    assert!(refused[0][2].as_ref().is_some_and(|e| e.contains("has changed")), "{refused:?}");
    for (call, code) in [
        ("approve('products', min_confidence => 2)", "22023"),
        ("approve('products', column_name => 'seo')", "42703"),
        ("approve('products', condition => 'id = 1; DROP TABLE products')", "42601"),
        ("reject('products', keys => ARRAY['{\"x\": 1}'::jsonb])", "22023"),
        ("revise('products', '{\"id\": 1}', 'alt', ' ')", "22023"),
        ("revise('products', '{\"id\": 99}', 'alt', 'Cup')", "P0002"),
        ("revise('products', '{\"id\": 2}', 'alt', 'Cup')", "55000"),
        ("contact_sheet('products', \"limit\" => 0)", "22023"),
        ("contact_sheet('seen')", "42704"),
        ("import_review('products', 'key,column')", "22P02"),
    ] {
        let error = session.error(&format!("SELECT caption.{call}"));
        assert_eq!(error.code().code(), code, "{call}: {error}");
    }
}

#[test]
fn a_rejected_draft_is_not_asked_for_again() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(3));
    session
        .run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}', review => true)");
    wait(&mut session);
    let rejected = "SELECT caption.reject('products', condition => 'id < 3', reason => 'Dull')";
    assert_eq!(session.number(rejected), 2);
    assert_eq!(states(&mut session), "1 alt rejected, 2 alt rejected, 3 alt draft");
    assert_eq!(session.number("SELECT drafts FROM caption.progress"), 1);
    session.run("SELECT caption.watch('products'); SELECT caption.recaption('products')");
    wait(&mut session);
    assert_eq!(states(&mut session), "1 alt rejected, 2 alt rejected, 3 alt draft");
    // Another picture, another style, and force.
    let other = web.serve("/other.jpg", ServerAnswer::picture(7));
    session.run(&format!("UPDATE products SET image_url = '{other}' WHERE id = 1"));
    wait(&mut session);
    assert_eq!(states(&mut session), "1 alt draft, 2 alt rejected, 3 alt draft");
    session.run("SELECT caption.reject('products')");
    session.run(
        "SELECT caption.recaption('products', keys => ARRAY['{\"id\": 1}'::jsonb], force => true)",
    );
    wait(&mut session);
    assert_eq!(states(&mut session), "1 alt draft, 2 alt rejected, 3 alt rejected");
    session.run("SELECT caption.watch('products', fills => '{\"alt\": \"detailed\"}')");
    wait(&mut session);
    assert_eq!(states(&mut session), "1 alt draft, 2 alt draft, 3 alt draft");
    // A text in the row stays until its draft is approved.
    session.run("SELECT caption.approve('products')");
    let before = session.text("SELECT alt FROM products WHERE id = 2");
    session.run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}')");
    session.run("SELECT caption.recaption('products')");
    wait(&mut session);
    assert_eq!(session.text("SELECT alt FROM products WHERE id = 2"), before);
    assert!(states(&mut session).contains("2 alt approved, 2 alt draft"));
    session.run("SELECT caption.approve('products', keys => ARRAY['{\"id\": 2}'::jsonb])");
    assert_ne!(session.text("SELECT alt FROM products WHERE id = 2"), before);
    // Without a URL, draft and text go.
    session.run("UPDATE products SET image_url = NULL");
    wait(&mut session);
    assert_eq!((states(&mut session), filled(&mut session)), (String::new(), String::new()));
}

#[test]
fn a_revised_draft_is_the_text_of_a_user() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(1));
    session
        .run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}', review => true)");
    wait(&mut session);
    session.run("SELECT caption.reject('products')");
    session.run("SELECT caption.revise('products', '{\"id\": 1}', 'alt', 'Green cup')");
    assert_eq!(states(&mut session), "1 alt draft");
    session.run("SELECT caption.approve('products')");
    assert_eq!(session.text("SELECT alt FROM products"), "Green cup");
    assert_eq!(states(&mut session), "1 alt edited");
    // Another picture does not take it away.
    let other = web.serve("/other.jpg", ServerAnswer::picture(7));
    session.run(&format!("UPDATE products SET image_url = '{other}'"));
    wait(&mut session);
    assert_eq!(session.text("SELECT alt FROM products"), "Green cup");
}

/// The version of a draft as the page has it.
fn version(page: &str, id: u32) -> String {
    let (_, card) = page.split_once(&format!("{{&quot;id&quot;:{id}}}")).expect("the row's card");
    let (_, version) = card.split_once("data-version=\"").expect("a draft");
    version.split('"').next().unwrap_or_default().to_owned()
}

#[test]
fn a_review_comes_back_as_csv() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(5));
    session
        .run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}', review => true)");
    wait(&mut session);
    let page = session.text("SELECT caption.contact_sheet('products')");
    assert!(page.contains(&format!("src=\"{}", web.url("/1.jpg"))), "{page}");
    assert_eq!(page.matches("<fieldset").count(), 5);
    assert!(page.contains("5 of 5 rows"));
    let some = session.text("SELECT caption.contact_sheet('products', 'id > 1', 2)");
    assert_eq!(some.matches("<article").count(), 2);
    let texts = session.rows("SELECT text FROM caption.texts('products') ORDER BY key->>'id'");
    let draft = |id: usize| texts[id - 1][0].clone().unwrap_or_default();
    let line = |id: u32, decision: &str, text: &str| {
        format!("\"{{\"\"id\"\": {id}}}\",alt,{decision},\"{text}\",,{}\r\n", version(&page, id))
    };
    let mut csv = "key,column,decision,text,reason,version\r\n".to_owned();
    csv += &line(1, "approve", &draft(1));
    csv += &line(2, "approve", "'=1+1 red cups");
    csv += &line(3, "reject", &draft(3));
    csv += &line(4, "approve", &draft(4));
    csv += &line(5, "", "Changed later");
    csv += "\"{\"\"id\"\": 99}\",alt,approve,x,,0\r\n";
    csv += "\"{\"\"id\"\": 1, \"\"x\"\": 1}\",alt,approve,x,,0\r\n";
    csv += "\"{\"\"id\"\": 1}\",image_url,approve,x,,0\r\n";
    // Changed since the page was made.
    session.run("SELECT caption.revise('products', '{\"id\": 4}', 'alt', 'Another text')");
    let import = format!(
        "SELECT key->>'id', column_name, error FROM caption.import_review('products', {})",
        quote_literal(&csv)
    );
    let refused = session.rows(&import);
    let errors: Vec<&str> = refused.iter().filter_map(|row| row[2].as_deref()).collect();
    assert_eq!(
        errors,
        [
            "the draft has changed since the page was made",
            "the row does not exist",
            "this is no key of the table",
            "the watch does not fill this column",
        ]
    );
    assert_eq!(
        session.rows("SELECT alt FROM products WHERE alt <> '' ORDER BY id"),
        [[Some(draft(1))], [Some("=1+1 red cups".to_owned())]]
    );
    assert_eq!(
        states(&mut session),
        "1 alt approved, 2 alt edited, 3 alt rejected, 4 alt draft, 5 alt draft"
    );
    assert_eq!(
        session.text("SELECT text FROM caption.texts('products') WHERE key->>'id' = '5'"),
        "Changed later"
    );
    // The same file again changes nothing.
    assert_eq!(session.rows(&import).len(), 8);
    let error = session
        .error("SELECT caption.import_review('products', repeat('x', 50 * 1024 * 1024 + 1))");
    assert_eq!(error.code().code(), "22P02", "{error}");
}

#[test]
fn a_sheet_shows_texts_as_texts() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(2));
    session
        .run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}', review => true)");
    wait(&mut session);
    let hostile = "</textarea><script>alert(1)</script>";
    session.run(&format!(
        "SELECT caption.revise('products', '{{\"id\": 1}}', 'alt', {})",
        quote_literal(hostile)
    ));
    session.run("UPDATE products SET image_url = 'javascript:alert(1)' WHERE id = 2");
    let page = session.text("SELECT caption.contact_sheet('products')");
    assert_eq!(page.matches("<script").count(), 1);
    assert!(!page.contains("javascript:alert") && !page.contains(hostile), "{page}");
    assert!(page.contains("no-referrer") && page.contains("default-src 'none'"), "{page}");
}

#[test]
fn a_review_runs_with_the_rights_of_the_caller() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(1));
    session
        .run("SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}', review => true)");
    wait(&mut session);
    session.run(
        "CREATE ROLE reviewer; GRANT ALL ON products TO reviewer; \
         GRANT EXECUTE ON ALL ROUTINES IN SCHEMA caption TO reviewer; SET ROLE reviewer",
    );
    for call in [
        "approve('products')",
        "reject('products')",
        "revise('products', '{\"id\": 1}', 'alt', 'x')",
        "contact_sheet('products')",
        "import_review('products', 'x')",
    ] {
        let error = session.error(&format!("SELECT caption.{call}"));
        assert_eq!(error.code().code(), "42501", "{call}: {error}");
    }
    // A condition runs as the caller, and so does the table's own code.
    session.run(
        "RESET ROLE; CREATE TABLE mine (id int PRIMARY KEY, image_url text, alt text, seo text); \
         ALTER TABLE mine OWNER TO reviewer; GRANT CREATE ON SCHEMA public TO reviewer; \
         SET ROLE reviewer; CREATE TABLE seen (role text); \
         CREATE FUNCTION see() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
           INSERT INTO seen VALUES (current_user); RETURN NEW; END $$; \
         CREATE TRIGGER see AFTER UPDATE ON mine FOR EACH ROW EXECUTE FUNCTION see()",
    );
    session.run(&format!("INSERT INTO mine VALUES (1, '{}')", web.url("/0.jpg")));
    session.run("SELECT caption.watch('mine', fills => '{\"alt\": \"concise\"}', review => true)");
    session.run("CALL caption.wait('mine')");
    session.run("SELECT caption.approve('mine', condition => 'alt IS NULL')");
    assert_eq!(session.text("SELECT string_agg(role, ' ') FROM seen"), "reviewer");
    session.run("RESET ROLE; DROP OWNED BY reviewer; DROP ROLE reviewer");
}
