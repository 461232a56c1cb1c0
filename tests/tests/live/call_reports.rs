//! What a statement reports about pictures without a caption: three messages, and their sum.

use pg_caption_tests::{TestServer, TestSession, shared_database};

/// Severities and messages of the notices since the last call; a sum with its counts.
fn reported(session: &mut TestSession) -> Vec<String> {
    let notices = session.notices();
    let line = |notice: &postgres::error::DbError| match notice.detail() {
        Some(detail) if notice.message().starts_with("no caption for") => {
            let counts = detail.split('.').next().unwrap_or_default();
            format!("{}: {}: {counts}", notice.severity(), notice.message())
        }
        _ => format!("{}: one picture", notice.severity()),
    };
    notices.iter().map(line).collect()
}

fn sum(pictures: usize) -> Vec<String> {
    let mut lines = vec!["WARNING: one picture".to_owned(); 3];
    lines.push(format!(
        "WARNING: no caption for {pictures} pictures: By code: {pictures} with http_410"
    ));
    lines
}

// A backfill of 2,000 rows sent 1,868 warnings to the client and to the log.
#[test]
fn a_statement_sums_up_its_warnings() {
    let (db, web) = (shared_database(), TestServer::start());
    let urls: Vec<String> = (0..8).map(|n| web.url(&format!("/gone{n}.jpg"))).collect();
    let mut session = db.products(&urls);
    session.run(
        "SET pg_caption.on_error = 'null'; \
         CREATE FUNCTION each() RETURNS int LANGUAGE plpgsql AS $$ \
         DECLARE row record; \
         BEGIN \
             FOR row IN SELECT image_url FROM products LOOP \
                 row.image_url := caption_image(row.image_url); \
             END LOOP; \
             RETURN 1; \
         END $$; \
         CREATE PROCEDURE committing() LANGUAGE plpgsql AS $$ \
         BEGIN \
             FOR n IN 1..8 LOOP \
                 UPDATE products SET alt = caption_image(image_url) WHERE id = n; \
                 COMMIT; \
             END LOOP; \
         END $$",
    );
    session.notices();
    for statement in [
        "UPDATE products SET alt = coalesce(caption_image(image_url), alt)",
        "SELECT caption_image(image_url) FROM products",
        "SELECT each()",
        "DO $$ BEGIN PERFORM each(); END $$",
        "CALL committing()",
        "COPY (SELECT caption_image(image_url) FROM products) TO '/dev/null'",
        "EXPLAIN (ANALYZE, TIMING OFF) SELECT caption_image(image_url) FROM products",
        "CREATE TEMPORARY TABLE t AS SELECT caption_image(image_url) AS alt FROM products",
        "SELECT caption_image_json(image_url) FROM products",
    ] {
        session.run(statement);
        assert_eq!(reported(&mut session), sum(8), "{statement}");
    }
    // Each statement of a transaction block, and each FETCH, has its own sum.
    session.run("BEGIN");
    session.run("DECLARE c CURSOR FOR SELECT caption_image(image_url) FROM products");
    for rows in [5, 3] {
        session.run(&format!("FETCH {rows} FROM c"));
        let expected = if rows == 5 { sum(5) } else { sum(3)[..3].to_vec() };
        assert_eq!(reported(&mut session), expected, "FETCH {rows}");
    }
    session.run("SAVEPOINT s");
    session.run("UPDATE products SET alt = caption_image(image_url)");
    assert_eq!(reported(&mut session), sum(8));
    session.run("ROLLBACK TO s; COMMIT");
    assert_eq!(reported(&mut session), Vec::<String>::new());
    // An error ends the statement, too; a caught one does not.
    session.error("DO $$ BEGIN PERFORM each(); RAISE 'no'; END $$");
    // The sum follows the error: the client may read it with the next answer.
    session.run("SELECT 1");
    assert_eq!(reported(&mut session), sum(8));
    session.run(
        "DO $$ BEGIN \
             BEGIN PERFORM each(); RAISE 'no'; EXCEPTION WHEN OTHERS THEN NULL; END; \
             PERFORM each(); \
         END $$",
    );
    assert_eq!(reported(&mut session), sum(16));
    // A worker of a parallel query reports its sum.
    let mode = if session.major() < 16 { "force_parallel_mode" } else { "debug_parallel_query" };
    session.run(&format!("SET {mode} = on"));
    session.run("SELECT caption_image(image_url) FROM products");
    assert_eq!(reported(&mut session), sum(8)[3..]);
}

#[test]
fn the_log_gets_one_line_for_a_statement() {
    let (db, web) = (shared_database(), TestServer::start());
    let mark = db.name.clone();
    let urls: Vec<String> = (0..8).map(|n| web.url(&format!("/{mark}-{n}.jpg"))).collect();
    let mut session = db.products(&urls);
    session.run("SET pg_caption.on_error = 'null'");
    let lines = || {
        let log = db.cluster.log();
        // A detail names the first picture, and so this test.
        log.lines().filter(|line| line.contains(&mark) && line.contains(".jpg")).count()
    };
    for rows in [1, 3, 8] {
        let before = lines();
        session.run(&format!("SELECT caption_image(image_url) FROM products WHERE id <= {rows}"));
        session.run("SELECT 1");
        assert_eq!(lines() - before, 1, "{rows} pictures");
    }
    // The setting of the log counts.
    session.run("SET log_min_messages = 'error'");
    let before = lines();
    session.run("SELECT caption_image(image_url) FROM products");
    session.run("SELECT 1");
    assert_eq!(lines(), before);
}

#[test]
fn uncertain_pictures_are_summed_up_as_notices() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products_of(&web, 6);
    session.run("SET pg_caption.min_confidence = 1");
    session.run("UPDATE products SET alt = caption_image(image_url)");
    let mut expected = vec!["NOTICE: one picture".to_owned(); 3];
    expected.push("NOTICE: no caption for 6 pictures: By code: 6 with low_confidence".into());
    assert_eq!(reported(&mut session), expected);
}
