//! Pages of captioned products in a browser: what search engines and screen readers read.
//!
//! Skipped without `make proof`, which installs the tools (tests/proof). `PROOF_ROWS` is the number
//! of products; 10 by default.

use pg_caption_tests::{TestServer, TestSession, project, quote_literal, shared_database};
use std::path::PathBuf;
use std::process::Command;

/// A page with a fault of each kind that the proof must find.
const FAULTY: &str = "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">\
    <title>Cup</title><script type=\"application/ld+json\">{\"@type\": \"Product\", </script>\
    </head><body><main><h1>Cup</h1><img src=\"1.jpg\"><img src=\"1.jpg\" alt=\"IMG_1234.jpg\">\
    <a href=\"/cup\"><img src=\"1.jpg\" alt=\"Red cup\">Red cup</a></main></body></html>";

/// The tools and the browser, if they are installed.
fn tools() -> Option<(PathBuf, String)> {
    let tools = project().join(".run/proof");
    let chromium = std::env::var("CHROMIUM").ok()?;
    tools.join("node_modules").is_dir().then_some((tools, chromium))
}

/// The page of each product, as a shop would write it.
fn pages(session: &mut TestSession) -> Vec<String> {
    let rows = session.rows(
        "SELECT title, caption.img_tag(image_url, alt, 320, 240, '{\"loading\": \"lazy\"}'), \
                caption.open_graph(image_url, alt, seo, title, \
                                   'https://shop.example/' || id, 'product'), \
                caption.json_ld(image_url, alt, seo, jsonb_build_object( \
                    'name', title, 'sku', 'P-' || id, 'offers', jsonb_build_object( \
                        '@type', 'Offer', 'price', 9.9, 'priceCurrency', 'EUR', \
                        'availability', 'https://schema.org/InStock', \
                        'url', 'https://shop.example/' || id))) \
           FROM products WHERE alt <> '' AND seo <> '' ORDER BY id",
    );
    let page = |row: &Vec<Option<String>>| {
        let cell = |at: usize| row[at].clone().unwrap_or_default();
        format!(
            "<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{0}</title>\
             {2}{3}</head><body><main><h1>{0}</h1>{1}</main></body></html>",
            cell(0),
            cell(1),
            cell(2),
            cell(3)
        )
    };
    rows.iter().map(page).collect()
}

#[test]
fn pages_pass_the_checks_of_a_browser() {
    let Some((tools, chromium)) = tools() else {
        println!("skipped: no browser and tools, see make proof");
        return;
    };
    let count: usize =
        std::env::var("PROOF_ROWS").ok().and_then(|rows| rows.parse().ok()).unwrap_or(10);
    let (db, web) = (shared_database(), TestServer::start());
    let mut session = db.products(&web.pictures(count));
    session.run("UPDATE products SET title = 'Product ' || id");
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    let pages = pages(&mut session);
    assert_eq!(pages.len(), count, "{:?}", session.rows("SELECT * FROM caption.failure_count"));
    let folder = tools.join("pages");
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a folder for the pages");
    let write = |name: &str, content: &str| {
        std::fs::write(folder.join(name), content).expect("a page is written");
    };
    for (number, page) in pages.iter().enumerate() {
        write(&format!("product-{number}.html"), page);
    }
    write("faulty.html", FAULTY);
    // The contact sheet of the same products, as drafts.
    session.run("UPDATE products SET alt = NULL, seo = NULL");
    session.run(
        "SELECT caption.watch('products', fills => '{\"alt\": \"concise\"}', \
                 replace => true, review => true)",
    );
    session.run("CALL caption.wait('products')");
    write("sheet.html", &session.text("SELECT caption.contact_sheet('products')"));
    let checked = Command::new("node")
        .arg(project().join("tests/proof/proof.mjs"))
        .arg(&folder)
        .env("PROOF_TOOLS", &tools)
        .env("CHROMIUM", chromium)
        .output()
        .expect("node runs");
    let report = String::from_utf8_lossy(&checked.stdout);
    println!("{report}");
    assert!(checked.status.success(), "{report}{}", String::from_utf8_lossy(&checked.stderr));
    // What the browser saved is imported: one approved, one rejected, one changed.
    let csv = std::fs::read_to_string(folder.join("review.csv")).expect("the saved review");
    let refused = session
        .rows(&format!("SELECT * FROM caption.import_review('products', {})", quote_literal(&csv)));
    assert!(refused.is_empty(), "{refused:?}");
    assert_eq!(session.number("SELECT count(*) FROM products WHERE alt <> ''"), 1);
    assert_eq!(
        session.text("SELECT text FROM caption.texts('products') WHERE text LIKE '=%'"),
        "=Changed, \"by hand\"\nin two lines"
    );
    assert_eq!(
        session.number("SELECT count(*) FROM caption.texts('products') WHERE state = 'rejected'"),
        1
    );
}
