//! The connection that all commands share but the waiting reads.
//!
//! In: commands. Out: their replies, each within `RESPONSE_TIMEOUT`. A broken connection is made
//! again by the client library. What that does not see is seen here: a server that does not answer
//! (a link that swallows everything is silent for minutes after it works again), and one that has
//! become a replica while another took its place behind the same address. Both get a new
//! connection with the next command.

use std::sync::{Arc, Mutex, PoisonError};

use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::{Client, Cmd, Pipeline, RedisError, RedisFuture, Value};

use super::failure::Class;
use super::{CONNECT_TIMEOUT, RESPONSE_TIMEOUT};

/// Cheap to clone; clones share what is behind.
#[derive(Clone)]
pub(super) struct Link {
    client: Client,
    current: Arc<Mutex<Current>>,
}

/// The connection, and how many there were before it.
struct Current {
    manager: ConnectionManager,
    number: u64,
}

impl Link {
    /// The first command connects.
    pub(super) fn new(client: Client) -> Result<Self, RedisError> {
        let manager = manager(&client)?;
        Ok(Self {
            client,
            current: Arc::new(Mutex::new(Current { manager, number: 0 })),
        })
    }

    fn current(&self) -> (ConnectionManager, u64) {
        let current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        (current.manager.clone(), current.number)
    }

    /// Many commands meet the same failure; the first of them replaces the connection.
    fn heed(&self, error: &RedisError, number: u64) {
        if !Class::of(error).wants_new_connection() {
            return;
        }
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.number == number
            && let Ok(manager) = manager(&self.client)
        {
            *current = Current {
                manager,
                number: number + 1,
            };
        }
    }
}

fn manager(client: &Client) -> Result<ConnectionManager, RedisError> {
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(0) // the callers retry, and can be cancelled meanwhile
        .set_connection_timeout(Some(CONNECT_TIMEOUT))
        .set_response_timeout(Some(RESPONSE_TIMEOUT));
    ConnectionManager::new_lazy_with_config(client.clone(), config)
}

impl ConnectionLike for Link {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        Box::pin(async move {
            let (mut manager, number) = self.current();
            let reply = manager.req_packed_command(command).await;
            match &reply {
                Err(error) => self.heed(error, number),
                Ok(Value::ServerError(error)) => self.heed(&error.clone().into(), number),
                Ok(_) => {}
            }
            reply
        })
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        commands: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        Box::pin(async move {
            let (mut manager, number) = self.current();
            let replies = manager.req_packed_commands(commands, offset, count).await;
            match &replies {
                Err(error) => self.heed(error, number),
                // All of them meet the same server.
                Ok(replies) => {
                    if let Some(Value::ServerError(error)) = replies.first() {
                        self.heed(&error.clone().into(), number);
                    }
                }
            }
            replies
        })
    }

    fn get_db(&self) -> i64 {
        self.current().0.get_db()
    }
}
