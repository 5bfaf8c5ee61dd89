//! Which addresses a request may go to: what a name resolved to and the ranges that are granted in, yes or no out. Pure.
//! The shim asks it for the requests of guests, the pipeline for its own to registries.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

/// Never reached, whatever is granted: who asks, himself.
const NEVER_V4: [Ipv4Net; 2] = [v4(0, 0, 0, 0, 8), v4(127, 0, 0, 0, 8)];

/// Reached only when granted: what no public server has (IANA's registry of special-purpose addresses).
const SPECIAL_V4: [Ipv4Net; 13] = [
    v4(10, 0, 0, 0, 8),
    v4(100, 64, 0, 0, 10),
    v4(169, 254, 0, 0, 16),
    v4(172, 16, 0, 0, 12),
    v4(192, 0, 0, 0, 24),
    v4(192, 0, 2, 0, 24),
    v4(192, 88, 99, 0, 24),
    v4(192, 168, 0, 0, 16),
    v4(198, 18, 0, 0, 15),
    v4(198, 51, 100, 0, 24),
    v4(203, 0, 113, 0, 24),
    v4(224, 0, 0, 0, 4),
    v4(240, 0, 0, 0, 4),
];

/// All that is assigned to public servers; what lies outside is special.
const PUBLIC_V6: Ipv6Net = v6([0x2000, 0, 0, 0, 0, 0, 0, 0], 3);
/// The special ranges within it: protocols' own (Teredo among them) and documentation.
const SPECIAL_V6: [Ipv6Net; 3] = [
    v6([0x2001, 0, 0, 0, 0, 0, 0, 0], 23),
    v6([0x2001, 0xdb8, 0, 0, 0, 0, 0, 0], 32),
    v6([0x3fff, 0, 0, 0, 0, 0, 0, 0], 20),
];
/// Addresses that stand for one of IPv4, which begins at this bit: mapped, compatible, translated (two), 6to4.
const EMBEDDING: [(Ipv6Net, u32); 5] = [
    (v6([0, 0, 0, 0, 0, 0xffff, 0, 0], 96), 96),
    (v6([0, 0, 0, 0, 0, 0, 0, 0], 96), 96),
    (v6([0, 0, 0, 0, 0xffff, 0, 0, 0], 96), 96),
    (v6([0x64, 0xff9b, 0, 0, 0, 0, 0, 0], 96), 96),
    (v6([0x2002, 0, 0, 0, 0, 0, 0, 0], 16), 16),
];

/// What a cluster and its surroundings are made of.
const PRIVATE: [IpNet; 5] = [
    IpNet::V4(v4(10, 0, 0, 0, 8)),
    IpNet::V4(v4(100, 64, 0, 0, 10)),
    IpNet::V4(v4(172, 16, 0, 0, 12)),
    IpNet::V4(v4(192, 168, 0, 0, 16)),
    IpNet::V6(v6([0xfc00, 0, 0, 0, 0, 0, 0, 0], 7)),
];
/// Where clouds tell a machine its secrets, as far as it is not link-local: Alibaba, Azure, Oracle; AWS and Google by IPv6.
const METADATA_V4: [Ipv4Addr; 3] =
    [Ipv4Addr::new(100, 100, 100, 200), Ipv4Addr::new(168, 63, 129, 16), Ipv4Addr::new(192, 0, 0, 192)];
const METADATA_V6: [Ipv6Addr; 2] =
    [Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254), Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254)];

const fn v4(a: u8, b: u8, c: u8, d: u8, length: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), length)
}

const fn v6(s: [u16; 8], length: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(s[0], s[1], s[2], s[3], s[4], s[5], s[6], s[7]), length)
}

/// Whether this is an address of a public server, and no cloud's metadata service.
pub fn is_public(address: IpAddr) -> bool {
    is_allowed(address, &[]) && !is_metadata(address)
}

/// Whether this is public, or private as in a cluster: not this machine, its link, or a cloud's metadata service.
pub fn is_public_or_private(address: IpAddr) -> bool {
    is_allowed(address, &PRIVATE) && !is_metadata(address)
}

fn is_metadata(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => METADATA_V4.contains(&address),
        IpAddr::V6(address) => {
            METADATA_V6.contains(&address) || embedded(address).is_some_and(|address| METADATA_V4.contains(&address))
        }
    }
}

/// Whether a request may go to this address, when these ranges are granted beside all public ones.
pub fn is_allowed(address: IpAddr, granted: &[IpNet]) -> bool {
    let embedded = match address {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => embedded(address),
    };
    let never = address.is_loopback()
        || address.is_unspecified()
        || embedded.is_some_and(|address| NEVER_V4.iter().any(|range| range.contains(&address)));
    let is_granted = |address: IpAddr| granted.iter().any(|range| range.contains(&address));
    !never
        && (is_granted(address)
            || embedded.is_some_and(|address| is_granted(address.into()))
            || !is_special(address, embedded))
}

fn is_special(address: IpAddr, embedded: Option<Ipv4Addr>) -> bool {
    match (address, embedded) {
        (_, Some(address)) => SPECIAL_V4.iter().any(|range| range.contains(&address)),
        (IpAddr::V6(address), None) => {
            !PUBLIC_V6.contains(&address) || SPECIAL_V6.iter().any(|range| range.contains(&address))
        }
        (IpAddr::V4(_), None) => true,
    }
}

/// The address of IPv4 that an address of IPv6 stands for.
fn embedded(address: Ipv6Addr) -> Option<Ipv4Addr> {
    let (_, start) = EMBEDDING.iter().find(|(range, _)| range.contains(&address))?;
    Some(Ipv4Addr::from_bits((address.to_bits() >> (96 - start)) as u32))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn allowed(address: &str, granted: &[&str]) -> bool {
        let granted: Vec<IpNet> = granted.iter().map(|range| range.parse().expect("a range")).collect();
        is_allowed(address.parse().expect("an address"), &granted)
    }

    #[test]
    fn public_addresses_only() {
        for address in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.0",
            "172.15.255.255",
            "172.32.0.0",
            "192.167.255.255",
            "223.255.255.255",
            "2606:4700::1111",
            "2a00:1450::1",
            "2001:200::1",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:101:101::1",
        ] {
            assert!(allowed(address, &[]), "{address}");
        }
        for address in [
            "0.0.0.0",
            "0.1.2.3",
            "10.0.0.1",
            "100.64.0.1",
            "127.0.0.1",
            "127.255.255.254",
            "169.254.169.254",
            "172.16.0.1",
            "172.31.255.255",
            "192.0.0.1",
            "192.0.2.1",
            "192.88.99.1",
            "192.168.1.1",
            "198.18.0.1",
            "198.51.100.1",
            "203.0.113.1",
            "224.0.0.1",
            "239.255.255.255",
            "240.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "::10.0.0.1",
            "::ffff:127.0.0.1",
            "::ffff:10.0.0.1",
            "::ffff:169.254.169.254",
            "::ffff:0:10.0.0.1",
            "64:ff9b::10.0.0.1",
            "64:ff9b::127.0.0.1",
            "64:ff9b:1::1.1.1.1",
            "2002:a00:1::1",
            "2002:7f00:1::",
            "2001::1",
            "2001:db8::1",
            "3fff::1",
            "fc00::1",
            "fd00:ec2::254",
            "fe80::1",
            "fec0::1",
            "ff02::1",
            "100::1",
            "5f00::1",
        ] {
            assert!(!allowed(address, &[]), "{address}");
        }
    }

    #[test]
    fn a_granted_range_is_reached_and_nothing_beside_it() {
        for (address, granted, want) in [
            ("10.96.0.10", &["10.96.0.0/12"][..], true),
            ("::ffff:10.96.0.10", &["10.96.0.0/12"], true),
            ("64:ff9b::10.96.0.10", &["10.96.0.0/12"], true),
            ("64:ff9b::10.96.0.10", &["64:ff9b::/96"], true),
            ("10.95.0.10", &["10.96.0.0/16"], false),
            ("192.168.0.1", &["10.96.0.0/12"], false),
            ("169.254.169.254", &["169.254.169.254/32"], true),
            ("fd00::5", &["fd00::/8"], true),
            ("fe80::5", &["fd00::/8"], false),
            ("127.0.0.1", &["127.0.0.0/8", "0.0.0.0/0"], false),
            ("0.0.0.0", &["0.0.0.0/0"], false),
            ("::1", &["::/0"], false),
            ("::", &["::/0"], false),
            ("::ffff:127.0.0.1", &["::/0", "0.0.0.0/0"], false),
            ("2002:7f00:1::1", &["::/0"], false),
            ("1.1.1.1", &["10.0.0.0/8"], true),
        ] {
            assert_eq!(allowed(address, granted), want, "{address} with {granted:?}");
        }
    }

    #[test]
    fn private_addresses_are_where_a_cluster_is_and_no_metadata() {
        for (address, public, private) in [
            ("1.1.1.1", true, true),
            ("10.96.0.10", false, true),
            ("192.168.0.1", false, true),
            ("fd00::5", false, true),
            ("::ffff:10.0.0.1", false, true),
            ("127.0.0.1", false, false),
            ("::1", false, false),
            ("0.0.0.0", false, false),
            ("169.254.169.254", false, false),
            ("fe80::1", false, false),
            ("100.100.100.200", false, false),
            ("168.63.129.16", false, false),
            ("::ffff:168.63.129.16", false, false),
            ("fd00:ec2::254", false, false),
            ("224.0.0.1", false, false),
        ] {
            let address: IpAddr = address.parse().expect("an address");
            assert_eq!((is_public(address), is_public_or_private(address)), (public, private), "{address}");
        }
    }

    proptest! {
        #[test]
        fn an_address_in_disguise_is_the_same_address(bits: u32) {
            let plain = Ipv4Addr::from_bits(bits);
            let [a, b, c, d] = plain.octets().map(u16::from);
            let (high, low) = (a << 8 | b, c << 8 | d);
            for disguise in [
                Ipv6Addr::new(0, 0, 0, 0, 0, 0xffff, high, low),
                Ipv6Addr::new(0, 0, 0, 0, 0xffff, 0, high, low),
                Ipv6Addr::new(0x64, 0xff9b, 0, 0, 0, 0, high, low),
                Ipv6Addr::new(0x2002, high, low, 1, 2, 3, 4, 5),
            ] {
                prop_assert_eq!(is_allowed(disguise.into(), &[]), is_allowed(plain.into(), &[]), "{}", disguise);
            }
        }
    }
}
