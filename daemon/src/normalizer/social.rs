//! What a social message is: follow, share, subscription or something else; and which of the
//! notices about subscriptions are one.
//!
//! The display types that older libraries document (`pm_mt_msg_viewer_follow` …) are in no
//! capture since 2023; the real ones (`pm_main_follow_message_viewer_2`,
//! `pm_mt_guidance_viewer_5_share` …) only contain the word. Some providers leave the key out:
//! then TikTok's number of the action decides, and at last the English pattern.

use shared::event::{Follow, Payload, Share, Subscribe, SubscriptionGiver, SubscriptionKind};

use super::text::{count, display_type, rendered, text};
use crate::proto::webcast;

/// The payload of a social message; `None` for what has no event type, such as a repost.
pub(super) fn social(raw_type: &str, message: &webcast::SocialMessage) -> Option<Payload> {
    let key = display_type(message.common.as_ref());
    let pattern = message
        .common
        .as_ref()
        .and_then(|common| text(&common.display_text.as_ref()?.default_pattern));
    let raw_type = raw_type.to_owned();
    let known = |number: u64| (number > 0).then_some(number);
    Some(
        match kind(key.as_deref(), message.action, pattern.as_deref())? {
            Kind::Follow => Payload::Follow(Follow {
                raw_type,
                display_type: key,
                follow_count: known(count(message.follow_count)),
            }),
            Kind::Share => Payload::Share(Share {
                raw_type,
                display_type: key,
                share_count: known(count(message.share_count)),
                share_target: text(&message.share_target),
            }),
            Kind::Subscribe => Payload::Subscribe(Subscribe {
                raw_type,
                display_type: key,
                ..Subscribe::default()
            }),
        },
    )
}

/// Kinds of subscription notices: the subscription itself, and those about one that was given
/// away. The others are reminders, goals, pins and the like, and nobody subscribed.
const SUBSCRIBED: i32 = 0;
const GIVEN_AWAY: std::ops::RangeInclusive<i32> = 6..=10;

/// The state of a subscription that was paid back.
const PAID_BACK: i32 = 4;

/// The payload of a subscription notice; `None` for those that are no subscription.
pub(super) fn subscription(
    raw_type: &str,
    message: &webcast::SubNotifyMessage,
) -> Option<Subscribe> {
    let gifted = GIVEN_AWAY.contains(&message.message_type);
    if !(gifted || message.message_type == SUBSCRIBED) || message.subscribing_status == PAID_BACK {
        return None;
    }
    let shown = message
        .common
        .as_ref()
        .and_then(|common| common.display_text.as_ref());
    let months = count(message.sub_month);
    Some(Subscribe {
        raw_type: raw_type.to_owned(),
        display_type: display_type(message.common.as_ref()),
        months: (months > 0).then_some(months),
        kind: Some(match message.subscribe_type {
            0 => SubscriptionKind::Once,
            1 => SubscriptionKind::AutoRenew,
            _ => SubscriptionKind::Other,
        }),
        first: Some(message.old_subscribe_status == 0),
        gifted,
        gifted_by: match message.gift_source {
            1 => Some(SubscriptionGiver::Platform),
            2 | 3 => Some(SubscriptionGiver::Viewer),
            _ => None,
        },
        text: rendered(shown),
    })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Follow,
    Share,
    Subscribe,
}

fn kind(key: Option<&str>, action: i64, pattern: Option<&str>) -> Option<Kind> {
    let named = |text: Option<&str>, words: [&str; 3]| {
        let text = text?.to_ascii_lowercase();
        let kinds = [Kind::Follow, Kind::Share, Kind::Subscribe];
        let found = words.iter().position(|word| text.contains(word))?;
        Some(kinds[found])
    };
    named(key, ["follow", "share", "subscribe"]).or(match action {
        1 => Some(Kind::Follow),
        3 => Some(Kind::Share),
        _ => named(pattern, ["followed", "shared", "subscribed"]),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_subscription_is_one() {
        let notice = |message_type, subscribing_status, gift_source| {
            let message = webcast::SubNotifyMessage {
                message_type,
                subscribing_status,
                gift_source,
                ..Default::default()
            };
            let read = subscription("WebcastSubNotifyMessage", &message)?;
            Some((read.gifted, read.gifted_by))
        };
        assert_eq!(notice(0, 2, 0), Some((false, None)));
        // It still runs when it no longer renews.
        assert_eq!(notice(0, 3, 0), Some((false, None)));
        assert_eq!(notice(0, 4, 0), None);
        for kind in 6..=10 {
            assert_eq!(
                notice(kind, 1, 1),
                Some((true, Some(SubscriptionGiver::Platform)))
            );
        }
        assert_eq!(
            notice(9, 1, 3),
            Some((true, Some(SubscriptionGiver::Viewer)))
        );
        for kind in [-1, 1, 2, 3, 4, 5, 11, 12, 13, 14, 15, 99] {
            assert_eq!(notice(kind, 1, 0), None, "{kind}");
        }
    }

    #[test]
    fn the_key_decides_then_the_action_then_the_pattern() {
        use Kind::{Follow, Share, Subscribe};
        for (key, action, pattern, expected) in [
            (
                Some("pm_main_follow_message_viewer_2"),
                0,
                None,
                Some(Follow),
            ),
            (Some("pm_mt_guidance_share"), 0, None, Some(Share)),
            (Some("pm_mt_guidance_viewer_5_share"), 1, None, Some(Share)),
            (Some("pm_mt_msg_viewer_follow"), 0, None, Some(Follow)),
            (Some("pm_mt_msg_viewer_share"), 0, None, Some(Share)),
            (Some("pm_mt_msg_viewer_subscribe"), 0, None, Some(Subscribe)),
            (Some("PM_MAIN_FOLLOW"), 0, None, Some(Follow)),
            (None, 1, None, Some(Follow)),
            (None, 3, None, Some(Share)),
            (Some("pm_new_2027"), 3, None, Some(Share)),
            (
                None,
                0,
                Some("{0:user} followed the LIVE creator"),
                Some(Follow),
            ),
            (None, 0, Some("{0:user} Shared the LIVE"), Some(Share)),
            (None, 0, Some("{0:user} subscribed"), Some(Subscribe)),
            (
                Some("pm_mt_live_repost"),
                4,
                Some("{0:user} reposted"),
                None,
            ),
            (None, 0, None, None),
        ] {
            assert_eq!(
                kind(key, action, pattern),
                expected,
                "{key:?} {action} {pattern:?}"
            );
        }
    }
}
