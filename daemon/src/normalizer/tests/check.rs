//! Holds one event against what an independent decoder reads from the same message, field by
//! field. A fact that no check looks at fails: new fixtures cannot slip through unread.

use serde_json::{Map, Value, json};

use super::fixtures::Case;
use crate::proto::{header, in_millis};

/// Holds an event against the expectations of its message.
pub(super) struct Check<'a> {
    pub(super) name: &'a str,
    pub(super) expected: &'a Value,
    event: &'a Value,
    /// The facts that nothing has looked at yet.
    unread: Map<String, Value>,
}

impl<'a> Check<'a> {
    pub(super) fn new(name: &'a str, expected: &'a Value, event: &'a Value) -> Self {
        let unread = expected["facts"].as_object().cloned().unwrap_or_default();
        Self {
            name,
            expected,
            event,
            unread,
        }
    }

    pub(super) fn all(mut self, case: &Case) {
        self.header(case);
        self.user();
        let payload = &self.event["payload"];
        assert_eq!(payload["rawType"], self.expected["type"], "{}", self.name);
        let kind = self.event["eventType"].as_str().unwrap();
        match self.expected["type"].as_str().unwrap() {
            "WebcastChatMessage" => self.chat(payload),
            "WebcastEmoteChatMessage" => self.emotes(payload),
            "WebcastGiftMessage" => self.gift(payload),
            "WebcastLikeMessage" => {
                self.equal("count", &payload["count"]);
                self.equal("total", &payload["total"]);
            }
            "WebcastMemberMessage" => {
                self.equal("memberCount", &payload["memberCount"]);
                self.equal("action", &payload["action"]);
                self.ignore(&["enterType", "userId"]);
            }
            "WebcastSocialMessage" => self.social(kind, payload),
            "WebcastSubNotifyMessage" => self.subscription(payload),
            "WebcastLinkMicBattle" => self.battle(payload),
            "WebcastLinkMicArmies" => self.armies(payload),
            "WebcastBarrageMessage" => self.barrage(payload),
            "WebcastRoomUserSeqMessage" => self.room_user(payload),
            "WebcastControlMessage" => self.control(kind, payload),
            _ => {
                assert_eq!(kind, "RAW", "{}", self.name);
                self.raw(case, payload);
            }
        }
        assert!(
            self.unread.is_empty(),
            "{}: nobody checks {:?}",
            self.name,
            self.unread
        );
    }

    // ---- what all have

    fn header(&self, case: &Case) {
        let common = &self.expected["common"];
        let Some(found) = header(case.payload()) else {
            assert!(common.is_null(), "{}: no header found", self.name);
            return;
        };
        let number = |name: &str| number(&common[name]).filter(|number| *number != 0);
        assert_eq!(found.msg_id, number("msgId"), "{}", self.name);
        assert_eq!(found.room_id, number("roomId"), "{}", self.name);
        assert_eq!(
            found.create_time_ms,
            number("createTime").map(in_millis),
            "{}",
            self.name
        );
    }

    fn user(&self) {
        let expected = &self.expected["user"];
        let user = &self.event["user"];
        if expected.is_null() || expected["userId"] == "0" {
            assert!(user.is_null(), "{}: {user}", self.name);
            return;
        }
        for field in ["userId", "username", "displayName", "avatarUrl"] {
            same_text(&expected[field], &user[field], || {
                format!("{} user.{field}", self.name)
            });
        }
        for field in ["followerCount", "followingCount"] {
            assert_eq!(
                number(&expected[field]),
                user[field].as_i64(),
                "{} {field}",
                self.name
            );
        }
        let wanted = expected["badges"].as_array().unwrap();
        let badges = user["badges"].as_array().cloned().unwrap_or_default();
        let mut highest = std::collections::BTreeMap::new();
        for badge in wanted {
            let level = number(&badge["level"]).unwrap_or(0);
            let known = highest.entry(badge["scene"].as_i64().unwrap()).or_insert(0);
            *known = level.max(*known);
        }
        let found = badges
            .iter()
            .map(|badge| {
                (
                    badge["scene"].as_i64().unwrap(),
                    badge["level"].as_i64().unwrap_or(0),
                )
            })
            .collect();
        assert_eq!(highest, found, "{}", self.name);
        assert_eq!(
            badges.len(),
            highest.len(),
            "{}: a scene comes twice",
            self.name
        );
        for (level, scene) in [("gifterLevel", 8), ("teamLevel", 10)] {
            let wanted = highest.get(&scene).copied().filter(|level| *level > 0);
            assert_eq!(user[level].as_i64(), wanted, "{} {level}", self.name);
        }

        let identity = &expected["identity"];
        let followed = number(&expected["followStatus"]).unwrap_or(0) > 0;
        let roles = json!({
            "moderator": expected["moderator"],
            "subscriber": expected["subscriber"],
            "follower": if identity.is_null() { json!(followed) } else { identity["follower"].clone() },
            "topGifter": highest.contains_key(&6),
            "anchor": identity["anchor"] == true || highest.contains_key(&12),
        });
        assert_eq!(user["roles"], roles, "{}", self.name);
    }

    // ---- facts

    pub(super) fn take(&mut self, fact: &str) -> Value {
        self.unread
            .remove(fact)
            .unwrap_or_else(|| panic!("{}: there is no fact {fact}", self.name))
    }

    /// Facts that no event carries: they stay in the raw data.
    fn ignore(&mut self, facts: &[&str]) {
        for fact in facts {
            self.unread.remove(*fact);
        }
    }

    /// A number, or a text that counts as absent when empty.
    pub(super) fn equal(&mut self, fact: &str, found: &Value) {
        let wanted = self.take(fact);
        self.same(fact, &wanted, found);
    }

    pub(super) fn same(&self, fact: &str, wanted: &Value, found: &Value) {
        if let (Some(wanted), Some(found)) = (number(wanted), found.as_i64()) {
            assert_eq!(wanted, found, "{} {fact}", self.name);
        } else if wanted.is_boolean() {
            assert_eq!(wanted, found, "{} {fact}", self.name);
        } else {
            same_text(wanted, found, || format!("{} {fact}", self.name));
        }
    }

    /// An id, where 0 counts as absent.
    pub(super) fn id(&mut self, fact: &str, found: &Value) {
        let wanted = self.take(fact);
        let wanted = if wanted == "0" { Value::Null } else { wanted };
        same_text(&wanted, found, || format!("{} {fact}", self.name));
    }

    /// A number that is left out when it is 0.
    fn some(&mut self, fact: &str, found: &Value) {
        let wanted = number(&self.take(fact)).filter(|number| *number != 0);
        assert_eq!(wanted, found.as_i64(), "{} {fact}", self.name);
    }

    /// A list, item by item.
    pub(super) fn list(&mut self, fact: &str, found: &Value, same: impl Fn(&Self, &Value, &Value)) {
        let wanted = self.take(fact);
        let wanted = wanted.as_array().unwrap();
        let none = Vec::new();
        let found = found.as_array().unwrap_or(&none);
        assert_eq!(wanted.len(), found.len(), "{} {fact}", self.name);
        for (wanted, found) in wanted.iter().zip(found) {
            same(self, wanted, found);
        }
    }

    fn chat(&mut self, payload: &Value) {
        let content = self.take("content");
        assert_eq!(content, payload["message"], "{}", self.name);
        self.equal("contentLanguage", &payload["language"]);
        self.emotes(payload);
        let mut mentioned: Vec<Value> = Vec::new();
        let at_user = self.take("atUserId");
        let listed = self.take("mentionUserList");
        for id in std::iter::once(&at_user).chain(listed.as_array().unwrap()) {
            if !id.is_null() && !mentioned.contains(id) {
                mentioned.push(id.clone());
            }
        }
        let none = Vec::new();
        let mentions = payload["mentions"].as_array().unwrap_or(&none);
        let found: Vec<_> = mentions
            .iter()
            .map(|person| person["userId"].clone())
            .collect();
        assert_eq!(mentioned, found, "{}", self.name);
    }

    fn emotes(&mut self, payload: &Value) {
        self.list("emotes", &payload["emotes"], |check, wanted, found| {
            for field in ["emoteId", "imageUrl"] {
                check.same(field, &wanted[field], &found[field]);
            }
            assert_eq!(wanted["index"], found["position"], "{}", check.name);
        });
    }

    fn gift(&mut self, payload: &Value) {
        self.equal("giftId", &payload["giftId"]);
        let repeat = number(&self.take("repeatCount")).unwrap();
        let group = number(&self.take("groupCount")).unwrap();
        let count = repeat.max(1) * group.max(1);
        assert_eq!(payload["giftCount"], count, "{}", self.name);
        let gift = self.take("gift");
        assert_eq!(
            payload["coins"]["unit"], gift["diamondCount"],
            "{}",
            self.name
        );
        let total = count * number(&gift["diamondCount"]).unwrap();
        assert_eq!(payload["coins"]["total"], total, "{}", self.name);
        self.same("gift name", &gift["name"], &payload["giftName"]);
        self.same("gift image", &gift["imageUrl"], &payload["imageUrl"]);

        let ended = number(&self.take("repeatEnd")) == Some(1);
        let state = match (gift["type"].as_i64(), ended) {
            (Some(1), true) => "final",
            (Some(1), false) => "progress",
            _ => "single",
        };
        let group_id = self.take("groupId");
        let streak = &payload["streak"];
        assert_eq!(
            (&streak["state"], &streak["inferred"]),
            (&json!(state), &json!(false)),
            "{}",
            self.name
        );
        if state != "single" {
            let sender = self.event["user"]["userId"].as_str().unwrap();
            let gift = payload["giftId"].as_str().unwrap();
            let group = group_id.as_str().unwrap();
            assert_eq!(
                streak["id"],
                format!("{sender}-{gift}-{group}"),
                "{}",
                self.name
            );
        }
        let to_user = self.take("toUserId");
        self.same("toUserId", &to_user, &payload["recipient"]["userId"]);
        // What the message adds, and the text that the app shows: both can be derived.
        self.ignore(&["comboCount", "sendType", "fanTicketCount", "describe"]);
    }

    fn social(&mut self, kind: &str, payload: &Value) {
        let action = number(&self.unread["action"]).unwrap();
        self.display_type(if kind == "RAW" {
            &payload["decoded"]
        } else {
            payload
        });
        match kind {
            "FOLLOW" => {
                assert_eq!(action, 1, "{}", self.name);
                self.some("followCount", &payload["followCount"]);
            }
            "SHARE" => {
                assert_eq!(action, 3, "{}", self.name);
                self.some("shareCount", &payload["shareCount"]);
                self.equal("shareTarget", &payload["shareTarget"]);
            }
            "RAW" => {
                self.equal("action", &payload["decoded"]["action"]);
                self.equal("shareTarget", &payload["decoded"]["shareTarget"]);
            }
            other => panic!("{}: {other}", self.name),
        }
        self.ignore(&[
            "action",
            "shareType",
            "shareTarget",
            "followCount",
            "shareCount",
        ]);
    }

    fn subscription(&mut self, payload: &Value) {
        self.some("subMonth", &payload["months"]);
        let renews = match self.take("subscribeType").as_i64().unwrap() {
            0 => "once",
            1 => "autoRenew",
            _ => "other",
        };
        assert_eq!(payload["type"], renews, "{}", self.name);
        let first = self.take("oldSubscribeStatus") == 0;
        assert_eq!(payload["first"], first, "{}", self.name);
        self.ignore(&["messageType", "subscribingStatus"]);
    }

    fn battle(&mut self, payload: &Value) {
        assert_eq!(payload["kind"], "battle");
        let finished = match self.take("action").as_i64().unwrap() {
            4 => ("started", false),
            5 => ("finished", true),
            other => panic!("{}: action {other}", self.name),
        };
        assert_eq!(payload["status"], finished.0, "{}", self.name);
        self.equal("battleId", &payload["battleId"]);
        self.settings(payload);

        let sides = payload["sides"].as_array().unwrap();
        let anchors = self.take("anchors");
        for anchor in anchors.as_array().unwrap() {
            let side = side(sides, &anchor["userId"]);
            self.same("host", &anchor["nickname"], &side["displayName"]);
            self.same("host", &anchor["displayId"], &side["username"]);
        }
        assert_eq!(
            sides.len(),
            anchors.as_array().unwrap().len(),
            "{}",
            self.name
        );
        for army in self.take("armies").as_array().unwrap() {
            self.army(sides, &army["key"], army);
        }
        for (host, result) in self.take("result").as_object().unwrap() {
            let side = side(sides, &json!(host));
            let word = ["win", "lose", "draw"]
                [usize::try_from(result["result"].as_u64().unwrap()).unwrap()];
            assert!(finished.1, "{}: a result before the end", self.name);
            assert_eq!(side["result"], word, "{}", self.name);
            self.score(sides, side, &result["score"]);
        }
    }

    fn armies(&mut self, payload: &Value) {
        assert_eq!(payload["kind"], "armies");
        let status = if self.take("triggerReason") == 2 {
            "finished"
        } else {
            "scores"
        };
        assert_eq!(payload["status"], status, "{}", self.name);
        self.equal("battleId", &payload["battleId"]);
        self.settings(payload);
        let sides = payload["sides"].as_array().cloned().unwrap_or_default();
        for (host, army) in self.take("armies").as_object().unwrap() {
            self.army(&sides, &json!(host), army);
        }
        self.ignore(&["giftId", "giftCount", "totalDiamondCount"]);
    }

    fn settings(&mut self, payload: &Value) {
        let settings = self.take("settings");
        if settings.is_null() {
            return;
        }
        assert_eq!(
            payload["durationSeconds"], settings["duration"],
            "{}",
            self.name
        );
        assert_eq!(
            millis(&payload["startedAt"]),
            number(&settings["startTimeMs"]),
            "{}",
            self.name
        );
    }

    fn army(&self, sides: &[Value], host: &Value, army: &Value) {
        let side = side(sides, host);
        self.score(sides, side, &army["score"]);
        let none = Vec::new();
        let contributors = side["contributors"].as_array().unwrap_or(&none);
        let members = army["members"].as_array().unwrap();
        assert_eq!(contributors.len(), members.len(), "{}", self.name);
        for (member, contributor) in members.iter().zip(contributors) {
            self.same("contributor", &member["userId"], &contributor["userId"]);
            self.same(
                "contributor",
                &member["nickname"],
                &contributor["displayName"],
            );
            self.same("contributor", &member["score"], &contributor["score"]);
        }
    }

    /// The score of a side; the fixtures have one host per team, with the score of the team.
    fn score(&self, sides: &[Value], side: &Value, wanted: &Value) {
        let score = match side.get("teamId") {
            None => side["score"].as_i64().unwrap(),
            Some(team) => sides
                .iter()
                .filter(|side| side.get("teamId") == Some(team))
                .map(|side| side["score"].as_i64().unwrap())
                .sum(),
        };
        assert_eq!(Some(score), number(wanted), "{}", self.name);
    }

    fn barrage(&mut self, payload: &Value) {
        assert_eq!(payload["kind"], "barrage");
        let banner = &payload["banner"];
        self.equal("msgType", &banner["number"]);
        let key = self.take("contentKey");
        if !key.is_null() {
            self.same("contentKey", &key, &banner["displayType"]);
        }
        let pattern = self.take("contentPattern");
        if !pattern.is_null() {
            self.same("contentPattern", &pattern, &banner["text"]);
        }
        for level in ["userGrade", "fansLevel"] {
            if let Some(level) = self.unread.remove(level) {
                self.same("level", &level["level"], &banner["level"]);
                self.same(
                    "level's user",
                    &level["userId"],
                    &self.event["user"]["userId"],
                );
            }
        }
        let kind = match banner["number"].as_i64().unwrap() {
            9 => "gifterEntered",
            11 => "fanEntered",
            100 => "superFanJoined",
            other => panic!("{}: banner {other}", self.name),
        };
        assert_eq!(banner["kind"], kind, "{}", self.name);
        self.ignore(&["eventName", "scene", "duration"]);
    }

    fn room_user(&mut self, payload: &Value) {
        self.equal("total", &payload["viewerCount"]);
        self.equal("totalUser", &payload["totalViewers"]);
        self.some("anonymous", &payload["anonymousViewers"]);
        self.list("ranks", &payload["topViewers"], |check, wanted, found| {
            check.same("rank", &wanted["rank"], &found["rank"]);
            check.same("coins", &wanted["score"], &found["coins"]);
            check.same("userId", &wanted["userId"], &found["userId"]);
            check.same("username", &wanted["username"], &found["username"]);
        });
        self.ignore(&["popularity", "popStr"]);
    }

    fn control(&mut self, kind: &str, payload: &Value) {
        let action = self.unread["action"].as_i64().unwrap();
        if [3, 4].contains(&action) {
            assert_eq!(kind, "STREAM_END", "{}", self.name);
            self.equal("action", &payload["action"]);
            self.equal("tips", &payload["message"]);
            self.ignore(&["source"]);
        } else {
            assert_eq!(kind, "RAW", "{}", self.name);
            let decoded = &payload["decoded"];
            self.equal("action", &decoded["action"]);
            self.equal("tips", &decoded["tips"]);
            self.equal("source", &decoded["source"]);
        }
    }

    pub(super) fn display_type(&self, holder: &Value) {
        self.same(
            "displayType",
            &self.expected["common"]["textKey"],
            &holder["displayType"],
        );
    }

    /// A shown text has the words of its pattern, in order, around what fills the places.
    pub(super) fn rendered(&self, pattern: &Value, shown: &Value) {
        let Some(pattern) = pattern.as_str().filter(|pattern| !pattern.is_empty()) else {
            assert!(shown.is_null(), "{}: {shown}", self.name);
            return;
        };
        let mut rest = shown.as_str().unwrap();
        for (index, part) in pattern.split('{').enumerate() {
            let words = if index == 0 {
                part
            } else {
                part.split_once('}').unwrap().1
            };
            let place = rest
                .find(words)
                .unwrap_or_else(|| panic!("{}: {shown} for {pattern}", self.name));
            assert!(
                index > 0 || place == 0,
                "{}: {shown} for {pattern}",
                self.name
            );
            rest = &rest[place + words.len()..];
        }
        // The encoded payloads have patterns without pieces.
        let filled = !shown.as_str().unwrap().contains(":user}");
        assert!(
            filled || self.name.starts_with("payload-"),
            "{}: {shown}",
            self.name
        );
    }

    pub(super) fn time(&mut self, fact: &str, found: &Value) {
        let wanted = number(&self.take(fact))
            .filter(|time| *time > 0)
            .map(in_millis);
        assert_eq!(wanted, millis(found), "{} {fact}", self.name);
    }
}

fn side<'a>(sides: &'a [Value], host: &Value) -> &'a Value {
    sides.iter().find(|side| side["userId"] == *host).unwrap()
}

/// A number, also when it is written as text, as the fixtures do with 64 bits.
pub(super) fn number(value: &Value) -> Option<i64> {
    value.as_i64().or_else(|| value.as_str()?.parse().ok())
}

pub(super) fn millis(time: &Value) -> Option<i64> {
    let time: shared::time::Timestamp = time.as_str()?.parse().unwrap();
    Some(time.as_millis())
}

/// An empty or absent text must be left out; U+0000 is replaced.
fn same_text(wanted: &Value, found: &Value, place: impl Fn() -> String) {
    let wanted = wanted.as_str().filter(|text| !text.is_empty());
    let wanted = wanted.map(|text| text.replace('\0', "\u{fffd}"));
    assert_eq!(wanted.as_deref(), found.as_str(), "{}", place());
}
