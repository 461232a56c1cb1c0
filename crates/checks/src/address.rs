//! URLs and addresses.

use crate::CheckResult;
use pg_caption_fetch::{AddressPolicy, AddressVerdict, host_key, networks};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Two secrets: the output must be the same with either, even if other text of the URL looks like
/// one.
const SECRETS: [&str; 2] = ["hunter2-s3cret", "0pen-se5ame-99"];

/// A URL has one host, none of its secrets is shown, and no internal address is permitted.
pub fn address(bytes: &[u8]) -> CheckResult {
    only_public(bytes)?;
    let text = String::from_utf8_lossy(bytes);
    drop(networks(&text.split(',').map(String::from).collect::<Vec<_>>()));
    one_host(&text)?;
    let with = |secret: &str| {
        [
            format!("https://ann:{secret}@{text}"),
            format!("{text}?key={secret}"),
            format!("{text}#{secret}"),
            format!("http:{secret}@{text}"),
        ]
    };
    for (url, other) in with(SECRETS[0]).iter().zip(with(SECRETS[1])) {
        if shown(url) != shown(&other) {
            return Err(format!("a secret of {url:?} is shown: {}", shown(url)));
        }
    }
    Ok(())
}

/// The host, or everything that an error shows.
fn shown(url: &str) -> String {
    match host_key(url) {
        Ok(key) => key,
        Err(error) => format!("{error:?} {:?}", error.failure()),
    }
}

/// The key of a URL's host is itself a host, with the same key.
fn one_host(text: &str) -> CheckResult {
    let Ok(key) = host_key(text) else { return Ok(()) };
    if key.chars().any(|c| c.is_control() || c.is_whitespace() || "@/?#\\".contains(c))
        || key != key.to_lowercase()
    {
        return Err(format!("the host of {text:?} is {key:?}"));
    }
    match host_key(&format!("http://{key}/")) {
        Ok(again) if again == key => Ok(()),
        other => Err(format!("the host of {text:?} is {key:?}, whose host is {other:?}")),
    }
}

/// A second implementation of the policy with the standard library.
fn only_public(bytes: &[u8]) -> CheckResult {
    let policy = AddressPolicy::default();
    let v4 = bytes.first_chunk::<4>().map(|b| IpAddr::from(*b));
    let v6 = bytes.first_chunk::<16>().map(|b| IpAddr::from(*b));
    for address in v4.into_iter().chain(v6) {
        if policy.judge(address) == AddressVerdict::Allowed && !is_external(address) {
            return Err(format!("{address} is permitted"));
        }
    }
    Ok(())
}

fn is_external(address: IpAddr) -> bool {
    let inside = |v4: Ipv4Addr| {
        v4.is_loopback()
            || v4.is_private()
            || v4.is_link_local()
            || v4.is_multicast()
            || v4.is_broadcast()
            || v4.is_documentation()
            || v4.octets()[0] == 0
    };
    match address {
        IpAddr::V4(v4) => !inside(v4),
        IpAddr::V6(v6) => {
            let embedded = embedded(v6);
            let global_unicast =
                v6.segments()[0] & 0xe000 == 0x2000 && v6.segments()[..2] != [0x2001, 0xdb8];
            (global_unicast || !embedded.is_empty()) && !embedded.into_iter().any(inside)
        }
    }
}

/// The IPv4 addresses embedded in a mapped, NAT64, 6to4 or Teredo address.
fn embedded(address: Ipv6Addr) -> Vec<Ipv4Addr> {
    let octets = address.octets();
    let at = |start: usize| {
        Ipv4Addr::from([octets[start], octets[start + 1], octets[start + 2], octets[start + 3]])
    };
    match address.segments() {
        [0, 0, 0, 0, 0, 0xffff, ..] | [0x64, 0xff9b, 0, 0, 0, 0, ..] => vec![at(12)],
        [0x2002, ..] => vec![at(2)],
        [0x2001, 0, ..] => vec![at(4), !at(12)],
        _ => Vec::new(),
    }
}
