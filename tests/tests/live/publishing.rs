//! Markup from addresses and texts: escaped, valid, and without addresses that run code.

use pg_caption_tests::{TestSession, quote_literal, shared_database};
use serde_json::{Value, json};

/// Texts that end an attribute, an element or a script where they are not escaped.
const HOSTILE: [&str; 8] = [
    "\"><script>alert(1)</script>",
    "' onerror='alert(1)",
    "</script><!--<script>",
    "&quot; &lt; &#39; &amp;",
    "]]>-->",
    "two\nlines\tand a tab",
    "{{title}} ${x} %s \\u003c",
    "Tasse mit Goldrand – „schön“ 🫖 \u{202e}",
];

/// The value of an attribute or of an element's content, as a browser reads it.
fn unescaped(html: &str) -> String {
    [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&#39;", "'"), ("&amp;", "&")]
        .iter()
        .fold(html.to_owned(), |text, (entity, character)| text.replace(entity, character))
}

/// The value of an attribute of the only or first element.
fn attribute(markup: &str, name: &str) -> String {
    let (_, after) = markup.split_once(&format!(" {name}=\"")).expect("the attribute");
    unescaped(after.split_once('"').expect("the end of the attribute").0)
}

/// The object within the script element of `caption.json_ld`.
fn structured(session: &mut TestSession, call: &str) -> Value {
    let script = session.text(&format!("SELECT caption.json_ld({call})"));
    let json = script
        .strip_prefix("<script type=\"application/ld+json\">")
        .and_then(|rest| rest.strip_suffix("</script>"))
        .unwrap_or_else(|| panic!("{script}"));
    assert!(!json.contains(['<', '>', '&']), "{json}");
    serde_json::from_str(json).expect("JSON")
}

#[test]
fn markup_carries_any_text() {
    let db = shared_database();
    let mut session = db.session();
    for text in HOSTILE {
        let literal = quote_literal(text);
        let tag = session.text(&format!(
            "SELECT caption.img_tag('https://a.example/a.jpg?b=1&c=\"2\"', {literal}, 640, 480, \
             jsonb_build_object('loading', 'lazy', 'title', {literal}))"
        ));
        let inside = tag.strip_prefix("<img ").and_then(|tag| tag.strip_suffix('>'));
        assert!(!inside.expect("one element").contains(['<', '>']), "{tag}");
        assert_eq!(attribute(&tag, "src"), "https://a.example/a.jpg?b=1&c=\"2\"");
        assert_eq!(attribute(&tag, "alt"), text.split_whitespace().collect::<Vec<_>>().join(" "));
        assert_eq!(attribute(&tag, "title"), text);
        assert_eq!(
            tag.matches("=\"").count(),
            6,
            "an attribute more or less than src, alt, width, height, loading, title: {tag}"
        );
        let meta = session
            .text(&format!("SELECT caption.open_graph('https://a.example/a.jpg', {literal})"));
        let alt = meta.split("og:image:alt").nth(1).expect("og:image:alt");
        assert_eq!(attribute(alt, "content"), text);
        let object = structured(&mut session, &format!("'https://a.example/a.jpg', {literal}"));
        assert_eq!(object["caption"], json!(text));
        assert_eq!(object["@type"], "ImageObject");
    }
}

#[test]
fn markup_takes_web_addresses_only() {
    let db = shared_database();
    let mut session = db.session();
    for address in [
        "javascript:alert(1)",
        "JaVaScRiPt:alert(1)",
        "java\tscript:alert(1)",
        " \u{1}javascript:alert(1)",
        "\u{a0}data:text/html,x",
        "data:image/png;base64,AAAA",
        "vbscript:x",
        "file:///etc/passwd",
        "cdn.example.com:8080/a.jpg",
    ] {
        for call in ["img_tag({}, 'x')", "open_graph({})", "json_ld({})"] {
            let call = call.replace("{}", &quote_literal(address));
            let error = session.error(&format!("SELECT caption.{call}"));
            assert_eq!(error.code().code(), "22023", "{address}: {error}");
        }
    }
    for address in ["/media/a:b.jpg", "a.jpg", "//cdn.example/a.jpg", "HTTPS://a.example/", "?a:b"]
    {
        let literal = quote_literal(address);
        let tag = session.text(&format!("SELECT caption.img_tag({literal}, 'x')"));
        assert_eq!(attribute(&tag, "src"), address);
    }
    let error = session.error("SELECT caption.open_graph('/a.jpg')");
    assert_eq!(error.code().code(), "22023", "relative in Open Graph: {error}");
    for arguments in ["NULL, NULL, '{\"onload\": 1}'", "-1, 480", "640, -1"] {
        let error = session.error(&format!("SELECT caption.img_tag('a.jpg', 'x', {arguments})"));
        assert_eq!(error.code().code(), "22023", "{arguments}: {error}");
    }
}

#[test]
fn markup_leaves_out_what_is_missing() {
    let db = shared_database();
    let mut session = db.session();
    assert_eq!(
        session.text("SELECT caption.img_tag('/a.jpg', NULL)"),
        "<img src=\"/a.jpg\" alt=\"\">"
    );
    for call in
        ["img_tag(NULL, 'x')", "img_tag(' ', 'x')", "open_graph(NULL, 'x')", "json_ld(NULL)"]
    {
        assert_eq!(session.value(&format!("SELECT caption.{call}")), None, "{call}");
    }
    let meta = session.text(
        "SELECT caption.open_graph('https://a.example/a.jpg', 'Red cup', 'A red cup.', 'Cup', \
         'https://a.example/cup', 'product')",
    );
    assert_eq!(meta.lines().count(), 7, "{meta}");
    let product = structured(
        &mut session,
        "'https://a.example/a.jpg', 'Red cup', 'A red cup.', \
         '{\"name\": \"Cup\", \"sku\": \"C-1\", \"brand\": null}'",
    );
    assert_eq!(
        product,
        json!({
            "@context": "https://schema.org", "@type": "Product", "name": "Cup", "sku": "C-1",
            "description": "A red cup.",
            "image": { "@type": "ImageObject", "caption": "Red cup",
                       "contentUrl": "https://a.example/a.jpg" },
        })
    );
    let error = session.error("SELECT caption.json_ld('/a.jpg', NULL, NULL, '{\"sku\": 1}')");
    assert_eq!(error.code().code(), "22023", "{error}");
}
