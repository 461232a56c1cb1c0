//! Whole catalogs: each row of a folder of photos ends either filled or with a recorded failure.

use pg_caption_tests::{ServerAnswer, TestServer, demo_pictures, shared, shared_database};
use std::path::Path;

fn watch_a_folder(folder: &Path) {
    let (db, web) = (shared_database(), TestServer::start());
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("a folder of pictures")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    files.sort();
    let urls: Vec<String> = files
        .iter()
        .enumerate()
        .map(|(n, file)| {
            web.serve(
                &format!("/{n}.jpg"),
                ServerAnswer::body(std::fs::read(file).expect("a picture"), "image/jpeg"),
            )
        })
        .collect();
    let mut session = db.products(&urls);
    session.run("CREATE TABLE writes (id int)");
    session.run(
        "CREATE FUNCTION count_write() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         INSERT INTO public.writes VALUES (NEW.id); RETURN NULL; END $$",
    );
    session.run(
        "CREATE TRIGGER count_write AFTER UPDATE ON products FOR EACH ROW \
         EXECUTE FUNCTION count_write()",
    );
    session.run("SELECT caption.watch('products')");
    session.run("CALL caption.wait('products')");
    let filled = session.number("SELECT count(*) FROM products WHERE alt <> '' AND seo <> ''");
    let failed = session.number(
        "SELECT count(*) FROM caption.failure f JOIN products p ON f.key->>'id' = p.id::text \
         WHERE p.alt IS NULL OR p.seo IS NULL",
    );
    assert_eq!(filled + failed, urls.len() as i64, "{filled} filled, {failed} failed");
    assert!(
        filled * 10 >= urls.len() as i64 * 9,
        "without a threshold nearly every photo gets a caption: {filled} of {}",
        urls.len()
    );
    assert_eq!(
        session.number(
            "SELECT coalesce(max(n), 0) FROM (SELECT count(*) AS n FROM writes GROUP BY id) w"
        ),
        1,
        "written once"
    );
    assert_eq!(session.number("SELECT count(*) FROM caption.queue"), 0);
    assert!(
        urls.iter().enumerate().all(|(n, _)| web.hits(&format!("/{n}.jpg")) == 1),
        "fetched once"
    );
}

#[test]
fn demo_pictures_all_end_filled_or_failed() {
    watch_a_folder(&demo_pictures());
}

#[test]
fn shop_photos_all_end_filled_or_failed() {
    match shared("catalogue/images") {
        Some(folder) => watch_a_folder(&folder),
        None => println!("skipped: ../shared/catalogue does not exist"),
    }
}
