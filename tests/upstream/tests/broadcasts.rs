//! Broadcasts that pause, break off, begin anew; rooms that are closed to some; rooms by the
//! hundred.

use super::{
    capture, script,
    visitor::{Got, Visitor, WEB_PARAMS},
};
use crate::*;

async fn until(what: impl Fn() -> bool) {
    for _ in 0..2_000 {
        if what() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it does not happen");
}

async fn status(visitor: &Visitor) -> i64 {
    let path = format!("/api-live/user/room/?{WEB_PARAMS}&uniqueId=room-d&sourceType=54");
    visitor.json(&path).await["data"]["user"]["status"]
        .as_i64()
        .unwrap()
}

fn arm(upstream: &Upstream, act: &str) {
    let fault = format!(r#"{{"playback": {{"afterFrames": 3, "act": {act}}}}}"#);
    upstream.fault("room-d", serde_json::from_str(&fault).unwrap());
}

#[tokio::test]
async fn a_restart_has_a_new_room_and_an_interruption_the_old_one() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let first = upstream.room_id("room-d");
    arm(&upstream, r#""restart""#);
    let (before, end) = visitor.enter("room-d").await.drain().await;
    assert_eq!(end, None);
    let second = upstream.room_id("room-d");
    assert!(
        second.is_some() && second != first,
        "at once, without an end"
    );
    arm(&upstream, r#"{"interrupt": {"ms": 300}}"#);
    let (between, end) = visitor.enter("room-d").await.drain().await;
    assert_eq!(
        (end, upstream.room_id("room-d"), status(&visitor).await),
        (None, None, 4)
    );
    until(|| upstream.room_id("room-d").is_some()).await;
    assert_eq!(upstream.room_id("room-d"), second);
    let (after, _) = visitor.enter("room-d").await.drain().await;
    let all = before.iter().chain(&between).chain(&after);
    assert_eq!(all.filter(|one| !one.is_history).count(), 50);
    let rooms: Vec<_> = upstream.sent().iter().map(|one| one.room_id).collect();
    assert!(rooms.contains(&first.unwrap()) && rooms.contains(&second.unwrap()));
}

#[tokio::test]
async fn a_pause_shows_and_says_so() {
    let upstream = Upstream::start(script("room-d")).await.unwrap();
    let visitor = Visitor::new(&upstream);
    arm(&upstream, r#"{"pause": {"ms": 400}}"#);
    let mut client = visitor.enter("room-d").await;
    let actions = async {
        let mut actions = Vec::new();
        loop {
            match client.next().await {
                Got::Messages(messages) => actions.extend(
                    messages
                        .iter()
                        .filter(|one| one.method == "WebcastControlMessage")
                        .filter_map(|one| patch::varint_field(&one.payload, 2)),
                ),
                Got::Closed(_) => return actions,
                _ => {}
            }
        }
    };
    let paused = async {
        while status(&visitor).await != 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let (actions, ()) = tokio::join!(actions, paused);
    assert!(actions.windows(2).any(|two| two == [1, 2]), "{actions:?}");
}

#[tokio::test]
async fn a_broadcast_ends_and_begins_on_demand_even_when_nobody_is_there() {
    let mut script = script("room-d").creator(Creator::new("asleep", Show::Offline));
    script.pace = Pace::Every(Duration::from_millis(20));
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let order = async |what: &str| {
        let url = format!("{}/stand-in/broadcasts/{what}", upstream.base_url());
        visitor
            .http
            .post(url)
            .send()
            .await
            .unwrap()
            .status()
            .as_u16()
    };
    assert_eq!(order("nobody/end").await, 404);
    assert_eq!(order("asleep/start").await, 409);
    assert_eq!(order("room-d/start").await, 409, "it runs");
    let first = upstream.room_id("room-d");
    assert_eq!(order("room-d/end").await, 204);
    until(|| upstream.room_id("room-d").is_none()).await;
    assert!(!upstream.end_broadcast("room-d") && !upstream.finished("room-d"));
    assert!(upstream.start_broadcast("room-d"));
    until(|| upstream.room_id("room-d").is_some()).await;
    assert_ne!(upstream.room_id("room-d"), first);

    let mut client = visitor.enter("room-d").await;
    while !matches!(client.next().await, Got::Messages(_)) {}
    assert!(upstream.end_broadcast("room-d"));
    let (messages, end) = client.drain().await;
    assert_eq!(end, Some((1000, String::new())));
    let last = messages.last().unwrap();
    assert_eq!(last.method, "WebcastControlMessage");
    assert_eq!(patch::varint_field(&last.payload, 2), Some(3));
    assert!(upstream.start_broadcast("room-d"));
    until(|| upstream.room_id("room-d").is_some()).await;
    visitor.enter("room-d").await.drain().await;
    until(|| upstream.finished("room-d")).await;
    assert!(upstream.start_broadcast("room-d"), "one more lap");
    until(|| upstream.room_id("room-d").is_some()).await;
    let (again, _) = visitor.enter("room-d").await.drain().await;
    assert_eq!(again.len(), 50);
}

#[tokio::test]
async fn closed_rooms_say_why() {
    let script = Script::new()
        .creator(Creator::new(
            "grown-up",
            Show::AgeRestricted(capture("room-d")),
        ))
        .creator(Creator::new(
            "friends",
            Show::LoginWanted(capture("room-d")),
        ));
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    for (name, code) in [("grown-up", 4_003_110), ("friends", 20_003)] {
        let room = visitor.room_id(name).await;
        let path = format!("/webcast/room/info/?{WEB_PARAMS}&room_id={room}");
        assert_eq!(visitor.json(&path).await["status_code"], code);
    }
    assert_eq!(upstream.violations(), []);
}

#[tokio::test]
async fn history_can_be_a_rule_of_the_creator() {
    for history in [
        History::Messages(20),
        History::Messages(0),
        History::Last(Duration::from_mins(1)),
        History::Last(Duration::ZERO),
    ] {
        let creator = Creator::plays("room-d", capture("room-d")).history(history);
        let upstream = Upstream::start(Script::new().creator(creator))
            .await
            .unwrap();
        let visitor = Visitor::new(&upstream);
        let act = Act::Drop;
        let drop = Fault::Playback {
            after_frames: 20,
            act,
        };
        upstream.fault("room-d", drop);
        let (messages, _) = visitor.enter("room-d").await.drain().await;
        assert!(messages.len() > 20);
        let room = visitor.room_id("room-d").await;
        let mut client = visitor.connect(&room).await;
        let wanted = match history {
            History::Messages(count) => count,
            History::Last(Duration::ZERO) => 0,
            History::Last(_) => messages.len(),
        };
        assert_eq!(client.history.len(), wanted, "{history:?}");
        client.enter().await;
        let (messages, _) = client.drain().await;
        let again = messages.iter().filter(|one| one.is_history).count();
        assert_eq!(again, wanted, "{history:?}");
    }
}

#[tokio::test]
async fn made_up_rooms_send_what_their_totals_say() {
    let load = Load {
        events: Some(300),
        ..Load::new(42, f64::INFINITY)
    };
    let upstream = Upstream::start(Script::new().load(3, &load)).await.unwrap();
    let visitor = Visitor::new(&upstream);
    for name in ["load-0", "load-1", "load-2"] {
        let (messages, end) = visitor.enter(name).await.drain().await;
        assert_eq!(end, Some((1000, String::new())));
        let totals = upstream.totals(name).unwrap();
        // The last one says that it is over.
        assert_eq!(messages.len() as u64, totals.messages + 1);
        assert!(totals.messages >= 300 && totals.coins > 0 && totals.open_streaks == 0);
        let likes: u64 = messages
            .iter()
            .filter(|one| one.method == "WebcastLikeMessage")
            .filter_map(|one| patch::varint_field(&one.payload, 2))
            .sum();
        assert_eq!(likes, totals.likes);
        let bytes: usize = messages.iter().map(|one| one.payload.len()).sum();
        assert!(bytes as u64 > totals.bytes);
    }
    let ids: std::collections::HashSet<_> = upstream.sent().iter().map(|one| one.msg_id).collect();
    assert_eq!(ids.len(), upstream.sent().len());
    assert_ne!(upstream.totals("load-0"), upstream.totals("load-1"));
    assert_eq!(upstream.totals("room-d"), None);
    assert_eq!(upstream.violations(), []);
}

#[tokio::test]
async fn a_thousand_rooms_are_cheap_and_an_idle_one_still_obeys() {
    let mut script = Script::new().load(1_000, &Load::new(1, 0.0));
    script.record = Record::Counts;
    let began = std::time::Instant::now();
    let upstream = Upstream::start(script).await.unwrap();
    assert!(began.elapsed() < Duration::from_secs(2));
    let visitor = Visitor::new(&upstream);
    let mut client = visitor.enter("load-999").await;
    assert_eq!(client.next().await, Got::Reply("im_enter_room_resp".into()));
    assert_eq!(client.next().await, Got::Reply("hb".into()));
    let act = Act::Streak {
        coins: 3,
        counts: vec![2],
        ended: false,
    };
    upstream.fault(
        "load-999",
        Fault::Playback {
            after_frames: 0,
            act,
        },
    );
    assert!(matches!(client.next().await, Got::Messages(some) if some.len() == 1));
    assert!(upstream.end_broadcast("load-999"));
    assert_eq!(client.drain().await.1, Some((1000, String::new())));
    assert_eq!(upstream.requests(), [], "nothing is kept but counts");
}

#[tokio::test]
async fn the_rate_is_kept() {
    let mut script = Script::new().load(1, &Load::new(1, 100.0));
    script.record = Record::Counts;
    let upstream = Upstream::start(script).await.unwrap();
    let visitor = Visitor::new(&upstream);
    let mut client = visitor.enter("load-0").await;
    while !matches!(client.next().await, Got::Messages(_)) {}
    let messages = || u32::try_from(upstream.counts().messages).unwrap();
    let (began, before) = (std::time::Instant::now(), messages());
    while began.elapsed() < Duration::from_secs(2) {
        client.next().await;
    }
    let rate = f64::from(messages() - before) / began.elapsed().as_secs_f64();
    assert!((80.0..120.0).contains(&rate), "{rate}");
}
