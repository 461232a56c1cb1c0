//! Promises about addresses, tested over whole classes of them.

use super::*;
use proptest::prelude::*;

/// Every IPv4 block that is not public (IANA special-purpose registry, read strictly).
const SPECIAL_V4: &[&str] = &[
    "0.0.0.0/8",
    "10.0.0.0/8",
    "100.64.0.0/10",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "172.16.0.0/12",
    "192.0.0.0/24",
    "192.0.2.0/24",
    "192.88.99.0/24",
    "192.168.0.0/16",
    "198.18.0.0/15",
    "198.51.100.0/24",
    "203.0.113.0/24",
    "224.0.0.0/4",
    "240.0.0.0/4",
    "168.63.129.16/32",
];

/// Every IPv6 block that is not public, apart from those that embed an IPv4 address.
const SPECIAL_V6: &[&str] = &[
    "::/96",
    "64:ff9b:1::/48",
    "100::/64",
    "fc00::/7",
    "fe80::/10",
    "fec0::/10",
    "ff00::/8",
    "2001:db8::/32",
    "3fff::/20",
    "2001:2::/48",
    "2001:10::/28",
    "2001:20::/28",
    "5f00::/16",
    "4000::/3",
    "6000::/3",
    "8000::/3",
    "::ffff:0:0:0/96",
];

fn nets(list: &[&str]) -> Vec<IpNet> {
    list.iter().map(|n| n.parse().unwrap()).collect()
}

fn strict() -> AddressPolicy {
    AddressPolicy::default()
}

fn forbidden(address: impl Into<IpAddr>) -> bool {
    strict().judge(address.into()) != AddressVerdict::Allowed
}

/// Half of them anywhere, half of them near the edge of a special block.
fn any_v4() -> impl Strategy<Value = Ipv4Addr> {
    let edges = nets(SPECIAL_V4);
    let near = (0..edges.len(), any::<bool>(), -3i64..=3).prop_map(move |(i, low, by)| {
        let IpNet::V4(net) = edges[i] else { unreachable!() };
        let edge = u32::from(if low { net.network() } else { net.broadcast() });
        Ipv4Addr::from((i64::from(edge) + by).rem_euclid(1 << 32) as u32)
    });
    prop_oneof![any::<u32>().prop_map(Ipv4Addr::from), near]
}

/// The forms in which an IPv6 address can embed an IPv4 address that a gateway would unpack.
fn embeddings(v4: Ipv4Addr, filler: u128) -> [(&'static str, Ipv6Addr); 4] {
    let n = u128::from(u32::from(v4));
    [
        ("v4-mapped", v4.to_ipv6_mapped()),
        ("NAT64", Ipv6Addr::from((0x0064_ff9b_u128 << 96) | n)),
        ("6to4", Ipv6Addr::from((0x2002_u128 << 112) | (n << 80) | (filler & ((1 << 80) - 1)))),
        // The server is public, the client (inverted) is the address.
        (
            "Teredo",
            Ipv6Addr::from(
                (0x2001_0000_u128 << 96)
                    | (0x0808_0808_u128 << 64)
                    | ((filler & 0xffff_ffff) << 32)
                    | (!n & 0xffff_ffff),
            ),
        ),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 4000,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn exactly_special_ipv4_blocks_are_refused(v4 in any_v4()) {
        let special = nets(SPECIAL_V4).iter().any(|n| n.contains(&IpAddr::V4(v4)));
        prop_assert_eq!(forbidden(v4), special, "{}", v4);
    }

    #[test]
    fn embedded_ipv4_addresses_decide_for_ipv6(v4 in any_v4(), filler in any::<u128>()) {
        for (how, v6) in embeddings(v4, filler) {
            prop_assert_eq!(forbidden(v6), forbidden(v4), "{} {} of {}", how, v6, v4);
        }
    }

    #[test]
    fn teredo_servers_must_be_public(v4 in any_v4()) {
        let server = u128::from(u32::from(v4)) << 64;
        let client = u128::from(!0x0808_0808_u32);
        let v6 = Ipv6Addr::from((0x2001_0000_u128 << 96) | server | client);
        prop_assert_eq!(forbidden(v6), forbidden(v4), "{}", v6);
    }

    #[test]
    fn special_ipv6_blocks_are_refused(
        block in 0..SPECIAL_V6.len(),
        bits in any::<u128>(),
    ) {
        let IpNet::V6(net) = nets(SPECIAL_V6)[block] else { unreachable!() };
        let v6 = Ipv6Addr::from(u128::from(net.network()) | (bits & u128::from(net.hostmask())));
        prop_assert!(forbidden(v6), "{}", v6);
    }

    #[test]
    fn only_global_unicast_ipv6_is_allowed(bits in any::<u128>()) {
        let v6 = Ipv6Addr::from(bits);
        let global = v6.segments()[0] & 0xe000 == 0x2000;
        prop_assert!(global || forbidden(v6), "{}", v6);
    }

    #[test]
    fn an_allowed_network_opens_only_itself(v4 in any_v4(), v6 in any::<u128>()) {
        let networks = nets(&["10.2.0.0/16", "fd00:1::/32"]);
        let open = AddressPolicy::new(networks.clone());
        let network: IpNet = "10.2.0.0/16".parse().unwrap();
        for address in [IpAddr::V4(v4), IpAddr::V6(v6.into())] {
            if !networks.iter().any(|n| n.contains(&address.to_canonical())) {
                prop_assert_eq!(open.judge(address), strict().judge(address), "{}", address);
            }
        }
        let inside = Ipv4Addr::from(0x0a02_0000 | (u32::from(v4) & 0xffff));
        prop_assert!(network.contains(&IpAddr::V4(inside)));
        prop_assert_eq!(open.judge(inside.into()), AddressVerdict::Allowed);
        prop_assert_eq!(open.judge(inside.to_ipv6_mapped().into()), AddressVerdict::Allowed);
        let inside6 = Ipv6Addr::from((0xfd00_0001_u128 << 96) | (v6 & ((1 << 96) - 1)));
        prop_assert_eq!(open.judge(inside6.into()), AddressVerdict::Allowed);
    }

    #[test]
    fn an_allowed_network_opens_no_foreign_gateway(
        low in any::<u16>(),
        filler in any::<u128>(),
    ) {
        let open = AddressPolicy::new(nets(&["10.2.0.0/16"]));
        let inside = Ipv4Addr::from(0x0a02_0000 | u32::from(low));
        for (how, v6) in embeddings(inside, filler) {
            if how != "v4-mapped" {
                prop_assert_ne!(open.judge(v6.into()), AddressVerdict::Allowed, "{}", how);
            }
        }
    }
}

#[test]
fn each_class_has_its_name() {
    for (address, name) in [
        ("0.0.0.0", "unspecified"),
        ("0.1.2.3", "this network"),
        ("10.1.2.3", "private"),
        ("172.31.255.255", "private"),
        ("192.168.0.1", "private"),
        ("100.100.100.200", "carrier-grade NAT"),
        ("127.0.0.1", "loopback"),
        ("169.254.169.254", "link-local"),
        ("198.19.255.255", "benchmark"),
        ("203.0.113.7", "documentation"),
        ("224.0.0.251", "multicast"),
        ("240.0.0.1", "reserved"),
        ("255.255.255.255", "broadcast"),
        ("::", "unspecified"),
        ("::1", "loopback"),
        ("::7f00:1", "v4-compatible"),
        ("::ffff:127.0.0.1", "v4-mapped address that is not public"),
        ("64:ff9b::a9fe:a9fe", "NAT64 of an address that is not public"),
        ("64:ff9b:1::808:808", "local NAT64"),
        ("2002:7f00:1::", "6to4 of an address that is not public"),
        ("2001:0:808:808::80ff:fffe", "Teredo of an address that is not public"),
        ("fd00:ec2::254", "unique local"),
        ("fe80::1", "link-local"),
        ("fec0::1", "site-local"),
        ("ff02::1", "multicast"),
        ("2001:db8::1", "documentation"),
        ("1::1", "reserved"),
    ] {
        assert_eq!(
            strict().judge(address.parse().unwrap()),
            AddressVerdict::Forbidden(name),
            "{address}"
        );
    }
}

#[test]
fn public_addresses_are_allowed() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "9.255.255.255",
        "11.0.0.0",
        "100.63.255.255",
        "100.128.0.0",
        "172.15.0.1",
        "172.32.0.1",
        "192.0.1.1",
        "198.17.0.1",
        "198.20.0.1",
        "223.255.255.255",
        "168.63.129.17",
        "2606:4700:4700::1111",
        "2a00:1450:4001:81b::200e",
        "64:ff9b::808:808",
        "2002:808:808::1",
        "::ffff:8.8.8.8",
        "2001:200::1",
        "2001:4860:4860::8888",
    ] {
        assert_eq!(strict().judge(address.parse().unwrap()), AddressVerdict::Allowed, "{address}");
    }
}
