//! The judgement of addresses against a second source: the registries, as blocks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::LazyLock;

use daemon::actions::address::special;
use daemon::actions::guard::{Guard, Refusal};
use ipnet::IpNet;
use proptest::prelude::*;
use proptest::sample::{Index, select};

static BLOCKS: LazyLock<Vec<IpNet>> = LazyLock::new(|| {
    include_str!("special_addresses.txt")
        .lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| line.split('\t').next().unwrap().parse().unwrap())
        .collect()
});

/// The oracle: whether a webhook may connect there.
fn global(address: IpAddr) -> bool {
    let tunnel = match address {
        IpAddr::V4(_) => false,
        // ISATAP: `00-00-5E-FE` or `02-00-5E-FE` and the IPv4 address.
        IpAddr::V6(address) => (address.to_bits() >> 32) & 0xfdff_ffff == 0x0000_5efe,
    };
    !tunnel && !BLOCKS.iter().any(|block| block.contains(&address))
}

fn judged(address: IpAddr) {
    assert_eq!(special(address).is_none(), global(address), "{address}");
}

/// The first and the last of each block, and those beside them.
#[test]
fn every_block_ends_where_the_registries_say() {
    for block in BLOCKS.iter() {
        for edge in [block.network(), block.broadcast()] {
            assert!(special(edge).is_some(), "{edge} of {block}");
            match edge {
                IpAddr::V4(address) => {
                    let bits = address.to_bits();
                    for near in [bits.wrapping_sub(1), bits, bits.wrapping_add(1)] {
                        judged(Ipv4Addr::from_bits(near).into());
                    }
                }
                IpAddr::V6(address) => {
                    let bits = address.to_bits();
                    for near in [bits.wrapping_sub(1), bits, bits.wrapping_add(1)] {
                        judged(Ipv6Addr::from_bits(near).into());
                    }
                }
            }
        }
    }
}

#[test]
fn the_public_internet_is_reachable() {
    for address in [
        "1.1.1.1",
        "8.8.8.8",
        "93.184.215.14",
        "100.63.255.255",
        "100.128.0.0",
        "168.63.129.17",
        "172.15.255.255",
        "172.32.0.0",
        "192.0.1.1",
        "198.17.255.255",
        "198.20.0.0",
        "223.255.255.255",
        "2606:4700:4700::1111",
        "2001:4860:4860::8888",
        "2a00:1450:4001:82a::200e",
        "2001:200::1",
        "2400:cb00::1",
    ] {
        assert_eq!(special(address.parse().unwrap()), None, "{address}");
    }
}

/// Every way in which the parsers of this world write an IPv4 address.
fn written(address: Ipv4Addr, form: usize) -> String {
    let bits = address.to_bits();
    let [a, b, c, d] = address.octets();
    let low = bits & 0xff_ffff;
    let wide = |text: &str| -> String {
        text.chars()
            .map(|c| match c {
                '0'..='9' => char::from_u32('０' as u32 + (c as u32 - '0' as u32)).unwrap(),
                '.' => '。',
                c => c,
            })
            .collect()
    };
    match form {
        0 => address.to_string(),
        1 => bits.to_string(),
        2 => format!("{bits:#x}"),
        3 => format!("0{bits:o}"),
        4 => format!("{a:#x}.{b:#x}.{c:#x}.{d:#x}"),
        5 => format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        6 => format!("{a}.{low}"),
        7 => format!("{a}.{b}.{}", u16::from_be_bytes([c, d])),
        8 => format!("{a:#X}.0{b:o}.{}", u16::from_be_bytes([c, d])),
        9 => format!("{address}."),
        10 => wide(&address.to_string()),
        11 => address.to_string().replace('.', "%2e"),
        12 => address
            .to_string()
            .bytes()
            .flat_map(|byte| ['%'.to_string(), format!("{byte:02x}")])
            .collect(),
        13 => format!("[::ffff:{address}]"),
        14 => format!("[::{address}]"),
        15 => format!("[64:ff9b::{address}]"),
        16 => format!("[2002:{:x}:{:x}::1]", bits >> 16, bits & 0xffff),
        17 => format!("[2001:0:5ef5:79fb::{:x}:{:x}]", !bits >> 16, !bits & 0xffff),
        18 => format!("[2001:470:1:2:0:5efe:{:x}:{:x}]", bits >> 16, bits & 0xffff),
        19 => format!("[::FFFF:{:x}:{:x}]", bits >> 16, bits & 0xffff),
        20 => format!("{bits:#x}."),
        _ => format!("000{a:o}.{b}.{c}.{d}"),
    }
}

fn inside(block: &IpNet, at: u128) -> IpAddr {
    match block {
        IpNet::V4(block) => {
            let low = u32::try_from(at & u128::from(u32::MAX)).expect("32 bits");
            let host = low & !u32::from(block.netmask());
            Ipv4Addr::from_bits(u32::from(block.network()) | host).into()
        }
        IpNet::V6(block) => {
            let host = at & !u128::from(block.netmask());
            Ipv6Addr::from_bits(u128::from(block.network()) | host).into()
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(20_000) })]

    #[test]
    fn any_address_is_judged_as_the_registries_do(v4: u32, v6: u128, high in select(vec![0x2000_u16, 0x2001, 0x2002, 0x2600, 0x2620, 0x2a00, 0x3ffe, 0x3fff])) {
        judged(Ipv4Addr::from_bits(v4).into());
        judged(Ipv6Addr::from_bits(v6).into());
        judged(Ipv6Addr::from_bits((v6 & (u128::MAX >> 16)) | u128::from(high) << 112).into());
    }

    #[test]
    fn whatever_is_in_a_block_is_refused(block: Index, at: u128) {
        let address = inside(block.get(&BLOCKS), at);
        prop_assert!(special(address).is_some(), "{}", address);
    }

    /// However an address that is not public is written, no webhook goes there, even where every name and
    /// port of the world is allowed.
    #[test]
    fn no_way_of_writing_gets_past(block: Index, at: u128, form in 0..22_usize, tail in select(vec!["", "/", "/x?y", "?y", ":443/", ":443"])) {
        let v4: Vec<_> = BLOCKS.iter().filter(|block| matches!(block, IpNet::V4(_))).copied().collect();
        let IpAddr::V4(address) = inside(block.get(&v4), at) else { unreachable!() };
        let guard: Guard = "*, 8.8.8.8, *.com".parse().unwrap();
        let text = format!("https://{}{tail}", written(address, form));
        match guard.check(&text) {
            Ok(target) => prop_assert!(false, "{} goes to {}", text, target.origin()),
            Err(refusal) => prop_assert!(
                matches!(refusal, Refusal::Address { .. } | Refusal::Unreadable | Refusal::LocalName),
                "{} is refused as {:?} only", text, refusal
            ),
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3_000) })]

    /// Any text: no panic, and what is allowed is https to an allowed host.
    #[test]
    fn any_text_is_judged(text in "\\PC{0,40}", host in "[a-zA-Z0-9.:@%\\[\\]/\\\\#?-]{0,30}") {
        let guard: Guard = "hooks.example.com".parse().unwrap();
        for text in [text.clone(), format!("https://{text}"), format!("https://{host}"), format!("https://hooks.example.com{host}")] {
            if let Ok(target) = guard.check(&text) {
                prop_assert_eq!(target.origin(), "https://hooks.example.com", "{}", text);
            }
        }
    }
}
