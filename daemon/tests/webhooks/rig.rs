//! A small internet on loopback: DNS with a script, one public server with a script, and honeypots where
//! nobody may ever come.
//!
//! The public server has a public address as far as the guard sees; only the connection, made after
//! everything was decided, is led to loopback. Every other address is connected to for real when it is
//! loopback, so a guard that fails is heard by the honeypots, and noted in any case.

use std::collections::HashMap;
use std::future::pending;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use daemon::actions::network::{Internet, Network};
use daemon::actions::webhook::{Answer, Failure, Webhooks};
use hickory_resolver::proto::op::{Message, ResponseCode};
use hickory_resolver::proto::rr::rdata::{A, AAAA, CNAME};
use hickory_resolver::proto::rr::{Name, RData, Record, RecordType};
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::PrivateKeyDer;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio_rustls::TlsAcceptor;

/// The addresses of the public server. They are nobody's here: no packet leaves this machine.
pub(crate) const PUBLIC: IpAddr = IpAddr::V4(Ipv4Addr::new(93, 184, 215, 14));
pub(crate) const PUBLIC_TOO: IpAddr = IpAddr::V4(Ipv4Addr::new(151, 101, 1, 69));

/// What DNS says of a name: for each question the next line, and then the last one again.
#[derive(Clone, Debug)]
pub(crate) enum Says {
    Addresses(Vec<IpAddr>),
    Alias(String),
    Nothing,
    Silence,
}

type Script = dyn Fn(&str, RecordType, usize) -> Says + Send + Sync;

/// What the public server does with a request.
pub(crate) type Reply = Arc<dyn Fn(&str) -> Vec<u8> + Send + Sync>;

pub(crate) struct World {
    /// Where honeypots listen, on 127.0.0.1 and on `::1` where there is one.
    pub(crate) port: u16,
    connected: Arc<Mutex<Vec<SocketAddr>>>,
    requests: Arc<Mutex<Vec<String>>>,
    questions: Arc<Mutex<Vec<(String, RecordType)>>>,
    caught: Arc<AtomicUsize>,
    nameserver: SocketAddr,
    server: SocketAddr,
    trust: ClientConfig,
}

/// The way out of a webhook, led back.
pub(crate) struct Wire {
    internet: Internet,
    server: SocketAddr,
    connected: Arc<Mutex<Vec<SocketAddr>>>,
}

impl Network for Wire {
    async fn look_up(&self, name: &str) -> io::Result<Vec<IpAddr>> {
        self.internet.look_up(name).await
    }

    async fn connect(&self, address: SocketAddr) -> io::Result<TcpStream> {
        self.connected.lock().unwrap().push(address);
        if [PUBLIC, PUBLIC_TOO].contains(&address.ip()) {
            self.internet.connect(self.server).await
        } else if address.ip().is_loopback() {
            self.internet.connect(address).await
        } else {
            Err(io::ErrorKind::HostUnreachable.into())
        }
    }
}

impl World {
    pub(crate) async fn new(
        names: impl Fn(&str, RecordType, usize) -> Says + Send + Sync + 'static,
        reply: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static,
    ) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let caught = Arc::new(AtomicUsize::new(0));
        let (port, honeypots) = honeypots().await;
        for honeypot in honeypots {
            let caught = caught.clone();
            tokio::spawn(async move {
                while let Ok((socket, _)) = honeypot.accept().await {
                    caught.fetch_add(1, Ordering::SeqCst);
                    drop(socket);
                }
            });
        }
        let questions = Arc::default();
        let nameserver = dns(Arc::new(names), Arc::clone(&questions)).await;
        let requests = Arc::default();
        let (server, trust) = serve(Arc::new(reply), Arc::clone(&requests)).await;
        Self {
            port,
            connected: Arc::default(),
            requests,
            questions,
            caught,
            nameserver,
            server,
            trust,
        }
    }

    pub(crate) fn webhooks(&self, allow: &str) -> Webhooks<Wire> {
        self.webhooks_to(self, allow)
    }

    /// Trusting this world's server, and led to another's.
    pub(crate) fn webhooks_to(&self, other: &Self, allow: &str) -> Webhooks<Wire> {
        let wire = Wire {
            internet: Internet::asking(self.nameserver),
            server: other.server,
            connected: self.connected.clone(),
        };
        Webhooks::trusting(allow.parse().unwrap(), wire, self.trust.clone())
    }

    /// Where connections were made to.
    pub(crate) fn connected(&self) -> Vec<SocketAddr> {
        self.connected.lock().unwrap().clone()
    }

    /// Heads of the requests that the public server got.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }

    /// What DNS was asked.
    pub(crate) fn questions(&self) -> Vec<(String, RecordType)> {
        self.questions.lock().unwrap().clone()
    }

    /// How many connections the honeypots got.
    pub(crate) fn caught(&self) -> usize {
        self.caught.load(Ordering::SeqCst)
    }

    /// Nothing but public addresses was connected to.
    pub(crate) fn assert_nobody_was_caught(&self) {
        assert_eq!(self.caught(), 0, "honeypots were reached");
        let connected = self.connected();
        let strays: Vec<_> = connected
            .iter()
            .filter(|address| ![PUBLIC, PUBLIC_TOO].contains(&address.ip()))
            .collect();
        assert!(strays.is_empty(), "connected to {strays:?}");
    }
}

/// Sends a webhook as a rule would.
pub(crate) async fn post(webhooks: &Webhooks<Wire>, url: &str) -> Result<Answer, Failure> {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    webhooks
        .post(url, headers, Bytes::from_static(b"{\"hello\":1}"))
        .await
}

/// A whole answer.
pub(crate) fn answer(status: u16, headers: &str) -> Vec<u8> {
    format!("HTTP/1.1 {status} x\r\n{headers}content-length: 2\r\n\r\nok").into_bytes()
}

/// One port on every loopback address of this machine.
async fn honeypots() -> (u16, Vec<TcpListener>) {
    let first = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = first.local_addr().unwrap().port();
    let mut all = vec![first];
    // Not every machine has them.
    for other in ["[::1]", "127.0.0.2", "127.1.2.3"] {
        all.extend(TcpListener::bind(format!("{other}:{port}")).await.ok());
    }
    (port, all)
}

async fn dns(script: Arc<Script>, questions: Arc<Mutex<Vec<(String, RecordType)>>>) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut asked: HashMap<(String, RecordType), usize> = HashMap::new();
        let mut packet = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut packet).await {
            let Ok(query) = Message::from_vec(&packet[..length]) else {
                continue;
            };
            let question = query.queries[0].clone();
            let kind = question.query_type();
            let owner = question.name().clone();
            let name = owner.to_string().trim_end_matches('.').to_lowercase();
            questions.lock().unwrap().push((name.clone(), kind));
            let times = asked.entry((name.clone(), kind)).or_default();
            let says = script(&name, kind, *times);
            *times += 1;
            let mut reply = Message::response(query.metadata.id, query.metadata.op_code);
            reply.metadata.recursion_desired = true;
            reply.metadata.recursion_available = true;
            reply.add_query(question);
            match says {
                Says::Silence => continue,
                Says::Nothing => reply.metadata.response_code = ResponseCode::NXDomain,
                Says::Alias(target) => {
                    let target = Name::from_ascii(format!("{target}.")).unwrap();
                    let data = RData::CNAME(CNAME(target));
                    reply.add_answer(Record::from_rdata(owner, 0, data));
                }
                Says::Addresses(addresses) => {
                    for address in addresses {
                        let data = match (kind, address) {
                            (RecordType::A, IpAddr::V4(address)) => RData::A(A(address)),
                            (RecordType::AAAA, IpAddr::V6(address)) => RData::AAAA(AAAA(address)),
                            _ => continue,
                        };
                        reply.add_answer(Record::from_rdata(owner.clone(), 0, data));
                    }
                }
            }
            let _ = socket.send_to(&reply.to_vec().unwrap(), from).await;
        }
    });
    address
}

/// Makes a certificate for whatever name a client asks for.
struct Certificates {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl std::fmt::Debug for Certificates {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Certificates")
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        // An IP address is no server name: then it is the public server's own.
        let name = hello
            .server_name()
            .map_or_else(|| PUBLIC.to_string(), str::to_owned);
        let key = KeyPair::generate().ok()?;
        let params = CertificateParams::new([name]).ok()?;
        let certificate = params.signed_by(&key, &self.issuer).ok()?;
        let key = PrivateKeyDer::try_from(key.serialize_der()).ok()?;
        let key = rustls::crypto::ring::sign::any_supported_type(&key).ok()?;
        Some(Arc::new(CertifiedKey::new(
            vec![certificate.der().clone()],
            key,
        )))
    }
}

/// The public server, and whom its clients trust.
async fn serve(reply: Reply, requests: Arc<Mutex<Vec<String>>>) -> (SocketAddr, ClientConfig) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let mut roots = RootCertStore::empty();
    roots.add(issuer.der().clone()).unwrap();
    let trust = ClientConfig::builder()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let config = ServerConfig::builder()
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Certificates { issuer }));
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let (acceptor, reply, requests) = (acceptor.clone(), reply.clone(), requests.clone());
            tokio::spawn(async move {
                let Ok(mut socket) = acceptor.accept(socket).await else {
                    return;
                };
                let mut bytes = Vec::new();
                while !bytes.ends_with(b"{\"hello\":1}") {
                    match socket.read_buf(&mut bytes).await {
                        Ok(0) | Err(_) => return,
                        Ok(_) => {}
                    }
                }
                let head = String::from_utf8(bytes).unwrap();
                let said = reply(&head);
                requests.lock().unwrap().push(head);
                if socket.write_all(&said).await.is_err() {
                    return;
                }
                // It never ends an answer by closing.
                pending::<()>().await;
            });
        }
    });
    (address, trust)
}
