//! Battles between creators, their scores, and banners.
//!
//! Comes in: a battle, armies or barrage message. Goes out: one shape for the three. A battle
//! message names the hosts when it opens and brings results and contributors when it ends;
//! between the two, armies messages bring scores. A barrage is a banner over the picture and has
//! nothing to do with battles: the contract puts it here, `kind` tells them apart.

use shared::event::{
    Banner, BannerKind, Battle, BattleKind, BattleResult, BattleSide, BattleStatus, Contributor,
    Person,
};
use shared::time::Timestamp;

use super::text::{count, id, image_url, text};
use crate::proto::{in_millis, webcast};

/// The payload of a battle message: begin, end and what lies between invitation and answer.
pub(super) fn battle(raw_type: String, message: &webcast::LinkMicBattle) -> Battle {
    let status = match message.action {
        1 => BattleStatus::Invited,
        2 => BattleStatus::Rejected,
        3 => BattleStatus::Cancelled,
        4 => BattleStatus::Started,
        5 => BattleStatus::Finished,
        6 => BattleStatus::CutShort,
        7 => BattleStatus::Accepted,
        _ => BattleStatus::Other,
    };
    // Winning is 0 and therefore absent on the wire: before the end it would seem that all win.
    let over = matches!(status, BattleStatus::Finished | BattleStatus::CutShort);

    let mut sides = Sides::default();
    for entry in &message.anchors_info {
        let Some(host) = entry.value.as_ref().and_then(|info| info.user.as_ref()) else {
            sides.of(entry.key);
            continue;
        };
        let number = if host.user_id == 0 {
            entry.key
        } else {
            host.user_id
        };
        if let Some(side) = sides.of(number) {
            side.host.username = text(&host.display_id);
            side.host.display_name = text(&host.nick_name);
            side.host.avatar_url = image_url(host.avatar_thumb.as_ref());
        }
    }
    for entry in &message.armies {
        sides.add_army(entry.key, entry.value.as_ref());
    }
    for (host, found) in &message.battle_result {
        if let Some(side) = sides.of(*host) {
            side.score = Some(count(found.score));
            side.result = over.then(|| result(found.result)).flatten();
        }
    }
    sides.add_teams(&message.team_armies);
    for team in &message.team_battle_result {
        for member in &team.members {
            if let Some(side) = sides.of(member.user_id) {
                side.team_id = id(team.team_id);
                side.score = Some(count(member.score));
                side.result = over.then(|| result(team.result)).flatten();
            }
        }
    }
    new(
        raw_type,
        BattleKind::Battle,
        status,
        message.battle_id,
        message.battle_settings.as_ref(),
        sides,
    )
}

/// The payload of an armies message: the scores of a running battle.
pub(super) fn armies(raw_type: String, message: &webcast::LinkMicArmies) -> Battle {
    const BATTLE_END: i32 = 2;
    let mut sides = Sides::default();
    for (host, army) in &message.armies {
        sides.add_army(*host, Some(army));
    }
    sides.add_teams(&message.team_armies);
    new(
        raw_type,
        BattleKind::Armies,
        if message.trigger_reason == BATTLE_END {
            BattleStatus::Finished
        } else {
            BattleStatus::Scores
        },
        message.battle_id,
        message.battle_settings.as_ref(),
        sides,
    )
}

fn new(
    raw_type: String,
    kind: BattleKind,
    status: BattleStatus,
    battle_id: i64,
    settings: Option<&webcast::BattleSetting>,
    sides: Sides,
) -> Battle {
    Battle {
        raw_type,
        kind,
        battle_id: id(battle_id).or_else(|| id(settings?.battle_id)),
        status: Some(status),
        sides: sides.0,
        started_at: settings
            .filter(|settings| settings.start_time_ms > 0)
            .map(|settings| Timestamp::from_millis(in_millis(settings.start_time_ms))),
        duration_seconds: settings
            .map(|settings| count(settings.duration))
            .filter(|&seconds| seconds > 0),
        banner: None,
    }
}

fn result(number: i32) -> Option<BattleResult> {
    match number {
        0 => Some(BattleResult::Win),
        1 => Some(BattleResult::Lose),
        2 => Some(BattleResult::Draw),
        _ => None,
    }
}

/// The sides of a battle, one per host, in order of appearance.
#[derive(Default)]
struct Sides(Vec<BattleSide>);

impl Sides {
    /// The side of a host; `None` for number 0, which is nobody.
    fn of(&mut self, host: i64) -> Option<&mut BattleSide> {
        let user_id = id(host)?;
        let index = self.0.iter().position(|side| side.host.user_id == user_id);
        let index = index.unwrap_or_else(|| {
            self.0.push(BattleSide {
                host: Person {
                    user_id,
                    ..Person::default()
                },
                ..BattleSide::default()
            });
            self.0.len() - 1
        });
        self.0.get_mut(index)
    }

    /// The points of a host and those who gave them.
    fn add_army(&mut self, host: i64, army: Option<&webcast::UserArmies>) {
        let (Some(side), Some(army)) = (self.of(host), army) else {
            return;
        };
        side.score = Some(count(army.host_score));
        side.contributors = contributors(army);
    }

    /// In team battles `armies` names one host per team, with the points of the whole team: here
    /// each member gets its own. Who gave is known per team only and stays with the first host
    /// that has contributors, else with the team's first member.
    fn add_teams(&mut self, teams: &[webcast::BattleTeamArmies]) {
        for team in teams {
            let mut givers = team.user_armies.as_ref().map(contributors);
            for member in &team.members {
                if let Some(side) = self.of(member.user_id) {
                    side.team_id = id(team.team_id);
                    side.score = Some(count(member.score));
                    if !side.contributors.is_empty() {
                        givers = None;
                    }
                }
            }
            let first = team.members.iter().find(|member| member.user_id != 0);
            if let (Some(givers), Some(first)) = (givers, first)
                && let Some(side) = self.of(first.user_id)
            {
                side.contributors = givers;
            }
        }
    }
}

fn contributors(army: &webcast::UserArmies) -> Vec<Contributor> {
    let known = army.user_armies.iter().filter_map(|giver| {
        Some(Contributor {
            person: Person {
                user_id: id(giver.user_id)?,
                username: None,
                display_name: text(&giver.nickname),
                avatar_url: image_url(giver.avatar_thumb.as_ref()),
            },
            score: count(giver.score),
        })
    });
    known.collect()
}

/// The payload of a barrage message: a banner.
pub(super) fn barrage(raw_type: String, message: &webcast::BarrageMessage) -> Battle {
    // Which of the two holds the text depends on the number.
    let contents = [&message.content, &message.common_barrage_content];
    let contents = || contents.into_iter().flatten();
    let keys: Vec<String> = contents()
        .filter_map(|content| text(&content.key))
        .collect();
    let level = [&message.user_grade_param, &message.fans_level_param]
        .into_iter()
        .flatten()
        .filter_map(|param| u32::try_from(param.current_grade).ok())
        .find(|&level| level > 0);
    Battle {
        raw_type,
        kind: BattleKind::Barrage,
        battle_id: None,
        status: None,
        sides: Vec::new(),
        started_at: None,
        duration_seconds: None,
        banner: Some(Banner {
            kind: banner_kind(message.msg_type, &keys),
            number: message.msg_type.into(),
            text: contents().find_map(|content| text(&content.default_pattern)),
            display_type: keys.into_iter().next(),
            level,
        }),
    }
}

/// Super fans have no number of their own: the key tells, in whatever case it comes.
fn banner_kind(number: i32, keys: &[String]) -> BannerKind {
    let has = |part| {
        keys.iter()
            .any(|key| key.to_ascii_lowercase().contains(part))
    };
    if has("ttlive_superfan_commentnotif_superfanjoined") {
        return BannerKind::SuperFanJoined;
    }
    if has("ttlive_superfan") {
        return BannerKind::SuperFan;
    }
    match number {
        1 | 2 | 14 => BannerKind::Commerce,
        4 => BannerKind::Subscribed,
        5 | 6 => BannerKind::Event,
        7 => BannerKind::GiftedSubscription,
        8 => BannerKind::GifterLevelUp,
        9 => BannerKind::GifterEntered,
        10 => BannerKind::FanLevelUp,
        11 => BannerKind::FanEntered,
        _ => BannerKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_the_end_nobody_has_won() {
        let mut message = webcast::LinkMicBattle {
            action: 4,
            battle_result: [(7, webcast::BattleResult::default())].into(),
            ..Default::default()
        };
        assert_eq!(battle(String::new(), &message).sides[0].result, None);
        message.action = 5;
        let finished = battle(String::new(), &message);
        assert_eq!(finished.sides[0].result, Some(BattleResult::Win));
        assert_eq!(finished.status, Some(BattleStatus::Finished));
    }

    #[test]
    fn every_action_has_a_status() {
        for action in -1..=12 {
            let message = webcast::LinkMicBattle {
                action,
                ..Default::default()
            };
            let status = battle(String::new(), &message).status;
            assert_eq!(
                status == Some(BattleStatus::Other),
                !(1..=7).contains(&action),
                "{action}"
            );
        }
    }

    #[test]
    fn givers_of_a_team_stay_with_one_host() {
        let giver = webcast::UserArmy {
            user_id: 70,
            score: 9,
            ..Default::default()
        };
        let team = webcast::BattleTeamArmies {
            team_id: 1,
            members: [1, 2]
                .map(|user_id| webcast::BattleTeamMember {
                    user_id,
                    score: 4 + user_id,
                })
                .into(),
            score: 11,
            user_armies: Some(webcast::UserArmies {
                user_armies: vec![giver],
                host_score: 11,
            }),
        };
        let mut message = webcast::LinkMicArmies {
            team_armies: vec![team.clone()],
            ..Default::default()
        };
        let seen = |message: &webcast::LinkMicArmies| -> Vec<_> {
            let sides = armies(String::new(), message).sides;
            sides
                .into_iter()
                .map(|side| (side.host.user_id, side.score, side.contributors.len()))
                .collect()
        };
        assert_eq!(
            seen(&message),
            [("1".into(), Some(5), 1), ("2".into(), Some(6), 0)]
        );
        message.armies = [(2, team.user_armies.unwrap())].into();
        assert_eq!(
            seen(&message),
            [("2".into(), Some(6), 1), ("1".into(), Some(5), 0)]
        );
    }

    #[test]
    fn super_fans_are_known_by_the_key() {
        let keys = |key: &str| [key.to_owned()];
        assert_eq!(
            banner_kind(100, &keys("TTLive_SuperFan_CommentNotif_SuperFanJoined_x")),
            BannerKind::SuperFanJoined
        );
        assert_eq!(
            banner_kind(4, &keys("ttlive_superfanbox")),
            BannerKind::SuperFan
        );
        assert_eq!(
            banner_kind(9, &keys("pm_mt_alp_join_animation")),
            BannerKind::GifterEntered
        );
        assert_eq!(banner_kind(100, &[]), BannerKind::Other);
    }
}
