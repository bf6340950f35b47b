//! From the stand-in's socket to the live feed, the API and the page, through the real Worker.

use std::{collections::HashSet, time::Duration};

use anyhow::{Context, ensure};
use serde_json::Value;
use upstream::{Pace, Script};
use xtask::stack::{Worker, WorkerOptions};

use crate::{
    browser::Page,
    daemon::PATIENCE,
    feed::Feed,
    product::{Product, creator},
    rows::{Row, check_all, messages},
    stores::{Stores, blocking, until},
};

/// The product with the Worker already up, and the daemon about to start.
async fn begin(script: Script) -> (Product, Worker, String) {
    let product = Product::prepare(script, Stores::start().await, &[], &[]).await;
    product.migrate();
    let (redis, database) = (
        product.stores.redis_url().to_owned(),
        product.stores.database_url().to_owned(),
    );
    let worker = blocking(move || Worker::start(WorkerOptions::new(redis, database))).await;
    let url = worker.url();
    (product, worker, url)
}

async fn get(url: &str) -> (u16, String, Value) {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(url).await.expect("the Worker answers");
    let kind = answer.headers()["content-type"]
        .to_str()
        .unwrap()
        .to_owned();
    let (status, text) = (answer.status().as_u16(), answer.text().await.unwrap());
    (
        status,
        kind,
        serde_json::from_str(&text).unwrap_or_else(|_| panic!("{url}: {text}")),
    )
}

async fn stored(product: &Product, room: &str, count: usize) {
    until(PATIENCE, async || {
        let rows = Row::all(&product.stores).await?;
        let stored = rows.iter().filter(|row| row.stream_id == room).count();
        ensure!(stored >= count, "{stored} of {count} in room {room}");
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_live_feed_and_the_api_show_exactly_what_is_stored() {
    let mut script = Script::new()
        .creator(creator("room-b"))
        .creator(creator("room-d"));
    script.pace = Pace::Every(Duration::from_millis(150));
    let (mut product, _worker, base) = begin(script).await;
    let room = product.upstream.room_id("room-b").unwrap().to_string();
    let feed_url = format!("{base}/streams/{room}/events");
    product.start_daemon();
    stored(&product, &room, 1).await;

    // From the first event; by name; one that is cut off and resumes; one that comes late.
    let mut whole = Feed::open(&format!("{feed_url}?after=start"), None)
        .await
        .unwrap();
    let by_name = format!("{base}/streams/@room-b/events?after=start");
    let mut by_name = Feed::open(&by_name, None).await.unwrap();
    let mut cut = Feed::open(&format!("{feed_url}?after=start"), None)
        .await
        .unwrap();
    cut.read_to(30, PATIENCE).await.unwrap();
    let cut_ids: Vec<_> = cut.ids()[..30].iter().map(|&id| id.to_owned()).collect();
    let resume_at = cut.events[29].id.clone();
    drop(cut);
    stored(&product, &room, 60).await;
    let mut resumed = Feed::open(&feed_url, Some(&resume_at)).await.unwrap();
    let mut late = Feed::open(&feed_url, None).await.unwrap();

    product.played("room-b").await;
    product.played("room-d").await;
    let rows = product
        .settled(|rows| {
            ensure!(messages(rows) >= 259, "{} of 259", messages(rows));
            let goodbyes = rows
                .iter()
                .filter(|row| row.event_type == "DISCONNECTED")
                .count();
            ensure!(goodbyes >= 2, "{goodbyes} of 2 goodbyes");
            Ok(())
        })
        .await;
    check_all(&rows);
    let rows: Vec<_> = rows.iter().filter(|row| row.stream_id == room).collect();
    let expected: Vec<_> = rows.iter().map(|row| row.event_id.as_str()).collect();

    for feed in [&mut whole, &mut by_name] {
        feed.read_to(rows.len(), PATIENCE).await.unwrap();
        feed.read_for(Duration::from_secs(1)).await.unwrap();
        assert_eq!(feed.ids(), expected, "each once, in the order of the room");
        for (message, row) in feed.events.iter().zip(&rows) {
            assert_eq!(message.data, row.event);
        }
        assert!(
            feed.others
                .iter()
                .all(|message| message.name == "heartbeat"),
            "{:?}",
            feed.others
        );
    }
    resumed.read_to(rows.len() - 30, PATIENCE).await.unwrap();
    let both: Vec<_> = cut_ids
        .iter()
        .map(String::as_str)
        .chain(resumed.ids())
        .collect();
    assert_eq!(
        both, expected,
        "nothing is missing or repeated where the feed was cut"
    );
    late.read_for(Duration::from_secs(1)).await.unwrap();
    assert!(!late.events.is_empty() && late.events.len() < rows.len());
    assert!(
        expected.ends_with(&late.ids()),
        "who comes late gets all from then on"
    );

    // Live means soon: of the second half, which nobody had to read from the database.
    let sent = product.upstream.sent();
    let mut waits: Vec<_> = whole.events[rows.len() / 2..]
        .iter()
        .zip(&rows[rows.len() / 2..])
        .filter_map(|(message, row)| {
            let sent = sent.iter().find(|sent| sent.payload == row.raw)?;
            message.at.duration_since(sent.at).ok()
        })
        .collect();
    waits.sort_unstable();
    let median = waits[waits.len() / 2];
    assert!(
        median < Duration::from_secs(2),
        "half of the events take longer than {median:?}"
    );

    check_api(&base, &room, &rows).await;
    check_problems(&base, &room).await;
    product.stop();
}

async fn check_api(base: &str, room: &str, rows: &[&Row]) {
    let (status, _, health) = get(&format!("{base}/health")).await;
    assert_eq!(
        (status, &health["status"]),
        (200, &"ok".into()),
        "{health:#}"
    );
    let (_, _, streams) = get(&format!("{base}/streams")).await;
    let streams = streams["items"].as_array().unwrap();
    assert_eq!(streams.len(), 2);
    let stream = streams
        .iter()
        .find(|stream| stream["streamId"] == room)
        .unwrap();
    assert_eq!(stream["username"], "room-b");
    assert_eq!(stream["eventCount"], rows.len());
    let (_, _, one) = get(&format!("{base}/streams/{room}")).await;
    assert_eq!(one["streamId"], room);

    let (_, _, sessions) = get(&format!("{base}/sessions?stream={room}")).await;
    let sessions = sessions["items"].as_array().unwrap();
    assert_eq!(sessions.len(), 1);
    let session = sessions[0]["sessionId"].as_str().unwrap();
    assert_eq!(sessions[0]["eventCount"], rows.len());
    let (_, _, one) = get(&format!("{base}/sessions/{session}")).await;
    assert_eq!(one, sessions[0]);
    let (_, _, all) = get(&format!("{base}/sessions")).await;
    assert_eq!(all["items"].as_array().unwrap().len(), 2);

    let mut paged: Vec<Value> = Vec::new();
    let mut after = String::new();
    loop {
        let (status, _, mut page) =
            get(&format!("{base}/sessions/{session}/events?limit=17{after}")).await;
        assert_eq!(status, 200, "{page:#}");
        let items = page["items"].as_array_mut().unwrap();
        assert!(items.len() <= 17);
        paged.append(items);
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert!(
        paged.iter().eq(rows.iter().map(|row| &row.event)),
        "{} paged",
        paged.len()
    );
    let (_, _, chat) = get(&format!("{base}/sessions/{session}/events?type=CHAT,GIFT")).await;
    let wanted = |row: &&&Row| matches!(row.event_type.as_str(), "CHAT" | "GIFT");
    let wanted = rows.iter().filter(wanted).map(|row| &row.event);
    assert!(
        chat["items"].as_array().unwrap().iter().eq(wanted),
        "only the types asked for"
    );
}

async fn check_problems(base: &str, room: &str) {
    let (_, _, sessions) = get(&format!("{base}/sessions?stream={room}")).await;
    let session = sessions["items"][0]["sessionId"]
        .as_str()
        .unwrap()
        .to_owned();
    let unknown_session = "019ac5d8-0000-7000-8000-000000000001";
    for (path, expected, field) in [
        ("/streams/1234567890123456789".to_owned(), 404, None),
        ("/streams/1234567890123456789/events".to_owned(), 404, None),
        ("/streams/@nobody-at-all/events".to_owned(), 404, None),
        (format!("/sessions/{unknown_session}"), 404, None),
        (format!("/sessions/{unknown_session}/events"), 404, None),
        ("/sessions/nonsense".to_owned(), 404, None),
        (
            format!("/streams/{room}/events?after=nonsense"),
            400,
            Some("after"),
        ),
        (
            format!("/sessions/{session}/events?after=nonsense"),
            400,
            Some("after"),
        ),
        (
            format!("/sessions/{session}/events?limit=0"),
            400,
            Some("limit"),
        ),
        (
            format!("/sessions/{session}/events?type=NOPE"),
            400,
            Some("type"),
        ),
        ("/sessions?limit=many".to_owned(), 400, Some("limit")),
        ("/sessions?after=%00".to_owned(), 400, Some("after")),
        ("/streams?colour=red".to_owned(), 400, Some("colour")),
    ] {
        let (status, kind, problem) = get(&format!("{base}{path}")).await;
        assert_eq!(status, expected, "{path}: {problem:#}");
        assert!(
            kind.starts_with("application/problem+json"),
            "{path}: {kind}"
        );
        assert_eq!(problem["status"], expected, "{path}");
        assert_eq!(problem["field"].as_str(), field, "{path}: {problem:#}");
        for key in ["type", "title", "detail"] {
            assert!(
                problem[key].as_str().is_some_and(|text| !text.is_empty()),
                "{path}: {problem:#}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_moves_by_itself_and_holds_every_event() {
    let mut script = Script::new().creator(creator("room-b"));
    script.pace = Pace::Every(Duration::from_millis(200));
    let (mut product, _worker, base) = begin(script).await;
    let room = product.upstream.room_id("room-b").unwrap().to_string();
    let mut page = Page::open(&base).await.expect("the page opens");
    product.start_daemon();

    let count = "Number(document.querySelector('[data-testid=feed-total]')?.dataset.count ?? 0)";
    let mut seen = 0;
    for _ in 0..2 {
        seen = until(PATIENCE, async || {
            let now = page.ask(count).await?.as_u64().context("a number")?;
            ensure!(now > seen, "the count stays at {now}");
            Ok(now)
        })
        .await;
    }
    product.played("room-b").await;
    let rows = product
        .settled(|rows| {
            ensure!(messages(rows) >= 210, "{} of 210", messages(rows));
            let over = rows.iter().any(|row| row.event_type == "DISCONNECTED");
            ensure!(over, "the broadcast is not over");
            Ok(())
        })
        .await;
    check_all(&rows);
    until(PATIENCE, async || {
        let now = page.ask(count).await?;
        ensure!(
            now == rows.len(),
            "the page counts {now} of {} rows",
            rows.len()
        );
        Ok(())
    })
    .await;
    let shown = page
        .ask("document.querySelector('[data-testid=feed-total]').dataset.stream")
        .await;
    assert_eq!(shown.unwrap(), room.as_str());

    // From the top to the bottom: rows outside the viewport are not in the document, so each step
    // shows some more of them.
    let walk = r"(async () => {
        const scroller = document.querySelector('.feed-scroller');
        const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done, 30)));
        const seen = [];
        let most = 0;
        scroller.dispatchEvent(new WheelEvent('wheel', { deltaY: -1, bubbles: true }));
        scroller.scrollTop = 0;
        for (let steps = 0; steps < 2000; steps += 1) {
            await frame();
            const rows = [...document.querySelectorAll('[data-event-id]')];
            most = Math.max(most, rows.length);
            rows.sort((a, b) => a.dataset.index - b.dataset.index);
            for (const row of rows) {
                if (!seen.includes(row.dataset.eventId)) seen.push(row.dataset.eventId);
            }
            if (scroller.scrollTop + scroller.clientHeight >= scroller.scrollHeight - 2) break;
            scroller.scrollTop += scroller.clientHeight / 2;
        }
        return { seen, most };
    })()";
    let walked = page.ask(walk).await.unwrap();
    let seen: Vec<_> = walked["seen"]
        .as_array()
        .unwrap()
        .iter()
        .filter_map(Value::as_str)
        .collect();
    let expected: Vec<_> = rows.iter().map(|row| row.event_id.as_str()).collect();
    let unknown: HashSet<_> = seen.iter().filter(|id| !expected.contains(id)).collect();
    assert!(unknown.is_empty(), "rows that nobody stored: {unknown:?}");
    assert_eq!(seen.len(), expected.len(), "every row comes into view once");
    assert_eq!(seen, expected, "in the order of the room");
    let most = walked["most"].as_u64().unwrap();
    assert!(
        most < 100,
        "{most} rows were in the document at once: the list is not virtual"
    );
    assert_eq!(
        page.complaints,
        Vec::<String>::new(),
        "what the page complained about"
    );
    product.stop();
}
