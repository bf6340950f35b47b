//! The last look at an event before it is published: is it what the contract promises?
//!
//! Comes in: an event. Goes out: its JSON, or the rejection that names the place that is wrong.
//! The schema is the generated one of [`shared::event::json_schema`], compiled once for each event
//! type: in the published schema an event must fit one of fifteen forms, each for one value of
//! `eventType`, and of these only the form of its own type can fit. It takes as long either way;
//! this one can say which place is wrong, where the other says that no form fits.

use std::collections::BTreeMap;

use jsonschema::Validator;
use serde_json::Value;
use shared::event::UnifiedEvent;

use super::{Reason, Rejection};

/// The contract's schema, compiled for each event type.
pub struct Contract(BTreeMap<String, Validator>);

/// The generated schema is no JSON Schema of events: a defect of the build, not of any message.
#[derive(Debug, thiserror::Error)]
#[error("the event schema cannot be compiled: {0}")]
pub struct SchemaError(String);

impl Contract {
    /// Compiles the schema of the UnifiedEvent.
    ///
    /// # Errors
    /// [`SchemaError`] when it is none.
    pub fn new() -> Result<Self, SchemaError> {
        forms(shared::event::json_schema())?
            .into_iter()
            .map(|(kind, schema)| {
                let validator = jsonschema::validator_for(&schema)
                    .map_err(|error| SchemaError(error.to_string()))?;
                Ok((kind, validator))
            })
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// The event as the JSON to publish, when it keeps the contract.
    ///
    /// # Errors
    /// [`Reason::ValidationError`] with the first place that does not.
    pub fn json(&self, event: &UnifiedEvent) -> Result<String, Rejection> {
        let reject = |error: String| Rejection {
            reason: Reason::ValidationError,
            error,
        };
        let value = serde_json::to_value(event).map_err(|error| reject(error.to_string()))?;
        self.validate(&value).map_err(reject)?;
        Ok(value.to_string())
    }

    fn validate(&self, event: &Value) -> Result<(), String> {
        let kind = event["eventType"].as_str().unwrap_or_default();
        let validator = self.0.get(kind).ok_or("/eventType: is none of the types")?;
        validator.validate(event).map_err(|error| {
            // Masked: the values are people's words.
            format!("{}: {}", error.instance_path(), error.masked())
        })
    }
}

/// The schema of each event type: the whole schema with that type's form as the only choice.
fn forms(mut schema: Value) -> Result<BTreeMap<String, Value>, SchemaError> {
    let Some(Value::Array(forms)) = schema.as_object_mut().and_then(|root| root.remove("oneOf"))
    else {
        return Err(SchemaError("it has no `oneOf`".to_owned()));
    };
    let mut schemas = BTreeMap::new();
    for form in forms {
        let Some(kind) = form["properties"]["eventType"]["const"].as_str() else {
            return Err(SchemaError("a form has no `eventType`".to_owned()));
        };
        let kind = kind.to_owned();
        let mut one = schema.clone();
        one["allOf"] = Value::Array(vec![form]);
        if schemas.insert(kind, one).is_some() {
            return Err(SchemaError("two forms have one `eventType`".to_owned()));
        }
    }
    Ok(schemas)
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use shared::event::EventType;

    use super::*;

    fn event() -> Value {
        json!({
            "schemaVersion": "unified-event.v1", "eventId": "0".repeat(64), "source": "live",
            "streamId": "not a room", "sessionId": "01980000-0000-7000-8000-000000000001",
            "seqNo": 1, "timestamp": "2026-11-22T15:04:05.678Z",
            "ingestedAt": "2026-11-22T15:04:05.678Z", "eventType": "CHAT",
            "payload": {"rawType": "WebcastChatMessage", "message": "private words"},
        })
    }

    #[test]
    fn what_breaks_the_contract_is_named_without_its_content() {
        let mut event: UnifiedEvent = serde_json::from_value(event()).unwrap();
        let contract = Contract::new().unwrap();
        let rejection = contract.json(&event).unwrap_err();
        assert_eq!(rejection.reason, Reason::ValidationError);
        assert!(rejection.error.starts_with("/streamId: "), "{rejection}");
        assert!(!rejection.error.contains("not a room"), "{rejection}");

        event.stream_id = "7301234567890123456".to_owned();
        let json = contract.json(&event).unwrap();
        assert_eq!(serde_json::from_str::<UnifiedEvent>(&json).unwrap(), event);
    }

    #[test]
    fn a_wrong_place_inside_the_payload_is_named() {
        let contract = Contract::new().unwrap();
        let mut event = event();
        event["streamId"] = json!("7301234567890123456");
        event["payload"]["message"] = json!(["private words"]);
        let error = contract.validate(&event).unwrap_err();
        assert!(error.starts_with("/payload/message: "), "{error}");
        assert!(!error.contains("private"), "{error}");
    }

    #[test]
    fn every_event_type_has_a_form() {
        let contract = Contract::new().unwrap();
        let mut wanted: Vec<&str> = EventType::ALL.iter().map(|kind| kind.as_str()).collect();
        wanted.sort_unstable();
        assert!(contract.0.keys().eq(wanted));
    }

    /// The schema as it is published says of every damaged event what ours say.
    #[test]
    fn the_forms_judge_as_the_published_schema_does() {
        let published = jsonschema::validator_for(&shared::event::json_schema()).unwrap();
        let contract = Contract::new().unwrap();
        let mut good = event();
        good["streamId"] = json!("7301234567890123456");
        assert!(published.is_valid(&good));

        let values = [
            json!(null),
            json!(true),
            json!(-1),
            json!(1.5),
            json!(u64::MAX),
            json!(""),
            json!("CHAT"),
            json!("GIFT"),
            json!("live"),
            json!([]),
            json!({}),
            json!({"rawType": "x"}),
        ];
        let mut bad = 0;
        let fields = good.as_object().unwrap().keys().cloned();
        for field in fields.chain(["user", "backlog", "replayOf", "unknown"].map(str::to_owned)) {
            let removed = || {
                let mut event = good.clone();
                event.as_object_mut().unwrap().remove(&field);
                event
            };
            let damaged = values.iter().map(|value| {
                let mut event = good.clone();
                event[&field] = value.clone();
                event
            });
            for event in damaged.chain([removed()]) {
                let valid = published.is_valid(&event);
                assert_eq!(contract.validate(&event).is_ok(), valid, "{event}");
                bad += u32::from(!valid);
            }
        }
        for kind in EventType::ALL {
            let mut event = good.clone();
            event["eventType"] = json!(kind.as_str());
            let valid = published.is_valid(&event);
            assert_eq!(contract.validate(&event).is_ok(), valid, "{event}");
        }
        assert!(bad > 100, "{bad}");
    }

    #[test]
    fn a_schema_of_something_else_is_refused() {
        for odd in [
            json!({}),
            json!({"oneOf": [{"properties": {}}]}),
            json!({"oneOf": [
                {"properties": {"eventType": {"const": "CHAT"}}},
                {"properties": {"eventType": {"const": "CHAT"}}},
            ]}),
        ] {
            assert!(forms(odd).is_err());
        }
    }
}
