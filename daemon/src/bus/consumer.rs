//! Reading a stream as a member of a group, at least once.
//!
//! Comes in: a stream, a group, a fixed name. Goes out: entries, which stay pending under that name
//! until they are acknowledged. After every (re)connect the own unfinished entries come first: those
//! of a process that crashed, and those of a reply that was lost. A stream that was wiped loses its
//! groups: they are made again from its start, never from its end.
//!
//! Each entry carries how many processes have begun it and died ([`Entry::deliveries`]), in the
//! delivery count that Redis keeps. Outages of Redis, reconnects and restarts in between do not
//! count.

use std::collections::HashMap;
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Script, Value};

use super::{Bus, CONNECT_TIMEOUT, Class, Error, Hop, RESPONSE_TIMEOUT, into_text, text};

/// Processes that died on an entry, before it is taken alone.
const ALONE: u64 = 3;

/// Processes that died on an entry, before it is given up.
pub const POISON: u64 = 5;

/// KEYS: stream. ARGV: group, consumer, then each entry's id and its new delivery count. Leaves
/// trimmed entries alone: a claim would take them off the pending list.
const COUNT: &str = r"
for i = 3, #ARGV, 2 do
  if #redis.call('XRANGE', KEYS[1], ARGV[i], ARGV[i]) > 0 then
    redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, ARGV[i], 'RETRYCOUNT', ARGV[i + 1], 'JUSTID')
  end
end";

/// One stream entry as a group member received it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Its id in the stream.
    pub id: String,
    /// Its fields. Empty when the entry was trimmed away while it was still pending.
    pub fields: HashMap<String, String>,
    /// How many processes have begun it before this one and did not come to its end; see
    /// [`Consumer::begin`].
    pub deliveries: u64,
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

/// The entries in their order, those that processes died on alone, so that no other is blamed.
pub fn parts(entries: Vec<Entry>) -> Vec<Vec<Entry>> {
    let mut parts: Vec<Vec<Entry>> = Vec::new();
    let mut together = false;
    for entry in entries {
        let alone = entry.deliveries >= ALONE;
        match parts.last_mut() {
            Some(part) if together && !alone => part.push(entry),
            _ => parts.push(vec![entry]),
        }
        together = !alone;
    }
    parts
}

/// A member of a consumer group, on a connection of its own (a waiting read blocks it).
pub struct Consumer {
    pub(super) bus: Bus,
    pub(super) stream: String,
    pub(super) group: &'static str,
    pub(super) name: String,
    connection: Option<MultiplexedConnection>,
    /// Redis' number of the last connection, to end it before the next one reads.
    client_id: Option<u64>,
    /// The own history is read after this id; `None` once it is done.
    history: Option<String>,
    /// Entries that this process has been given or has begun, with the count that Redis has of
    /// each: these are no other process' attempts.
    begun: HashMap<String, u64>,
    /// Whether the last read has shown that there are no more entries.
    drained: bool,
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
            begun: HashMap::new(),
            drained: false,
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
            None => self.connect().await?,
        };
        connection.set_response_timeout(RESPONSE_TIMEOUT + wait);
        match self.read_from(&mut connection, count, wait).await {
            Ok(entries) => {
                self.connection = Some(connection);
                Ok(entries)
            }
            // The stream was wiped with its groups; the reconnect makes them again.
            Err(error) if error.class() == Class::NoGroup => {
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
        self.drained = false;
        if let Some(after) = &self.history {
            let entries = self.unfinished(connection, count, after).await?;
            if let Some(last) = entries.last() {
                self.history = Some(last.id.clone());
                return Ok(entries);
            }
            self.history = None;
            // Whatever is still in here was finished by others.
            self.begun.clear();
        }
        let entries = self.fresh(connection, count, wait).await?;
        self.drained = entries.len() < count;
        let given = entries.iter().map(|entry| (entry.id.clone(), 1));
        self.begun.extend(given);
        Ok(entries)
    }

    /// Entries that nobody was given before.
    async fn fresh(
        &self,
        connection: &mut MultiplexedConnection,
        count: usize,
        wait: Duration,
    ) -> Result<Vec<Entry>, Error> {
        let reply: Value = redis::cmd("XREADGROUP")
            .arg("GROUP")
            .arg(self.group)
            .arg(&self.name)
            .arg("COUNT")
            .arg(count)
            .arg("BLOCK")
            // 0 would wait for ever.
            .arg(u64::try_from(wait.as_millis().max(1)).unwrap_or(u64::MAX))
            .arg("STREAMS")
            .arg(&self.stream)
            .arg(">")
            .query_async(connection)
            .await?;
        entries(reply).ok_or(Error::Reply("XREADGROUP"))
    }

    /// Own entries after an id that were not acknowledged. Not by `XREADGROUP`, which would count
    /// every look as an attempt, also those after a mere outage of Redis.
    async fn unfinished(
        &self,
        connection: &mut MultiplexedConnection,
        count: usize,
        after: &str,
    ) -> Result<Vec<Entry>, Error> {
        let pending: Vec<(String, String, u64, u64)> = redis::cmd("XPENDING")
            .arg(&self.stream)
            .arg(self.group)
            .arg(format!("({after}"))
            .arg("+")
            .arg(count)
            .arg(&self.name)
            .query_async(connection)
            .await?;
        let pending: Vec<(String, u64)> = pending
            .into_iter()
            .map(|(id, _, _, count)| (id, count))
            .collect();
        self.with_fields(connection, pending).await
    }

    /// Entries of the pending list by their ids, each with the delivery count that Redis has.
    pub(super) async fn with_fields(
        &self,
        connection: &mut impl redis::aio::ConnectionLike,
        pending: Vec<(String, u64)>,
    ) -> Result<Vec<Entry>, Error> {
        if pending.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = redis::pipe();
        for (id, _) in &pending {
            commands.cmd("XRANGE").arg(&self.stream).arg(id).arg(id);
        }
        let replies: Vec<Value> = commands.query_async(connection).await?;
        let mut found = Vec::new();
        for ((id, count), reply) in pending.into_iter().zip(replies) {
            let stream = Value::Array(vec![Value::Nil, reply]);
            let entry = entries(Value::Array(vec![stream])).ok_or(Error::Reply("XRANGE"))?;
            found.push(Entry {
                fields: entry
                    .into_iter()
                    .next()
                    .map(|entry| entry.fields)
                    .unwrap_or_default(),
                deliveries: match self.begun.get(&id) {
                    Some(ours) => ours.saturating_sub(1),
                    None => count,
                },
                id,
            });
        }
        Ok(found)
    }

    /// Counts an attempt on entries that other processes have begun before, so that one that kills
    /// every process is known in the end. New entries count from the moment they are given.
    ///
    /// To be called before the work. [`Consumer::survived`] takes it back.
    pub async fn begin(&mut self, entries: &[Entry]) -> Result<(), Error> {
        // Also what was handed back uncounted: its delivery to us did not count by itself.
        let again = entries
            .iter()
            .filter(|entry| entry.deliveries > 0 || !self.begun.contains_key(&entry.id));
        let counts: Vec<(String, u64)> = again
            .map(|entry| (entry.id.clone(), entry.deliveries + 1))
            .collect();
        self.count(&counts).await?;
        self.begun.extend(counts);
        Ok(())
    }

    /// The work on these entries is done and only Redis does not take its result: if the process
    /// ends before it does, they are not the reason.
    pub async fn survived(&mut self, ids: &[&str]) -> Result<(), Error> {
        let counts: Vec<(String, u64)> = ids
            .iter()
            .filter_map(|id| Some(((*id).to_owned(), self.begun.get(*id)?.saturating_sub(1))))
            .collect();
        self.count(&counts).await
    }

    /// Counts what [`Consumer::survived`] took back again, before another attempt.
    pub async fn begin_again(&mut self, ids: &[&str]) -> Result<(), Error> {
        let counts: Vec<(String, u64)> = ids
            .iter()
            .filter_map(|id| Some(((*id).to_owned(), *self.begun.get(*id)?)))
            .collect();
        self.count(&counts).await
    }

    /// What was given to this process or begun by it and is not acknowledged, with the delivery
    /// count of before.
    pub(super) fn held(&self) -> Vec<(String, u64)> {
        self.begun
            .iter()
            .map(|(id, count)| (id.clone(), count.saturating_sub(1)))
            .collect()
    }

    async fn count(&mut self, counts: &[(String, u64)]) -> Result<(), Error> {
        if counts.is_empty() {
            return Ok(());
        }
        let script = Script::new(COUNT);
        let mut call = script.prepare_invoke();
        call.key(&self.stream).arg(self.group).arg(&self.name);
        for (id, count) in counts {
            call.arg(id).arg(count);
        }
        Ok(call.invoke_async(&mut self.bus.manager.clone()).await?)
    }

    /// Whether the last read has returned all new entries that there were.
    pub fn is_drained(&self) -> bool {
        self.drained
    }

    /// Whether the next read brings new entries, not unfinished ones.
    pub(super) fn reads_new(&self) -> bool {
        self.connection.is_some() && self.history.is_none()
    }

    /// Makes the next call read the own unfinished entries first, as after a reconnect: a reader
    /// of the same name that was stopped in the middle of a call may have been given entries that
    /// nobody holds. For callers that hold none themselves at the moment.
    pub fn read_history_again(&mut self) {
        self.history = Some("0".to_owned());
    }

    async fn connect(&mut self) -> Result<MultiplexedConnection, Error> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(RESPONSE_TIMEOUT));
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
        self.make_group(&mut connection).await?;
        self.history = Some("0".to_owned());
        Ok(connection)
    }

    /// Makes the group, from the stream's start, unless it is there.
    pub(super) async fn make_group(
        &self,
        connection: &mut impl redis::aio::ConnectionLike,
    ) -> Result<(), Error> {
        create_group(connection, &self.stream, self.group).await
    }

    /// What was finished needs no more counting.
    pub(super) fn forget_begun(&mut self, hops: &[Hop]) {
        for id in hops.iter().filter_map(|hop| hop.raw_id.as_ref()) {
            self.begun.remove(id);
        }
    }

    /// Takes entries off the pending list, once their effect is durable.
    pub async fn ack(&mut self, ids: &[String]) -> Result<(), Error> {
        if ids.is_empty() {
            return Ok(());
        }
        let mut command = redis::cmd("XACK");
        command.arg(&self.stream).arg(self.group).arg(ids);
        for id in ids {
            self.begun.remove(id);
        }
        Ok(command.exec_async(&mut self.bus.manager.clone()).await?)
    }
}

/// Makes a group from the start of a stream, unless it is there.
pub(super) async fn create_group(
    connection: &mut impl redis::aio::ConnectionLike,
    stream: &str,
    group: &str,
) -> Result<(), Error> {
    let made = redis::cmd("XGROUP")
        .arg("CREATE")
        .arg(stream)
        .arg(group)
        .arg("0")
        .arg("MKSTREAM")
        .exec_async(connection)
        .await;
    match made {
        // With a full memory nothing can be made, and what is there can be read: that makes room.
        Err(error) if Class::of(&error) == Class::Memory => Ok(()),
        Err(error) if error.code() != Some("BUSYGROUP") => Err(error.into()),
        _ => Ok(()),
    }
}

impl Bus {
    /// Entries of a stream by their ids, in the order of these; without fields where one is gone.
    pub async fn entries(&self, stream: &str, ids: &[String]) -> Result<Vec<Entry>, Error> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let mut commands = redis::pipe();
        for id in ids {
            commands.cmd("XRANGE").arg(stream).arg(id).arg(id);
        }
        let replies: Vec<Value> = commands.query_async(&mut self.manager.clone()).await?;
        let mut found = Vec::with_capacity(ids.len());
        for (id, reply) in ids.iter().zip(replies) {
            let reply = Value::Array(vec![Value::Array(vec![Value::Nil, reply])]);
            let entry = entries(reply).ok_or(Error::Reply("XRANGE"))?.pop();
            found.push(entry.unwrap_or_else(|| Entry {
                id: id.clone(),
                fields: HashMap::new(),
                deliveries: 0,
            }));
        }
        Ok(found)
    }
}

/// Reads `[[stream, [[id, [field, value, …] or nil], …]]]`, or nil for nothing.
pub(super) fn entries(reply: Value) -> Option<Vec<Entry>> {
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
            found.push(Entry {
                id,
                fields,
                deliveries: 0,
            });
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_that_processes_died_on_are_taken_alone() {
        let entries = |deliveries: &[u64]| {
            let entry = |(number, deliveries): (usize, &u64)| Entry {
                id: number.to_string(),
                fields: HashMap::new(),
                deliveries: *deliveries,
            };
            parts(deliveries.iter().enumerate().map(entry).collect())
                .iter()
                .map(Vec::len)
                .collect::<Vec<_>>()
        };
        assert_eq!(entries(&[]), [0; 0]);
        assert_eq!(entries(&[0, 0, 2]), [3]);
        assert_eq!(entries(&[1, 3, 5, 2, 0, 4, 0]), [1, 1, 1, 2, 1, 1]);
    }
}
