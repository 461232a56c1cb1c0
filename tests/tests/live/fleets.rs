//! Tables that are spread over several servers: each server fills its own rows.

use pg_caption_tests::{TestServer, shared_database};

// A trigger on the parent would be accepted, and miss the rows that are written on the other
// server.
#[test]
fn foreign_partitions_are_watched_on_their_server() {
    let (here, there, web) = (shared_database(), shared_database(), TestServer::start());
    let (mut here, mut there) = (here.session(), there.session());
    if !here.holds("EXISTS (SELECT FROM pg_available_extensions WHERE name = 'postgres_fdw')") {
        println!("skipped: postgres_fdw is not installed");
        return;
    }
    let urls = web.pictures(4);
    let columns = "(id int, image_url text, alt text, seo text)";
    there.run(&format!("CREATE TABLE products_2 {columns}"));
    there.run("ALTER TABLE products_2 ADD PRIMARY KEY (id); SELECT caption.watch('products_2')");
    let database = there.text("SELECT current_database()");
    let socket =
        there.text("SELECT split_part(current_setting('unix_socket_directories'), ',', 1)");
    let port = there.text("SELECT current_setting('port')");
    here.run(&format!(
        "CREATE EXTENSION postgres_fdw; \
         CREATE SERVER second FOREIGN DATA WRAPPER postgres_fdw \
             OPTIONS (host '{socket}', port '{port}', dbname '{database}'); \
         CREATE USER MAPPING FOR CURRENT_USER SERVER second; \
         CREATE TABLE products {columns} PARTITION BY RANGE (id); \
         CREATE TABLE products_1 PARTITION OF products FOR VALUES FROM (0) TO (100); \
         ALTER TABLE products_1 ADD PRIMARY KEY (id); \
         CREATE FOREIGN TABLE products_2 PARTITION OF products FOR VALUES FROM (100) TO (200) \
             SERVER second; \
         SELECT caption.watch('products_1')"
    ));
    let refused = here.error("SELECT caption.watch('products')");
    assert!(
        refused.message().contains("partition on another server: public.products_2"),
        "{refused:?}"
    );
    assert!(refused.hint().unwrap_or_default().contains("on the server where"), "{refused:?}");
    for (id, url) in [1, 2, 101].iter().zip(&urls) {
        here.run(&format!("INSERT INTO products (id, image_url) VALUES ({id}, '{url}')"));
    }
    there.run(&format!("INSERT INTO products_2 (id, image_url) VALUES (102, '{}')", urls[3]));
    here.run("CALL caption.wait('products_1')");
    there.run("CALL caption.wait('products_2')");
    // Seen through the parent, wherever they were written.
    assert_eq!(here.number("SELECT count(*) FROM products WHERE alt <> '' AND seo <> ''"), 4);
}
