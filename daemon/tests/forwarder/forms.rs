//! Formats, batches and signatures, as a receiver sees them.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha2::Sha256;

use super::rig::{Reply, Rig, Seen, chat, chats};

/// What a receiver does: recompute one signature with the secret it knows.
fn is_signed(seen: &Seen, secret: &str) -> bool {
    let key = STANDARD
        .decode(secret.strip_prefix("whsec_").unwrap())
        .unwrap();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).unwrap();
    mac.update(
        format!(
            "{}.{}.{}",
            seen.headers["webhook-id"], seen.headers["webhook-timestamp"], seen.body
        )
        .as_bytes(),
    );
    let expected = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    seen.headers["webhook-signature"]
        .split(' ')
        .any(|signature| signature == expected)
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_are_signed_with_every_secret_and_keep_their_id() {
    let rig = Rig::new().await;
    let [old, new] = [
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
        "whsec_QUJDREVGR0hJSktMTU5PUFFSU1RVVldYWVo=",
    ];
    let mut first = true;
    rig.server
        .script(move |_| Reply::Status(if std::mem::take(&mut first) { 500 } else { 200 }));
    rig.publish(&chats(1, 1..=2)).await;
    let running = rig.start(&[&format!("--forward-secret={old} {new}")]);
    rig.settled().await;
    running.stop().await;
    let seen = rig.server.seen();
    assert_eq!(seen.len(), 3);
    for one in &seen {
        assert!(is_signed(one, old) && is_signed(one, new));
        assert!(!is_signed(one, "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"));
        assert_eq!(one.headers["webhook-id"], one.key());
    }
    assert_eq!(seen[0].key(), seen[1].key());
    assert_ne!(seen[0].key(), seen[2].key());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_batch_is_split_down_to_the_bad_event() {
    for format in ["cloudevents", "euler"] {
        let rig = Rig::new().await;
        rig.server.script(|seen| {
            let bad = seen.events().iter().any(|event| event.1 == 37);
            Reply::Status(if bad { 400 } else { 202 })
        });
        rig.publish(&chats(1, 1..=100)).await;
        let running = rig.start(&[&format!("--forward-format={format}"), "--forward-batch=50"]);
        rig.settled().await;
        running.stop().await;
        let expected: Vec<u64> = (1..=100).filter(|number| *number != 37).collect();
        assert_eq!(rig.server.taken(1), expected);
        let log = rig.log("1").await;
        assert_eq!(log.len(), 100);
        for row in log {
            assert_eq!(row.1, if row.0 == 37 { "rejected" } else { "forwarded" });
        }
        let seen = rig.server.seen();
        assert!(seen.len() < 30, "{} requests", seen.len());
        let batch = seen.iter().find(|seen| seen.events().len() > 1).unwrap();
        assert_eq!(batch.key().len(), 64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_is_of_one_room_and_repeated_as_it_was() {
    let rig = Rig::new().await;
    let mut times = 0;
    rig.server.script(move |_| {
        times += 1;
        if times <= 2 {
            Reply::Close
        } else {
            Reply::Status(200)
        }
    });
    rig.publish(&chats(1, 1..=4)).await;
    let running = rig.start(&["--forward-format=cloudevents", "--forward-batch=10"]);
    super::rig::poll("it is tried", async || {
        (!rig.server.seen().is_empty()).then_some(())
    })
    .await;
    // Comes while the first request is repeated.
    rig.publish(&[chat(1, 5), chat(2, 1)]).await;
    rig.settled().await;
    running.stop().await;
    let seen = rig.server.seen();
    let first: Vec<_> = seen
        .iter()
        .filter(|seen| seen.events()[0] == (1, 1))
        .collect();
    assert!(first.len() >= 2);
    assert!(
        first
            .iter()
            .all(|seen| seen.body == first[0].body && seen.key() == first[0].key())
    );
    assert!(seen.iter().all(|seen| {
        seen.events()
            .iter()
            .all(|event| event.0 == seen.events()[0].0)
    }));
    assert_eq!(rig.server.taken(1), [1, 2, 3, 4, 5]);
    assert_eq!(rig.server.taken(2), [1]);
}
