//! Whether an IP address is one of the public internet.
//!
//! In: an address. Out: nothing when it is globally routable, otherwise what it is instead. Only what is
//! known to be routable passes: in IPv6 that is `2000::/3` without its special blocks, so that every form
//! that carries an IPv4 address (mapped, NAT64, 6to4, Teredo, ISATAP) is refused whatever it carries.
//!
//! Blocks: IANA IPv4 and IPv6 Special-Purpose Address Registries (RFC 6890 and those that followed).
//! Blocks which the registries call reachable but where nobody's web server is (AS112, AMT relays) are
//! refused too.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What the address is, when it is none of the public internet.
pub fn special(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(address) => special_v4(address),
        IpAddr::V6(address) => special_v6(address),
    }
}

fn special_v4(address: Ipv4Addr) -> Option<&'static str> {
    Some(match address.octets() {
        [0, ..] => "this machine",
        [127, ..] => "loopback",
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => "private",
        [100, 64..=127, ..] => "behind a carrier's NAT",
        [169, 254, ..] => "link-local, where clouds keep metadata",
        // Azure answers its machines from a public address.
        [168, 63, 129, 16] => "the cloud's own service",
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => "for documentation",
        [192, 0, 0, _] => "for protocols",
        [192, 31, 196, _] | [192, 175, 48, _] => "a sink of DNS",
        [192, 52, 193, _] | [192, 88, 99, _] => "a relay",
        [198, 18..=19, ..] => "for benchmarks",
        [224..=239, ..] => "multicast",
        [240..=255, ..] => "reserved",
        _ => return None,
    })
}

fn special_v6(address: Ipv6Addr) -> Option<&'static str> {
    Some(match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => "this machine",
        [0, 0, 0, 0, 0, 0, 0, 1] => "loopback",
        [0, 0, 0, 0, 0, 0 | 0xffff, _, _] => "an IPv4 address in IPv6",
        [0x64, 0xff9b, ..] => "translated to IPv4",
        [0xfc00..=0xfdff, ..] => "private",
        [0xfe80..=0xfebf, ..] => "link-local",
        [0xfec0..=0xfeff, ..] => "site-local",
        [0xff00..=0xffff, ..] => "multicast",
        [0x0000..=0x1fff | 0x4000..=0xffff, ..] => "not routed",
        [0x2001, 0x0000, ..] => "a Teredo tunnel",
        [0x2001, 0x0001..=0x01ff, ..] => "for protocols",
        [0x2001, 0x0db8, ..] | [0x3fff, 0x0000..=0x0fff, ..] => "for documentation",
        [0x2002, ..] => "a 6to4 tunnel",
        [0x2620, 0x004f, 0x8000, ..] => "a sink of DNS",
        [0x3ffe, ..] => "not routed any more",
        // RFC 5214 §6.1: the last half of a tunnel's address names the IPv4 address it goes to.
        [_, _, _, _, 0x0000 | 0x0200, 0x5efe, _, _] => "an ISATAP tunnel",
        _ => return None,
    })
}
