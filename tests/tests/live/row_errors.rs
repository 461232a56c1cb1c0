//! What a table's own code, keys and checks can do to a worker: it costs the row, never the others.

use pg_caption_tests::{Answer, Cluster, Web};

const FILLED: &str = "NOT EXISTS (SELECT FROM products WHERE coalesce(alt, '') = '' OR coalesce(seo, '') = '')";

/// A BEFORE UPDATE trigger on `products` that does this to row 2.
fn trigger(does: &str) -> String {
    format!(
        "CREATE FUNCTION spoil() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN IF NEW.id = 2 THEN {does}; END IF; RETURN NEW; END $$;
         CREATE TRIGGER spoil BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION spoil()"
    )
}

#[test]
fn a_trigger_that_raises_a_cancel_costs_its_row_and_neither_the_others_nor_other_tables() {
    let (cluster, web) = (Cluster::private(&[("pg_caption.max_attempts", "1")]), Web::start());
    let db = cluster.database();
    let mut session = db.products_of(&web, 3);
    session.run("CREATE TABLE other (LIKE products INCLUDING ALL); INSERT INTO other (image_url) SELECT image_url FROM products");
    session.run(&trigger("RAISE 'not now' USING ERRCODE = 'query_canceled'"));
    session.run("SELECT caption.watch('products'), caption.watch('other')");
    db.eventually("NOT EXISTS (SELECT FROM other WHERE alt IS NULL) AND (SELECT count(*) FROM products WHERE alt <> '') = 2");
    db.eventually("EXISTS (SELECT FROM caption.failure WHERE code = 'write_refused' AND key = '[\"2\"]' AND message LIKE '%not now%')");
    assert_eq!(session.number("SELECT count(*) FROM caption.failure"), 1);
    assert!(!cluster.log().contains("background worker \"pg_caption worker\" (PID"), "no worker ended badly: {}", cluster.log());
}

#[test]
fn a_trigger_that_does_not_end_is_cancelled_and_the_others_go_on() {
    let cluster = Cluster::private(&[("pg_caption.max_attempts", "1"), ("pg_caption.write_timeout", "300ms")]);
    let (db, web) = (cluster.database(), Web::start());
    let mut session = db.products_of(&web, 3);
    session.run(&trigger("PERFORM pg_sleep(3600)"));
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '') = 2");
    db.eventually("EXISTS (SELECT FROM caption.failure WHERE code = 'write_refused' AND key = '[\"2\"]' AND message LIKE '%statement timeout%')");
    // The time limit is the statement's alone: what comes after it is not cut off.
    session.run("DROP TRIGGER spoil ON products; SELECT caption.retry('products')");
    db.eventually(FILLED);
}

#[test]
fn a_key_that_fits_no_index_of_ours_costs_its_row_alone() {
    let (cluster, web) = (Cluster::private(&[]), Web::start());
    let db = cluster.database();
    let mut session = db.session();
    session.run("CREATE TABLE products (id bytea PRIMARY KEY, image_url text, alt text, seo text)");
    let (long, short) = (web.serve("/a.jpg", Answer::picture(0)), web.serve("/b.jpg", Answer::picture(1)));
    // Random, so that it cannot be compressed.
    let random = "SELECT string_agg(decode(md5(n::text), 'hex'), '') FROM generate_series(1, 94) n";
    session.run(&format!("INSERT INTO products VALUES (({random}), '{long}'), ('\\x01', '{short}'), ('\\xff', '{short}')"));
    session.run("SELECT caption.watch('products')");
    db.eventually("(SELECT count(*) FROM products WHERE alt <> '') = 2 AND (SELECT walk_done FROM caption.tally)");
    assert!(cluster.log().contains("nothing can be noted of row"), "{}", cluster.log());
}

#[test]
fn a_broken_check_shows_nothing_of_the_row_to_those_who_read_failures() {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let url = web.serve("/a.jpg?sig=SECRET123", Answer::picture(0));
    let mut session = db.products(&[url]);
    session.run("ALTER TABLE products ADD CONSTRAINT no_texts CHECK (alt IS NULL); SELECT caption.watch('products')");
    db.eventually("EXISTS (SELECT FROM caption.failure WHERE code = 'write_refused')");
    let failure = session.text("SELECT to_jsonb(f) FROM caption.failed f");
    assert!(failure.contains("no_texts") && !failure.contains("SECRET123"), "{failure}");
}

#[test]
fn a_trigger_that_changes_the_url_with_every_write_gets_each_row_written_once() {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let url = web.serve("/a.jpg", Answer::picture(0));
    let mut session = db.products(&[url]);
    web.serve("/a.jpg?v=1", Answer::picture(0));
    session.run(
        "CREATE TABLE write (); CREATE FUNCTION bump() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             NEW.image_url := regexp_replace(NEW.image_url, '\\?.*', '') || '?v=1' || CASE WHEN OLD.image_url LIKE '%v=1%' THEN '1' ELSE '' END;
             INSERT INTO public.write DEFAULT VALUES; RETURN NEW; END $$;
         CREATE TRIGGER bump BEFORE UPDATE ON products FOR EACH ROW EXECUTE FUNCTION bump()",
    );
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.number("SELECT count(*) FROM write"), 1);
    assert!(session.holds(FILLED));
}

#[test]
fn a_new_url_that_gets_no_caption_takes_the_old_picture_s_texts_away_and_leaves_a_person_s() {
    let (db, web) = (Cluster::shared().database(), Web::start());
    let mut session = db.products_of(&web, 2);
    session.run("SELECT caption.watch('products')");
    db.eventually(FILLED);
    session.run("UPDATE products SET seo = 'By hand.' WHERE id = 2");
    session.run(&format!("UPDATE products SET image_url = '{}'", web.url("/missing.jpg")));
    db.eventually("(SELECT count(*) FROM caption.failure WHERE code = 'http_404') = 2");
    session.run("CALL caption.wait('products')");
    assert_eq!(session.rows("SELECT alt, seo FROM products ORDER BY id"), [[None, None], [None, Some("By hand.".into())]]);
    // The picture is there after all.
    let url = web.serve("/missing.jpg", Answer::picture(1));
    session.run("SELECT caption.retry('products')");
    db.eventually(FILLED);
    assert!(session.holds(&format!("(SELECT bool_and(image_url = '{url}') FROM products)")));
    assert!(session.holds("(SELECT seo = 'By hand.' FROM products WHERE id = 2)"));
}

#[test]
fn errors_bring_no_backtraces_along() {
    let db = Cluster::shared().database();
    let error = db.session().error("SELECT caption_image('http://169.254.169.254/latest')");
    assert!(!format!("{error:?}").contains("std::"), "{error:?}");
    let cancelled = db.session().error("SET statement_timeout = 1; SELECT caption_image('http://198.51.100.1/a.jpg') FROM generate_series(1, 1000)");
    assert!(!format!("{cancelled:?}").contains("std::"), "{cancelled:?}");
}
