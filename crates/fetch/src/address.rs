//! Which addresses may be connected to. Checked for every address of every hop, after the look-up
//! and before the connection.
//!
//! The table follows IANA's special-purpose registries for IPv4 and IPv6 strictly: only clearly
//! public addresses are accepted. IPv6 is an allow-list (2000::/3 without its exceptions, and the
//! NAT64 prefix), so a future special range is refused. The functions are pure and look nothing up.

use ipnet::IpNet;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Whether an address may be connected to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AddressVerdict {
    /// A public address, or one in an allowed network.
    Allowed,
    /// A forbidden address; the text names its class.
    Forbidden(&'static str),
}

/// The networks that a superuser opened, and the rules for all other addresses.
///
/// ```
/// use pg_caption_fetch::{AddressPolicy, AddressVerdict};
///
/// let policy = AddressPolicy::new(vec!["10.2.0.0/16".parse().unwrap()]);
/// let judge = |address: &str| policy.judge(address.parse().unwrap());
/// assert_eq!(judge("8.8.8.8"), AddressVerdict::Allowed);
/// assert_eq!(judge("10.2.0.1"), AddressVerdict::Allowed);
/// assert_eq!(judge("10.3.0.1"), AddressVerdict::Forbidden("private"));
/// ```
#[derive(Debug, Clone, Default)]
pub struct AddressPolicy {
    allowed: Vec<IpNet>,
}

impl AddressPolicy {
    /// `allowed`: networks that are open although they are not public. An IPv4 network also opens
    /// its v4-mapped IPv6 form, which is the same socket. It does not open NAT64, 6to4 and Teredo
    /// addresses that embed it, because those use a foreign gateway.
    pub fn new(allowed: Vec<IpNet>) -> Self {
        AddressPolicy { allowed }
    }

    /// Whether this address may be connected to.
    pub fn judge(&self, address: IpAddr) -> AddressVerdict {
        let real = address.to_canonical();
        if self.allowed.iter().any(|n| n.contains(&real) || n.contains(&address)) {
            return AddressVerdict::Allowed;
        }
        match (address, real) {
            (IpAddr::V6(_), IpAddr::V4(v4)) if special_v4(v4).is_some() => {
                AddressVerdict::Forbidden("v4-mapped address that is not public")
            }
            (_, IpAddr::V4(v4)) => {
                special_v4(v4).map_or(AddressVerdict::Allowed, AddressVerdict::Forbidden)
            }
            (_, IpAddr::V6(v6)) => {
                special_v6(v6).map_or(AddressVerdict::Allowed, AddressVerdict::Forbidden)
            }
        }
    }
}

/// The class of an IPv4 address that is not public.
fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    let [a, b, c, _] = address.octets();
    Some(match (a, b, c) {
        (0, ..) if address.is_unspecified() => "unspecified",
        (0, ..) => "this network",
        (10, ..) | (172, 16..=31, _) | (192, 168, _) => "private",
        (100, 64..=127, _) => "carrier-grade NAT",
        (127, ..) => "loopback",
        (169, 254, _) => "link-local",
        (192, 0, 0) => "reserved for protocols",
        (192, 0, 2) | (198, 51, 100) | (203, 0, 113) => "documentation",
        (192, 88, 99) => "6to4 relay",
        (198, 18..=19, _) => "benchmark",
        (224..=239, ..) => "multicast",
        (240..=255, ..) if address.is_broadcast() => "broadcast",
        (240..=255, ..) => "reserved",
        // The host of every Azure machine, reachable from inside like a metadata service.
        (168, 63, 129) if address.octets()[3] == 16 => "cloud platform",
        _ => return None,
    })
}

/// The class of an IPv6 address that is not public. The caller handles v4-mapped addresses.
fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    let s = address.segments();
    let v4_at = |i: usize| Ipv4Addr::from(((s[i] as u32) << 16) | s[i + 1] as u32);
    match s {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some("unspecified"),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some("loopback"),
        [0, 0, 0, 0, 0, 0, _, _] => Some("v4-compatible"),
        // RFC 6052: networks with IPv6 only reach public IPv4 hosts through this prefix.
        [0x64, 0xff9b, 0, 0, 0, 0, _, _] => {
            special_v4(v4_at(6)).map(|_| "NAT64 of an address that is not public")
        }
        // RFC 8215: only the local network knows where the IPv4 address is in it.
        [0x64, 0xff9b, 1, ..] => Some("local NAT64"),
        [0x100, 0, 0, ..] => Some("discard-only"),
        [0xfc00..=0xfdff, ..] => Some("unique local"),
        [0xfe80..=0xfebf, ..] => Some("link-local"),
        [0xfec0..=0xfeff, ..] => Some("site-local"),
        [0xff00..=0xffff, ..] => Some("multicast"),
        // RFC 4380: the server's address is plain, the client's is inverted.
        [0x2001, 0, ..] => special_v4(v4_at(2))
            .or(special_v4(!v4_at(6)))
            .map(|_| "Teredo of an address that is not public"),
        [0x2001, 0xdb8, ..] => Some("documentation"),
        [0x2001, 2, 0, ..] => Some("benchmark"),
        [0x2001, 1..=0x1ff, ..] => Some("reserved for protocols"),
        [0x2002, ..] => special_v4(v4_at(1)).map(|_| "6to4 of an address that is not public"),
        [0x3fff, 0..=0xfff, ..] => Some("documentation"),
        [0x2000..=0x3fff, ..] => None,
        _ => Some("reserved"),
    }
}

#[cfg(test)]
#[path = "address_tests.rs"]
mod tests;
