//! The table: which raw type becomes which event, and with what.
//!
//! Comes in: one raw envelope. Goes out: one event, always; or why there is none. A message of a
//! type with an event of its own that cannot be decoded is a parse error; any other message goes
//! through as `RAW` with its data untouched, so nothing is lost.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use prost::{Message, Name};
use serde_json::Value;
use shared::event::{
    Chat, Emote, EmoteChat, Join, Like, Payload, Person, Raw, RoomUser, SchemaVersion, StreamEnd,
    TopViewer, UnifiedEvent, User,
};
use shared::raw::{Envelope, RawData};

use super::decode::Body;
use super::decoded::{self, Decoded};
use super::lifecycle::lifecycle;
use super::text::{any_text, count, id, image_url, object_without_nul, text, without_nul};
use super::user::{first, person, user};
use super::{Reason, Rejection, battle, gift, social};
use crate::proto::webcast;

/// `WebcastControlMessage` numbers after which the broadcast is over: ended by the creator, ended
/// by moderation. Others are pauses or unknown, and nothing ends on an unknown number.
const END_ACTIONS: [i32; 2] = [3, 4];

/// Turns a raw envelope into its event. Pure: the same envelope always gives the same event.
///
/// # Errors
/// [`Reason::ParseError`] when a message whose type has an event of its own cannot be decoded, or
/// a lifecycle message lacks a field.
pub fn normalize(envelope: &Envelope) -> Result<UnifiedEvent, Rejection> {
    let (payload, user) = match &envelope.data {
        RawData::Protobuf(bytes) => {
            message(envelope, &Body::Protobuf(Bytes::copy_from_slice(bytes)))?
        }
        RawData::Json(object) => match lifecycle(&envelope.kind, object) {
            Some(read) => {
                let payload = read.map_err(|error| parse_error(&envelope.kind, &error))?;
                (payload, None)
            }
            None => message(envelope, &Body::Json(object))?,
        },
    };
    Ok(UnifiedEvent {
        schema_version: SchemaVersion::V1,
        event_id: envelope.event_id(),
        source: envelope.source,
        stream_id: envelope.stream_id.clone(),
        session_id: envelope.session_id,
        seq_no: envelope.seq_no,
        timestamp: envelope.timestamp,
        ingested_at: envelope.ingested_at,
        backlog: envelope.backlog,
        replay_of: envelope.replay_of,
        user,
        payload,
    })
}

/// What a message of TikTok's says, and whose it is.
fn message(envelope: &Envelope, body: &Body) -> Result<(Payload, Option<User>), Rejection> {
    let raw_type = without_nul(&envelope.kind);
    Ok(match envelope.kind.as_str() {
        "WebcastChatMessage" => {
            let message: webcast::ChatMessage = must_decode(envelope, body)?;
            let user = sender(message.user.as_ref(), message.user_identity.as_ref());
            (Payload::Chat(chat(raw_type, &message)), user)
        }
        "WebcastGiftMessage" => {
            let message: webcast::GiftMessage = must_decode(envelope, body)?;
            let user = sender(message.user.as_ref(), message.user_identity.as_ref());
            let seq_no = envelope.seq_no.to_string();
            let message_id = envelope.msg_id.as_deref().unwrap_or(&seq_no);
            let gift = gift::gift(raw_type, &message, message_id);
            (Payload::Gift(Box::new(gift)), user)
        }
        "WebcastLikeMessage" => {
            let message: webcast::LikeMessage = must_decode(envelope, body)?;
            let like = Like {
                raw_type,
                count: count(message.count),
                total: count(message.total),
            };
            (Payload::Like(like), sender(message.user.as_ref(), None))
        }
        "WebcastMemberMessage" => {
            let message: webcast::MemberMessage = must_decode(envelope, body)?;
            let join = Join {
                raw_type,
                member_count: count(message.member_count),
                action: message.action.into(),
            };
            (Payload::Join(join), sender(message.user.as_ref(), None))
        }
        "WebcastSocialMessage" => {
            let message: webcast::SocialMessage = must_decode(envelope, body)?;
            let user = sender(message.user.as_ref(), None);
            let payload = social::social(&raw_type, &message)
                .unwrap_or_else(|| raw(raw_type, &envelope.data, Some(decoded::social(&message))));
            (payload, user)
        }
        "WebcastSubNotifyMessage" => {
            let message: webcast::SubNotifyMessage = must_decode(envelope, body)?;
            let user = sender(message.user.as_ref(), None);
            let payload = social::subscription(&raw_type, &message).map_or_else(
                || {
                    raw(
                        raw_type,
                        &envelope.data,
                        Some(decoded::subscription_notice(&message)),
                    )
                },
                Payload::Subscribe,
            );
            (payload, user)
        }
        "WebcastEmoteChatMessage" => {
            let message: webcast::EmoteChatMessage = must_decode(envelope, body)?;
            let user = sender(message.user.as_ref(), message.user_identity.as_ref());
            let emotes = message
                .emote_list
                .iter()
                .map(|emote| self::emote(emote, None));
            let emotes = EmoteChat {
                raw_type,
                emotes: emotes.collect(),
            };
            (Payload::Emote(emotes), user)
        }
        "WebcastLinkMicBattle" => {
            let message: webcast::LinkMicBattle = must_decode(envelope, body)?;
            let battle = battle::battle(raw_type, &message);
            (Payload::Battle(Box::new(battle)), None)
        }
        "WebcastLinkMicArmies" => {
            let message: webcast::LinkMicArmies = must_decode(envelope, body)?;
            let armies = battle::armies(raw_type, &message);
            (Payload::Battle(Box::new(armies)), None)
        }
        "WebcastBarrageMessage" => {
            let message: webcast::BarrageMessage = must_decode(envelope, body)?;
            let grade = message.user_grade_param.as_ref();
            let fan = message.fans_level_param.as_ref();
            // Where no field has the user, the text may name it.
            let texts = [&message.content, &message.common_barrage_content];
            let named = texts.into_iter().flatten().flat_map(|text| &text.pieces);
            let user = first(
                [
                    message.user.as_ref(),
                    grade.and_then(|param| param.user.as_ref()),
                    fan.and_then(|param| param.user.as_ref()),
                ]
                .into_iter()
                .chain(named.map(|piece| piece.user_value.as_ref()?.user.as_ref())),
            );
            let banner = battle::barrage(raw_type, &message);
            (Payload::Battle(Box::new(banner)), user)
        }
        "WebcastRoomUserSeqMessage" => {
            let message: webcast::RoomUserSeqMessage = must_decode(envelope, body)?;
            (Payload::RoomUser(room_user(raw_type, &message)), None)
        }
        "WebcastControlMessage" => {
            let message: webcast::ControlMessage = must_decode(envelope, body)?;
            let payload = if END_ACTIONS.contains(&message.action) {
                Payload::StreamEnd(StreamEnd {
                    raw_type,
                    action: message.action.into(),
                    message: text(&message.tips),
                })
            } else {
                raw(raw_type, &envelope.data, Some(decoded::control(&message)))
            };
            (payload, None)
        }
        "ControlEvent.CONNECTED"
        | "ControlEvent.DISCONNECTED"
        | "ControlEvent.ERROR"
        | "ControlEvent.GAP" => {
            return Err(parse_error(&envelope.kind, &"its data is a JSON object"));
        }
        other => {
            let Decoded { content, user } = decoded::decoded(other, body);
            (raw(raw_type, &envelope.data, content), user)
        }
    })
}

fn must_decode<M: Message + Default + Name>(
    envelope: &Envelope,
    body: &Body,
) -> Result<M, Rejection> {
    body.decode()
        .map_err(|error| parse_error(&envelope.kind, &error))
}

fn parse_error(kind: &str, error: &dyn std::fmt::Display) -> Rejection {
    Rejection {
        reason: Reason::ParseError,
        error: format!("{}: {error}", without_nul(kind)),
    }
}

fn raw(raw_type: String, data: &RawData, decoded: Option<Value>) -> Payload {
    Payload::Raw(Raw {
        raw_type,
        raw: match data {
            RawData::Protobuf(bytes) => Value::String(STANDARD.encode(bytes)),
            RawData::Json(object) => Value::Object(object_without_nul(object.clone())),
        },
        decoded,
    })
}

fn sender(
    sender: Option<&webcast::User>,
    identity: Option<&webcast::UserIdentity>,
) -> Option<User> {
    user(sender?, identity)
}

fn chat(raw_type: String, message: &webcast::ChatMessage) -> Chat {
    // One account may be mentioned in all three places; the first says most about it.
    let mut mentions: Vec<Person> = Vec::new();
    let whole = message.at_user.iter().chain(&message.mention_users);
    let bare = message.mention_user_list.iter().filter_map(|number| {
        Some(Person {
            user_id: id(*number)?,
            ..Person::default()
        })
    });
    for mentioned in whole.filter_map(person).chain(bare) {
        if mentions
            .iter()
            .all(|known| known.user_id != mentioned.user_id)
        {
            mentions.push(mentioned);
        }
    }
    let emotes = message.emotes.iter().filter_map(|placed| {
        let position = u32::try_from(placed.index).unwrap_or(0);
        Some(emote(placed.emote.as_ref()?, Some(position)))
    });
    Chat {
        raw_type,
        message: any_text(&message.content),
        language: text(&message.content_language),
        emotes: emotes.collect(),
        mentions,
    }
}

fn emote(emote: &webcast::Emote, position: Option<u32>) -> Emote {
    Emote {
        emote_id: any_text(&emote.emote_id),
        image_url: image_url(emote.image.as_ref()),
        position,
    }
}

fn room_user(raw_type: String, message: &webcast::RoomUserSeqMessage) -> RoomUser {
    let top_viewers = message
        .ranks
        .iter()
        .zip(1_u64..)
        .filter_map(|(place, number)| {
            Some(TopViewer {
                person: person(place.user.as_ref()?)?,
                // The oldest JSON has no rank, but the order.
                rank: if place.rank > 0 {
                    count(place.rank)
                } else {
                    number
                },
                coins: count(place.score),
            })
        });
    let anonymous = count(message.anonymous);
    RoomUser {
        raw_type,
        viewer_count: count(message.total),
        total_viewers: count(message.total_user),
        anonymous_viewers: (anonymous > 0).then_some(anonymous),
        top_viewers: top_viewers.collect(),
    }
}
