//! TikTok's user to ours: names, picture, counts, roles, badges.
//!
//! Comes in: a user as a message carries it, with the sender's standing where the message says it.
//! Goes out: what the message really says; an empty name or picture is left out, so that it never
//! overwrites a known one. A user without an id is nobody.

use shared::event::{Badge, Person, Roles, User};

use super::text::{count, id, image_url, text};
use crate::proto::webcast;

/// The account of a message; `None` when it has no id.
///
/// Roles come from the sender's standing (`identity`) where the message has it, and only
/// otherwise from the account and its badges: the sources disagree at times.
pub(super) fn user(user: &webcast::User, identity: Option<&webcast::UserIdentity>) -> Option<User> {
    let badges = badges(&user.badge_list);
    // The badges know better: the fields are often 0.
    let level = |scene| badges.iter().find(|badge| badge.scene == scene)?.level;
    let positive = |level| u32::try_from(level).ok().filter(|&level| level > 0);
    let club = user.fans_club.as_ref().and_then(|club| club.data.as_ref());
    let club = club.filter(|club| club.user_fans_club_status != 0);
    Some(User {
        user_id: user_id(user)?,
        username: text(&user.display_id),
        display_name: text(&user.nickname),
        avatar_url: avatar_url(user),
        roles: roles(user, identity, &badges),
        follower_count: user
            .follow_info
            .as_ref()
            .map(|info| count(info.follower_count)),
        following_count: user
            .follow_info
            .as_ref()
            .map(|info| count(info.following_count)),
        gifter_level: level(scene::GIFTER_LEVEL).or_else(|| positive(user.pay_grade?.level)),
        team_level: level(scene::FAN_CLUB).or_else(|| positive(club?.level)),
        team_name: club.and_then(|club| text(&club.club_name)),
        friend: identity.map_or_else(
            || follow_status(user) == MUTUAL,
            |identity| identity.is_mutual_following_with_anchor,
        ),
        muted: user.user_attr.as_ref().is_some_and(|attr| attr.is_muted),
        verified: user.verified.then_some(true),
        sec_uid: text(&user.sec_uid),
        badges,
    })
}

/// An account that is only mentioned; `None` when it has no id.
pub(super) fn person(user: &webcast::User) -> Option<Person> {
    Some(Person {
        user_id: user_id(user)?,
        username: text(&user.display_id),
        display_name: text(&user.nickname),
        avatar_url: avatar_url(user),
    })
}

/// The first of several accounts that is somebody.
pub(super) fn first<'a>(
    users: impl IntoIterator<Item = Option<&'a webcast::User>>,
) -> Option<User> {
    users
        .into_iter()
        .flatten()
        .find_map(|found| user(found, None))
}

/// TikTok's number for accounts that follow each other; 1 only follows the creator.
const MUTUAL: i64 = 2;

fn follow_status(user: &webcast::User) -> i64 {
    user.follow_info.map_or(0, |info| info.follow_status)
}

fn user_id(user: &webcast::User) -> Option<String> {
    let digits = |text: &String| text.bytes().all(|byte| byte.is_ascii_digit());
    id(user.id).or_else(|| text(&user.id_str).filter(digits).filter(|id| id != "0"))
}

fn avatar_url(user: &webcast::User) -> Option<String> {
    image_url(user.avatar_thumb.as_ref())
        .or_else(|| image_url(user.avatar_medium.as_ref()))
        .or_else(|| image_url(user.avatar_large.as_ref()))
}

/// TikTok's numbers of the badges that say something about roles and levels.
mod scene {
    pub(super) const MODERATOR: i32 = 1;
    pub(super) const SUBSCRIBER: i32 = 4;
    pub(super) const RANK: i32 = 6;
    pub(super) const NEW_SUBSCRIBER: i32 = 7;
    pub(super) const GIFTER_LEVEL: i32 = 8;
    pub(super) const FAN_CLUB: i32 = 10;
    pub(super) const ANCHOR: i32 = 12;
}

fn roles(
    user: &webcast::User,
    identity: Option<&webcast::UserIdentity>,
    badges: &[Badge],
) -> Roles {
    let wears = |scene| badges.iter().any(|badge| badge.scene == scene);
    let top_gifter = wears(scene::RANK);
    if let Some(identity) = identity {
        return Roles {
            moderator: identity.is_moderator_of_anchor,
            subscriber: identity.is_subscriber_of_anchor,
            follower: identity.is_follower_of_anchor,
            top_gifter,
            anchor: identity.is_anchor,
        };
    }
    Roles {
        moderator: user.user_attr.as_ref().is_some_and(|attr| attr.is_admin)
            || wears(scene::MODERATOR),
        subscriber: wears(scene::SUBSCRIBER)
            || wears(scene::NEW_SUBSCRIBER)
            || user
                .subscribe_info
                .as_ref()
                .is_some_and(|info| info.is_subscribed_to_anchor),
        follower: follow_status(user) > 0,
        top_gifter,
        anchor: wears(scene::ANCHOR),
    }
}

/// One badge per scene, in the order of appearance. Many come twice, as a picture and as a
/// combination of icon and text: the highest level stays, and the first text and picture.
fn badges(list: &[webcast::Badge]) -> Vec<Badge> {
    let mut folded: Vec<Badge> = Vec::new();
    for badge in list {
        let level = badge.privilege_log_extra.as_ref().and_then(level);
        if let Some(known) = folded
            .iter_mut()
            .find(|known| known.scene == badge.scene_type)
        {
            known.level = known.level.max(level);
            known.text = known.text.take().or_else(|| badge_text(badge));
            known.image_url = known.image_url.take().or_else(|| badge_image(badge));
        } else {
            folded.push(Badge {
                scene: badge.scene_type,
                level,
                text: badge_text(badge),
                image_url: badge_image(badge),
            });
        }
    }
    folded
}

/// 0 stands for "no level".
fn level(extra: &webcast::PrivilegeLogExtra) -> Option<u32> {
    let number = str::from_utf8(&extra.level).ok()?.parse().ok()?;
    (number > 0).then_some(number)
}

fn badge_text(badge: &webcast::Badge) -> Option<String> {
    let combine = badge.combine.as_ref();
    let pattern = |text: Option<&webcast::BadgeText>| self::text(&text?.default_pattern);
    pattern(badge.text.as_ref())
        .or_else(|| text(&badge.str.as_ref()?.str))
        .or_else(|| text(&combine?.str))
        .or_else(|| pattern(combine?.text.as_ref()))
}

fn badge_image(badge: &webcast::Badge) -> Option<String> {
    let image = badge.image.as_ref().and_then(|image| image.image.as_ref());
    let icon = badge
        .combine
        .as_ref()
        .and_then(|combine| combine.icon.as_ref());
    image_url(image).or_else(|| image_url(icon))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn badge(scene_type: i32, level: &'static str) -> webcast::Badge {
        webcast::Badge {
            scene_type,
            privilege_log_extra: Some(webcast::PrivilegeLogExtra {
                level: level.into(),
            }),
            ..Default::default()
        }
    }

    fn account() -> webcast::User {
        webcast::User {
            id: 7,
            badge_list: vec![
                badge(8, "0"),
                badge(8, "21"),
                badge(8, "20"),
                badge(10, "3"),
            ],
            pay_grade: Some(webcast::PayGrade { level: 5 }),
            fans_club: Some(webcast::FansClub {
                data: Some(webcast::FansClubData {
                    club_name: "Owls".into(),
                    level: 4,
                    user_fans_club_status: 1,
                }),
            }),
            follow_info: Some(webcast::FollowInfo {
                follow_status: 2,
                ..Default::default()
            }),
            ..Default::default()
        }
    }

    #[test]
    fn badges_fold_by_scene_and_give_the_levels() {
        let read = user(&account(), None).unwrap();
        let folded: Vec<_> = read
            .badges
            .iter()
            .map(|badge| (badge.scene, badge.level))
            .collect();
        assert_eq!(folded, [(8, Some(21)), (10, Some(3))]);
        assert_eq!((read.gifter_level, read.team_level), (Some(21), Some(3)));
        assert_eq!(read.team_name.as_deref(), Some("Owls"));
    }

    #[test]
    fn without_badges_the_account_tells_its_levels() {
        let mut account = account();
        account.badge_list.clear();
        let read = user(&account, None).unwrap();
        assert_eq!((read.gifter_level, read.team_level), (Some(5), Some(4)));
        // Shown the club, but not in it.
        account.pay_grade.as_mut().unwrap().level = 0;
        account
            .fans_club
            .as_mut()
            .unwrap()
            .data
            .as_mut()
            .unwrap()
            .user_fans_club_status = 0;
        let read = user(&account, None).unwrap();
        assert_eq!(
            (read.gifter_level, read.team_level, read.team_name),
            (None, None, None)
        );
    }

    #[test]
    fn the_standing_is_trusted_more_than_the_account_and_its_badges() {
        let mut account = account();
        account.badge_list = [1, 4, 6, 12].map(|scene| badge(scene, "")).into();
        let read = user(&account, None).unwrap();
        let all = Roles {
            moderator: true,
            subscriber: true,
            follower: true,
            top_gifter: true,
            anchor: true,
        };
        assert_eq!((read.roles, read.friend), (all, true));
        let read = user(&account, Some(&webcast::UserIdentity::default())).unwrap();
        let only = Roles {
            top_gifter: true,
            ..Roles::default()
        };
        assert_eq!((read.roles, read.friend), (only, false));

        account.badge_list.clear();
        account.user_attr = Some(webcast::UserAttr {
            is_admin: true,
            is_muted: true,
        });
        account.subscribe_info = Some(webcast::SubscribeInfo {
            is_subscribed_to_anchor: true,
        });
        let read = user(&account, None).unwrap();
        assert!(read.roles.moderator && read.roles.subscriber && read.muted);
        assert!(!read.roles.anchor && !read.roles.top_gifter);
    }
}
