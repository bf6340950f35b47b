use serde_json::{Value, json};
use shared::event::{
    BattleResult, BattleStatus, Payload, Roles, StreakState, SubscriptionGiver, UnifiedEvent, User,
};
use shared::raw::RawData;

use super::*;
use crate::normalizer::normalize;
use crate::normalizer::tests::fixtures::envelope;

fn event(kind: &str, data: &Value) -> UnifiedEvent {
    let data = RawData::Json(data.as_object().unwrap().clone());
    normalize(&envelope(kind, data, 1)).unwrap()
}

fn payload(kind: &str, data: &Value) -> Value {
    serde_json::to_value(event(kind, data)).unwrap()["payload"].take()
}

fn sender(data: &Value) -> User {
    event("WebcastChatMessage", data).user.unwrap()
}

#[test]
fn names_lead_to_their_field_in_every_spelling() {
    for data in [
        json!({"user": {"id": "7", "displayId": "ann", "badgeList": [{"sceneType": 8, "privilegeLogExtra": {"level": "20"}}]}, "content": "hi", "contentLanguage": "en"}),
        json!({"user": {"userId": "7", "uniqueId": "ann", "badges": [{"badgeScene": 8, "logExtra": {"level": 20}}]}, "comment": "hi", "contentLanguage": "en"}),
        json!({"user": {"userId": 7, "uniqueId": "ann", "badges": [{"badgeSceneType": "8", "privilegeLogExtra": {"level": "20"}}]}, "comment": "hi", "contentLanguage": "en"}),
        json!({"user": {"id": 7, "display_id": "ann", "badge_list": [{"scene_type": 8, "privilege_log_extra": {"level": "20"}}]}, "content": "hi", "content_language": "en"}),
        json!({"User": {"Id": 7, "DisplayId": "ann", "BadgeList": [{"SceneType": 8, "PrivilegeLogExtra": {"Level": "20"}}]}, "Content": "hi", "ContentLanguage": "en"}),
    ] {
        let event = event("WebcastChatMessage", &data);
        let Payload::Chat(chat) = event.payload else {
            panic!("{data}")
        };
        assert_eq!(
            (chat.message.as_str(), chat.language.as_deref()),
            ("hi", Some("en"))
        );
        let user = event.user.unwrap();
        assert_eq!(
            (user.user_id.as_str(), user.username.as_deref()),
            ("7", Some("ann"))
        );
        assert_eq!(user.gifter_level, Some(20), "{data}");
    }
}

#[test]
fn every_name_of_the_table_is_found() {
    let mut names = 0;
    for shape in SHAPES {
        assert!(shape.names.is_sorted(), "{}", shape.name);
        for (name, field, _) in shape.names {
            assert_eq!(Folded::of(name).unwrap().as_bytes(), name.as_bytes());
            assert!(*field < shape.fields.len(), "{} {name}", shape.name);
            names += 1;
        }
    }
    assert!(names > 400, "{names}");
}

#[test]
fn the_newest_name_counts_where_there_are_several() {
    let chat = json!({"comment": "old", "content": "new", "user": {"userId": "1", "id": "2"}});
    assert_eq!(payload("WebcastChatMessage", &chat)["message"], "new");
    assert_eq!(sender(&chat).user_id, "2");
    // One that is null is not there.
    let chat = json!({"comment": "old", "content": null});
    assert_eq!(payload("WebcastChatMessage", &chat)["message"], "old");
}

#[test]
fn a_value_of_a_wrong_type_costs_its_field_only() {
    let odd = [
        json!("x"),
        json!({}),
        json!([]),
        json!(1.5),
        json!([[]]),
        json!(true),
    ];
    for odd in odd {
        let like = json!({
            "likeCount": &odd, "totalLikeCount": "48523", "event": &odd,
            "user": {"userId": "9", "nickname": &odd, "followInfo": &odd, "badges": &odd, "profilePicture": &odd},
        });
        let event = event("WebcastLikeMessage", &like);
        let Payload::Like(like) = event.payload else {
            panic!("{odd}")
        };
        assert_eq!(like.total, 48_523, "{odd}");
        assert_eq!(event.user.unwrap().user_id, "9", "{odd}");
    }
    let members = json!({"user": 5, "memberCount": "1629", "actionId": 1});
    let event = event("WebcastMemberMessage", &members);
    assert_eq!(event.user, None);
}

#[test]
fn large_ids_are_exact_in_every_form() {
    for number in [
        json!(7_301_234_600_000_065_537_u64),
        json!("7301234600000065537"),
    ] {
        let question = json!({"details": {"questionId": number, "questionText": "?"}});
        let read = payload("WebcastQuestionNewMessage", &question);
        assert_eq!(read["decoded"]["questionId"], "7301234600000065537");
    }
}

#[test]
fn the_end_of_a_streak_is_a_number_a_flag_or_absent() {
    for (end, wanted) in [
        (json!(1), StreakState::Final),
        (json!("1"), StreakState::Final),
        (json!(true), StreakState::Final),
        (json!("true"), StreakState::Final),
        (json!(0), StreakState::Progress),
        (json!(false), StreakState::Progress),
        (json!(null), StreakState::Progress),
    ] {
        let gift = json!({
            "giftId": 5655, "repeatCount": "3", "groupId": "17", "repeatEnd": end,
            "giftDetails": {"giftId": "5655", "giftType": 1, "giftName": "Rose", "diamondCount": "5"},
        });
        let Payload::Gift(gift) = event("WebcastGiftMessage", &gift).payload else {
            panic!("{end}")
        };
        assert_eq!(gift.streak.state, wanted, "{end}");
        assert_eq!((gift.coins.unit, gift.coins.total), (5, 15));
    }
}

#[test]
fn maps_are_objects_or_lists() {
    let army = json!({"userArmy": [{"userId": "70", "score": "9", "nickname": "Seven"}], "hostScore": "9"});
    let anchor = json!({"user": {"userId": "1", "nickName": "One", "displayId": "one"}});
    let teams = json!([{"teamId": "5", "teamUsers": [{"userId": "1", "score": "9"}], "result": 0, "totalScore": "9"}]);
    for data in [
        json!({
            "battleId": "33", "action": 5, "battleSetting": {"duration": 301, "startTimeMs": "1763800400000"},
            "battleResult": {"1": {"result": 0, "score": "9"}, "2": {"result": "1"}},
            "anchorInfo": {"1": anchor}, "armies": {"1": army}, "teamBattleResult": teams,
        }),
        json!({
            "battleId": 33, "action": "5", "battleSettings": {"duration": "301", "startTimeMs": 1_763_800_400_000_u64},
            "battleResult": [{"key": "1", "value": {"score": 9}}, {"key": 2, "value": {"result": 1, "score": 0}}],
            "anchorsInfo": [{"key": "1", "value": anchor}], "armies": [{"key": 1, "value": army}],
            "teamBattleResult": teams,
        }),
    ] {
        let Payload::Battle(battle) = event("WebcastLinkMicBattle", &data).payload else {
            panic!("{data}")
        };
        assert_eq!(battle.battle_id.as_deref(), Some("33"));
        assert_eq!(battle.status, Some(BattleStatus::Finished));
        assert_eq!(battle.duration_seconds, Some(301));
        assert_eq!(
            battle.started_at.unwrap().to_string(),
            "2025-11-22T08:33:20.000Z"
        );
        let [winner, loser] = &battle.sides[..] else {
            panic!("{battle:?}")
        };
        assert_eq!(winner.host.username.as_deref(), Some("one"));
        assert_eq!(
            (winner.score, winner.result),
            (Some(9), Some(BattleResult::Win))
        );
        assert_eq!(winner.team_id.as_deref(), Some("5"));
        assert_eq!(
            winner.contributors[0].person.display_name.as_deref(),
            Some("Seven")
        );
        assert_eq!(
            (loser.score, loser.result),
            (Some(0), Some(BattleResult::Lose))
        );
    }
    // A key that is no number is nobody.
    let odd = json!({"battleItems": {"x": army, "": army, "7": 5, "8": army}});
    let odd = payload("WebcastLinkMicArmies", &odd);
    let hosts: Vec<_> = odd["sides"]
        .as_array()
        .unwrap()
        .iter()
        .map(|side| &side["userId"])
        .collect();
    assert_eq!(hosts, ["7", "8"]);
}

#[test]
fn the_first_schema_is_read() {
    let armies = json!({
        "battleStatus": 2,
        "battleItems": [
            {"hostUserId": "1", "battleGroups": [{"users": [{"userId": "70", "nickname": "Seven"}], "points": 268}]},
            {"hostUserId": "2", "battleGroups": []},
        ],
    });
    let armies = payload("WebcastLinkMicArmies", &armies);
    assert_eq!(armies["status"], "finished");
    assert_eq!(armies["sides"][0]["score"], 268);
    assert_eq!(armies["sides"][0]["contributors"][0]["userId"], "70");

    let sender = json!({"userId": "83", "nickname": "Viewer 83", "profilePicture": {"urls": ["https://p16/83"]}});
    let chest = json!({
        "treasureBoxData": {"coins": 100, "canOpen": "10", "timestamp": "1763800900"},
        "treasureBoxUser": {"user2": {"user3": [{"user4": {"user": sender}}]}},
    });
    let chest = &payload("WebcastEnvelopeMessage", &chest)["decoded"];
    assert_eq!(
        (&chest["diamondCount"], &chest["peopleCount"]),
        (&json!(100), &json!(10))
    );
    assert_eq!(chest["opensAt"], "2025-11-22T08:41:40.000Z");
    assert_eq!(
        (&chest["sendUserId"], &chest["sendUserName"]),
        (&json!("83"), &json!("Viewer 83"))
    );
    assert_eq!(chest["sendUserAvatarUrl"], "https://p16/83");

    let emote = json!({"user": {"userId": "5"}, "emote": {"emoteId": "e", "image": {"imageUrl": "https://p16/e"}}});
    let emote = payload("WebcastEmoteChatMessage", &emote);
    assert_eq!(
        emote["emotes"],
        json!([{"emoteId": "e", "imageUrl": "https://p16/e"}])
    );
}

#[test]
fn flat_recordings_are_read() {
    let account = json!({
        "userId": "7", "uniqueId": "ann", "nickname": "Ann", "secUid": "MS4", "msgId": "1",
        "profilePictureUrl": "https://p16/ann", "followInfo": {"followStatus": 2, "followerCount": 12},
        "isModerator": true, "isSubscriber": false, "topGifterRank": null, "gifterLevel": 20,
        "teamMemberLevel": 3, "userBadges": [{"badgeSceneType": 8, "level": 19}],
        "displayType": "pm_mt_guidance_share", "label": "{0:user} shared the LIVE",
    });
    let with = |more: Value| {
        let mut message = account.clone();
        message
            .as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        message
    };
    let chat = with(
        json!({"comment": "hi ", "emotes": [{"emoteId": "e", "emoteImageUrl": "https://p16/e", "placeInComment": 3}]}),
    );
    let read = payload("WebcastChatMessage", &chat);
    assert_eq!(read["message"], "hi ");
    assert_eq!(
        read["emotes"],
        json!([{"emoteId": "e", "imageUrl": "https://p16/e", "position": 3}])
    );
    let user = sender(&chat);
    assert_eq!(
        (user.user_id.as_str(), user.username.as_deref()),
        ("7", Some("ann"))
    );
    assert_eq!(user.avatar_url.as_deref(), Some("https://p16/ann"));
    assert_eq!((user.gifter_level, user.team_level), (Some(20), Some(3)));
    assert_eq!((user.follower_count, user.friend), (Some(12), true));
    let roles = Roles {
        moderator: true,
        follower: true,
        ..Roles::default()
    };
    assert_eq!(user.roles, roles);

    let share = event("WebcastSocialMessage", &with(json!({})));
    assert!(matches!(share.payload, Payload::Share(_)), "{share:?}");

    let gift = with(json!({
        "giftId": 5655, "repeatCount": 3, "repeatEnd": true, "groupId": "17", "giftName": "Rose",
        "giftType": 1, "diamondCount": 1, "giftPictureUrl": "https://p16/rose", "receiverUserId": "44",
        "gift": {"gift_id": 5655, "repeat_count": 3, "repeat_end": 1, "gift_type": 1},
    }));
    let gift = payload("WebcastGiftMessage", &gift);
    assert_eq!(gift["coins"], json!({"unit": 1, "total": 3}));
    assert_eq!(gift["streak"]["state"], "final");
    assert_eq!(gift["giftName"], "Rose");
    assert_eq!(gift["imageUrl"], "https://p16/rose");
    assert_eq!(gift["recipient"]["userId"], "44");

    let viewers = json!({"viewerCount": 4, "topViewers": [{"user": account, "coinCount": 40}, {"user": {"userId": "8"}, "coinCount": 2}]});
    let viewers = payload("WebcastRoomUserSeqMessage", &viewers);
    assert_eq!(viewers["topViewers"][0]["avatarUrl"], "https://p16/ann");
    assert_eq!(
        viewers["topViewers"][1],
        json!({"userId": "8", "rank": 2, "coins": 2})
    );

    let hosts = json!({"battleUsers": [account, {"battleGroup": {"user": {"userId": "8", "nickname": "Bob"}}}]});
    let hosts = payload("WebcastLinkMicBattle", &hosts);
    assert_eq!(hosts["sides"][0]["username"], "ann");
    assert_eq!(hosts["sides"][1]["displayName"], "Bob");
}

#[test]
fn subscriptions_and_notices_about_them() {
    let gifted = json!({"user": {"id": "7"}, "messageType": 9, "giftSource": 2, "subMonth": "1",
        "common": {"displayText": {"defaultPattern": "{0:user} gave 5 subscriptions", "pieces": [{"stringValue": "Ann"}]}}});
    let Payload::Subscribe(gifted) = event("WebcastSubNotifyMessage", &gifted).payload else {
        panic!()
    };
    assert!(gifted.gifted);
    assert_eq!(gifted.gifted_by, Some(SubscriptionGiver::Viewer));
    assert_eq!(gifted.text.as_deref(), Some("Ann gave 5 subscriptions"));

    let reminder = json!({"user": {"id": "7"}, "messageType": "ANCHOR_REMINDER", "subMonth": 2});
    let event = event("WebcastSubNotifyMessage", &reminder);
    assert_eq!(event.user.as_ref().unwrap().user_id, "7");
    let Payload::Raw(raw) = event.payload else {
        panic!("a reminder is no subscription")
    };
    assert_eq!(raw.raw, reminder);
    assert_eq!(raw.decoded.unwrap()["messageType"], 1);
}

#[test]
fn what_euler_says_of_itself() {
    let join = json!({"user": {"userId": "7", "uniqueId": "ann"}, "firstSeen": 1_763_800_000_250_u64, "lastSeen": "1763800001250"});
    let event = event("SyntheticJoinMessage", &join);
    assert_eq!(event.user.unwrap().username.as_deref(), Some("ann"));
    let Payload::Raw(raw) = event.payload else {
        panic!()
    };
    assert_eq!(raw.raw, join);
    let seen =
        json!({"firstSeen": "2025-11-22T08:26:40.250Z", "lastSeen": "2025-11-22T08:26:41.250Z"});
    assert_eq!(raw.decoded, Some(seen));
}

#[test]
fn depth_and_size_are_bounded() {
    // As deep as it can be read at all.
    let mut text = json!({"defaultPattern": "end"});
    for _ in 0..25 {
        text = json!({"pieces": [{"giftValue": {"nameRef": text}}]});
    }
    let deep = json!({"content": "here", "common": {"displayText": text}});
    assert_eq!(payload("WebcastChatMessage", &deep)["message"], "here");
    let mut list = json!([]);
    for _ in 0..120 {
        list = json!([list]);
    }
    let deep = json!({"content": "here", "user": list, "emotes": list, "atUser": [list]});
    assert_eq!(payload("WebcastChatMessage", &deep)["message"], "here");

    // What goes out is not longer than what came in.
    let huge = json!({
        "content": "x".repeat(1 << 20),
        "badges": vec![json!({}); 10_000],
        "emotes": vec![json!({"emote": {"emoteId": "1"}}); 10_000],
        "mentionUserList": vec![json!(9); 10_000],
        "nobodyKnows": vec![json!({"a": [1, 2, 3]}); 10_000],
    });
    let bytes = to_protobuf(huge.as_object().unwrap(), "ChatMessage");
    assert!(bytes.len() < huge.to_string().len());
    assert!(bytes.len() > 1 << 20);
    assert_eq!(
        to_protobuf(huge.as_object().unwrap(), "NoSuchMessage"),
        [0; 0]
    );
}
