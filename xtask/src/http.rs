//! Just enough HTTP to ask a local server whether it is there.

use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::{Context, Result};

/// How long one answer may take.
const LIMIT: Duration = Duration::from_secs(5);
/// How much of an answer is read.
const SIZE: u64 = 64 * 1024;

/// `GET http://127.0.0.1:PORT/PATH`: the status code and the rest as it came.
pub fn get(port: u16, path: &str) -> Result<(u16, String)> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let mut stream = TcpStream::connect_timeout(&address, LIMIT)?;
    stream.set_read_timeout(Some(LIMIT))?;
    stream.set_write_timeout(Some(LIMIT))?;
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: localhost:{port}\r\nConnection: close\r\n\r\n"
    )?;
    let mut bytes = Vec::new();
    stream.take(SIZE).read_to_end(&mut bytes)?;
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let status = text
        .split(' ')
        .nth(1)
        .and_then(|code| code.parse().ok())
        .with_context(|| format!("port {port} does not speak HTTP"))?;
    Ok((status, text))
}

#[cfg(test)]
mod tests {
    use std::{io::Read, net::TcpListener, thread};

    use super::*;

    #[test]
    fn reads_the_status_and_refuses_what_is_no_http() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let port = listener.local_addr().unwrap().port();
        let server = thread::spawn(move || {
            for answer in ["HTTP/1.1 503 Service Unavailable\r\n\r\nwhy", "hello\n"] {
                let (mut stream, _) = listener.accept().unwrap();
                // All of it: to close on unread bytes resets the connection.
                let mut request = Vec::new();
                while !request.ends_with(b"\r\n\r\n") {
                    let mut more = [0; 1024];
                    let length = stream.read(&mut more).unwrap();
                    request.extend_from_slice(&more[..length]);
                }
                stream.write_all(answer.as_bytes()).unwrap();
            }
        });
        let (status, text) = get(port, "/health").unwrap();
        assert_eq!(status, 503);
        assert!(text.ends_with("why"));
        assert!(get(port, "/").is_err());
        server.join().unwrap();
    }
}
