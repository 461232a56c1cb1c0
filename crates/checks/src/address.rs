//! URLs and addresses.

use crate::Outcome;
use pg_caption_fetch::{AddressPolicy, AddressVerdict, host_key, networks};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Two secrets: whatever is told must be the same with either, however much of a URL's own text
/// looks like one.
const SECRETS: [&str; 2] = ["hunter2-s3cret", "0pen-se5ame-99"];

/// A URL has one host and no secret of it is told; no address that leads inside is let through.
pub fn address(bytes: &[u8]) -> Outcome {
    judged(bytes)?;
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
        if told(url) != told(&other) {
            return Err(format!("a secret is told of {url:?}: {}", told(url)));
        }
    }
    Ok(())
}

/// The host, or all that an error has to say.
fn told(url: &str) -> String {
    match host_key(url) {
        Ok(key) => key,
        Err(error) => format!("{error:?} {:?}", error.failure()),
    }
}

/// The key of a URL's host is a URL's host itself, and the same one.
fn one_host(text: &str) -> Outcome {
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

/// Another reading of the rules, by what the standard library knows.
fn judged(bytes: &[u8]) -> Outcome {
    let policy = AddressPolicy::default();
    let v4 = bytes.first_chunk::<4>().map(|b| IpAddr::from(*b));
    let v6 = bytes.first_chunk::<16>().map(|b| IpAddr::from(*b));
    for address in v4.into_iter().chain(v6) {
        if policy.judge(address) == AddressVerdict::Allowed && !leads_outside(address) {
            return Err(format!("{address} is let through"));
        }
    }
    Ok(())
}

fn leads_outside(address: IpAddr) -> bool {
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
            let of_the_internet =
                v6.segments()[0] & 0xe000 == 0x2000 && v6.segments()[..2] != [0x2001, 0xdb8];
            (of_the_internet || !embedded.is_empty()) && !embedded.into_iter().any(inside)
        }
    }
}

/// The IPv4 addresses that a mapped, NAT64, 6to4 or Teredo address leads to.
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
