//! `pg_caption.allowed_hosts`: which hosts may be fetched from. It only restricts; a private
//! address also needs `allowed_networks`.

use crate::error::FetchError;
use url::Host;

/// One pattern: `cdn.example.com`, `*.example.com` (subdomains of any depth, not the name itself),
/// `*`; each with an optional `:port`.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Pattern {
    Exact(String),
    Below(String),
    Any,
}

/// The patterns of the setting. An empty list allows every host.
#[derive(Debug, Clone, Default)]
pub(crate) struct HostPatterns(Vec<(Pattern, Option<u16>)>);

impl HostPatterns {
    /// Parses the patterns, including international names.
    ///
    /// # Errors
    /// [`FetchError::Setting`] with the invalid pattern.
    pub(crate) fn parse(patterns: &[String]) -> Result<Self, FetchError> {
        patterns
            .iter()
            .map(|p| p.trim())
            .filter(|p| !p.is_empty())
            .map(parse)
            .collect::<Result<_, _>>()
            .map(HostPatterns)
    }

    /// Whether `host` (lower-case, punycoded, without final dot) may be fetched from on `port`.
    pub(crate) fn allow(&self, host: &str, port: u16) -> bool {
        self.0.is_empty()
            || self.0.iter().any(|(pattern, on)| {
                on.is_none_or(|p| p == port)
                    && match pattern {
                        Pattern::Exact(name) => name == host,
                        Pattern::Below(name) => host
                            .strip_suffix(name.as_str())
                            .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
                        Pattern::Any => true,
                    }
            })
    }
}

fn parse(text: &str) -> Result<(Pattern, Option<u16>), FetchError> {
    let bad = || FetchError::Setting {
        setting: "pg_caption.allowed_hosts",
        reason: format!("\"{text}\" is not a host name, *.name or *, with an optional :port"),
    };
    let (name, port) = match text.rsplit_once(':') {
        // The colons of an IPv6 address are inside brackets.
        Some((name, port)) if !port.contains(']') => (name, Some(port.parse().map_err(|_| bad())?)),
        _ => (text, None),
    };
    let normal = |name: &str| match Host::parse(name.trim_end_matches('.')) {
        Ok(host) if !name.contains('*') => Ok(host.to_string()),
        _ => Err(bad()),
    };
    let pattern = match name {
        "*" => Pattern::Any,
        name => match name.strip_prefix("*.") {
            Some(below) => Pattern::Below(normal(below)?),
            None => Pattern::Exact(normal(name)?),
        },
    };
    Ok((pattern, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(list: &[&str]) -> HostPatterns {
        HostPatterns::parse(&list.iter().map(|s| s.to_string()).collect::<Vec<_>>()).unwrap()
    }

    #[test]
    fn no_pattern_allows_every_host() {
        assert!(patterns(&[]).allow("anything.example", 80));
        assert!(patterns(&[" "]).allow("anything.example", 80));
    }

    #[test]
    fn a_star_matches_subdomains_not_suffixes() {
        let p = patterns(&["*.Example.com"]);
        assert!(p.allow("cdn.example.com", 443) && p.allow("a.b.example.com", 443));
        for other in [
            "example.com",
            "badexample.com",
            ".example.com",
            "example.com.evil.org",
            "cdn.example.org",
        ] {
            assert!(!p.allow(other, 443), "{other}");
        }
    }

    #[test]
    fn names_match_in_any_spelling() {
        let p = patterns(&["BÜCHER.example.", "[::1]", "10.0.0.1:8080"]);
        assert!(
            p.allow("xn--bcher-kva.example", 80)
                && p.allow("[::1]", 80)
                && p.allow("10.0.0.1", 8080)
        );
        assert!(!p.allow("10.0.0.1", 80) && !p.allow("bucher.example", 80));
    }

    #[test]
    fn an_invalid_pattern_is_named() {
        for bad in [
            "ex ample.com",
            "http://example.com",
            "a.*.com",
            "*example.com",
            "example.com:port",
            "example.com/x",
        ] {
            let error = HostPatterns::parse(&[bad.into()]).unwrap_err();
            assert!(
                matches!(
                    &error,
                    FetchError::Setting { setting: "pg_caption.allowed_hosts", reason }
                        if reason.contains(bad)
                ),
                "{bad}"
            );
        }
    }
}
