//! One connection for all feeds of a hub.
//!
//! Comes in: queries of many feeds at once, which the connection takes one behind the other. Goes
//! out: their answers. It is opened by the first that asks and closed with the last; one that
//! failed is dropped, and the next query opens another.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use futures_util::FutureExt;
use futures_util::future::{LocalBoxFuture, Shared};
use worker::Env;

use super::{Background, Db, Error};
use crate::hub::window::Place;

type Opening = Shared<LocalBoxFuture<'static, Result<Rc<Db>, Error>>>;

/// One connection for all feeds of a hub: opened by the first that reads, closed with the last.
pub(crate) struct SharedDb {
    env: Env,
    background: Background,
    current: RefCell<Option<Opening>>,
    users: Cell<usize>,
}

impl SharedDb {
    /// Without a connection yet.
    pub(crate) fn new(env: Env, background: Background) -> Self {
        Self {
            env,
            background,
            current: RefCell::new(None),
            users: Cell::new(0),
        }
    }

    /// See [`Db::stream_exists`].
    pub(crate) async fn stream_exists(&self, stream_id: &str) -> Result<bool, Error> {
        let using = Using::begin(self);
        let answer = async { using.db().await?.stream_exists(stream_id).await }.await;
        using.end(answer)
    }

    /// See [`Db::stream_events`].
    pub(crate) async fn stream_events(
        &self,
        stream_id: &str,
        after: Option<Place>,
        limit: u32,
    ) -> Result<Vec<(u64, String)>, Error> {
        let using = Using::begin(self);
        let answer = async {
            let db = using.db().await?;
            db.stream_events(stream_id, after, limit).await
        }
        .await;
        using.end(answer)
    }
}

/// One use of the shared connection; it counts also when its future is dropped half-way.
struct Using<'a>(&'a SharedDb);

impl<'a> Using<'a> {
    fn begin(shared: &'a SharedDb) -> Self {
        shared.users.set(shared.users.get() + 1);
        Self(shared)
    }

    async fn db(&self) -> Result<Rc<Db>, Error> {
        let opening = self
            .0
            .current
            .borrow_mut()
            .get_or_insert_with(|| {
                let env = self.0.env.clone();
                let background = self.0.background.clone();
                async move { Ok(Rc::new(Db::connect(&env, &background).await?)) }
                    .boxed_local()
                    .shared()
            })
            .clone();
        opening.await
    }

    /// A connection that failed is not used again.
    fn end<T>(self, answer: Result<T, Error>) -> Result<T, Error> {
        if answer.is_err() {
            self.0.current.borrow_mut().take();
        }
        answer
    }
}

impl Drop for Using<'_> {
    fn drop(&mut self) {
        let users = self.0.users.get() - 1;
        self.0.users.set(users);
        if users == 0 {
            self.0.current.borrow_mut().take();
        }
    }
}
