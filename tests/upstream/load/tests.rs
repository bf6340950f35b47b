//! The plan repeats itself, keeps its rate and sizes, and its totals are what its bytes say.

use std::collections::HashMap;

use super::*;
use crate::json::{self, Naming};

const STAMP: Stamp = Stamp {
    msg_id: 7_301_234_567_890_123_456,
    room_id: 7_301_234_567_890_123_457,
    now: 1_795_000_000_000,
    began: 1_794_999_000_000,
    owner: 6_900_000_000_000_000_001,
};

fn load(seed: u64, rate: f64, events: u64) -> Load {
    Load {
        events: Some(events),
        ..Load::new(seed, rate)
    }
}

fn play(load: &Load, room: &str) -> Vec<(Duration, Event)> {
    let mut plan = Plan::new(load, room, 0);
    std::iter::from_fn(|| plan.next())
        .map(|planned| (planned.at, planned.event))
        .collect()
}

fn bytes(load: &Load, room: &str) -> Vec<Vec<u8>> {
    let events = play(load, room);
    events
        .iter()
        .map(|(_, event)| event.encode(&STAMP, load.size).1)
        .collect()
}

#[test]
fn the_same_seed_says_the_same_and_another_something_else() {
    let one = bytes(&load(7, 10.0, 500), "load-0");
    assert_eq!(one, bytes(&load(7, 10.0, 500), "load-0"));
    assert_ne!(one, bytes(&load(8, 10.0, 500), "load-0"));
    assert_ne!(one, bytes(&load(7, 10.0, 500), "load-1"));
}

#[test]
fn the_rate_is_kept_streaks_included_and_time_never_goes_back() {
    for rate in [0.5, 5.0, 100.0] {
        let events = play(&load(3, rate, 4_000), "load-0");
        let last = events[3_999].0.as_secs_f64();
        let measured = 4_000.0 / last;
        assert!((measured / rate - 1.0).abs() < 0.03, "{measured} of {rate}");
        assert!(events.is_sorted_by_key(|(at, _)| *at));
    }
}

#[test]
fn sizes_are_about_those_that_were_asked_for() {
    let average = |size| {
        let load = Load {
            size,
            ..load(3, 10.0, 4_000)
        };
        let all = bytes(&load, "load-0");
        all.iter().map(Vec::len).sum::<usize>() / all.len()
    };
    let sizes = [1_000, 2_400, 5_000];
    let averages = sizes.map(average);
    let near = |(size, average): (&usize, &usize)| average.abs_diff(*size) * 12 < *size;
    assert!(sizes.iter().zip(&averages).all(near), "{averages:?}");
}

/// Adds up what a reader of the messages would see.
#[test]
fn totals_are_what_the_messages_say() {
    let load = load(11, 20.0, 6_000);
    let mut totals = Totals::default();
    let mut seen = Totals::default();
    let mut open: HashMap<String, u64> = HashMap::new();
    let mut singles = 0;
    for (_, event) in play(&load, "load-0") {
        let (method, payload) = event.encode(&STAMP, load.size);
        totals.add(&event, payload.len());
        let data = json::encode(method, &payload, Naming::V3).unwrap();
        assert_eq!(data["common"]["method"], method);
        assert_eq!(data["common"]["msgId"], STAMP.msg_id.to_string());
        let number = |value: &serde_json::Value| -> u64 {
            let text = value.to_string();
            text.trim_matches('"').parse().unwrap()
        };
        seen.messages += 1;
        seen.bytes += payload.len() as u64;
        match method {
            "WebcastChatMessage" => {
                assert_ne!(data["content"], "");
                seen.chats += 1;
            }
            "WebcastLikeMessage" => {
                seen.like_messages += 1;
                seen.likes += number(&data["count"]);
                assert_eq!(number(&data["total"]), seen.likes);
            }
            "WebcastMemberMessage" => seen.joins += 1,
            "WebcastSocialMessage" => seen.follows += 1,
            "WebcastRoomUserSeqMessage" => {
                assert_eq!(data["ranks"].as_array().unwrap().len(), 3);
                seen.viewers += 1;
            }
            "WebcastGiftMessage" => {
                seen.gift_messages += 1;
                let count = number(&data["repeatCount"]);
                let worth = count * number(&data["gift"]["diamondCount"]);
                let ends = data["repeatEnd"] == 1;
                if data["gift"]["type"] == 1 {
                    let key = format!(
                        "{}{}{}",
                        data["user"]["id"], data["giftId"], data["groupId"]
                    );
                    let before = open.insert(key.clone(), count).unwrap_or(0);
                    assert!(if ends {
                        count == before
                    } else {
                        count > before
                    });
                    if ends {
                        open.remove(&key);
                        seen.gifts += 1;
                        seen.coins += worth;
                    }
                } else {
                    assert_eq!((&data["groupId"], ends, count), (&"0".into(), false, 1));
                    singles += 1;
                    seen.gifts += 1;
                    seen.coins += worth;
                }
            }
            other => panic!("{other}"),
        }
    }
    assert_eq!(totals, seen);
    assert!(open.is_empty(), "every streak ends");
    assert!(singles > 5 && totals.gifts > singles + 50, "{totals:?}");
    assert!(totals.messages >= 6_000 && totals.messages < 6_100);
    let share = |count: u64| count * 100 / totals.messages;
    assert!(share(totals.like_messages) > 25 && share(totals.gift_messages) > 4);
}
