//! Typed content of messages that have no event type of their own: polls, goals, captions, pins.
//!
//! Comes in: the payload of a message of any type. Goes out: a JSON object with TikTok's names in
//! camel case, and the account it is about. Ids are strings, times RFC 3339, empty texts and lists
//! and unset ids are left out, numbers always stand. A payload that cannot be read, or a type that
//! is not in the table, gives nothing: the event then has only its `raw`.

use prost::{Message, Name};
use serde_json::Value;
use shared::event::User;

use super::decode::Body;
use super::object::Object;
use super::text::{count, display_type, image_url, rendered};
use crate::proto::webcast;

/// What can be read of a message without an event type.
#[derive(Default)]
pub(super) struct Decoded {
    pub(super) content: Option<Value>,
    pub(super) user: Option<User>,
}

/// Reads a message by its type.
pub(super) fn decoded(raw_type: &str, body: &Body) -> Decoded {
    // The prefix is missing on some: `RoomMessage`, `LinkMicMethod`.
    match raw_type.strip_prefix("Webcast").unwrap_or(raw_type) {
        "QuestionNewMessage" => read(body, question),
        "LiveIntroMessage" => read(body, live_intro),
        "EnvelopeMessage" => read(body, envelope),
        "ImDeleteMessage" => read(body, im_delete),
        "GoalUpdateMessage" => read(body, goal),
        "PollMessage" => read(body, poll),
        "RankUpdateMessage" => read(body, rank_update),
        "RankTextMessage" => read(body, rank_text),
        "HourlyRankRewardMessage" => read(body, hourly_rank_reward),
        "CaptionMessage" => read(body, caption),
        "RoomPinMessage" => read(body, room_pin),
        "RoomMessage" => read(body, room_message),
        "SystemMessage" => read(body, system),
        "UnauthorizedMemberMessage" => read(body, unauthorized_member),
        "OecLiveShoppingMessage" => read(body, shopping),
        "LinkMicFanTicketMethod" => read(body, fan_tickets),
        "LinkMicMethod" => read(body, link_mic),
        "LinkMessage" => read(body, link),
        "LinkLayerMessage" => read(body, link_layer),
        "LinkMicBattlePunishFinish" => read(body, punish_finish),
        "LinkmicBattleTaskMessage" => read(body, battle_task),
        "LinkMicBattleItemCard" => read(body, item_card),
        "ToastMessage" => read(body, toast),
        "SubPinEventMessage" => read(body, sub_pin),
        "InRoomBannerMessage" => read(body, banner),
        "SyntheticJoinMessage" | "SyntheticLeaveMessage" => read(body, presence),
        _ => Decoded::default(),
    }
}

fn read<M: Message + Default + Name>(body: &Body, content: impl FnOnce(&M) -> Object) -> Decoded {
    let Ok(message) = body.decode::<M>() else {
        return Decoded::default();
    };
    let object = content(&message);
    Decoded {
        content: Some(Value::Object(object.content)),
        user: object.user,
    }
}

/// A social message that is neither follow nor share nor subscription.
pub(super) fn social(message: &webcast::SocialMessage) -> Value {
    let object = Object::of(message.common.as_ref())
        .number("action", message.action)
        .text("shareTarget", &message.share_target);
    Value::Object(object.content)
}

/// A notice about subscriptions that is none itself.
pub(super) fn subscription_notice(message: &webcast::SubNotifyMessage) -> Value {
    let object = Object::of(message.common.as_ref())
        .number("messageType", message.message_type)
        .number("subscribingStatus", message.subscribing_status)
        .number("subMonth", message.sub_month)
        .number("giftSource", message.gift_source);
    Value::Object(object.content)
}

/// Pause, resume, and what nobody knows.
pub(super) fn control(message: &webcast::ControlMessage) -> Value {
    let object = Object::of(message.common.as_ref())
        .number("action", message.action)
        .text("tips", &message.tips)
        .text(
            "source",
            message.extra.as_ref().map_or(&[], |extra| &extra.source),
        );
    Value::Object(object.content)
}

fn question(message: &webcast::QuestionNewMessage) -> Object {
    let object = Object::of(message.common.as_ref());
    let Some(data) = &message.data else {
        return object;
    };
    object
        .by(data.user.as_ref())
        .id("questionId", data.question_id)
        .text("content", &data.content)
        .number("answerStatus", data.answer_status)
        .time("createdAt", data.create_time)
}

fn live_intro(message: &webcast::LiveIntroMessage) -> Object {
    Object::of(message.common.as_ref())
        .by(message.user.as_ref())
        .id("id", message.id)
        .text("content", &message.content)
        .text("contentLanguage", &message.content_language)
}

fn envelope(message: &webcast::EnvelopeMessage) -> Object {
    const SUPER_FAN_BOX: i32 = 19;
    let object = Object::of(message.common.as_ref()).number("display", message.display);
    let key = display_type(message.common.as_ref())
        .unwrap_or_default()
        .to_ascii_lowercase();
    let Some(info) = &message.envelope_info else {
        return object;
    };
    object
        .text("envelopeId", &info.envelope_id)
        .number("businessType", info.business_type)
        .flag(
            "superFanBox",
            info.business_type == SUPER_FAN_BOX || key.contains("ttlive_superfanbox"),
        )
        .number("diamondCount", info.diamond_count)
        .number("peopleCount", info.people_count)
        .time("opensAt", info.unpack_at.into())
        .text("sendUserId", &info.send_user_id)
        .text("sendUserName", &info.send_user_name)
        .value(
            "sendUserAvatarUrl",
            image_url(info.send_user_avatar.as_ref()),
        )
}

fn im_delete(message: &webcast::ImDeleteMessage) -> Object {
    Object::of(message.common.as_ref())
        .ids("deleteMsgIds", &message.delete_msg_ids)
        .ids("deleteUserIds", &message.delete_user_ids)
}

fn goal(message: &webcast::GoalUpdateMessage) -> Object {
    let mut object = Object::of(message.common.as_ref())
        .number("updateSource", message.update_source)
        .id("contributorId", message.contributor_id)
        .text("contributorDisplayId", &message.contributor_display_id)
        .value(
            "contributorAvatarUrl",
            image_url(message.contributor_avatar.as_ref()),
        )
        .number("contributeCount", message.contribute_count)
        .number("contributeScore", message.contribute_score);
    if let Some(indicator) = &message.indicator {
        object = object
            .text("indicatorKey", &indicator.key)
            .number("indicatorOp", indicator.op);
    }
    if let Some(goal) = &message.goal {
        object = object
            .id("goalId", goal.id)
            .number("goalType", goal.r#type)
            .number("status", goal.status)
            .text("description", &goal.description)
            .time("startsAt", goal.start_time)
            .time("expiresAt", goal.expire_time)
            .list("subGoals", &goal.sub_goals, |part| {
                let gift = part.gift.as_ref();
                Object::default()
                    .number("type", part.r#type)
                    .id("id", part.id)
                    .number("progress", part.progress)
                    .number("target", part.target)
                    .text("giftName", gift.map_or(&[], |gift| &gift.name))
                    .value(
                        "giftImageUrl",
                        gift.and_then(|gift| image_url(gift.image.as_ref())),
                    )
            })
            .list("contributors", &goal.contributors, |giver| {
                Object::default()
                    .id("userId", giver.user_id)
                    .text("username", &giver.display_id)
                    .value("avatarUrl", image_url(giver.avatar.as_ref()))
                    .number("score", giver.score)
            });
    }
    object
}

fn poll(message: &webcast::PollMessage) -> Object {
    let state = match message.message_type {
        0 => Some("start"),
        1 => Some("end"),
        2 => Some("update"),
        _ => None,
    };
    let mut object = Object::of(message.common.as_ref())
        .id("pollId", message.poll_id)
        .number("messageType", message.message_type)
        .value("state", state)
        .number("pollKind", message.poll_kind);
    if let Some(start) = &message.start_content {
        object = object
            .text("title", &start.title)
            .time("startsAt", start.start_time)
            .time("endsAt", start.end_time)
            .person("operator", start.operator.as_ref());
    }
    if let Some(end) = &message.end_content {
        object = object
            .number("endType", end.end_type)
            .person("operator", end.operator.as_ref());
    }
    let start = message.start_content.as_ref().map(|part| &part.option_list);
    let end = message.end_content.as_ref().map(|part| &part.option_list);
    let votes = message
        .update_votes_content
        .as_ref()
        .map(|part| &part.option_list);
    // Only one of them is there.
    let options = [votes, end, start]
        .into_iter()
        .flatten()
        .find(|list| !list.is_empty());
    if let Some(options) = options {
        object = object.list("options", options, |option| {
            Object::default()
                .number("index", option.option_idx)
                .text("text", &option.display_content)
                .value("votes", Some(count(option.votes)))
        });
    }
    object
}

fn rank_update(message: &webcast::RankUpdateMessage) -> Object {
    Object::of(message.common.as_ref())
        .number("groupType", message.group_type)
        .number("rankPriority", message.rank_priority)
        .list("updates", &message.updates, |update| {
            Object::default()
                .number("rankType", update.rank_type)
                .number("ownRank", update.own_rank)
                .value("text", rendered(update.default_content.as_ref()))
                .number("countdown", update.countdown)
        })
}

fn rank_text(message: &webcast::RankTextMessage) -> Object {
    Object::of(message.common.as_ref())
        .number("scene", message.scene)
        .number("ownerIdxBeforeUpdate", message.owner_idx_before_update)
        .number("ownerIdxAfterUpdate", message.owner_idx_after_update)
        .id("curUserId", message.cur_user_id)
        .value("text", rendered(message.content.as_ref()))
        .value("selfText", rendered(message.self_get_badge_msg.as_ref()))
        .value("otherText", rendered(message.other_get_badge_msg.as_ref()))
}

fn hourly_rank_reward(message: &webcast::HourlyRankRewardMessage) -> Object {
    Object::of(message.common.as_ref()).list("winners", &message.winners, |winner| {
        let common = winner
            .notify
            .as_ref()
            .and_then(|notice| notice.common.as_ref());
        let shown = common.and_then(|common| common.display_text.as_ref());
        Object::default()
            .id("userId", winner.user_id)
            .value("text", rendered(shown))
    })
}

fn caption(message: &webcast::CaptionMessage) -> Object {
    Object::of(message.common.as_ref())
        .time("spokenAt", message.timestamp_ms)
        .number("durationMs", message.duration_ms)
        .list("content", &message.content, |part| {
            Object::default()
                .text("lang", &part.lang)
                .text("content", &part.content)
        })
        .id("sentenceId", message.sentence_id)
        .id("sequenceId", message.sequence_id)
        .flag("definite", message.definite)
}

fn room_pin(message: &webcast::RoomPinMessage) -> Object {
    let mut object = Object::of(message.common.as_ref())
        .number("action", message.action)
        .text("method", &message.method)
        .time("pinnedAt", message.pin_time)
        .number("displayDuration", message.display_duration)
        .id("pinMsgId", message.pin_msg_id)
        .person("operator", message.operator.as_ref());
    if let Some(chat) = &message.chat_message {
        object = object
            .text("content", &chat.content)
            .person("author", chat.user.as_ref());
    } else if let Some(gift) = &message.gift_message {
        let name = gift.gift.as_ref().map_or(&[][..], |gift| &gift.name);
        object = object
            .id("giftId", gift.gift_id)
            .text("giftName", name)
            .person("author", gift.user.as_ref());
    } else {
        let social = message
            .social_message
            .as_ref()
            .and_then(|pinned| pinned.user.as_ref());
        let member = message
            .member_message
            .as_ref()
            .and_then(|pinned| pinned.user.as_ref());
        let like = message
            .like_message
            .as_ref()
            .and_then(|pinned| pinned.user.as_ref());
        object = object.person("author", social.or(member).or(like));
    }
    object
}

fn room_message(message: &webcast::RoomMessage) -> Object {
    Object::of(message.common.as_ref())
        .text("content", &message.content)
        .number("source", message.source)
        .text("scene", &message.scene)
        .flag("isWelcome", message.is_welcome)
}

fn system(message: &webcast::SystemMessage) -> Object {
    Object::of(message.common.as_ref()).text("message", &message.message)
}

fn unauthorized_member(message: &webcast::UnauthorizedMemberMessage) -> Object {
    Object::of(message.common.as_ref())
        .number("action", message.action)
        .text("nickName", &message.nick_name)
        .value(
            "nickNamePrefix",
            rendered(message.nick_name_prefix.as_ref()),
        )
        .value("enterText", rendered(message.enter_text.as_ref()))
}

fn shopping(message: &webcast::OecLiveShoppingMessage) -> Object {
    let mut object = Object::of(message.common.as_ref())
        .number("actionType", message.action_type)
        .number("liveProductNumber", message.live_product_number);
    if let Some(product) = &message.pop_product {
        object = object
            .id("productId", product.product_id)
            .text("title", &product.title)
            .text("price", &product.price)
            .text("imageUrl", &product.image_url)
            .text("source", &product.source);
    }
    object
}

fn fan_tickets(message: &webcast::LinkMicFanTicketMethod) -> Object {
    let mut object = Object::of(message.common.as_ref());
    if let Some(notice) = &message.fan_ticket_room_notice {
        object = object
            .number("totalLinkMicFanTicket", notice.total_link_mic_fan_ticket)
            .list(
                "userFanTicketList",
                &notice.user_fan_ticket_list,
                |ticket| {
                    Object::default()
                        .id("userId", ticket.user_id)
                        .number("fanTicket", ticket.fan_ticket)
                },
            );
    }
    object
}

fn link_mic(message: &webcast::LinkMicMethod) -> Object {
    Object::of(message.common.as_ref())
        .number("messageType", message.message_type)
        .id("userId", message.user_id)
        .number("fanTicket", message.fan_ticket)
        .number("totalLinkMicFanTicket", message.total_link_mic_fan_ticket)
}

fn link(message: &webcast::LinkMessage) -> Object {
    Object::of(message.common.as_ref())
        .number("messageType", message.message_type)
        .id("linkerId", message.linker_id)
        .number("scene", message.scene)
}

fn link_layer(message: &webcast::LinkLayerMessage) -> Object {
    Object::of(message.common.as_ref())
        .number("messageType", message.message_type)
        .id("channelId", message.channel_id)
        .number("scene", message.scene)
}

fn punish_finish(message: &webcast::LinkMicBattlePunishFinish) -> Object {
    let settings = message.battle_settings.as_ref();
    Object::of(message.common.as_ref())
        .id("battleId", message.battle_id)
        .id("channelId", message.channel_id)
        .id("opUid", message.op_uid)
        .number("reason", message.reason)
        .time(
            "startedAt",
            settings.map_or(0, |settings| settings.start_time_ms),
        )
}

fn battle_task(message: &webcast::LinkmicBattleTaskMessage) -> Object {
    Object::of(message.common.as_ref())
        .number("taskMessageType", message.task_message_type)
        .id("battleId", message.battle_id)
}

/// A card that multiplies or hides the points of a side: glove, mist, ….
fn item_card(message: &webcast::LinkMicBattleItemCard) -> Object {
    let mut object = Object::of(message.common.as_ref())
        .id("battleId", message.battle_id)
        .number("msgType", message.msg_type);
    let played = message
        .use_critical_strike_card
        .as_ref()
        .or(message.use_smoke_card.as_ref());
    let Some(played) = played else {
        return object;
    };
    object = object
        .id("anchorId", played.anchor_id)
        .value("text", rendered(played.display_content.as_ref()));
    let Some(card) = &played.card_info else {
        return object;
    };
    let sender = card.send_user.as_ref().and_then(|info| info.user.as_ref());
    object
        .text("cardName", &card.card_name_key)
        .time("sentAt", card.send_time_sec)
        .number("effectSeconds", card.effect_last_duration)
        .id("sendUserId", sender.map_or(0, |user| user.user_id))
        .text("sendUserName", sender.map_or(&[], |user| &user.nick_name))
}

/// Euler's guess of who came and went.
fn presence(message: &webcast::SyntheticPresence) -> Object {
    Object::default()
        .by(message.user.as_ref())
        .time("firstSeen", message.first_seen)
        .time("lastSeen", message.last_seen)
}

fn toast(message: &webcast::ToastMessage) -> Object {
    Object::of(message.common.as_ref())
        .number("displayDuration", message.display_duration)
        .number("delay", message.delay)
        .text("scene", &message.scene)
}

fn sub_pin(message: &webcast::SubPinEventMessage) -> Object {
    Object::of(message.common.as_ref())
        .number("actionType", message.action_type)
        .id("operatorUserId", message.operator_user_id)
}

fn banner(message: &webcast::InRoomBannerMessage) -> Object {
    Object::of(message.common.as_ref()).text("data", &message.data)
}
