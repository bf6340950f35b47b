//! What a social message is: follow, share, subscription or something else.
//!
//! The display types that older libraries document (`pm_mt_msg_viewer_follow` …) are in no
//! capture since 2023; the real ones (`pm_main_follow_message_viewer_2`,
//! `pm_mt_guidance_viewer_5_share` …) only contain the word. Some providers leave the key out:
//! then TikTok's number of the action decides, and at last the English pattern.

use shared::event::{Follow, Payload, Share, Subscribe, SubscriptionKind};

use super::text::{count, display_type, text};
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

/// The payload of a subscription notice.
pub(super) fn subscription(raw_type: String, message: &webcast::SubNotifyMessage) -> Subscribe {
    let months = count(message.sub_month);
    Subscribe {
        raw_type,
        display_type: display_type(message.common.as_ref()),
        months: (months > 0).then_some(months),
        kind: Some(match message.subscribe_type {
            0 => SubscriptionKind::Once,
            1 => SubscriptionKind::AutoRenew,
            _ => SubscriptionKind::Other,
        }),
        first: Some(message.old_subscribe_status == 0),
    }
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
