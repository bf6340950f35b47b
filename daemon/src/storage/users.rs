//! What follows from new events for users: their current names, when we first and last saw them.
//!
//! In: rows that were really inserted. Out: one upsert per batch. Names follow the event that we
//! received last, whichever batch is committed last, and are never emptied.

use std::collections::BTreeMap;

use jiff::Timestamp;
use tokio_postgres::types::Type;
use tokio_postgres::{Error, Transaction};

use super::rooms::Span;
use super::row::{Connection, Row, Turn};

/// What the new rows of a batch change of users, by `userId`.
#[derive(Default)]
pub(super) struct Users<'a>(BTreeMap<&'a str, User<'a>>);

struct User<'a> {
    span: Span,
    username: Option<&'a str>,
    display_name: Option<&'a str>,
    avatar_url: Option<&'a str>,
    /// When the newest of these was received.
    profile_at: Option<Timestamp>,
}

impl<'a> Users<'a> {
    /// Takes note of a new row: who did it, and whose room it is.
    pub(super) fn note(&mut self, row: &'a Row<'a>) {
        if let Some(user) = &row.user {
            let names = [&user.username, &user.display_name, &user.avatar_url];
            self.note_user(
                row.ingested_at,
                &user.user_id,
                names.map(|name| name.as_deref()),
            );
        }
        if let Some(Turn::Connected(Connection {
            owner_id: Some(owner),
            unique_id,
            owner_nickname,
            ..
        })) = &row.turn
        {
            self.note_user(
                row.ingested_at,
                owner,
                [unique_id.as_deref(), owner_nickname.as_deref(), None],
            );
        }
    }

    fn note_user(&mut self, at: Timestamp, user_id: &'a str, names: [Option<&'a str>; 3]) {
        let user = self.0.entry(user_id).or_insert_with(|| User {
            span: Span::at(at),
            username: None,
            display_name: None,
            avatar_url: None,
            profile_at: None,
        });
        user.span.include(at);
        if names.iter().all(Option::is_none) {
            return;
        }
        let newer = user.profile_at.is_none_or(|known| known <= at);
        let [username, display_name, avatar_url] = names;
        for (known, seen) in [
            (&mut user.username, username),
            (&mut user.display_name, display_name),
            (&mut user.avatar_url, avatar_url),
        ] {
            *known = if newer {
                seen.or(*known)
            } else {
                known.or(seen)
            };
        }
        user.profile_at = user.profile_at.max(Some(at));
    }

    /// Writes it, in the order of the key, so that writers lock rows in one order.
    pub(super) async fn apply(&self, transaction: &Transaction<'_>) -> Result<(), Error> {
        if self.0.is_empty() {
            return Ok(());
        }
        let ids: Vec<&str> = self.0.keys().copied().collect();
        let users: Vec<&User<'_>> = self.0.values().collect();
        let usernames: Vec<Option<&str>> = users.iter().map(|user| user.username).collect();
        let display_names: Vec<Option<&str>> = users.iter().map(|user| user.display_name).collect();
        let avatars: Vec<Option<&str>> = users.iter().map(|user| user.avatar_url).collect();
        let profiles: Vec<Option<Timestamp>> = users.iter().map(|user| user.profile_at).collect();
        let first: Vec<Timestamp> = users.iter().map(|user| user.span.first).collect();
        let last: Vec<Timestamp> = users.iter().map(|user| user.span.last).collect();
        transaction
            .execute_typed(
                "INSERT INTO users AS known
                    (user_id, username, display_name, avatar_url, profile_at, first_seen_at, last_seen_at)
                 SELECT * FROM unnest($1, $2, $3, $4, $5, $6, $7)
                 ON CONFLICT (user_id) DO UPDATE SET
                    username = CASE WHEN excluded.profile_at >= known.profile_at
                        THEN coalesce(excluded.username, known.username)
                        ELSE coalesce(known.username, excluded.username) END,
                    display_name = CASE WHEN excluded.profile_at >= known.profile_at
                        THEN coalesce(excluded.display_name, known.display_name)
                        ELSE coalesce(known.display_name, excluded.display_name) END,
                    avatar_url = CASE WHEN excluded.profile_at >= known.profile_at
                        THEN coalesce(excluded.avatar_url, known.avatar_url)
                        ELSE coalesce(known.avatar_url, excluded.avatar_url) END,
                    profile_at = greatest(known.profile_at, excluded.profile_at),
                    first_seen_at = least(known.first_seen_at, excluded.first_seen_at),
                    last_seen_at = greatest(known.last_seen_at, excluded.last_seen_at)",
                &[
                    (&ids, Type::TEXT_ARRAY),
                    (&usernames, Type::TEXT_ARRAY),
                    (&display_names, Type::TEXT_ARRAY),
                    (&avatars, Type::TEXT_ARRAY),
                    (&profiles, Type::TIMESTAMPTZ_ARRAY),
                    (&first, Type::TIMESTAMPTZ_ARRAY),
                    (&last, Type::TIMESTAMPTZ_ARRAY),
                ],
            )
            .await?;
        Ok(())
    }
}
