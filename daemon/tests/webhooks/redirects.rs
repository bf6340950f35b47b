//! F18: servers that are allowed, and point to what is not.

use std::time::{Duration, Instant};

use daemon::actions::webhook::Failure;

use super::rig::{PUBLIC, Says, World, answer, post};

async fn world(reply: impl Fn(&str) -> Vec<u8> + Send + Sync + 'static) -> World {
    World::new(|_, _, _| Says::Addresses(vec![PUBLIC]), reply).await
}

/// Every status that redirects, to everything that somebody might want to reach.
#[tokio::test(flavor = "multi_thread")]
async fn f18_no_redirect_is_followed() {
    let world = world(|head| {
        let path = head.split(' ').nth(1).unwrap();
        let mut parts = path.trim_start_matches('/').splitn(2, '/');
        let status = parts.next().unwrap().parse().unwrap();
        let location = parts.next().unwrap();
        let location = percent_encoding::percent_decode_str(location).decode_utf8_lossy();
        answer(status, &format!("location: {location}\r\n"))
    })
    .await;
    let webhooks = world.webhooks("*.example.com,*:1");
    let port = world.port;
    let locations = [
        "http://169.254.169.254/latest/meta-data/".to_owned(),
        "https://169.254.169.254/latest/meta-data/".to_owned(),
        "http://metadata.google.internal/".to_owned(),
        "file:///etc/passwd".to_owned(),
        "gopher://127.0.0.1:6379/_FLUSHALL".to_owned(),
        format!("http://127.0.0.1:{port}/"),
        format!("https://127.0.0.1:{port}/"),
        format!("https://[::1]:{port}/"),
        format!("https://hooks.example.com:{port}/"),
        format!("//127.0.0.1:{port}/"),
        "https://hooks.example.com/200/again".to_owned(),
        "https://other.example.com/200/there".to_owned(),
        "/200/relative".to_owned(),
        "data:text/plain,x".to_owned(),
        String::new(),
    ];
    let mut tries = 0;
    for status in [300, 301, 302, 303, 304, 305, 307, 308, 399] {
        for location in &locations {
            let encoded =
                percent_encoding::utf8_percent_encode(location, percent_encoding::NON_ALPHANUMERIC);
            let url = format!("https://hooks.example.com/{status}/{encoded}");
            let failure = post(&webhooks, &url).await.expect_err(location);
            assert!(
                matches!(failure, Failure::Redirect(seen) if seen == status),
                "{status} {location}: {failure:?}"
            );
            assert!(!failure.to_string().contains("169.254"), "{failure}");
            tries += 1;
        }
    }
    assert_eq!(world.requests().len(), tries, "one request a try");
    assert_eq!(world.connected().len(), tries, "one connection a try");
    assert!(world.connected().iter().all(|to| to.port() == 443));
    world.assert_nobody_was_caught();
}

/// Other ways to point elsewhere are none.
#[tokio::test(flavor = "multi_thread")]
async fn f18_nothing_else_leads_away() {
    let world = world(|head| {
        let port = 9;
        match head.split(' ').nth(1).unwrap() {
            "/refresh" => answer(200, "refresh: 0; url=http://127.0.0.1/\r\n"),
            "/created" => answer(201, "location: http://127.0.0.1/\r\n"),
            "/service" => answer(200, &format!("alt-svc: h2=\"127.0.0.1:{port}\"\r\n")),
            "/proxy" => answer(407, "proxy-authenticate: Basic\r\n"),
            "/login" => answer(401, "www-authenticate: Negotiate\r\n"),
            "/hints" => [
                &b"HTTP/1.1 103 x\r\nlink: <http://127.0.0.1/>; rel=preload\r\n\r\n"[..],
                &answer(200, ""),
            ]
            .concat(),
            "/continue" => [&b"HTTP/1.1 100 x\r\n\r\n"[..], &answer(200, "")].concat(),
            "/cookie" => answer(200, "set-cookie: a=b; domain=example.com\r\n"),
            path => panic!("{path}"),
        }
    })
    .await;
    let webhooks = world.webhooks("*.example.com");
    for (path, status) in [
        ("refresh", 200),
        ("created", 201),
        ("service", 200),
        ("proxy", 407),
        ("login", 401),
        ("hints", 200),
        ("continue", 200),
        ("cookie", 200),
        ("cookie", 200),
    ] {
        let answer = post(&webhooks, &format!("https://hooks.example.com/{path}"))
            .await
            .expect(path);
        assert_eq!(answer.status, status, "{path}");
    }
    assert_eq!(world.requests().len(), 9);
    assert_eq!(world.connected().len(), 9);
    assert!(
        world
            .requests()
            .iter()
            .all(|head| !head.contains("cookie:"))
    );
    world.assert_nobody_was_caught();
}

/// What answers too much, too slowly or nonsense ends the try and takes no memory.
#[tokio::test(flavor = "multi_thread")]
async fn f18_an_answer_costs_little() {
    let world = world(|head| match head.split(' ').nth(1).unwrap() {
        "/much" => [
            &b"HTTP/1.1 200 x\r\ncontent-length: 8000000\r\n\r\n"[..],
            &vec![b'x'; 8_000_000],
        ]
        .concat(),
        "/endless" => b"HTTP/1.1 200 x\r\ncontent-length: 800000000\r\n\r\nsome".to_vec(),
        "/head" => [&b"HTTP/1.1 200 x\r\nx: "[..], &vec![b'x'; 8_000_000]].concat(),
        "/headers" => {
            let many: Vec<String> = (0..10_000).map(|n| format!("x-{n}: y\r\n")).collect();
            answer(200, &many.concat())
        }
        "/nonsense" => b"SSH-2.0-OpenSSH_9.2p1\r\n".to_vec(),
        "/zero" => b"HTTP/0.9 200\r\n\r\n".to_vec(),
        path => panic!("{path}"),
    })
    .await;
    let webhooks = world.webhooks("*.example.com");
    for (path, outcome) in [
        ("much", "200"),
        ("endless", "200"),
        ("head", "broken"),
        ("headers", "broken"),
        ("nonsense", "broken"),
        ("zero", "broken"),
    ] {
        let begun = Instant::now();
        let end = post(&webhooks, &format!("https://hooks.example.com/{path}")).await;
        let seen = match &end {
            Ok(answer) => answer.status.to_string(),
            Err(failure) => failure.reason().to_owned(),
        };
        assert_eq!(seen, outcome, "{path}: {end:?}");
        assert!(begun.elapsed() < Duration::from_secs(9), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f18_a_server_that_never_answers_is_left_after_ten_seconds() {
    let world = world(|_| Vec::new()).await;
    let begun = Instant::now();
    let failure = post(&world.webhooks("*"), "https://hooks.example.com/")
        .await
        .unwrap_err();
    assert!(matches!(failure, Failure::TimedOut), "{failure:?}");
    let took = begun.elapsed();
    assert!(
        took >= Duration::from_secs(10) && took < Duration::from_secs(20),
        "{took:?}"
    );
}

/// Somebody who is not who the name says gets nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_trusts_ends_the_try() {
    let mine = world(|_| answer(200, "")).await;
    let other = world(|_| answer(200, "")).await;
    // The other world's authority signed what this one trusts not.
    let webhooks = mine.webhooks_to(&other, "*");
    let failure = post(&webhooks, "https://hooks.example.com/")
        .await
        .unwrap_err();
    assert_eq!(failure.reason(), "tls", "{failure:?}");
    assert!(other.requests().is_empty());
}
