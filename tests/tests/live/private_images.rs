//! The recipes of docs/private-images.md, run as they are written there, against a server that
//! checks each signature with another implementation; and the rules of `sign`.

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE, URL_SAFE_NO_PAD};
use pg_caption_tests::{
    FILLED, ServerAnswer, ServerRequest, TestCluster, TestDatabase, TestServer, TestSession,
    project, quote_literal, shared_database, sql_blocks,
};
use ring::{digest, hmac, signature};
use std::collections::HashMap;

/// The SQL of a section of docs/private-images.md.
fn documented(section: &str) -> String {
    let path = project().join("docs/private-images.md");
    let page = std::fs::read_to_string(path).expect("docs/private-images.md");
    let head = format!("\n## {section}\n");
    let (_, rest) = page.split_once(&head).unwrap_or_else(|| panic!("no section {section}"));
    let rest = rest.split("\n## ").next().unwrap_or_default();
    let blocks = sql_blocks(rest).collect::<Vec<_>>().join("\n");
    assert!(!blocks.is_empty(), "no SQL in section {section}");
    blocks
}

/// A request taken apart.
struct SignedRequest {
    path: String,
    /// The query as it was sent.
    query: String,
    /// Decoded.
    values: HashMap<String, String>,
    host: String,
}

impl From<&ServerRequest> for SignedRequest {
    fn from(request: &ServerRequest) -> Self {
        let (path, query) = request.path.split_once('?').unwrap_or((&request.path, ""));
        SignedRequest {
            path: path.into(),
            query: query.into(),
            values: url::form_urlencoded::parse(query.as_bytes()).into_owned().collect(),
            host: request.headers.get("host").cloned().unwrap_or_default(),
        }
    }
}

fn hmac_sha256(key: &[u8], text: &[u8]) -> Vec<u8> {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), text).as_ref().to_vec()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Signature Version 4, as Amazon and Google define it for queries.
fn is_v4(request: &ServerRequest, algorithm: &str, prefix: &str, service: &str, end: &str) -> bool {
    let request = SignedRequest::from(request);
    let value = |name: &str| request.values.get(&format!("X-{prefix}-{name}")).cloned();
    let (Some(credential), Some(at), Some(signature)) =
        (value("Credential"), value("Date"), value("Signature"))
    else {
        return false;
    };
    let scope = credential.split_once('/').map_or("", |(_, scope)| scope).to_owned();
    let expected = format!("{}/eu-central-1/{service}/{end}", &at[..8]);
    let unsigned = request.query.split(&format!("&X-{prefix}-Signature=")).next().unwrap_or("");
    let mut parts: Vec<&str> = unsigned.split('&').collect();
    parts.sort_unstable();
    let canonical = format!(
        "GET\n{}\n{}\nhost:{}\n\nhost\nUNSIGNED-PAYLOAD",
        request.path,
        parts.join("&"),
        request.host
    );
    let hashed = hex(digest::digest(&digest::SHA256, canonical.as_bytes()).as_ref());
    let to_sign = format!("{algorithm}-HMAC-SHA256\n{at}\n{scope}\n{hashed}");
    let key = format!("{algorithm}secret key").into_bytes();
    let key = scope.split('/').fold(key, |key, part| hmac_sha256(&key, part.as_bytes()));
    scope == expected
        && value("Expires").as_deref() == Some("900")
        && signature == hex(&hmac_sha256(&key, to_sign.as_bytes()))
}

fn is_azure(request: &ServerRequest) -> bool {
    let request = SignedRequest::from(request);
    let value = |name: &str| request.values.get(name).cloned().unwrap_or_default();
    let path = percent_decoded(&request.path);
    let to_sign = format!(
        "{}\n\n{}\n/blob/account{path}\n\n\n\n{}\n{}\n\n\n\n\n\n\n",
        value("sp"),
        value("se"),
        value("sv"),
        value("sr")
    );
    let key = STANDARD.decode("c2VjcmV0IGtleQ==").expect("base64");
    value("sp") == "r" && value("sig") == STANDARD.encode(hmac_sha256(&key, to_sign.as_bytes()))
}

fn percent_decoded(path: &str) -> String {
    // A plus sign in a path is one.
    let query = path.replace('+', "%2B");
    url::form_urlencoded::parse(query.as_bytes()).map(|(name, _)| name.into_owned()).collect()
}

fn is_cloudinary(request: &ServerRequest) -> bool {
    let Some(rest) = request.path.strip_prefix("/cloud/image/authenticated/s--") else {
        return false;
    };
    let Some((signature, target)) = rest.split_once("--/") else { return false };
    let signed = format!("{target}secret key");
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, signed.as_bytes());
    signature == &URL_SAFE.encode(hash.as_ref())[..8]
}

fn is_imgproxy(request: &ServerRequest) -> bool {
    let Some((signature, target)) = request.path[1..].split_once('/') else { return false };
    let signed = [b"salt".as_slice(), b"/", target.as_bytes()].concat();
    signature == URL_SAFE_NO_PAD.encode(hmac_sha256(b"key", &signed))
        && target.ends_with(&format!("/{}", URL_SAFE_NO_PAD.encode("p/ä 1+.jpg")))
        && target.contains("/exp:")
}

const CLOUDFRONT_KEY: &str = include_str!("private_images/cloudfront.pem");
const CLOUDFRONT_PUBLIC_KEY: &str = include_str!("private_images/cloudfront.pub");

fn is_cloudfront(request: &ServerRequest) -> bool {
    let signed = SignedRequest::from(request);
    let value = |name: &str| signed.values.get(name).cloned().unwrap_or_default();
    let policy = format!(
        "{{\"Statement\":[{{\"Resource\":\"http://{}{}\",\"Condition\":{{\"DateLessThan\":\
         {{\"AWS:EpochTime\":{}}}}}}}]}}",
        signed.host,
        signed.path,
        value("Expires")
    );
    let given = value("Signature").replace('-', "+").replace('_', "=").replace('~', "/");
    let given = STANDARD.decode(given).unwrap_or_default();
    let key: String = CLOUDFRONT_PUBLIC_KEY.lines().filter(|line| !line.contains("---")).collect();
    let key = STANDARD.decode(key).expect("base64");
    let kind = &signature::RSA_PKCS1_2048_8192_SHA1_FOR_LEGACY_USE_ONLY;
    value("Key-Pair-Id") == "K1"
        && signature::UnparsedPublicKey::new(kind, key).verify(policy.as_bytes(), &given).is_ok()
}

#[test]
fn documented_recipes_sign_as_stores_expect() {
    let db = shared_database();
    let mut session = db.session();
    if !session.holds("EXISTS (SELECT FROM pg_available_extensions WHERE name = 'pgcrypto')") {
        println!("skipped: this server has no pgcrypto");
        return;
    }
    session.run(&documented("Preparation"));
    type Check = fn(&ServerRequest) -> bool;
    let cloudfront = quote_literal(CLOUDFRONT_KEY);
    let recipes: [(&str, &str, &str, &str, Check); 6] = [
        ("Amazon S3", "s3", "", "'eu-central-1', 'id', 'secret key'", |request| {
            is_v4(request, "AWS4", "Amz", "s3", "aws4_request")
        }),
        (
            "Google Cloud Storage",
            "gcs",
            "/bucket",
            "'eu-central-1', 'id', 'secret key'",
            |request| is_v4(request, "GOOG4", "Goog", "storage", "goog4_request"),
        ),
        ("Azure Blob Storage", "azure", "/box", "NULL, 'account', 'c2VjcmV0IGtleQ=='", is_azure),
        ("Cloudinary", "cloudinary", "/cloud", "NULL, NULL, 'secret key'", is_cloudinary),
        ("imgproxy", "imgproxy", "", "NULL, '73616c74', '6b6579'", is_imgproxy),
        ("CloudFront", "cloudfront", "", &format!("NULL, 'K1', {cloudfront}"), is_cloudfront),
    ];
    for (section, store, path, key, check) in recipes {
        let web = TestServer::start();
        web.serve_all(ServerAnswer::picture(1));
        web.require(check);
        session.run(&documented(section));
        session.run(&format!(
            "INSERT INTO signing.key VALUES ('{store}', '{}', {key}); \
             CREATE TABLE {store} (id int PRIMARY KEY, image_url text, alt text, seo text); \
             INSERT INTO {store} VALUES (1, 'p/ä 1+.jpg'), (2, NULL); \
             SELECT caption.watch('{store}', sign => 'signing.{store}_url(text)')",
            web.url(path)
        ));
        session.run(&format!("CALL caption.wait('{store}')"));
        let failure = format!(
            "SELECT coalesce(string_agg(message, ' '), '') FROM caption.failure \
             WHERE relation = '{store}'::regclass"
        );
        assert_eq!(session.text(&failure), "", "{section}: {:?}", web.all_requests());
        assert!(session.holds(&format!("(SELECT alt <> '' FROM {store} WHERE id = 1)")));
        // The check itself notices another key.
        session.run(&format!(
            "UPDATE signing.key SET secret = CASE store WHEN 'azure' THEN 'AAAA' \
               WHEN 'imgproxy' THEN '00' WHEN 'cloudfront' THEN secret ELSE 'x' END, \
               id = CASE store WHEN 'cloudfront' THEN 'K2' ELSE id END WHERE store = '{store}'; \
             UPDATE {store} SET alt = NULL"
        ));
        db.eventually(&format!(
            "EXISTS (SELECT FROM caption.failure WHERE relation = '{store}'::regclass \
             AND code = 'http_401')"
        ));
        // Nothing that is shown has a signature: not the failure, and not the ledger.
        let shown = session.text(&format!(
            "SELECT concat(f.message, f.detail, f.hint, \
                    (SELECT jsonb_agg(l) FROM caption.ledger l), \
                    (SELECT jsonb_agg(d) FROM caption.deferred_row d)) FROM caption.failure f \
              WHERE f.relation = '{store}'::regclass"
        ));
        let signed = web.all_requests().pop().expect("a request").path;
        for part in signed.split(['/', '?', '&', '=']).filter(|part| part.len() > 12) {
            assert!(!shown.contains(part), "{part} is in {shown}");
        }
        assert!(shown.contains("p/ä 1+.jpg"), "{shown}");
    }
}

/// `products` of a role, whose signing function adds a number to each URL. The session acts as the
/// role.
fn shop(db: &TestDatabase<'_>, web: &TestServer, values: &[&str]) -> (TestSession, String) {
    let role = format!("owner_{}", db.name);
    let values: Vec<String> = values.iter().map(|value| (*value).into()).collect();
    let mut session = db.products(&values);
    session.run(&format!(
        "CREATE ROLE {role}; SELECT caption.grant_to('{role}', 'editor'); \
         CREATE SCHEMA shop AUTHORIZATION {role}; ALTER TABLE products OWNER TO {role}; \
         ALTER ROLE {role} SET search_path = shop; SET ROLE {role}; \
         CREATE SEQUENCE shop.signature; \
         CREATE FUNCTION shop.sign(value text) RETURNS text LANGUAGE plpgsql AS $$ BEGIN \
           IF value = 'bad' THEN RAISE EXCEPTION 'no key for %', value; END IF; \
           IF value = 'none' THEN RETURN NULL; END IF; \
           IF value = 'slow' THEN PERFORM pg_sleep(60); END IF; \
           RETURN '{}' || value || '?n=' || nextval('signature') || '&by=' || current_user; END $$",
        web.url("/")
    ));
    (session, role)
}

#[test]
fn a_url_is_signed_for_each_attempt() {
    let settings = [("pg_caption.write_timeout", "500ms"), ("pg_caption.max_attempts", "1")];
    let (cluster, web) = (TestCluster::private(&settings), TestServer::start());
    let db = cluster.database();
    let (mut session, role) = shop(&db, &web, &["1.jpg", "2.jpg", "bad", "none", "slow"]);
    web.serve_all(ServerAnswer::picture(3));
    web.serve("/2.jpg?n=1&by=x", ServerAnswer::status(410));
    web.require(|request| !request.path.starts_with("/2.jpg"));
    session.run("SELECT caption.watch('products', sign => 'shop.sign(text)')");
    db.eventually(
        "(SELECT count(*) FROM caption.failure) = 3 AND (SELECT alt <> '' FROM products \
         WHERE id = 1)",
    );
    session.run("CALL caption.wait('products')");
    let failures = "SELECT string_agg(key->>'id' || ' ' || code, ', ' ORDER BY key) FROM \
        caption.failure";
    assert_eq!(session.text(failures), "2 http_401, 3 sign_failed, 5 sign_timeout");
    assert!(session.holds(
        "(SELECT message LIKE '%shop.sign(text): no key for bad' FROM caption.failure \
         WHERE code = 'sign_failed')"
    ));
    let by = |web: &TestServer| {
        web.all_requests().iter().filter(|request| request.path.starts_with("/2")).count()
    };
    assert!(web.all_requests().iter().all(|r| r.path.ends_with(&format!("&by={role}"))));
    // Each attempt has a signature of its own.
    let before = by(&web);
    session.run("SELECT caption.retry('products')");
    db.eventually("(SELECT count(*) FROM caption.failure) = 3");
    assert!(by(&web) > before);
    let paths: Vec<String> = web.all_requests().into_iter().map(|request| request.path).collect();
    let distinct: std::collections::HashSet<&String> = paths.iter().collect();
    assert_eq!(distinct.len(), paths.len(), "no signature is used twice: {paths:?}");
    // Another function captions nothing again.
    let text = session.text("SELECT alt FROM products WHERE id = 1");
    let hits = web.total();
    session.run(
        "CREATE FUNCTION shop.other(text) RETURNS text LANGUAGE sql AS 'SELECT NULL'; \
         UPDATE products SET image_url = NULL WHERE id > 1; \
         SELECT caption.watch('products', sign => 'shop.other(text)')",
    );
    session.run("CALL caption.wait('products')");
    assert_eq!((session.text("SELECT alt FROM products WHERE id = 1"), web.total()), (text, hits));
}

#[test]
fn a_signing_function_is_one_that_the_owner_may_call() {
    let (db, web) = (shared_database(), TestServer::start());
    let (mut session, role) = shop(&db, &web, &["1.jpg"]);
    web.serve_all(ServerAnswer::picture(3));
    session.run(
        "CREATE FUNCTION shop.number(text) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
         CREATE FUNCTION shop.two(text, text) RETURNS text LANGUAGE sql AS 'SELECT $1'; \
         CREATE FUNCTION shop.many(text) RETURNS SETOF text LANGUAGE sql AS 'SELECT $1'; \
         CREATE PROCEDURE shop.run(text) LANGUAGE sql AS 'SELECT 1'",
    );
    for function in [
        "shop.number(text)",
        "shop.two(text, text)",
        "shop.many(text)",
        "pg_catalog.\
        string_agg(text, text)",
        "shop.run(text)",
    ] {
        let error =
            session.error(&format!("SELECT caption.watch('products', sign => '{function}')"));
        assert_eq!(error.message(), "sign must be a function from text to text", "{function}");
    }
    session.run(&format!(
        "RESET ROLE; CREATE FUNCTION public.secret(text) RETURNS text LANGUAGE sql AS 'SELECT $1'; \
         REVOKE EXECUTE ON FUNCTION public.secret FROM PUBLIC; SET ROLE {role}"
    ));
    let error = session.error("SELECT caption.watch('products', sign => 'public.secret(text)')");
    assert!(error.message().contains("may not call"), "{error:?}");
    assert_eq!(session.number("SELECT count(*) FROM caption.watch"), 0);
    // The search_path of the watch is not that of the call.
    session.run("SET search_path = shop, public");
    session.run("SELECT caption.watch('products', sign => 'sign(text)')");
    db.eventually(FILLED);
    assert_eq!(session.text("SELECT sign FROM caption.watch_option"), "shop.sign(text)");
    let error = session.error("DROP FUNCTION shop.sign");
    assert!(error.detail().unwrap_or_default().contains("pg_caption_update"), "{error:?}");
    session.run("ALTER FUNCTION shop.sign RENAME TO sign_again");
    session.run("UPDATE products SET alt = NULL; SELECT caption.pause('products')");
    session.run("SELECT caption.resume('products')");
    db.eventually("(SELECT stopped AND state LIKE '%shop.sign(text)%' FROM caption.progress)");
    // It can be taken away, and then the value itself is the URL.
    session.notices();
    session.run("SELECT caption.watch('products', sign => '-')");
    assert!(session.notices()[0].message().contains("sign from shop.sign(text) to none"));
    db.eventually("EXISTS (SELECT FROM caption.failure)");
    // On a superuser's table it must be a superuser's.
    session.run("RESET ROLE; ALTER TABLE products OWNER TO postgres");
    session.run("SELECT caption.watch('products', sign => 'shop.sign_again(text)')");
    db.eventually("(SELECT stopped AND state LIKE '%sign_again%of role%' FROM caption.progress)");
}
