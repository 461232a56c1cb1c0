//! Promises about parsing URLs and about their shown form.

use super::*;
use proptest::prelude::*;
use std::net::Ipv4Addr;

#[test]
fn all_spellings_of_an_ipv4_address_are_equal() {
    for host in [
        "127.0.0.1",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0x7f.1",
        "017700000001",
        "0177.0.0.01",
        "127.0.0.1.",
        "%31%32%37.0.0.1",
        "１２７.0.0.1",
    ] {
        let target = Target::parse(&format!("http://{host}/x.jpg")).unwrap();
        assert_eq!(target.literal(), Some(Ipv4Addr::LOCALHOST.into()), "{host}");
        assert_eq!(target.host(), "127.0.0.1", "{host}");
    }
}

#[test]
fn international_names_are_punycoded() {
    assert_eq!(host_key("https://BÜCHER.example/a").unwrap(), "xn--bcher-kva.example:443");
    assert_eq!(host_key("https://ｅｘａｍｐｌｅ.com。/a").unwrap(), "example.com:443");
}

#[test]
fn one_host_has_one_key() {
    for url in [
        "http://Example.com/a",
        "http://example.com:80/b",
        "http://EXAMPLE.COM./c?d",
        " http://example.com ",
    ] {
        assert_eq!(host_key(url).unwrap(), "example.com:80", "{url}");
    }
    assert_eq!(host_key("http://[::0001]:8080/").unwrap(), "[::1]:8080");
}

#[test]
fn only_http_and_https_are_accepted() {
    for (url, scheme) in [
        ("file:///etc/passwd", "file"),
        ("ftp://example.com/x", "ftp"),
        ("data:image/png;base64,SECRET", "data"),
        ("javascript:alert(1)", "javascript"),
        ("gopher://127.0.0.1:6379/_x", "gopher"),
        ("blob:http://example.com/x", "blob"),
    ] {
        let error = Target::parse(url).unwrap_err();
        assert!(
            matches!(&error, FetchError::Scheme { scheme: s, .. } if s == scheme),
            "{url}: {error:?}"
        );
        assert!(!format!("{:?}", error.failure()).contains("SECRET"));
    }
}

#[test]
fn invalid_urls_are_refused() {
    for url in [
        "",
        "photo.jpg",
        "/p/42.jpg",
        "http://",
        "http:///",
        "https://exa mple.com/",
        "http://example.com:0/",
        "http://example.com:99999/",
        "http://[::1",
        "///",
        "//",
        "//:80/x",
        "http://127../",
        "http://example.com../",
    ] {
        let error = Target::parse(url).unwrap_err();
        assert!(
            matches!(error, FetchError::BadUrl { .. } | FetchError::RelativeUrl { .. }),
            "{url}: {error:?}"
        );
        assert_eq!(
            (error.code().as_str(), error.failure().class),
            ("bad_url", pg_caption_wire::FailureClass::Reject)
        );
    }
    assert!(matches!(
        Target::parse(&format!("http://a/{}", "x".repeat(9000))),
        Err(FetchError::BadUrl { .. })
    ));
}

#[test]
fn a_url_without_scheme_is_https() {
    for (url, read) in [
        ("//cdn.example/a.jpg", "https://cdn.example/a.jpg"),
        (" //CDN.example:8443/a b.jpg\n", "https://cdn.example:8443/a%20b.jpg"),
        ("//127.1/x", "https://127.0.0.1/x"),
    ] {
        let target = Target::parse(url).unwrap();
        assert_eq!((target.url().as_str(), target.is_https()), (read, true));
    }
    assert_eq!(host_key("//cdn.example/a.jpg").unwrap(), "cdn.example:443");
    assert!(matches!(
        Target::parse("//ann:hunter2@cdn.example/a.jpg"),
        Err(FetchError::Credentials { .. })
    ));
}

#[test]
fn a_relative_path_is_refused_with_a_hint() {
    for url in ["/media/a.jpg", "a.jpg", "media/a.jpg", "www.example.com/a.jpg"] {
        let failure = Target::parse(url).unwrap_err().failure();
        assert_eq!(
            (failure.code.as_str(), failure.class),
            ("bad_url", pg_caption_wire::FailureClass::Reject),
            "{url}"
        );
        let hint = failure.hint.unwrap();
        assert!(
            hint.contains("GENERATED ALWAYS AS ('https://")
                && failure.detail.unwrap().contains(url),
            "{hint}"
        );
    }
    assert!(!Target::parse("http://").unwrap_err().failure().hint.unwrap().contains("GENERATED"));
}

#[test]
fn what_surrounds_a_url_is_no_part_of_it() {
    for url in [
        "\u{a0}http://a.example/1.jpg",
        "http://a.example/1.jpg\u{a0}",
        "\u{3000}http://a.example/1.jpg\u{200b}",
        "\u{feff}\"http://a.example/1.jpg\"\u{200e}",
        "<http://a.example/1.jpg>",
        "http://a.example/\n1.jpg",
        "http:\\\\a.example\\1.jpg",
    ] {
        assert_eq!(Target::parse(url).unwrap().url().as_str(), "http://a.example/1.jpg", "{url:?}");
    }
    assert_eq!(host_key("\u{a0}//cdn.example/a.jpg").unwrap(), "cdn.example:443");
    let failure = Target::parse("http://a\u{200e}.example/").unwrap_err().failure();
    assert!(failure.message.contains("U+200E"), "{failure:?}");
}

#[test]
fn a_value_that_is_not_one_url_is_named() {
    for (value, message, hint) in [
        ("cdn.example.com:8080/a.jpg", "not a whole URL", "Put https:// before it"),
        ("localhost:3000/a.jpg", "not a whole URL", "Put https:// before it"),
        ("www.example.com/a.jpg", "not a whole URL", "Put https:// before it"),
        ("a.jpg,b.jpg", "a list", "split_part"),
        ("[\"a.jpg\"]", "a list", "jsonb"),
        ("https://a.example/1,https://a.example/2", "a list", "one URL"),
        ("<img src=\"https://a.example/1.jpg\">", "HTML", "URL alone"),
        ("![](https://a.example/1.jpg)", "Markdown", "URL alone"),
        ("C:\\shop\\1.jpg", "Windows", "bytea"),
    ] {
        let failure = Target::parse(value).unwrap_err().failure();
        assert_eq!(failure.code, "bad_url", "{value}");
        let text = failure.hint.unwrap();
        assert!(failure.message.contains(message) && text.contains(hint), "{value}: {text}");
    }
}

#[test]
fn credentials_are_refused_and_not_shown() {
    for url in [
        "https://ann:hunter2@example.com/p.jpg",
        "https://hunter2@example.com/",
        "https://:hunter2@example.com/",
        "ftp://ann:hunter2@example.com/",
        "http://ann:hunter2@[::1/",
        "http://ann:hunter2@exa mple/",
    ] {
        let error = Target::parse(url).unwrap_err();
        let shown = format!("{error:?} {error} {:?}", error.failure());
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

#[test]
fn credentials_of_invalid_urls_are_not_shown() {
    for text in [
        "http:hunter2@htTp%//an",
        "http:\\\\ann:hunter2@%zz",
        "https://ann:hunter2@a b",
        "ann:hunter2@host",
        "ht tp://hunter2@x",
        "//hunter2@//x",
    ] {
        let error = Target::parse(text).unwrap_err();
        let shown = format!("{error:?} {:?}", error.failure());
        assert!(!shown.contains("hunter2"), "{text}: {shown}");
    }
}

#[test]
fn query_values_are_not_shown() {
    let target =
        Target::parse("https://cdn.example.com:8443/p/42.jpg?id=7&X-Signature=s3cr3t&t0ken#frag")
            .unwrap();
    assert_eq!(target.location().url, "https://cdn.example.com:8443/p/42.jpg?id=…&X-Signature=…&…");
}

#[test]
fn redirects_are_relative_to_their_source() {
    let from = Target::parse("https://example.com/a/b?c").unwrap();
    for (location, to) in [
        ("d", "https://example.com/a/d"),
        ("/d", "https://example.com/d"),
        ("?d", "https://example.com/a/b?d"),
        ("//other.example/d", "https://other.example/d"),
        ("http://other.example", "http://other.example/"),
        ("\\\\other.example\\d", "https://other.example/d"),
    ] {
        assert_eq!(from.redirected(location.as_bytes()).unwrap().url().as_str(), to, "{location}");
    }
    assert!(matches!(from.redirected(b"file:///etc/passwd"), Err(FetchError::Scheme { .. })));
    assert!(matches!(
        from.redirected(b"https://u:p@example.com/"),
        Err(FetchError::Credentials { .. })
    ));
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn both_parsers_agree_on_any_text(
        text in concat!(
            "(https?:)?[/\\\\]{0,3}([a-z0-9.:@%_\\[\\]-]{0,20}|\\PC{0,12})",
            "[:@/?#\\\\]?\\PC{0,20}",
        ),
    ) {
        match Target::parse(&text) {
            Ok(target) => {
                let uri = target.uri().unwrap();
                prop_assert_eq!(uri.host(), target.url().host_str());
                prop_assert!(uri.authority().is_some_and(|a| !a.as_str().contains('@')));
                prop_assert!(!target.host().is_empty());
            }
            Err(error) => {
                let class = error.failure().class;
                prop_assert_eq!(class, pg_caption_wire::FailureClass::Reject)
            }
        }
    }

    #[test]
    fn ipv4_spellings_keep_their_address(n in any::<u32>(), spelling in 0..5) {
        let v4 = Ipv4Addr::from(n);
        let [a, b, c, d] = v4.octets();
        let host = match spelling {
            0 => n.to_string(),
            1 => format!("0x{n:x}"),
            2 => format!("0{n:o}"),
            3 => format!("{a}.{}", n & 0xff_ffff),
            _ => format!("0x{a:x}.0{b:o}.{c}.{d}"),
        };
        let target = Target::parse(&format!("http://{host}/")).unwrap();
        prop_assert_eq!(target.literal(), Some(v4.into()), "{}", host);
    }
}

#[test]
fn passwords_with_url_characters_are_not_shown() {
    for url in
        ["http://user:p#s3cret@h/", "http://user:p?s3cret@h/x.jpg", "http:// user:p#s3cret@h/"]
    {
        if let Err(error) = Target::parse(url) {
            let failure = error.failure();
            let text = format!("{} {:?} {:?}", failure.message, failure.detail, failure.hint);
            assert!(!text.contains("s3cret") && !text.contains(":p"), "{url}: {text}");
        }
    }
}
