//! The part of [`Check`] for messages without an event type: what `decoded` says.

use serde_json::Value;

use super::check::{Check, millis, number};
use super::fixtures::Case;
use crate::proto::in_millis;

impl Check<'_> {
    pub(super) fn raw(&mut self, case: &Case, payload: &Value) {
        assert_eq!(
            payload["raw"],
            case.envelope.data.to_text(),
            "{}",
            self.name
        );
        let decoded = &payload["decoded"];
        if !decoded.is_null() {
            self.display_type(decoded);
            self.rendered(
                &self.expected["common"]["textPattern"],
                &decoded["displayText"],
            );
        }
        match self.expected["type"].as_str().unwrap() {
            "WebcastQuestionNewMessage" => {
                self.id("questionId", &decoded["questionId"]);
                self.equal("content", &decoded["content"]);
                self.equal("answerStatus", &decoded["answerStatus"]);
                self.time("createTime", &decoded["createdAt"]);
            }
            "WebcastLiveIntroMessage" => {
                self.id("id", &decoded["id"]);
                self.equal("content", &decoded["content"]);
                self.equal("contentLanguage", &decoded["contentLanguage"]);
            }
            "WebcastEnvelopeMessage" => {
                self.equal("display", &decoded["display"]);
                let envelope = self.take("envelope");
                for field in [
                    "envelopeId",
                    "businessType",
                    "diamondCount",
                    "peopleCount",
                    "sendUserName",
                    "sendUserId",
                ] {
                    self.same(field, &envelope[field], &decoded[field]);
                }
                let opens = number(&envelope["unpackAt"])
                    .filter(|at| *at > 0)
                    .map(in_millis);
                assert_eq!(opens, millis(&decoded["opensAt"]), "{}", self.name);
            }
            "WebcastImDeleteMessage" => {
                for fact in ["deleteMsgIds", "deleteUserIds"] {
                    self.list(fact, &decoded[fact], |check, wanted, found| {
                        check.same(fact, wanted, found);
                    });
                }
            }
            "WebcastGoalUpdateMessage" => self.goal(decoded),
            "WebcastPollMessage" => {
                self.equal("messageType", &decoded["messageType"]);
                self.id("pollId", &decoded["pollId"]);
                self.equal("title", &decoded["title"]);
                self.list("options", &decoded["options"], |check, wanted, found| {
                    check.same("idx", &wanted["idx"], &found["index"]);
                    check.same("votes", &wanted["votes"], &found["votes"]);
                    check.same("text", &wanted["text"], &found["text"]);
                });
            }
            "WebcastRankUpdateMessage" => {
                self.equal("groupType", &decoded["groupType"]);
                self.equal("rankPriority", &decoded["rankPriority"]);
                self.list("updates", &decoded["updates"], |check, wanted, found| {
                    check.same("rankType", &wanted["rankType"], &found["rankType"]);
                    check.same("ownRank", &wanted["ownRank"], &found["ownRank"]);
                    check.rendered(&wanted["text"], &found["text"]);
                });
            }
            "WebcastRankTextMessage" => {
                self.equal("scene", &decoded["scene"]);
                self.equal("before", &decoded["ownerIdxBeforeUpdate"]);
                self.equal("after", &decoded["ownerIdxAfterUpdate"]);
                self.id("curUserId", &decoded["curUserId"]);
            }
            "WebcastHourlyRankRewardMessage" => {
                self.list("winners", &decoded["winners"], |check, wanted, found| {
                    check.same("winner", wanted, &found["userId"]);
                });
            }
            "WebcastCaptionMessage" => {
                self.time("timestampMs", &decoded["spokenAt"]);
                self.equal("durationMs", &decoded["durationMs"]);
                self.equal("definite", &decoded["definite"]);
                self.list("content", &decoded["content"], |check, wanted, found| {
                    check.same("lang", &wanted["lang"], &found["lang"]);
                    check.same("content", &wanted["content"], &found["content"]);
                });
            }
            "WebcastRoomPinMessage" => {
                self.equal("method", &decoded["method"]);
                self.time("pinTime", &decoded["pinnedAt"]);
                self.equal("action", &decoded["action"]);
                self.equal("displayDuration", &decoded["displayDuration"]);
                self.id("pinMsgId", &decoded["pinMsgId"]);
                self.equal("chat", &decoded["content"]);
            }
            "WebcastRoomMessage" | "RoomMessage" => {
                for fact in ["content", "source", "scene", "isWelcome"] {
                    self.equal(fact, &decoded[fact]);
                }
            }
            "WebcastUnauthorizedMemberMessage" => {
                self.equal("action", &decoded["action"]);
                self.equal("nickName", &decoded["nickName"]);
            }
            "WebcastOecLiveShoppingMessage" => {
                self.equal("actionType", &decoded["actionType"]);
                self.equal("liveProductNumber", &decoded["liveProductNumber"]);
            }
            "WebcastLinkMicMethod" | "LinkMicMethod" => {
                self.equal("messageType", &decoded["messageType"]);
                self.id("userId", &decoded["userId"]);
                self.equal("fanTicket", &decoded["fanTicket"]);
                self.equal("totalLinkmicFanTicket", &decoded["totalLinkMicFanTicket"]);
            }
            "WebcastLinkMessage" => {
                self.equal("messageType", &decoded["messageType"]);
                self.id("linkerId", &decoded["linkerId"]);
                self.equal("scene", &decoded["scene"]);
            }
            "WebcastLinkLayerMessage" => {
                self.equal("messageType", &decoded["messageType"]);
                self.id("channelId", &decoded["channelId"]);
                self.equal("scene", &decoded["scene"]);
            }
            // Types without facts: whoever adds some to a fixture hears of it.
            _ => {}
        }
    }

    fn goal(&mut self, decoded: &Value) {
        let indicator = self.take("indicator");
        self.same("indicator", &indicator["key"], &decoded["indicatorKey"]);
        if !indicator.is_null() {
            self.same("indicator", &indicator["op"], &decoded["indicatorOp"]);
        }
        self.id("goalId", &decoded["goalId"]);
        self.equal("goalType", &decoded["goalType"]);
        self.equal("status", &decoded["status"]);
        self.equal("description", &decoded["description"]);
        self.id("contributorId", &decoded["contributorId"]);
        self.equal("contributeCount", &decoded["contributeCount"]);
        self.equal("updateSource", &decoded["updateSource"]);
        self.list("subGoals", &decoded["subGoals"], |check, wanted, found| {
            for field in ["type", "progress", "target"] {
                check.same(field, &wanted[field], &found[field]);
            }
            if wanted["id"] != "0" {
                check.same("id", &wanted["id"], &found["id"]);
            }
            check.same("gift", &wanted["gift"], &found["giftName"]);
        });
    }
}
