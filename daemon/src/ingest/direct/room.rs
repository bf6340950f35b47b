//! From a creator's name to the room of the running broadcast.
//!
//! In: a name. Out: a [`Sighting`]: live, or one of the reasons for which there is no room. Asked
//! is the live page first, then the API; what both could not tell is an error that names both
//! reasons, never "offline". A live room is looked at once more by its id, for what only that
//! tells: an age restriction, and a broadcast that ended a moment ago (protocol sheet §1).

use reqwest::{Client, StatusCode};
use serde_json::Value;
use shared::identity::is_stream_id;
use shared::time::Timestamp;
use url::Url;

use super::device::Device;
use super::http::{self, tame};
use super::sign;
use crate::ingest::budget::{Budget, Urgency};
use crate::ingest::provider::{Room, Sighting};
use crate::proto::in_millis;

/// The live page is some 300 kB.
const PAGE_LIMIT: usize = 4 * 1024 * 1024;
const API_LIMIT: usize = 1024 * 1024;

/// `status` of a user, a live room or a room.
const LIVE: i64 = 2;
pub(in crate::ingest) const PAUSED: i64 = 3;
pub(in crate::ingest) const ENDED: i64 = 4;

/// `statusCode` of the API for a name that nobody has.
const USER_NOT_FOUND: i64 = 19_881_007;
/// `status_code` of the room info for a room that only adults may see.
const AGE_RESTRICTED: i64 = 4_003_110;

/// Why a look shows nothing.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::ingest) enum Error {
    /// Neither the page nor the API gave an answer.
    #[error("page: {page}; api: {api}")]
    Unresolved {
        /// What was wrong with the page.
        page: Fault,
        /// What was wrong with the API's answer.
        api: Fault,
    },
    /// The broadcast is for accounts of adults only.
    #[error("room {0} is age-restricted: TikTok shows it to accounts of adults only")]
    AgeRestricted(String),
}

impl Error {
    /// The category for events and logs.
    pub(in crate::ingest) fn reason(&self) -> &'static str {
        match self {
            Self::AgeRestricted(_) => "age_restricted",
            Self::Unresolved {
                page: Fault::Blocked(_),
                ..
            }
            | Self::Unresolved {
                api: Fault::Blocked(_),
                ..
            } => "blocked",
            Self::Unresolved { .. } => "unresolved",
        }
    }
}

/// What is wrong with one answer.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub(in crate::ingest) enum Fault {
    /// A captcha, a login page, a refusal: TikTok takes us for a robot.
    #[error("blocked by TikTok ({0})")]
    Blocked(&'static str),
    /// An answer that says neither live nor not.
    #[error("no answer in it ({0})")]
    Unclear(String),
    /// TikTok does not like the request.
    #[error("refused ({0})")]
    Refused(String),
    /// No answer.
    #[error("not reached ({0})")]
    Unreachable(String),
}

/// What the page and the API tell about an account.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Account {
    room: Room,
    /// Of the broadcast where it is told, else of the user.
    status: Option<i64>,
}

/// One of TikTok's hosts, and how often all creators together may ask it.
pub(super) struct Host {
    pub(super) url: Url,
    pub(super) budget: Budget,
}

/// Looks at creators as one visitor.
pub(super) struct Lookout<'a> {
    pub(super) urgency: Urgency,
    pub(super) http: &'a Client,
    pub(super) device: &'a Device,
    pub(super) web: &'a Host,
    pub(super) webcast: &'a Host,
}

impl Lookout<'_> {
    /// Whether and where a creator is live.
    pub(super) async fn look(&self, name: &str) -> Result<Sighting, Error> {
        let page = self.page(name).await;
        let seen = match page {
            Ok(Some(account)) => judge(account),
            Ok(None) => Err(Fault::Unclear("no live room on the page".to_owned())),
            Err(fault) => Err(fault),
        };
        let sighting = match seen {
            // A page without a room can also mean that it is no one's page: the API knows.
            Ok(sighting) if sighting != Sighting::NeverLive => sighting,
            page => match (self.api(name).await, page) {
                (Ok(sighting), _) | (Err(_), Ok(sighting)) => sighting,
                (Err(api), Err(page)) => return Err(Error::Unresolved { page, api }),
            },
        };
        match sighting {
            Sighting::Live(room) => self.confirm(room).await,
            other => Ok(other),
        }
    }

    /// `GET /@{name}/live`
    async fn page(&self, name: &str) -> Result<Option<Account>, Fault> {
        let (status, body) = self
            .get(self.web, &format!("@{name}/live"), &[], PAGE_LIMIT)
            .await?;
        read_page(status, &body)
    }

    /// `GET /api-live/user/room/`
    async fn api(&self, name: &str) -> Result<Sighting, Fault> {
        let params = [
            ("uniqueId", name),
            ("sourceType", "54"),
            ("staleTime", "600000"),
        ];
        let (status, body) = self
            .get(self.web, "api-live/user/room/", &params, API_LIMIT)
            .await?;
        read_api(status, &body)
    }

    /// `GET /webcast/room/info/`: what only a look by the room's id shows. That look can fail for
    /// reasons of its own; then what is known already stands.
    async fn confirm(&self, room: Room) -> Result<Sighting, Error> {
        let params = [("room_id", room.id.as_str())];
        let info = match self
            .get(self.webcast, "webcast/room/info/", &params, API_LIMIT)
            .await
        {
            Ok((status, body)) => read_info(status, &body),
            Err(fault) => Err(fault),
        };
        match info {
            Ok(Info::Restricted) => Err(Error::AgeRestricted(room.id)),
            Ok(Info::Room {
                status: Some(ENDED),
                ..
            }) => Ok(Sighting::Offline),
            Ok(Info::Room {
                status,
                title,
                started_at,
            }) => Ok(Sighting::Live(Room {
                title: room.title.or(title),
                started_at: room.started_at.or(started_at),
                paused: status.map_or(room.paused, |status| status == PAUSED),
                ..room
            })),
            Err(fault) => {
                tracing::debug!(stage = "ingest", stream_id = room.id, %fault, "room info gave no answer");
                Ok(Sighting::Live(room))
            }
        }
    }

    async fn get(
        &self,
        host: &Host,
        path: &str,
        params: &[(&str, &str)],
        limit: usize,
    ) -> Result<(StatusCode, String), Fault> {
        let mut url = host
            .url
            .join(path)
            .map_err(|error| Fault::Refused(error.to_string()))?;
        url.query_pairs_mut()
            .extend_pairs(self.device.web_params())
            .extend_pairs(params);
        if host.budget.take(self.urgency).await.is_err() {
            return Err(Fault::Blocked("told to wait before"));
        }
        let response = self
            .http
            .get(url)
            .send()
            .await
            .map_err(|error| Fault::Unreachable(http::describe(&error)))?;
        let status = response.status();
        if status == StatusCode::TOO_MANY_REQUESTS {
            let wait = sign::told_wait(response.headers(), sign::unix_now());
            host.budget.hold(wait.unwrap_or(sign::UNTOLD_WAIT), "");
        }
        let body = http::body(response, limit)
            .await
            .map_err(Fault::Unreachable)?;
        Ok((status, String::from_utf8_lossy(&body).into_owned()))
    }
}

/// What an account's status means; nothing at all is no answer.
fn judge(account: Account) -> Result<Sighting, Fault> {
    let Account { mut room, status } = account;
    if room.id.is_empty() || room.id.bytes().all(|byte| byte == b'0') {
        return Ok(Sighting::NeverLive);
    }
    if !is_stream_id(&room.id) {
        return Err(Fault::Unclear(format!("room id {:?}", tame(&room.id))));
    }
    match status {
        Some(ENDED) => Ok(Sighting::Offline),
        // Anything but "ended" may be live; signing and connecting will tell.
        Some(status) => {
            room.paused = status == PAUSED;
            if !matches!(status, LIVE | PAUSED) {
                tracing::debug!(
                    stream_id = room.id,
                    status,
                    "unknown room status, taken as live"
                );
            }
            Ok(Sighting::Live(room))
        }
        None => Err(Fault::Unclear("a room without a status".to_owned())),
    }
}

/// The live page: its state is JSON in a script. `None` when it shows no live room.
fn read_page(status: StatusCode, body: &str) -> Result<Option<Account>, Fault> {
    if status == StatusCode::NOT_FOUND {
        return Ok(None);
    }
    wall(status)?;
    let state = script(body, "SIGI_STATE").ok_or(Fault::Blocked("a page without state"))?;
    let state: Value =
        serde_json::from_str(state).map_err(|_| Fault::Blocked("a page whose state is no JSON"))?;
    let info = &state["LiveRoom"]["liveRoomUserInfo"];
    Ok(info.is_object().then(|| account(info)))
}

/// The API's `{statusCode, message, data}`.
fn read_api(status: StatusCode, body: &str) -> Result<Sighting, Fault> {
    wall(status)?;
    if body.trim().is_empty() {
        return Err(Fault::Blocked("an empty answer"));
    }
    let answer: Value =
        serde_json::from_str(body).map_err(|_| Fault::Blocked("an answer that is no JSON"))?;
    let code = integer(&answer["statusCode"]);
    let message = answer["message"].as_str().unwrap_or_default();
    match code {
        Some(USER_NOT_FOUND) => Ok(Sighting::UnknownUser),
        _ if message == "user_not_found" => Ok(Sighting::UnknownUser),
        Some(0) | None if answer["data"].is_object() => judge(account(&answer["data"])),
        Some(0) if answer["data"].is_null() => Ok(Sighting::UnknownUser),
        _ => Err(Fault::Refused(tame(&format!(
            "status {} {message}",
            code.unwrap_or_default()
        )))),
    }
}

/// What the room info tells.
#[derive(Debug, PartialEq, Eq)]
enum Info {
    Room {
        status: Option<i64>,
        title: Option<String>,
        started_at: Option<Timestamp>,
    },
    Restricted,
}

/// The room info's `{status_code, data}`.
fn read_info(status: StatusCode, body: &str) -> Result<Info, Fault> {
    wall(status)?;
    let answer: Value =
        serde_json::from_str(body).map_err(|_| Fault::Blocked("an answer that is no JSON"))?;
    let data = &answer["data"];
    match integer(&answer["status_code"]) {
        Some(AGE_RESTRICTED) => Ok(Info::Restricted),
        Some(0) => match data.as_object() {
            // A room that is kept from us has a text, or nothing, in place of its content.
            Some(object) if object.contains_key("prompts") || object.len() <= 1 => {
                Ok(Info::Restricted)
            }
            Some(_) => Ok(Info::Room {
                status: integer(&data["status"]),
                title: filled(&data["title"]),
                started_at: time(&data["create_time"]),
            }),
            None => Err(Fault::Unclear("no data".to_owned())),
        },
        code => {
            let message = filled(&data["message"])
                .or_else(|| filled(&data["prompts"]))
                .unwrap_or_default();
            Err(Fault::Refused(tame(&format!(
                "status {} {message}",
                code.unwrap_or_default()
            ))))
        }
    }
}

/// Refusals by HTTP status, and redirects that were not followed.
fn wall(status: StatusCode) -> Result<(), Fault> {
    match status.as_u16() {
        200..=299 => Ok(()),
        300..=399 => Err(Fault::Blocked("a redirect to a login or verification page")),
        401 => Err(Fault::Blocked("status 401")),
        403 => Err(Fault::Blocked("status 403")),
        429 => Err(Fault::Blocked("status 429")),
        other => Err(Fault::Unreachable(format!("status {other}"))),
    }
}

/// The text inside `<script id="…" …>…</script>`.
fn script<'a>(html: &'a str, id: &str) -> Option<&'a str> {
    let (_, rest) = html.split_once(&format!("id=\"{id}\""))?;
    let (_, rest) = rest.split_once('>')?;
    rest.split_once("</script>").map(|(text, _)| text)
}

/// `{user, liveRoom}`, the same on the page and in the API.
fn account(info: &Value) -> Account {
    let (user, live_room) = (&info["user"], &info["liveRoom"]);
    Account {
        status: integer(&live_room["status"]).or_else(|| integer(&user["status"])),
        room: Room {
            id: filled(&user["roomId"]).unwrap_or_default(),
            unique_id: filled(&user["uniqueId"]),
            owner_id: filled(&user["id"]),
            owner_nickname: filled(&user["nickname"]),
            title: filled(&live_room["title"]),
            started_at: time(&live_room["startTime"]),
            paused: false,
        },
    }
}

/// Seconds (or milliseconds) since 1970; 0 is none.
pub(in crate::ingest) fn time(value: &Value) -> Option<Timestamp> {
    integer(value)
        .filter(|&time| time > 0)
        .map(|time| Timestamp::from_millis(in_millis(time)))
}

/// A number, also one that is written as text.
fn integer(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

/// A text that is not empty, also one that is written as a number.
pub(in crate::ingest) fn filled(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.trim().is_empty() => {
            Some(text.trim().chars().take(500).collect())
        }
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
