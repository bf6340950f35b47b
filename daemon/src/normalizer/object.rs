//! JSON objects for messages without an event type, put together field by field.
//!
//! What is absent (an empty text or list, an id or a time of 0) is not put in; numbers and flags
//! always are, since 0 and false are what proto3 leaves out.

use serde_json::{Map, Value};
use shared::event::User;
use shared::time::Timestamp;

use super::text::{display_type, id, rendered, text};
use super::user;
use crate::proto::in_millis;
use crate::proto::webcast::{self, Header};

/// An object in the making; what is absent is not put in.
#[derive(Default)]
pub(super) struct Object {
    pub(super) content: Map<String, Value>,
    pub(super) user: Option<User>,
}

impl Object {
    /// With what the app shows for the message, where the header has it.
    pub(super) fn of(common: Option<&Header>) -> Self {
        let shown = common.and_then(|common| common.display_text.as_ref());
        Self::default()
            .value("displayType", display_type(common))
            .value("displayText", rendered(shown))
    }

    /// Whose message it is.
    pub(super) fn by(mut self, user: Option<&webcast::User>) -> Self {
        self.user = user.and_then(|user| user::user(user, None));
        self
    }

    pub(super) fn value(mut self, name: &str, value: Option<impl Into<Value>>) -> Self {
        if let Some(value) = value {
            self.content.insert(name.to_owned(), value.into());
        }
        self
    }

    pub(super) fn text(self, name: &str, bytes: &[u8]) -> Self {
        self.value(name, text(bytes))
    }

    pub(super) fn id(self, name: &str, number: i64) -> Self {
        self.value(name, id(number))
    }

    pub(super) fn number(self, name: &str, number: impl Into<i64>) -> Self {
        self.value(name, Some(number.into()))
    }

    pub(super) fn flag(self, name: &str, flag: bool) -> Self {
        self.value(name, Some(flag))
    }

    /// A time in milliseconds or seconds.
    pub(super) fn time(self, name: &str, time: i64) -> Self {
        let time = (time > 0).then(|| Timestamp::from_millis(in_millis(time)));
        self.value(name, time.map(|time| time.to_string()))
    }

    pub(super) fn list<T>(self, name: &str, items: &[T], item: impl Fn(&T) -> Object) -> Self {
        let list: Vec<Value> = items
            .iter()
            .map(|each| Value::Object(item(each).content))
            .collect();
        self.value(name, (!list.is_empty()).then_some(list))
    }

    pub(super) fn ids(self, name: &str, ids: &[i64]) -> Self {
        let list: Vec<Value> = ids
            .iter()
            .filter_map(|number| id(*number))
            .map(Value::from)
            .collect();
        self.value(name, (!list.is_empty()).then_some(list))
    }

    pub(super) fn person(self, name: &str, who: Option<&webcast::User>) -> Self {
        let person = who.and_then(user::person);
        self.value(
            name,
            person.and_then(|person| serde_json::to_value(person).ok()),
        )
    }
}
