//! docs/migrate-a-catalogue.md: each statement of the page, in its order, on a small catalogue.

use pg_caption_tests::{ServerAnswer, TestServer, project, shared_database, sql_blocks};

/// The statements of the page's SQL blocks.
fn statements() -> Vec<String> {
    let page = project().join("docs/migrate-a-catalogue.md");
    let page = std::fs::read_to_string(page).expect("the page");
    let statements = sql_blocks(&page).flat_map(|block| block.split(";\n")).map(str::trim);
    statements.filter(|sql| !sql.is_empty()).map(String::from).collect()
}

#[test]
fn each_statement_of_the_guide_runs() {
    let (db, web) = (shared_database(), TestServer::start());
    let mut urls = web.pictures(6);
    urls.push(web.serve("/gone.jpg", ServerAnswer::status(410)));
    let mut session = db.products(&urls);
    session.run(
        "UPDATE products SET title = (ARRAY['Blue cup', 'Acme mug', 'Acme bowl', 'Gift wrap', \
         'Jug', NULL, 'Red plate'])[id]",
    );
    let statements = statements();
    assert!(statements.len() >= 18, "{statements:#?}");
    for sql in &statements {
        session.run(sql);
        let text = |session: &mut pg_caption_tests::TestSession, sql: &str| session.text(sql);
        let filled = "SELECT count(*) FILTER (WHERE alt > '') || ' ' || \
                      count(*) FILTER (WHERE seo > '') FROM products";
        match sql.split(['(', ' ']).take(2).collect::<Vec<_>>().join(" ").as_str() {
            // Step 2 wrote nothing; the picture that is gone has its title as a text.
            "INSERT INTO" => assert_eq!(text(&mut session, filled), "0 0"),
            "CALL caption.backfill" => assert_eq!(text(&mut session, filled), "5 6"),
            "SELECT caption.withdraw" => assert_eq!(text(&mut session, filled), "2 4"),
            _ => {}
        }
    }
    session.run("CALL caption.wait('products')");
    assert_eq!(
        session.text("SELECT alt FROM products WHERE id = 1"),
        "Blue cup with a chipped rim"
    );
    let reviewed = "SELECT alt FROM products WHERE id = 2";
    assert_eq!(session.text(reviewed), "White mug with a blue rim");
    assert_eq!(session.text("SELECT alt FROM products WHERE id = 4"), "");
    assert!(session.holds("(SELECT alt > '' AND seo LIKE 'Acme%' FROM products WHERE id = 2)"));
    assert_eq!(session.text("SELECT seo FROM products WHERE id = 7"), "Red plate");
}
