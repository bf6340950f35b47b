//! Gift messages: how many, what they cost, where they stand in their streak, who gets them.
//!
//! Comes in: one gift message. Goes out: what this message alone says. A streak is many messages
//! with a growing count, and its last one repeats the count with an end mark: only that one is
//! `final`. Counts arrive out of order and ends go missing; what that needs (state over several
//! messages, time-outs) is done in `streaks`, and names and prices that the message lacks come from
//! `catalogue`.

use shared::event::{Coins, Gift, Person, Streak, StreakState};

use super::text::{count, id, image_url, text};
use super::user::person;
use crate::proto::webcast;

/// `gift.type` of gifts that can be sent in a row.
const CAN_STREAK: i32 = 1;

/// The payload of a gift message. `message_id` names the message, for gifts that stand alone.
pub(super) fn gift(raw_type: String, message: &webcast::GiftMessage, message_id: &str) -> Gift {
    let gift = message.gift.as_ref();
    let gift_id = id(message.gift_id)
        .or_else(|| id(gift?.id))
        .unwrap_or_else(|| "0".to_owned());
    // Sent at once × in a row; both are absent when they are one.
    let gift_count = count(message.repeat_count).max(1) * count(message.group_count).max(1);
    let unit = count(gift.map_or(0, |gift| gift.diamond_count));
    let state = state(message);
    let sender = message.user.as_ref().map_or(0, |user| user.id);
    let group = match id(message.group_id) {
        Some(group) => group,
        // Nothing ties a single gift to another one of the same kind.
        None if state == StreakState::Single => message_id.to_owned(),
        None => "0".to_owned(),
    };
    Gift {
        raw_type,
        streak: Streak {
            id: format!("{sender}-{gift_id}-{group}"),
            state,
            inferred: false,
        },
        gift_id,
        gift_name: gift.and_then(|gift| text(&gift.name)),
        gift_count,
        coins: Coins {
            unit,
            total: unit.saturating_mul(gift_count),
        },
        image_url: gift.and_then(|gift| {
            image_url(gift.image.as_ref()).or_else(|| image_url(gift.icon.as_ref()))
        }),
        recipient: recipient(message),
    }
}

fn state(message: &webcast::GiftMessage) -> StreakState {
    let ended = message.repeat_end == 1;
    let can_streak = match message.gift.as_ref().map(|gift| gift.r#type) {
        // The gift, or its type, is missing: whether the streak has a name tells as well.
        None | Some(0) => ended || message.group_id != 0,
        Some(kind) => kind == CAN_STREAK,
    };
    match (can_streak, ended) {
        (false, _) => StreakState::Single,
        (true, true) => StreakState::Final,
        (true, false) => StreakState::Progress,
    }
}

/// Who gets it, when that is not the creator: a guest on stage.
fn recipient(message: &webcast::GiftMessage) -> Option<Person> {
    let monitor = message.monitor_info.unwrap_or_default();
    // Where the message does not name the creator, whoever it names is taken for a guest.
    let is_guest =
        |person: &Person| monitor.anchor_id == 0 || person.user_id != monitor.anchor_id.to_string();

    let to_user = message.to_user.as_ref().and_then(person);
    let member_id = text(&message.to_member_id)
        .filter(|id| id != "0")
        .or_else(|| id(message.to_member_id_int));
    let to_member = member_id.map(|user_id| Person {
        user_id,
        display_name: text(&message.to_member_nickname),
        ..Person::default()
    });
    // Always set, also for the creator: tells a guest only by being somebody else.
    let monitored = id(monitor.to_user_id)
        .filter(|_| monitor.anchor_id != 0)
        .map(|user_id| Person {
            user_id,
            ..Person::default()
        });
    [to_user, to_member, monitored]
        .into_iter()
        .flatten()
        .find(is_guest)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message() -> webcast::GiftMessage {
        webcast::GiftMessage {
            gift_id: 5655,
            repeat_count: 3,
            group_id: 17,
            user: Some(webcast::User {
                id: 9,
                ..Default::default()
            }),
            gift: Some(webcast::Gift {
                r#type: 1,
                diamond_count: 5,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    fn streak_of(message: &webcast::GiftMessage) -> (String, StreakState) {
        let gift = gift("WebcastGiftMessage".into(), message, "m1");
        (gift.streak.id, gift.streak.state)
    }

    #[test]
    fn a_streak_goes_on_until_its_end_mark() {
        let mut gift = message();
        assert_eq!(
            streak_of(&gift),
            ("9-5655-17".into(), StreakState::Progress)
        );
        gift.repeat_end = 1;
        assert_eq!(streak_of(&gift), ("9-5655-17".into(), StreakState::Final));
    }

    #[test]
    fn other_types_stand_alone() {
        for kind in [2, 4, 77] {
            let mut gift = message();
            gift.gift.as_mut().unwrap().r#type = kind;
            gift.group_id = 0;
            assert_eq!(streak_of(&gift), ("9-5655-m1".into(), StreakState::Single));
        }
    }

    #[test]
    fn without_the_gift_its_group_and_end_mark_tell() {
        let mut gift = message();
        gift.gift = None;
        assert_eq!(streak_of(&gift).1, StreakState::Progress);
        gift.repeat_end = 1;
        assert_eq!(streak_of(&gift).1, StreakState::Final);
        gift.group_id = 0;
        assert_eq!(streak_of(&gift), ("9-5655-0".into(), StreakState::Final));
        gift.repeat_end = 0;
        assert_eq!(streak_of(&gift).1, StreakState::Single);
    }

    #[test]
    fn coins_count_groups_and_survive_nonsense() {
        let mut gift = message();
        gift.group_count = 4;
        let read = super::gift(String::new(), &gift, "");
        assert_eq!(
            (read.gift_count, read.coins.unit, read.coins.total),
            (12, 5, 60)
        );
        gift.group_count = -1;
        gift.repeat_count = i32::MIN;
        gift.gift.as_mut().unwrap().diamond_count = -5;
        let read = super::gift(String::new(), &gift, "");
        assert_eq!(
            (read.gift_count, read.coins.unit, read.coins.total),
            (1, 0, 0)
        );
    }

    #[test]
    fn the_recipient_is_named_when_it_is_a_guest() {
        let host = 100;
        let mut gift = message();
        gift.monitor_info = Some(webcast::GiftMonitorInfo {
            anchor_id: host,
            to_user_id: host,
        });
        let recipient = |gift: &webcast::GiftMessage| {
            recipient(gift).map(|person| (person.user_id, person.display_name))
        };
        assert_eq!(recipient(&gift), None);
        gift.to_user = Some(webcast::User {
            id: host,
            ..Default::default()
        });
        assert_eq!(recipient(&gift), None);
        gift.monitor_info.as_mut().unwrap().to_user_id = 7;
        assert_eq!(recipient(&gift), Some(("7".into(), None)));
        gift.to_member_id = "8".into();
        gift.to_member_nickname = "Guest".into();
        assert_eq!(recipient(&gift), Some(("8".into(), Some("Guest".into()))));
        gift.to_user = Some(webcast::User {
            id: 9,
            nickname: "Nine".into(),
            ..Default::default()
        });
        assert_eq!(recipient(&gift), Some(("9".into(), Some("Nine".into()))));
    }
}
