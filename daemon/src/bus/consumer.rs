//! Reading a stream as a member of a group, at least once.
//!
//! Comes in: a stream, a group, a fixed name. Goes out: entries, which stay pending under that name
//! until they are acknowledged. After every (re)connect the own unfinished entries come first: those
//! of a process that crashed, and those of a reply that was lost. A stream that was wiped loses its
//! groups: they are made again from its start, never from its end.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Value};

use super::{Bus, CONNECT_TIMEOUT, Error, RESPONSE_TIMEOUT, into_text, text};

/// One stream entry as a group member received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id in the stream.
    pub id: String,
    /// Its fields. Empty when the entry was trimmed away while it was still pending.
    pub fields: HashMap<String, String>,
}

impl Entry {
    /// A field by its name.
    pub fn get(&self, field: &str) -> Option<&str> {
        self.fields.get(field).map(String::as_str)
    }

    /// All fields as a JSON object: the payload of a dead letter.
    pub fn to_json(&self) -> String {
        // A map of strings always has a JSON form.
        serde_json::to_string(&self.fields).unwrap_or_default()
    }
}

/// A member of a consumer group, on a connection of its own (a waiting read blocks it).
pub struct Consumer {
    pub(super) bus: Bus,
    pub(super) stream: String,
    pub(super) group: &'static str,
    name: String,
    connection: Option<MultiplexedConnection>,
    /// Redis' number of the last connection, to end it before the next one reads.
    client_id: Option<u64>,
    /// The own history is read after this id; `None` once it is done.
    history: Option<String>,
}

impl Consumer {
    pub(super) fn new(bus: Bus, stream: String, group: &'static str, name: &str) -> Self {
        Self {
            bus,
            stream,
            group,
            name: name.to_owned(),
            connection: None,
            client_id: None,
            history: None,
        }
    }

    /// The next entries, at most `count`: own unfinished ones first, then new ones, waiting up to
    /// `wait` for these. Empty when there are none. After an error, and after a call that was
    /// dropped before its end, the next call reconnects.
    ///
    /// Entries stay pending until [`Consumer::ack`] or [`Consumer::hop`] takes them; a caller that
    /// fails must retry what it holds, since only a reconnect brings them again.
    pub async fn read(&mut self, count: usize, wait: Duration) -> Result<Vec<Entry>, Error> {
        // Put back only after a whole reply: half a one would be taken for the next call's.
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => self.connect(wait).await?,
        };
        match self.read_from(&mut connection, count, wait).await {
            Ok(entries) => {
                self.connection = Some(connection);
                Ok(entries)
            }
            // The stream was wiped with its groups; the reconnect makes them again.
            Err(Error::Redis(error)) if error.code() == Some("NOGROUP") => {
                tracing::warn!(stream = %self.stream, group = self.group, "group is gone, it is made again");
                Ok(Vec::new())
            }
            Err(error) => Err(error),
        }
    }

    async fn read_from(
        &mut self,
        connection: &mut MultiplexedConnection,
        count: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, Error> {
        if let Some(after) = &self.history {
            let entries = read_group(
                connection,
                &self.stream,
                self.group,
                &self.name,
                count,
                None,
                after,
            )
            .await?;
            if let Some(last) = entries.last() {
                self.history = Some(last.id.clone());
                return Ok(entries);
            }
            self.history = None;
        }
        read_group(
            connection,
            &self.stream,
            self.group,
            &self.name,
            count,
            Some(wait),
            ">",
        )
        .await
    }

    /// Makes the next call read the own unfinished entries first, as after a reconnect: a reader
    /// of the same name that was stopped in the middle of a call may have been given entries that
    /// nobody holds. For callers that hold none themselves at the moment.
    pub fn read_history_again(&mut self) {
        self.history = Some("0".to_owned());
    }

    async fn connect(&mut self, wait: Duration) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT + wait));
        let mut connection = self
            .bus
            .client
            .get_multiplexed_async_connection_with_config(&config)
            .await?;
        if let Some(old) = self.client_id.take() {
            // A read that still waits over there would take entries into our history after we have
            // read it. That the old connection is gone already is the usual case and no error.
            let kill = redis::cmd("CLIENT")
                .arg("KILL")
                .arg("ID")
                .arg(old)
                .exec_async(&mut connection)
                .await;
            if let Err(error) = kill {
                tracing::debug!(stream = %self.stream, group = self.group, %error, "cannot end the old connection");
            }
        }
        // Some managed servers hide it; then there is nothing to end later.
        self.client_id = redis::cmd("CLIENT")
            .arg("ID")
            .query_async(&mut connection)
            .await
            .ok();
        let made = redis::cmd("XGROUP")
            .arg("CREATE")
            .arg(&self.stream)
            .arg(self.group)
            .arg("0")
            .arg("MKSTREAM")
            .exec_async(&mut connection)
            .await;
        match made {
            Ok(()) => {}
            Err(error) if error.code() == Some("BUSYGROUP") => {}
            Err(error) => return Err(error.into()),
        }
        self.history = Some("0".to_owned());
        Ok(connection)
    }

    /// Takes entries off the pending list, once their effect is durable.
    pub async fn ack(&mut self, ids: &[String]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("XACK");
        command.arg(&self.stream).arg(self.group).arg(ids);
        Ok(command.exec_async(&mut self.bus.manager.clone()).await?)
    }
}

async fn read_group(
    connection: &mut MultiplexedConnection,
    stream: &str,
    group: &str,
    name: &str,
    count: usize,
    wait: Option<Duration>,
    after: &str,
) -> Result<Vec<Entry>, Error> {
    let mut command = redis::cmd("XREADGROUP");
    command
        .arg("GROUP")
        .arg(group)
        .arg(name)
        .arg("COUNT")
        .arg(count);
    if let Some(wait) = wait {
        // 0 would wait for ever.
        command
            .arg("BLOCK")
            .arg(u64::try_from(wait.as_millis().max(1)).unwrap_or(u64::MAX));
    }
    command.arg("STREAMS").arg(stream).arg(after);
    let reply: Value = command.query_async(connection).await?;
    entries(reply).ok_or(Error::Reply("XREADGROUP"))
}

/// Reads `[[stream, [[id, [field, value, …] or nil], …]]]`, or nil for nothing.
fn entries(reply: Value) -> Option<Vec<Entry>> {
    let Value::Array(streams) = reply else {
        return matches!(reply, Value::Nil).then(Vec::new);
    };
    let mut found = Vec::new();
    for stream in streams {
        let Value::Array(mut parts) = stream else {
            return None;
        };
        let Value::Array(list) = parts.pop()? else {
            return None;
        };
        for entry in list {
            let Value::Array(mut parts) = entry else {
                return None;
            };
            let values = parts.pop()?;
            let id = parts.pop().as_ref().and_then(text)?;
            let mut fields = HashMap::new();
            if let Value::Array(values) = values {
                let mut values = values.into_iter();
                while let (Some(field), Some(value)) = (values.next(), values.next()) {
                    fields.insert(text(&field)?, into_text(value)?);
                }
            }
            found.push(Entry { id, fields });
        }
    }
    Some(found)
}
