//! Ports on the loopback address: a free one, and whether a wished one is taken.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

use anyhow::{Context, Result};

/// A port that nobody listens on at this moment. Somebody else may take it before you do, so a
/// server that is started on it must be ready to try another.
pub fn free() -> Result<u16> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no free port on 127.0.0.1")?;
    Ok(listener.local_addr()?.port())
}

/// Whether somebody listens on this port of a loopback address. IPv6 counts: a browser that is
/// told `localhost` tries that first.
pub fn taken(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok()
        || TcpStream::connect((Ipv6Addr::LOCALHOST, port)).is_ok()
        || TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_is_taken_while_somebody_listens() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        assert!(taken(port));
        drop(listener);
        assert!(!taken(port));
    }
}
