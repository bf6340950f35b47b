//! Which addresses a webhook may name.
//!
//! In: the operator's list (`WEBHOOK_ALLOW`), and the text of an address. Out: a [`Target`], or a
//! [`Refusal`]. Everything is decided on the parsed address, which is also the only thing that is used
//! afterwards: no second parser can see another host in the text. What names have for IP addresses is
//! looked at later, in [`super::webhook`]; a host that is an IP address is judged here already.

use std::net::IpAddr;
use std::str::FromStr;

use url::{Host, Url};

use super::address::special;

/// A longer one is no address that anybody needs.
const LONGEST: usize = 2048;
/// Names that are answered, if at all, by the network around this machine (RFC 6761, 6762, 7686, 8375,
/// ICANN's reservations), never by the public DNS.
const LOCAL: [&str; 12] = [
    "localhost",
    "localdomain",
    "local",
    "internal",
    "intranet",
    "private",
    "corp",
    "home",
    "lan",
    "home.arpa",
    "onion",
    "invalid",
];

/// Why a webhook may not go somewhere. Its text is for the operator; who writes rules is shown
/// [`Refusal::reason`] only.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No parser makes an address of it.
    #[error("this is no address: use https://host/path")]
    Unreadable,
    /// Longer than 2,048 bytes.
    #[error("the address is longer than {LONGEST} bytes")]
    TooLong,
    /// Something that other programs may read differently.
    #[error("the address has a blank, a backslash or a control character")]
    Characters,
    /// Not https.
    #[error("only https:// is allowed")]
    Scheme,
    /// A user or a password before the host.
    #[error("the address holds a user or a password")]
    Login,
    /// `#…`
    #[error("the address has a fragment (#…), which is never sent")]
    Fragment,
    /// A name of the network around this machine.
    #[error("the host is a name of a private network")]
    LocalName,
    /// An IP address that is not public, written out or what the name stands for.
    #[error("the host stands for {address}, which is {what}, not public")]
    Address {
        /// One of those that are not public.
        address: IpAddr,
        /// What it is instead.
        what: &'static str,
    },
    /// The host is allowed on another port.
    #[error("port {0} is not allowed there: name it in WEBHOOK_ALLOW as host:{0}")]
    Port(u16),
    /// Not on the list.
    #[error("the host is not in WEBHOOK_ALLOW")]
    NotAllowed,
    /// There is no list.
    #[error("no host is allowed: WEBHOOK_ALLOW is not set")]
    NothingAllowed,
    /// The name exists nowhere.
    #[error("the host has no address")]
    NoAddress,
}

impl Refusal {
    /// The same in one word, which says nothing about the network around this machine.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Unreadable => "unreadable",
            Self::TooLong => "too_long",
            Self::Characters => "characters",
            Self::Scheme => "scheme",
            Self::Login => "login",
            Self::Fragment => "fragment",
            Self::LocalName => "local_name",
            Self::Address { .. } => "address",
            Self::Port(_) => "port",
            Self::NotAllowed | Self::NothingAllowed => "not_allowed",
            Self::NoAddress => "no_address",
        }
    }
}

/// Where a webhook may go, as far as the text of its address tells.
#[derive(Clone, Debug)]
pub struct Target {
    pub(super) url: Url,
    pub(super) host: Host<String>,
    pub(super) port: u16,
}

impl Target {
    /// Scheme, host and port: what may be shown.
    pub fn origin(&self) -> String {
        self.url.origin().ascii_serialization()
    }

    /// `Host`, as it is sent.
    pub(super) fn authority(&self) -> String {
        match self.port {
            443 => self.host.to_string(),
            port => format!("{}:{port}", self.host),
        }
    }
}

/// The operator's list.
#[derive(Clone, Debug, Default)]
pub struct Guard {
    allowed: Vec<Allowed>,
}

#[derive(Clone, Debug)]
struct Allowed {
    hosts: Hosts,
    port: u16,
}

#[derive(Clone, Debug)]
enum Hosts {
    /// Every name.
    All,
    /// What is below this name.
    Below(String),
    This(Host<String>),
}

impl Hosts {
    fn have(&self, host: &Host<String>) -> bool {
        match (self, host) {
            (Self::All, Host::Domain(_)) => true,
            (Self::Below(parent), Host::Domain(name)) => name
                .strip_suffix(parent.as_str())
                .is_some_and(|rest| rest.len() > 1 && rest.ends_with('.')),
            (Self::This(this), host) => this == host,
            (Self::All | Self::Below(_), _) => false,
        }
    }
}

impl FromStr for Guard {
    type Err = String;

    /// Reads the list; an entry that could never match, or that says something else than a host and a
    /// port, is refused.
    fn from_str(list: &str) -> Result<Self, String> {
        let allowed = list
            .split(',')
            .map(str::trim)
            .filter(|entry| !entry.is_empty())
            .map(|entry| Allowed::read(entry).map_err(|why| format!("{entry}: {why}")))
            .collect::<Result<_, _>>()?;
        Ok(Self { allowed })
    }
}

impl Allowed {
    fn read(entry: &str) -> Result<Self, String> {
        if entry.contains("://") {
            return Err("name the host only, without https://".into());
        }
        if entry.contains(['/', '?', '#', '@', '\\', '%']) || entry.contains(char::is_whitespace) {
            return Err("is more than a host and a port".into());
        }
        let (below, rest) = match entry.strip_prefix("*.") {
            Some(rest) => (true, rest),
            None => (false, entry),
        };
        let (all, rest) = match rest.strip_prefix('*') {
            // Any name does, for the port.
            Some(port) if !below && (port.is_empty() || port.starts_with(':')) => {
                (true, format!("example.com{port}"))
            }
            _ => (false, rest.to_owned()),
        };
        if rest.contains('*') {
            return Err("a * stands alone or for what is below a name: *.example.com".into());
        }
        let url = Url::parse(&format!("https://{rest}/")).map_err(|error| error.to_string())?;
        let port = url.port_or_known_default().unwrap_or(443);
        let host = url.host().ok_or("names no host")?.to_owned();
        let hosts = match host {
            _ if all => Hosts::All,
            Host::Domain(name) => {
                // `*.com` is wide, but a name; alone it is none.
                if local(&name) && !(below && !name.contains('.') && !LOCAL.contains(&&*name)) {
                    return Err("is a name of a private network, which no webhook reaches".into());
                }
                if below {
                    Hosts::Below(name)
                } else {
                    Hosts::This(Host::Domain(name))
                }
            }
            _ if below => return Err("nothing is below an IP address".into()),
            host => match literal(&host).and_then(special) {
                Some(what) => return Err(format!("is {what}, which no webhook reaches")),
                None => Hosts::This(host),
            },
        };
        Ok(Self { hosts, port })
    }
}

impl Guard {
    /// Looks at the text of an address.
    ///
    /// # Errors
    /// Why no webhook may go there.
    pub fn check(&self, text: &str) -> Result<Target, Refusal> {
        if text.len() > LONGEST {
            return Err(Refusal::TooLong);
        }
        // A parser for browsers takes these away, or takes a backslash for a slash; others do not.
        if text.contains(|c: char| c == '\\' || c.is_whitespace() || c.is_control()) {
            return Err(Refusal::Characters);
        }
        let url = Url::parse(text).map_err(|_| Refusal::Unreadable)?;
        if url.scheme() != "https" {
            return Err(Refusal::Scheme);
        }
        // It also puts slashes in that are missing, and takes away those that are too many.
        let rest = match text.split_at_checked("https://".len()) {
            Some((start, rest)) if start.eq_ignore_ascii_case("https://") => rest,
            _ => return Err(Refusal::Unreadable),
        };
        let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
        if authority.is_empty() {
            return Err(Refusal::Unreadable);
        }
        // An empty user is one too.
        if authority.contains('@') || !url.username().is_empty() || url.password().is_some() {
            return Err(Refusal::Login);
        }
        if url.fragment().is_some() {
            return Err(Refusal::Fragment);
        }
        let host = url.host().ok_or(Refusal::Unreadable)?.to_owned();
        let port = url.port_or_known_default().unwrap_or(443);
        match &host {
            Host::Domain(name) if local(name) => return Err(Refusal::LocalName),
            Host::Domain(_) => {}
            host => {
                if let Some(address) = literal(host)
                    && let Some(what) = special(address)
                {
                    return Err(Refusal::Address { address, what });
                }
            }
        }
        let mut elsewhere = false;
        for allowed in &self.allowed {
            if allowed.hosts.have(&host) {
                if allowed.port == port {
                    return Ok(Target { url, host, port });
                }
                elsewhere = true;
            }
        }
        Err(match elsewhere {
            true => Refusal::Port(port),
            false if self.allowed.is_empty() => Refusal::NothingAllowed,
            false => Refusal::NotAllowed,
        })
    }
}

/// The host, where it is an IP address.
pub(super) fn literal(host: &Host<String>) -> Option<IpAddr> {
    match host {
        Host::Domain(_) => None,
        Host::Ipv4(address) => Some((*address).into()),
        Host::Ipv6(address) => Some((*address).into()),
    }
}

/// Whether the public DNS has no such name. One with a dot at its end is refused as well: it is the same
/// as without for DNS, and another one for certificates and lists.
fn local(name: &str) -> bool {
    let below = |parent: &str| {
        name.strip_suffix(parent)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
    };
    !name.contains('.') || name.ends_with('.') || LOCAL.iter().any(|parent| below(parent))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(list: &str, url: &str) -> &'static str {
        let guard: Guard = list.parse().unwrap();
        match guard.check(url) {
            Ok(_) => "ok",
            Err(refusal) => refusal.reason(),
        }
    }

    #[test]
    fn nothing_is_allowed_without_a_list() {
        for list in ["", " ", ",", " , "] {
            let guard: Guard = list.parse().unwrap();
            let refusal = guard.check("https://hooks.example.com/").unwrap_err();
            assert_eq!(refusal, Refusal::NothingAllowed);
            assert!(refusal.to_string().contains("WEBHOOK_ALLOW"));
        }
    }

    #[test]
    fn an_entry_means_what_it_says() {
        for (list, url, verdict) in [
            ("hooks.example.com", "https://hooks.example.com/x?y=z", "ok"),
            ("Hooks.Example.COM", "https://hooks.example.com", "ok"),
            ("hooks.example.com", "https://HOOKS.example.com:443/", "ok"),
            (
                "hooks.example.com",
                "https://hooks.example.com:8443/",
                "port",
            ),
            (
                "hooks.example.com:8443",
                "https://hooks.example.com:8443/",
                "ok",
            ),
            (
                "hooks.example.com:8443",
                "https://hooks.example.com/",
                "port",
            ),
            (
                "a.example.com, a.example.com:1",
                "https://a.example.com:1/",
                "ok",
            ),
            ("hooks.example.com", "https://example.com/", "not_allowed"),
            (
                "hooks.example.com",
                "https://x.hooks.example.com/",
                "not_allowed",
            ),
            ("*.example.com", "https://a.example.com/", "ok"),
            ("*.example.com", "https://a.b.example.com/", "ok"),
            ("*.example.com", "https://example.com/", "not_allowed"),
            ("*.example.com", "https://badexample.com/", "not_allowed"),
            (
                "*.example.com",
                "https://example.com.evil.net/",
                "not_allowed",
            ),
            ("*.com", "https://example.com/", "ok"),
            ("*", "https://anything.net/", "ok"),
            ("*", "https://anything.net:8443/", "port"),
            ("*:8443", "https://anything.net:8443/", "ok"),
            ("*", "https://8.8.8.8/", "not_allowed"),
            ("8.8.8.8", "https://8.8.8.8/", "ok"),
            ("[2606:4700::1111]", "https://[2606:4700::1111]/", "ok"),
            ("bücher.example", "https://xn--bcher-kva.example/", "ok"),
        ] {
            assert_eq!(reason(list, url), verdict, "{list} {url}");
        }
    }

    #[test]
    fn an_entry_that_cannot_work_is_refused_by_name() {
        for entry in [
            "https://hooks.example.com",
            "hooks.example.com/path",
            "user@hooks.example.com",
            "hooks.*.com",
            "*example.com",
            "*.*",
            "**",
            "*.",
            "hooks.example.com:https",
            "hooks.example.com:70000",
            "localhost",
            "redis",
            "*.internal",
            "*.localhost",
            "db.internal",
            "hooks.example.com.",
            "127.0.0.1",
            "10.0.0.1",
            "0x7f.1",
            "[::1]",
            "*.8.8.8.8",
            "a b.com",
            ":443",
        ] {
            let refused = format!("ok.example.com,{entry}").parse::<Guard>();
            let why = refused.expect_err(entry);
            assert!(why.starts_with(&format!("{entry}: ")), "{why}");
        }
    }

    #[test]
    fn refusals_tell_rules_nothing_about_the_network() {
        let guard: Guard = "*".parse().unwrap();
        let refusal = guard.check("https://10.1.2.3/").unwrap_err();
        assert!(refusal.to_string().contains("10.1.2.3, which is private"));
        assert_eq!(refusal.reason(), "address");
        assert_eq!(
            guard
                .check(&format!("https://a.com/{}", "x".repeat(LONGEST)))
                .unwrap_err(),
            Refusal::TooLong
        );
    }
}
