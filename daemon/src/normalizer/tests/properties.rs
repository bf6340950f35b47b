//! What must be true of every message, tried on many: damaged captures, made-up messages, sessions
//! under a clock that jumps.

use std::collections::HashSet;
use std::sync::LazyLock;

use bytes::Bytes;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use prost::{Message as _, Name};
use serde_json::{Value, json};
use shared::event::UnifiedEvent;
use shared::raw::{Envelope, RawData};
use shared::time::Timestamp;

use super::fixtures::{Case, ROOMS, capture, encoded, envelope};
use super::hostile::{CONTRACT, any_type, survives};
use crate::ingest::Frames;
use crate::normalizer::{Reason, normalize};
use crate::proto::frames::{BaseMessage, FetchResult, PushFrame};
use crate::proto::webcast::{
    self, ChatMessage, GiftMessage, LikeMessage, RoomUserSeqMessage, User,
};

/// Real messages: they reach far deeper into the code than noise does.
static CAPTURED: LazyLock<Vec<Case>> = LazyLock::new(|| {
    let mut cases: Vec<Case> = ROOMS.into_iter().flat_map(capture).collect();
    cases.extend(encoded());
    cases
});

/// One change of a message's bytes.
#[derive(Clone, Debug)]
enum Damage {
    Flip(Index, u8),
    Cut(Index),
    Remove(Index, usize),
    Repeat(Index, usize, usize),
    /// A piece of another message.
    Splice(Index, Index, Index, usize),
}

impl Damage {
    fn apply(&self, bytes: &mut Vec<u8>) {
        if bytes.is_empty() {
            return;
        }
        match self {
            Self::Flip(at, bit) => {
                let at = at.index(bytes.len());
                bytes[at] ^= 1 << (bit % 8);
            }
            Self::Cut(at) => bytes.truncate(at.index(bytes.len())),
            Self::Remove(at, length) => {
                let at = at.index(bytes.len());
                bytes.drain(at..(at + length).min(bytes.len()));
            }
            Self::Repeat(at, length, times) => {
                let at = at.index(bytes.len());
                let end = (at + length).min(bytes.len());
                let piece = bytes[at..end].repeat(*times);
                bytes.splice(end..end, piece);
            }
            Self::Splice(at, other, from, length) => {
                let other = other.get(&CAPTURED).payload();
                if other.is_empty() {
                    return;
                }
                let from = from.index(other.len());
                let piece = &other[from..(from + length).min(other.len())];
                let at = at.index(bytes.len());
                bytes.splice(at..at, piece.iter().copied());
            }
        }
    }
}

fn damage() -> impl Strategy<Value = Vec<Damage>> {
    let index = any::<Index>;
    let one = prop_oneof![
        4 => (index(), any::<u8>()).prop_map(|(at, bit)| Damage::Flip(at, bit)),
        1 => index().prop_map(Damage::Cut),
        1 => (index(), 1..40_usize).prop_map(|(at, length)| Damage::Remove(at, length)),
        1 => (index(), 1..60_usize, 1..200_usize).prop_map(|(at, length, times)| Damage::Repeat(at, length, times)),
        1 => (index(), index(), index(), 1..400_usize).prop_map(|(at, other, from, length)| Damage::Splice(at, other, from, length)),
    ];
    prop::collection::vec(one, 1..8)
}

/// An account with what is read of it.
fn any_user() -> impl Strategy<Value = User> {
    let badge = (0..20_i32, "[0-9]{0,3}").prop_map(|(scene_type, level)| webcast::Badge {
        scene_type,
        privilege_log_extra: Some(webcast::PrivilegeLogExtra {
            level: level.into(),
        }),
        ..Default::default()
    });
    let badges = prop::collection::vec(badge, 0..4);
    (
        any::<i64>(),
        any::<String>(),
        any::<String>(),
        any::<bool>(),
        badges,
    )
        .prop_map(|(id, nickname, display_id, verified, badge_list)| User {
            id,
            nickname: nickname.into(),
            display_id: display_id.into(),
            verified,
            badge_list,
            ..Default::default()
        })
}

/// A message with its type.
fn any_message() -> impl Strategy<Value = (&'static str, Vec<u8>)> {
    let user = || prop::option::of(any_user());
    let chat =
        (user(), any::<Vec<u8>>(), any::<Vec<i64>>()).prop_map(|(user, content, mentions)| {
            let message = ChatMessage {
                user,
                content: content.into(),
                mention_user_list: mentions,
                ..Default::default()
            };
            ("WebcastChatMessage", message.encode_to_vec())
        });
    let gift = (
        user(),
        any::<[i32; 4]>(),
        any::<[i64; 2]>(),
        any::<String>(),
    )
        .prop_map(
            |(user, [repeat_count, repeat_end, kind, price], [gift_id, group_id], name)| {
                let gift = webcast::Gift {
                    id: gift_id,
                    r#type: kind % 5,
                    diamond_count: price,
                    name: name.into(),
                    ..Default::default()
                };
                let message = GiftMessage {
                    user,
                    gift_id,
                    repeat_count,
                    repeat_end: repeat_end % 2,
                    group_id,
                    gift: Some(gift),
                    ..Default::default()
                };
                ("WebcastGiftMessage", message.encode_to_vec())
            },
        );
    let like = (user(), any::<i32>(), any::<i64>()).prop_map(|(user, count, total)| {
        let message = LikeMessage {
            user,
            count,
            total,
            ..Default::default()
        };
        ("WebcastLikeMessage", message.encode_to_vec())
    });
    let viewers = (any::<[i64; 3]>(), prop::collection::vec(user(), 0..5)).prop_map(
        |([total, total_user, anonymous], users)| {
            let ranks = users.into_iter().zip(1..);
            let message = RoomUserSeqMessage {
                total,
                total_user,
                anonymous,
                ranks: ranks
                    .map(|(user, rank)| webcast::Contributor {
                        user,
                        rank,
                        score: 1,
                    })
                    .collect(),
                ..Default::default()
            };
            ("WebcastRoomUserSeqMessage", message.encode_to_vec())
        },
    );
    prop_oneof![chat, gift, like, viewers]
}

fn event(kind: &str, bytes: Vec<u8>) -> UnifiedEvent {
    normalize(&envelope(kind, RawData::Protobuf(bytes), 1)).unwrap()
}

/// The bytes of a message with only what we read of it.
fn again<M: prost::Message + Default>(bytes: &[u8]) -> Vec<u8> {
    M::decode(bytes).unwrap().encode_to_vec()
}

proptest! {
    #[test]
    fn a_damaged_capture_is_survived(
        index in any::<Index>(),
        damage in damage(),
        kind in prop::option::weighted(0.2, any_type()),
    ) {
        let case = index.get(&CAPTURED);
        let mut bytes = case.payload().to_vec();
        for one in &damage {
            one.apply(&mut bytes);
        }
        survives(kind.as_ref().unwrap_or(&case.envelope.kind), bytes);
    }

    #[test]
    fn an_event_is_read_as_it_was_written((kind, bytes) in any_message()) {
        let event = event(kind, bytes.clone());
        let json = CONTRACT.json(&event).unwrap();
        prop_assert_eq!(&serde_json::from_str::<UnifiedEvent>(&json).unwrap(), &event);
        // Made again from what we read of the message, and from its envelope's fields.
        let read = match kind {
            "WebcastChatMessage" => again::<ChatMessage>(&bytes),
            "WebcastGiftMessage" => again::<GiftMessage>(&bytes),
            "WebcastLikeMessage" => again::<LikeMessage>(&bytes),
            _ => again::<RoomUserSeqMessage>(&bytes),
        };
        prop_assert_eq!(&self::event(kind, read), &event);
        let envelope = envelope(kind, RawData::Protobuf(bytes), 1);
        let fields = envelope.to_fields();
        let back = Envelope::from_fields(|name| {
            let (_, text) = fields.iter().find(|(field, _)| *field == name)?;
            Some(text.as_ref())
        });
        prop_assert_eq!(CONTRACT.json(&normalize(&back.unwrap()).unwrap()).unwrap(), json);
    }

    #[test]
    fn json_of_any_type_is_an_event_or_a_parse_error(kind in any_type(), value in any_json()) {
        let object = json!({"common": value, "user": value, "content": value, "gift": value, "total": value});
        let object = object.as_object().unwrap().clone();
        match normalize(&envelope(&kind, RawData::Json(object), 1)) {
            Ok(event) => {
                let json = CONTRACT.json(&event).unwrap();
                prop_assert!(!json.contains("\\u0000"));
            }
            Err(rejection) => prop_assert_eq!(rejection.reason, Reason::ParseError),
        }
    }

    #[test]
    fn numbers_are_contiguous_and_ids_unique(steps in prop::collection::vec(step(), 1..60)) {
        const DAY: i64 = 86_400_000;
        let mut clock = 1_763_800_000_000;
        let mut frames = Frames::new("7301", None, Timestamp::from_millis(clock));
        let (mut ids, mut sessions) = (HashSet::new(), HashSet::new());
        let (mut last, mut session): (Option<u64>, _) = (None, None);
        let mut next_message = 1;
        for step in steps {
            match step {
                Step::Reconnect => frames.reconnect(Timestamp::from_millis(clock)),
                Step::Restart => frames = Frames::new("7301", last, Timestamp::from_millis(clock)),
                Step::Clock(days) => clock += i64::from(days) * DAY,
                Step::Frame { messages, repeat } => {
                    // With some of what came just before, as TikTok does.
                    let first = (next_message - i64::from(repeat)).max(1);
                    next_message += i64::from(messages);
                    clock += 20;
                    let bytes = frame(first..next_message);
                    let taken = frames.take(&bytes, Timestamp::from_millis(clock)).unwrap();
                    for envelope in taken.envelopes {
                        if session == Some(envelope.session_id) {
                            prop_assert_eq!(Some(envelope.seq_no), last.map(|last| last + 1));
                        } else {
                            prop_assert!(last.is_none_or(|last| envelope.seq_no > last));
                            prop_assert!(sessions.insert(envelope.session_id), "a session comes again");
                        }
                        (session, last) = (Some(envelope.session_id), Some(envelope.seq_no));
                        let event = normalize(&envelope).unwrap();
                        prop_assert_eq!(event.event_id, envelope.event_id());
                        prop_assert!(ids.insert(event.event_id), "an id comes again");
                    }
                }
            }
        }
    }
}

/// JSON as a stranger sends it: any kind of value where any other is expected.
fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<f64>().prop_map(|number| json!(number)),
        any::<i64>().prop_map(|number| json!(number.to_string())),
        ".{0,20}".prop_map(Value::from),
    ];
    let name = select(vec![
        "userId",
        "user_id",
        "id",
        "idStr",
        "nickname",
        "uniqueId",
        "displayId",
        "badges",
        "badgeList",
        "urlList",
        "avatarThumb",
        "content",
        "comment",
        "text",
        "key",
        "pieces",
        "x",
    ]);
    leaf.prop_recursive(4, 40, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            prop::collection::btree_map(name.clone(), inner, 0..6)
                .prop_map(|members| json!(members)),
        ]
    })
}

#[derive(Clone, Debug)]
enum Step {
    Frame {
        messages: u8,
        repeat: u8,
    },
    Reconnect,
    Restart,
    /// The clock goes by so many days.
    Clock(i8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (0..20_u8, 0..5_u8).prop_map(|(messages, repeat)| Step::Frame { messages, repeat }),
        1 => Just(Step::Reconnect),
        1 => Just(Step::Restart),
        1 => prop_oneof![Just(-1), Just(1)].prop_map(Step::Clock),
    ]
}

/// A push frame of likes with these ids.
fn frame(ids: std::ops::Range<i64>) -> Bytes {
    let messages = ids.map(|msg_id| {
        let message = BaseMessage {
            method: "WebcastLikeMessage".to_owned(),
            msg_id,
            ..BaseMessage::default()
        };
        message.encode_to_vec().into()
    });
    let result = FetchResult {
        messages: messages.collect(),
        ..FetchResult::default()
    };
    let frame = PushFrame {
        payload_encoding: "pb".to_owned(),
        payload_type: "msg".to_owned(),
        payload: result.encode_to_vec().into(),
        ..PushFrame::default()
    };
    frame.encode_to_vec().into()
}

/// Ids of another room, another number or another type are other ids, however the parts join.
#[test]
fn the_parts_of_an_id_cannot_be_confused() {
    let mut ids = HashSet::new();
    for room in ["1", "11", "111"] {
        for seq_no in [1, 11, 111] {
            for kind in ["1:A", "11:A", "A", "1"] {
                let envelope = Envelope {
                    stream_id: room.to_owned(),
                    ..envelope(kind, RawData::Protobuf(vec![]), seq_no)
                };
                assert!(ids.insert(envelope.event_id()), "{room} {seq_no} {kind}");
            }
        }
    }
}

/// The captures come out the same from what we read of them: nothing depends on how TikTok writes.
#[test]
fn captures_are_read_as_they_are_written() {
    fn same<M: prost::Message + Default + Name>(kind: &str) -> usize {
        let mut count = 0;
        for case in CAPTURED.iter().filter(|case| case.envelope.kind == kind) {
            let Ok(message) = M::decode(case.payload()) else {
                continue;
            };
            let read = event(kind, message.encode_to_vec());
            assert_eq!(read, event(kind, case.payload().to_vec()), "{}", case.name);
            count += 1;
        }
        count
    }
    for (kind, count) in [
        (
            "WebcastChatMessage",
            same::<ChatMessage>("WebcastChatMessage"),
        ),
        (
            "WebcastGiftMessage",
            same::<GiftMessage>("WebcastGiftMessage"),
        ),
        (
            "WebcastLikeMessage",
            same::<LikeMessage>("WebcastLikeMessage"),
        ),
        (
            "WebcastMemberMessage",
            same::<webcast::MemberMessage>("WebcastMemberMessage"),
        ),
        (
            "WebcastLinkMicBattle",
            same::<webcast::LinkMicBattle>("WebcastLinkMicBattle"),
        ),
        (
            "WebcastLinkMicArmies",
            same::<webcast::LinkMicArmies>("WebcastLinkMicArmies"),
        ),
        (
            "WebcastBarrageMessage",
            same::<webcast::BarrageMessage>("WebcastBarrageMessage"),
        ),
        (
            "WebcastRoomUserSeqMessage",
            same::<RoomUserSeqMessage>("WebcastRoomUserSeqMessage"),
        ),
        (
            "WebcastEmoteChatMessage",
            same::<webcast::EmoteChatMessage>("WebcastEmoteChatMessage"),
        ),
    ] {
        assert!(count > 0, "no {kind}");
    }
}
