//! `ttlc erase`: erases a viewer and waits until Redis has nothing of them either; or erases again
//! whom a restored database does not know any more.
//!
//! In: a user id, or a list that was kept. Out: what was removed and what is still to come, on stdout.
//! Never a name or an id. Twice is like once; after a crash, or when it was told to stop, the storage
//! writer goes on, and so does the same command.

use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use super::super::database::{Database, Failure, Rights};
use super::super::{DatabaseOptions, Error, RetentionOptions, retention};
use super::{PART, Progress, begin, find, go_on, list, restore};
use crate::bus::Bus;
use crate::bus::erased::Purged;
use crate::config::Common;
use crate::erasure::{Tombstone, Tombstones};

/// How long a database that is busy or away is asked again.
const PATIENCE: Duration = Duration::from_mins(1);
/// How often Redis is looked at.
const LOOK: Duration = Duration::from_millis(500);

/// Settings of `ttlc erase`.
#[derive(Debug, clap::Args)]
#[group(skip)]
#[command(group = clap::ArgGroup::new("what").required(true).multiple(false))]
pub struct Options {
    /// The viewer: TikTok's number of the account, as `userId` in events
    #[arg(group = "what", value_parser = user_id)]
    pub user_id: Option<String>,
    /// Erase everybody again who was erased before: after the database was restored from a copy. Also
    /// those whom only Redis remembers
    #[arg(long, group = "what")]
    pub all: bool,
    /// The same with a list that `--export` wrote, for when Redis is gone too
    #[arg(long, group = "what", value_name = "FILE")]
    pub import: Option<PathBuf>,
    /// Print the list of who was erased, as hashes, to be kept beside the backups
    #[arg(long, group = "what")]
    pub export: bool,
    /// A name of the viewer that no stored event has beside the id: it is removed from texts, too
    #[arg(long = "name", value_name = "NAME", requires = "user_id")]
    pub names: Vec<String>,
    /// How long to wait for copies that the stages have still to read, in seconds
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = clap::value_parser!(u64).range(0..=86_400))]
    pub wait: u64,
    /// Where events are stored.
    #[command(flatten)]
    pub database: DatabaseOptions,
    /// The key of the pseudonyms: with it the viewer's numbers of before the retention go as well.
    #[command(flatten)]
    pub retention: RetentionOptions,
    /// Where Redis is.
    #[command(flatten)]
    pub common: Box<Common>,
}

fn user_id(text: &str) -> Result<String, String> {
    if (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit()) {
        Ok(text.to_owned())
    } else {
        Err("a user id is TikTok's number of the account: 1 to 20 digits, not an @name".to_owned())
    }
}

/// Does it; writes to `out`.
///
/// # Errors
/// When the database or Redis cannot be asked, or copies are left in Redis after the wait.
pub async fn execute(options: &Options, out: &mut (impl Write + Send)) -> Result<(), Error> {
    let mut work = Work {
        database: options.database.open()?,
        open: None,
    };
    if options.export {
        for one in work.list().await?.1 {
            let line = serde_json::to_string(&one).unwrap_or_default();
            say(out, &line)?;
        }
        return Ok(());
    }
    let bus = Bus::new(&options.common.redis_url, options.common.names())
        .map_err(|error| Error::Erase(error.to_string()))?;
    if let Some(user_id) = &options.user_id {
        let progress = work.erase(options, user_id).await?;
        say(out, &told(&progress))?;
    } else {
        let kept = match &options.import {
            Some(path) => read(path)?,
            None => bus
                .erased()
                .await
                .map_err(|error| Error::Erase(error.to_string()))?,
        };
        let viewers = work.again(kept).await?;
        let (_, all) = work.list().await?;
        say(
            out,
            &format!(
                "{} tombstones, of which {viewers} viewers were found",
                all.len()
            ),
        )?;
        for progress in work.finish_all().await? {
            say(out, &told(&progress))?;
        }
    }
    let (version, all) = work.list().await?;
    let purged = purge(&bus, version, &all, options.wait)
        .await
        .map_err(|error| {
            Error::Erase(format!(
                "the database is done, but {error}; erase again when redis answers"
            ))
        })?;
    say(
        out,
        &format!(
            "redis: {} copies deleted, {} still to be read",
            purged.deleted, purged.left
        ),
    )?;
    if purged.left > 0 {
        return Err(Error::Erase(format!(
            "{} entries in redis are still to be read by a stage that is behind or not running: what is of the \
             viewer is dropped then; erase again to see it gone",
            purged.left
        )));
    }
    Ok(())
}

fn say(out: &mut impl Write, line: &str) -> Result<(), Error> {
    writeln!(out, "{line}").map_err(|error| Error::Erase(format!("cannot write: {error}")))
}

fn told(progress: &Progress) -> String {
    format!(
        "erased: {} events removed, {} events of others rewritten, {} sessions made anonymous, {} dead letters removed",
        progress.events, progress.rewritten, progress.session_users, progress.dead_letters
    )
}

/// Whether the database lacks what we ask for (class 42): it has not been migrated.
fn is_unprepared(failure: &Failure) -> bool {
    matches!(failure, Failure::Postgres(error)
        if error.code().is_some_and(|code| code.code().starts_with("42")))
}

/// A list that was kept: one tombstone a line.
fn read(path: &Path) -> Result<Vec<Tombstone>, Error> {
    let wrong = |why: String| Error::Erase(format!("{}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    let mut list = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.trim().is_empty() {
            continue;
        }
        let one: Tombstone =
            serde_json::from_str(line).map_err(|error| wrong(format!("line {number}: {error}")))?;
        if one.user_hash.len() != 64 || hex::decode(&one.user_hash).is_err() {
            return Err(wrong(format!("line {number}: userHash is no hash")));
        }
        list.push(one);
    }
    Ok(list)
}

/// Writes the mirror, and waits until Redis has no copy any more; at most so many seconds.
async fn purge(
    bus: &Bus,
    version: i64,
    list: &[Tombstone],
    wait: u64,
) -> Result<Purged, crate::bus::Error> {
    bus.put_erased(version, list).await?;
    let tombstones = Tombstones::new(version, list);
    let deadline = Instant::now() + Duration::from_secs(wait);
    let mut total = Purged::default();
    loop {
        let purged = bus.purge(&tombstones).await?;
        total.deleted += purged.deleted;
        total.left = purged.left;
        if purged.left == 0 || Instant::now() >= deadline {
            return Ok(total);
        }
        sleep(LOOK).await;
    }
}

/// The database, asked again while it is busy: another erasure, a writer in the middle of a batch.
struct Work {
    database: Database,
    open: Option<(Client, Rights)>,
}

impl Work {
    async fn erase(&mut self, options: &Options, user_id: &str) -> Result<Progress, Error> {
        let pseudonym = retention::pseudonym(&options.retention, user_id);
        let names: Vec<&str> = options
            .names
            .iter()
            .map(|name| name.trim().trim_start_matches('@'))
            .filter(|name| !name.is_empty())
            .collect();
        let hash: Vec<u8> = self
            .patiently(async |client, rights| {
                let transaction = begin(client, rights).await?;
                let row = transaction
                    .query_typed_one(
                        "SELECT user_hash FROM erase_user($1, $2, NULL, $3, $4)",
                        &[
                            (&user_id, Type::TEXT),
                            (&names, Type::TEXT_ARRAY),
                            (&pseudonym, Type::TEXT),
                            (&PART, Type::INT4),
                        ],
                    )
                    .await?;
                transaction.commit().await?;
                Ok(row.get(0))
            })
            .await?;
        loop {
            let progress = self
                .patiently(async |client, rights| go_on(client, rights, hash.clone()).await)
                .await?;
            if progress.finished {
                return Ok(progress);
            }
        }
    }

    /// Opens all tombstones again, and those given; returns how many viewers were found.
    async fn again(&mut self, kept: Vec<Tombstone>) -> Result<usize, Error> {
        let (_, mut all) = self.list().await?;
        all.extend(kept);
        self.patiently(async |client, rights| {
            restore(client, rights, &all).await?;
            find(client, rights).await
        })
        .await
    }

    /// All that is not finished.
    async fn finish_all(&mut self) -> Result<Vec<Progress>, Error> {
        let mut done = Vec::new();
        loop {
            let part = self
                .patiently(async |client, rights| {
                    let transaction = begin(client, rights).await?;
                    let open = transaction
                        .query_typed(
                            "SELECT user_hash FROM erased_users WHERE search ? 'viewer' ORDER BY change_no LIMIT 1",
                            &[],
                        )
                        .await?;
                    transaction.commit().await?;
                    match open.first() {
                        Some(row) => Ok(Some(go_on(client, rights, row.get(0)).await?)),
                        None => Ok(None),
                    }
                })
                .await?;
            match part {
                Some(progress) if progress.finished => done.push(progress),
                Some(_) => {}
                None => return Ok(done),
            }
        }
    }

    async fn list(&mut self) -> Result<(i64, Vec<Tombstone>), Error> {
        self.patiently(async |client, rights| {
            let transaction = begin(client, rights).await?;
            let all = list(&transaction).await?;
            transaction.commit().await?;
            Ok(all)
        })
        .await
    }

    /// Asks until there is an answer, for a minute; a refusal ends it at once.
    async fn patiently<T>(
        &mut self,
        mut ask: impl AsyncFnMut(&mut Client, Rights) -> Result<T, Failure>,
    ) -> Result<T, Error> {
        let begun = Instant::now();
        loop {
            let attempt = async {
                let mut open = match self.open.take().filter(|open| !open.0.is_closed()) {
                    Some(open) => open,
                    None => self.database.connect_as_writer().await?,
                };
                let answer = ask(&mut open.0, open.1).await?;
                self.open = Some(open);
                Ok::<_, Failure>(answer)
            };
            let failure = match attempt.await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let settled = failure.is_bad_data()
                || failure.is_refusal()
                || failure.is_distrust()
                || is_unprepared(&failure);
            if settled || begun.elapsed() > PATIENCE {
                return Err(Error::Erase(format!("postgres: {failure}")));
            }
            tracing::debug!(error = %failure, "trying again");
            sleep(LOOK).await;
        }
    }
}
