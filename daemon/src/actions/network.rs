//! The two things that a webhook asks of the network: the addresses of a name, and a connection to one.
//!
//! In: a name, an address. Out: all that DNS says now, a socket. Nothing is cached: a name is looked up
//! anew for each try, with the resolver of `/etc/resolv.conf` (and `/etc/hosts`), without its search
//! domains. It is a trait so that a test can be the internet; nothing that decides is behind it.

use std::io;
use std::net::{IpAddr, SocketAddr};

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{
    ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig,
};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use tokio::net::TcpStream;

/// The internet, or what a test has for it.
pub trait Network: Send + Sync {
    /// Every address of a name, of both families; none when there is no such name.
    fn look_up(&self, name: &str) -> impl Future<Output = io::Result<Vec<IpAddr>>> + Send;
    /// A connection to this address and no other.
    fn connect(&self, address: SocketAddr) -> impl Future<Output = io::Result<TcpStream>> + Send;
}

/// The real one.
#[derive(Clone, Copy, Debug, Default)]
pub struct Internet {
    nameserver: Option<SocketAddr>,
}

impl Internet {
    /// With this server for names instead of the system's.
    pub fn asking(nameserver: SocketAddr) -> Self {
        Self {
            nameserver: Some(nameserver),
        }
    }

    fn resolver(self) -> io::Result<TokioResolver> {
        let mut builder = match self.nameserver {
            None => TokioResolver::builder_tokio().map_err(io::Error::other)?,
            Some(address) => {
                let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
                for connection in &mut connections {
                    connection.port = address.port();
                }
                let server = NameServerConfig::new(address.ip(), true, connections);
                let config = ResolverConfig::from_name_servers(vec![server]);
                TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            }
        };
        let options = builder.options_mut();
        options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        options.cache_size = 0;
        builder.build().map_err(io::Error::other)
    }
}

impl Network for Internet {
    async fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        // With the dot at its end it is never tried below a search domain.
        match self.resolver()?.lookup_ip(format!("{name}.")).await {
            Ok(found) => Ok(found.iter().collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        TcpStream::connect(address).await
    }
}
