//! What older schemas build differently, rebuilt as the newest one has it.
//!
//! Two of them: "v1", the first schema of the common libraries, and flat recordings, where the
//! account stands beside the content. Names that merely differ are in `webcast.proto`.

use serde_json::{Map, Value, json};

/// The object rebuilt, where its shape is an older one.
pub(super) fn rebuilt(shape: &str, object: &Map<String, Value>) -> Option<Map<String, Value>> {
    match shape {
        "ChatMessage" | "EmoteChatMessage" | "GiftMessage" | "LikeMessage" | "MemberMessage"
        | "SocialMessage" | "SubNotifyMessage" => flat(shape, object),
        "EnvelopeMessage" => treasure_box(object),
        // The emote itself, with its place.
        "EmoteWithIndex" if !object.contains_key("emote") && object.contains_key("emoteId") => {
            Some(with(object, "emote", Value::Object(object.clone())))
        }
        // v1: `{hostUserId, battleGroups: [{users, points}]}`, always of one group.
        "LinkMicArmies.ArmiesEntry" => {
            let value = object.get("battleGroups")?.get(0)?.clone();
            let key = object.get("hostUserId")?.clone();
            Some(with(&with(object, "key", key), "value", value))
        }
        // The host itself, without the layers around.
        "BattleUserInfoEntry" if object.contains_key("userId") => {
            Some(with(object, "value", json!({ "user": object })))
        }
        _ => None,
    }
}

fn with(object: &Map<String, Value>, name: &str, value: Value) -> Map<String, Value> {
    let mut object = object.clone();
    object.insert(name.to_owned(), value);
    object
}

/// A flat message: account and header are among the fields.
fn flat(shape: &str, object: &Map<String, Value>) -> Option<Map<String, Value>> {
    if object.contains_key("user")
        || !(object.contains_key("uniqueId") || object.contains_key("userId"))
    {
        return None;
    }
    let mut rebuilt = with(object, "user", flat_user(object));
    if !object.contains_key("common") && !object.contains_key("event") {
        let text = pick(object, &["displayType", "label"]);
        rebuilt.insert("common".to_owned(), json!({ "displayText": text }));
    }
    // Some recordings have a part of the gift in `gift`, and all of it beside that.
    if shape == "GiftMessage" && !object.contains_key("giftDetails") {
        let mut gift = match object.get("gift") {
            Some(Value::Object(gift)) => gift.clone(),
            _ => Map::new(),
        };
        let beside = ["giftName", "giftType", "diamondCount", "giftPictureUrl"];
        gift.extend(pick(object, &beside));
        let inner = object.get("gift").cloned().unwrap_or_default();
        for (to, from) in [("repeatCount", "repeat_count"), ("repeatEnd", "repeat_end")] {
            if let (false, Some(value)) = (object.contains_key(to), inner.get(from)) {
                rebuilt.insert(to.to_owned(), value.clone());
            }
        }
        rebuilt.insert("gift".to_owned(), Value::Object(gift));
        if let Some(receiver) = object.get("receiverUserId") {
            rebuilt.insert("toMemberId".to_owned(), receiver.clone());
        }
    }
    Some(rebuilt)
}

fn flat_user(object: &Map<String, Value>) -> Value {
    let mut user = pick(
        object,
        &[
            "userId",
            "uniqueId",
            "nickname",
            "secUid",
            "profilePictureUrl",
            "followInfo",
        ],
    );
    if !user.contains_key("followInfo")
        && let Some(role) = object.get("followRole")
    {
        user.insert("followInfo".to_owned(), json!({ "followStatus": role }));
    }
    if let Some(details) = object.get("userDetails").and_then(Value::as_object) {
        user.extend(pick(details, &["bioDescription"]));
    }
    user.insert(
        "userAttr".to_owned(),
        json!({ "isAdmin": object.get("isModerator") }),
    );
    user.insert(
        "subscribeInfo".to_owned(),
        json!({ "isSubscribedToAnchor": object.get("isSubscriber") }),
    );
    // Ranks and levels are badges everywhere else.
    let mut badges = match object.get("userBadges") {
        Some(Value::Array(badges)) => badges.clone(),
        _ => Vec::new(),
    };
    for badge in badges.iter_mut().filter_map(Value::as_object_mut) {
        if let Some(level) = badge.get("level").cloned() {
            badge.insert("privilegeLogExtra".to_owned(), json!({ "level": level }));
        }
    }
    for (name, scene) in [
        ("topGifterRank", 6),
        ("gifterLevel", 8),
        ("teamMemberLevel", 10),
    ] {
        let level = object.get(name).and_then(crate::proto::json::number);
        if let Some(level) = level.filter(|&level| level > 0) {
            let extra = json!({ "level": level });
            badges.push(json!({ "sceneType": scene, "privilegeLogExtra": extra }));
        }
    }
    user.insert("badgeList".to_owned(), Value::Array(badges));
    Value::Object(user)
}

fn pick(object: &Map<String, Value>, names: &[&str]) -> Map<String, Value> {
    let found = names
        .iter()
        .filter_map(|name| Some(((*name).to_owned(), object.get(*name)?.clone())));
    found.collect()
}

/// v1 names who sent a treasure box four layers deep, in the place of the header.
fn treasure_box(object: &Map<String, Value>) -> Option<Map<String, Value>> {
    let sender = object
        .get("treasureBoxUser")?
        .pointer("/user2/user3/0/user4/user")?;
    let mut info = object.get("treasureBoxData")?.as_object()?.clone();
    for (to, from) in [
        ("sendUserId", "userId"),
        ("sendUserName", "nickname"),
        ("sendUserAvatar", "profilePicture"),
    ] {
        if let Some(value) = sender.get(from) {
            info.insert(to.to_owned(), value.clone());
        }
    }
    Some(with(object, "treasureBoxData", Value::Object(info)))
}
