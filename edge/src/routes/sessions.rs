//! `GET /sessions`, `/sessions/{id}` and `/sessions/{id}/events`: what is stored.

use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use serde_json::value::RawValue;
use shared::api::{Cursor, EventPage, List, SessionPage};
use uuid::Uuid;

use super::params::{After, Params, no_session, session_id};
use super::{StreamName, json};
use crate::App;
use crate::db::SessionFilter;
use crate::hub::window::Place;
use crate::problem::Problem;

/// Sessions, newest first.
#[worker::send]
pub(super) async fn list(
    State(app): State<App>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let params = Params::parse(query.as_deref(), &["limit", "after", "stream"])?;
    let stream = params
        .get("stream")
        .map(|text| {
            StreamName::parse(text).map_err(|_| {
                Problem::bad_parameter("stream", "stream is an id, or @ and the creator's name")
            })
        })
        .transpose()?;
    let limit = params.items()?;
    let after = params.list_cursor(List::Sessions)?;
    let db = app.database().await?;
    let stream_id = match stream {
        None => None,
        Some(stream) => Some(stream.resolve(&db).await?),
    };
    let filter = SessionFilter {
        limit,
        after,
        stream_id,
    };
    let (items, next) = db.sessions(&filter).await?;
    Ok(json(&SessionPage { items, next }))
}

/// One session.
#[worker::send]
pub(super) async fn one(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let uuid = session_id(&id)?;
    Params::parse(query.as_deref(), &[])?;
    match app.database().await?.session(uuid).await? {
        Some(session) => Ok(json(&session)),
        None => Err(no_session(&id)),
    }
}

/// The events of a session, in order; those of a replay are the original's.
#[worker::send]
pub(super) async fn events(
    State(app): State<App>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
) -> Result<Response, Problem> {
    let uuid: Uuid = session_id(&id)?;
    let params = Params::parse(query.as_deref(), &["limit", "after", "type"])?;
    let limit = params.events()?;
    let types = params.types()?;
    let after = params
        .get("after")
        .map(|text| After::parse("after", text))
        .transpose()?;
    let db = app.database().await?;
    let session = db.session(uuid).await?.ok_or_else(|| no_session(&id))?;
    let after = match after {
        None | Some(After::Start) => None,
        Some(after) => {
            after.of_stream("after", &session.stream_id)?;
            match after {
                After::Start => None,
                After::Cursor(cursor) => Some(Place::from(&cursor)),
            }
        }
    };
    let rows = db
        .session_events(&session, after, types.as_deref(), limit + 1)
        .await?;
    page(&session.stream_id, rows, after, limit).map(|page| json(&page))
}

/// A page of stored events: `rows` has one more than `limit` when there is a next one.
fn page(
    stream_id: &str,
    mut rows: Vec<(u64, String)>,
    after: Option<Place>,
    limit: u32,
) -> Result<EventPage<Box<RawValue>>, Problem> {
    let more = rows.len() > limit as usize;
    rows.truncate(limit as usize);
    let last = rows.iter().fold(after, |before, (seq_no, _)| {
        Some(Place::after(before, *seq_no))
    });
    let next: Option<Cursor> = last.filter(|_| more).map(|place| place.cursor(stream_id));
    let items = rows
        .into_iter()
        .map(|(_, json)| RawValue::from_string(json).map_err(|_| Problem::internal()))
        .collect::<Result<_, _>>()?;
    Ok(EventPage { items, next })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_the_next_begins() {
        let rows = |numbers: &[u64]| -> Vec<(u64, String)> {
            numbers
                .iter()
                .map(|number| (*number, format!("{{\"seqNo\": {number}}}")))
                .collect()
        };
        let whole = page("7301", rows(&[5, 6]), None, 2).unwrap();
        assert_eq!(whole.next, None);
        assert_eq!(
            serde_json::to_string(&whole).unwrap(),
            r#"{"items":[{"seqNo": 5},{"seqNo": 6}]}"#,
            "stored JSON goes out as it is"
        );
        let first = page("7301", rows(&[5, 6, 7]), None, 2).unwrap();
        assert_eq!(first.items.len(), 2);
        assert_eq!(first.next, Some(Cursor::new("7301", 6)));

        // Two events of one number, and the page ends between them.
        let split = page("7301", rows(&[5, 5, 6]), None, 1).unwrap();
        assert_eq!(split.next, Some(Cursor::new("7301", 5)));
        let after = Some(Place::at(5));
        let split = page("7301", rows(&[5, 6]), after, 1).unwrap();
        assert_eq!(split.next.unwrap().nth, 1);
        // Nothing after the end: the place stays.
        assert_eq!(page("7301", vec![], after, 1).unwrap().next, None);
    }
}
