//! Redis over a Worker's socket: just the commands that the relay needs, in RESP2.
//!
//! Comes in: the address (`REDIS_URL`) and commands. Goes out: replies. Every wait has an end. A
//! socket that failed is dropped, never used again: its reader may still be locked, and a reply
//! that comes late would be taken for the next one's. No error holds the address or a password.

use std::time::Duration;

use bytes::BytesMut;
use redis_protocol::resp2::decode::decode_bytes_mut;
use redis_protocol::resp2::types::BytesFrame;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use url::Url;
use worker::{SecureTransport, Socket};

use crate::wait::within;

/// To connect, and to log in.
const CONNECT_TIME: Duration = Duration::from_secs(5);
/// For a reply, beyond what the command itself may wait.
const REPLY_TIME: Duration = Duration::from_secs(5);
/// The size of a reply at most: the isolate has 128 MB.
const MAX_REPLY: usize = 32 * 1024 * 1024;

/// Why Redis did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Error {
    /// `REDIS_URL` is missing or unusable.
    #[error("REDIS_URL {0}")]
    Address(&'static str),
    /// No connection.
    #[error("redis is unreachable")]
    Unreachable,
    /// The connection broke.
    #[error("the connection to redis was lost")]
    Lost,
    /// No answer in time.
    #[error("redis did not answer in time")]
    Timeout,
    /// It answered something that we can't read.
    #[error("redis sent what is no reply to the command")]
    Protocol,
    /// The reply is larger than we take.
    #[error("the reply of redis is too large")]
    TooLarge,
    /// It refused the command; this is the first word of its error, such as `NOGROUP`.
    #[error("redis refused: {0}")]
    Refused(String),
}

impl Error {
    /// Whether the reply is an error that begins with this word.
    pub(crate) fn is(&self, word: &str) -> bool {
        matches!(self, Self::Refused(code) if code == word)
    }
}

/// Where Redis is and how to log in.
#[derive(PartialEq, Eq)]
pub(crate) struct Address {
    host: String,
    port: u16,
    tls: bool,
    username: Option<String>,
    password: Option<String>,
    database: u32,
}

impl Address {
    /// Reads `redis[s]://[[user]:password@]host[:port][/database]`.
    pub(crate) fn parse(text: &str) -> Result<Self, Error> {
        let url = Url::parse(text).map_err(|_| Error::Address("is not a URL"))?;
        let tls = match url.scheme() {
            "redis" => false,
            "rediss" => true,
            _ => return Err(Error::Address("begins with redis:// or rediss://")),
        };
        let host = url
            .host_str()
            .filter(|host| !host.is_empty())
            .ok_or(Error::Address("names no host"))?;
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8()
                .map(String::from)
                .map_err(|_| Error::Address("has a name or password that is not UTF-8"))
        };
        let some = |text: String| (!text.is_empty()).then_some(text);
        let database = match url.path().trim_start_matches('/') {
            "" => 0,
            number => number
                .parse()
                .map_err(|_| Error::Address("has a path that is no database number"))?,
        };
        Ok(Self {
            // An IPv6 address keeps its brackets: the runtime joins host and port by a colon.
            host: host.to_owned(),
            port: url.port().unwrap_or(6379),
            tls,
            username: some(decode(url.username())?),
            password: url.password().map(decode).transpose()?.and_then(some),
            database,
        })
    }
}

/// A reply that is no error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Reply {
    /// Nothing.
    Nil,
    /// A number.
    Number(i64),
    /// A text.
    Text(String),
    /// A list; an error inside it is an error of the whole.
    List(Vec<Reply>),
}

impl Reply {
    fn from_frame(frame: BytesFrame) -> Result<Self, Error> {
        Ok(match frame {
            BytesFrame::Null => Self::Nil,
            BytesFrame::Integer(number) => Self::Number(number),
            BytesFrame::SimpleString(bytes) | BytesFrame::BulkString(bytes) => {
                Self::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            BytesFrame::Error(text) => {
                // Only the code: the rest may quote what was sent.
                let code = text.split(' ').next().unwrap_or_default();
                return Err(Error::Refused(code.to_owned()));
            }
            BytesFrame::Array(frames) => Self::List(
                frames
                    .into_iter()
                    .map(Self::from_frame)
                    .collect::<Result<_, _>>()?,
            ),
        })
    }

    /// The items of a list; nothing is an empty one.
    pub(crate) fn into_list(self) -> Result<Vec<Self>, Error> {
        match self {
            Self::List(items) => Ok(items),
            Self::Nil => Ok(Vec::new()),
            _ => Err(Error::Protocol),
        }
    }

    /// The text.
    pub(crate) fn into_text(self) -> Result<String, Error> {
        match self {
            Self::Text(text) => Ok(text),
            _ => Err(Error::Protocol),
        }
    }
}

/// One entry of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// Its id.
    pub(crate) id: String,
    /// The fields, in pairs; none when the entry was trimmed while it was pending.
    fields: Vec<(String, String)>,
}

impl Entry {
    /// An entry with these fields.
    #[cfg(test)]
    pub(crate) fn of(id: &str, fields: &[(&str, &str)]) -> Self {
        Self {
            id: id.to_owned(),
            fields: fields
                .iter()
                .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
                .collect(),
        }
    }

    /// Whether it was trimmed from the stream before it was read.
    pub(crate) fn is_trimmed(&self) -> bool {
        self.fields.is_empty()
    }

    /// A field by its name.
    pub(crate) fn field(&self, name: &str) -> Option<&str> {
        self.fields
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }
}

/// The entries in a reply of `XREADGROUP` that reads one stream.
pub(crate) fn entries(reply: Reply) -> Result<Vec<Entry>, Error> {
    let Some(stream) = reply.into_list()?.into_iter().next() else {
        return Ok(Vec::new());
    };
    let [_, entries]: [Reply; 2] = stream
        .into_list()?
        .try_into()
        .map_err(|_| Error::Protocol)?;
    entries
        .into_list()?
        .into_iter()
        .map(|entry| {
            let [id, fields]: [Reply; 2] =
                entry.into_list()?.try_into().map_err(|_| Error::Protocol)?;
            let mut words = fields.into_list()?.into_iter();
            let mut fields = Vec::with_capacity(words.len() / 2);
            while let (Some(key), Some(value)) = (words.next(), words.next()) {
                fields.push((key.into_text()?, value.into_text()?));
            }
            Ok(Entry {
                id: id.into_text()?,
                fields,
            })
        })
        .collect()
}

/// The ids in a reply of the extended `XPENDING` that were delivered at least `times` times.
pub(crate) fn delivered_often(reply: Reply, times: i64) -> Result<Vec<String>, Error> {
    let mut often = Vec::new();
    for row in reply.into_list()? {
        let [id, _consumer, _idle, deliveries]: [Reply; 4] =
            row.into_list()?.try_into().map_err(|_| Error::Protocol)?;
        match deliveries {
            Reply::Number(count) if count >= times => often.push(id.into_text()?),
            Reply::Number(_) => {}
            _ => return Err(Error::Protocol),
        }
    }
    Ok(often)
}

/// A command in RESP: an array of bulk strings.
fn encode(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word.as_bytes());
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

/// Takes the first reply out of what was received; none when it is not complete.
fn decode(received: &mut BytesMut) -> Result<Option<Result<Reply, Error>>, Error> {
    if received.is_empty() {
        return Ok(None);
    }
    match decode_bytes_mut(received) {
        Ok(Some((frame, _, _))) => Ok(Some(Reply::from_frame(frame))),
        Ok(None) if received.len() > MAX_REPLY => Err(Error::TooLarge),
        Ok(None) => Ok(None),
        Err(_) => Err(Error::Protocol),
    }
}

/// A connection that is logged in.
pub(crate) struct Connection {
    socket: Socket,
    received: BytesMut,
    /// Bytes of the last reply.
    pub(crate) last_size: usize,
}

impl Connection {
    /// Connects and logs in.
    pub(crate) async fn open(address: &Address) -> Result<Self, Error> {
        let opening = async {
            let transport = if address.tls {
                SecureTransport::On
            } else {
                SecureTransport::Off
            };
            let socket = Socket::builder()
                .secure_transport(transport)
                .connect(address.host.as_str(), address.port)
                .map_err(|_| Error::Unreachable)?;
            socket.opened().await.map_err(|_| Error::Unreachable)?;
            Ok(socket)
        };
        let socket = within(CONNECT_TIME, opening)
            .await
            .map_err(|_| Error::Unreachable)??;
        let mut connection = Self {
            socket,
            received: BytesMut::new(),
            last_size: 0,
        };
        match (&address.username, &address.password) {
            (Some(username), Some(password)) => {
                connection.ask(&["AUTH", username, password]).await?;
            }
            (None, Some(password)) => {
                connection.ask(&["AUTH", password]).await?;
            }
            _ => {}
        }
        if address.database != 0 {
            connection
                .ask(&["SELECT", &address.database.to_string()])
                .await?;
        }
        Ok(connection)
    }

    /// Sends a command and waits for its reply.
    pub(crate) async fn ask(&mut self, words: &[&str]) -> Result<Reply, Error> {
        self.ask_within(words, Duration::ZERO).await
    }

    /// Sends a command that itself waits up to `blocks`, and waits for its reply.
    pub(crate) async fn ask_within(
        &mut self,
        words: &[&str],
        blocks: Duration,
    ) -> Result<Reply, Error> {
        within(REPLY_TIME + blocks, self.exchange(words))
            .await
            .map_err(|_| Error::Timeout)?
    }

    async fn exchange(&mut self, words: &[&str]) -> Result<Reply, Error> {
        self.socket
            .write_all(&encode(words))
            .await
            .map_err(|_| Error::Lost)?;
        self.socket.flush().await.map_err(|_| Error::Lost)?;
        loop {
            let before = self.received.len();
            if let Some(reply) = decode(&mut self.received)? {
                self.last_size = before - self.received.len();
                return reply;
            }
            let count = self
                .socket
                .read_buf(&mut self.received)
                .await
                .map_err(|_| Error::Lost)?;
            if count == 0 {
                return Err(Error::Lost);
            }
        }
    }
}

#[cfg(test)]
mod tests;
