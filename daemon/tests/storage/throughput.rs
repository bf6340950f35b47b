//! How fast the writer is beside a bare `COPY` of the same rows into the same table. A
//! measurement, not a test: `cargo nextest run -p daemon --run-ignored only throughput --no-capture`.

use std::time::Instant;

use futures_util::{SinkExt as _, TryStreamExt as _};

use super::rig::{Event, Rig, Room, noon};

const EVENTS: u64 = 40_000;
const COLUMNS: &str = "event_id, part_day, stream_id, session_id, seq_no, event_type, source, occurred_at, \
    ingested_at, user_id, event, raw, raw_format, raw_hash";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn throughput() {
    let rig = Rig::new().await;
    let mut rooms: Vec<Room> = (0..5)
        .map(|n| Room::new(&format!("73{n:02}"), &format!("creator{n}"), n + 1, noon()))
        .collect();
    let mut events: Vec<Event> = rooms.iter_mut().map(Room::connected).collect();
    for number in 0..EVENTS {
        let room = &mut rooms[usize::try_from(number).unwrap() % 5];
        // 50 events a second in a room.
        room.at_ms -= 980;
        let viewer = number * 7_919 % 3_000;
        events.push(match number % 10 {
            0..4 => room.like(viewer, 15),
            4..7 => room.chat(viewer),
            7 => room.gift(viewer, 3, "final"),
            8 => room.gift(viewer, 3, "progress"),
            _ => room.watched_by(viewer),
        });
    }
    for part in events.chunks(5_000) {
        rig.publish(part).await;
    }
    let begun = Instant::now();
    let running = rig.start(rig.options());
    rig.settled().await;
    let writer = begun.elapsed();
    running.stop().await;
    assert_eq!(
        usize::try_from(rig.one::<i64>("SELECT count(*) FROM events").await).unwrap(),
        events.len()
    );

    let client = rig.client().await;
    let rows: Vec<bytes::Bytes> = client
        .copy_out(&format!(
            "COPY (SELECT {COLUMNS} FROM events) TO STDOUT (FORMAT binary)"
        ))
        .await
        .unwrap()
        .try_collect()
        .await
        .unwrap();
    client.batch_execute("TRUNCATE events").await.unwrap();
    let begun = Instant::now();
    let sink = client
        .copy_in::<_, bytes::Bytes>(&format!(
            "COPY events ({COLUMNS}) FROM STDIN (FORMAT binary)"
        ))
        .await
        .unwrap();
    futures_util::pin_mut!(sink);
    for row in rows {
        sink.feed(row).await.unwrap();
    }
    sink.finish().await.unwrap();
    let copy = begun.elapsed();
    let rate = |elapsed: std::time::Duration| {
        f64::from(u32::try_from(EVENTS).unwrap()) / elapsed.as_secs_f64()
    };
    println!(
        "writer {:.0}/s, one bare COPY {:.0}/s, ratio {:.2}",
        rate(writer),
        rate(copy),
        rate(writer) / rate(copy)
    );
}
