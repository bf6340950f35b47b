//! F17: names that change their mind between two looks, or say two things at once.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use daemon::actions::webhook::Failure;
use hickory_resolver::proto::rr::RecordType;

use super::rig::{PUBLIC, PUBLIC_TOO, Says, World, answer, post};

fn addresses(list: &[&str]) -> Says {
    Says::Addresses(list.iter().map(|text| text.parse().unwrap()).collect())
}

/// Without this, an empty honeypot would prove nothing.
#[tokio::test]
async fn f17_the_honeypot_hears_who_comes() {
    let world = World::new(|_, _, _| Says::Nothing, |_| answer(200, "")).await;
    let address = ("127.0.0.1", world.port);
    drop(tokio::net::TcpStream::connect(address).await.unwrap());
    let begun = Instant::now();
    while world.caught() == 0 {
        assert!(begun.elapsed() < Duration::from_secs(30));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// TTL 0, public at the first question and loopback from then on; and every other order.
#[tokio::test(flavor = "multi_thread")]
async fn f17_a_name_that_turns_to_loopback_reaches_nothing_there() {
    let world = World::new(
        |name, kind, times| match (name, kind) {
            ("then.example.com", RecordType::A) if times == 0 => Says::Addresses(vec![PUBLIC]),
            ("turns.example.com", RecordType::A) if times % 2 == 0 => Says::Addresses(vec![PUBLIC]),
            ("then.example.com" | "turns.example.com", RecordType::A) => addresses(&["127.0.0.1"]),
            ("six.example.com", RecordType::A) => Says::Addresses(vec![PUBLIC]),
            ("six.example.com", RecordType::AAAA) if times % 3 != 0 => addresses(&["::1"]),
            _ => Says::Addresses(vec![]),
        },
        |_| answer(200, ""),
    )
    .await;
    let webhooks = world.webhooks(&format!("*.example.com:{}", world.port));
    let mut sent = 0;
    for name in ["then", "turns", "six"] {
        let url = format!("https://{name}.example.com:{}/hook", world.port);
        for round in 0..12 {
            let questions = world.questions().len();
            let end = post(&webhooks, &url).await;
            assert_eq!(
                world.questions().len() - questions,
                2,
                "one look at A and AAAA a try, {name} {round}"
            );
            match end {
                Ok(answer) => {
                    assert_eq!(answer.status, 200);
                    sent += 1;
                }
                Err(failure) => {
                    assert_eq!(failure.reason(), "address", "{name} {round}: {failure}");
                }
            }
        }
    }
    assert_eq!(sent, 1 + 6 + 4, "what was public at its one look was sent");
    assert_eq!(world.requests().len(), sent);
    assert_eq!(world.connected().len(), sent);
    world.assert_nobody_was_caught();
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_one_bad_answer_among_good_ones_spoils_them() {
    let mixed = [
        "93.184.215.14 127.0.0.1",
        "127.0.0.1 93.184.215.14",
        "93.184.215.14 10.0.0.7",
        "93.184.215.14 151.101.1.69 169.254.169.254",
        "93.184.215.14 100.100.100.200",
        "93.184.215.14 168.63.129.16",
        "93.184.215.14 0.0.0.0",
        "93.184.215.14 ::1",
        "93.184.215.14 ::ffff:127.0.0.1",
        "93.184.215.14 ::ffff:93.184.215.14",
        "93.184.215.14 64:ff9b::7f00:1",
        "93.184.215.14 2002:7f00:1::1",
        "93.184.215.14 2001:0:5ef5:79fb:0:59d:a0e8:fcfe",
        "93.184.215.14 fd00:ec2::254",
        "93.184.215.14 fe80::1",
        "93.184.215.14 fec0::1",
        "93.184.215.14 fdaa::3",
    ];
    let world = World::new(
        move |name, _, _| {
            let number = name
                .strip_prefix('n')
                .and_then(|rest| rest.strip_suffix(".example.com"));
            match number.and_then(|number| number.parse::<usize>().ok()) {
                Some(number) => addresses(&mixed[number].split(' ').collect::<Vec<_>>()),
                None => Says::Nothing,
            }
        },
        |_| answer(200, ""),
    )
    .await;
    let webhooks = world.webhooks("*");
    for (number, answers) in mixed.iter().enumerate() {
        let failure = post(&webhooks, &format!("https://n{number}.example.com/"))
            .await
            .expect_err(answers);
        assert_eq!(failure.reason(), "address", "{answers}: {failure}");
    }
    assert!(world.connected().is_empty() && world.requests().is_empty());
    world.assert_nobody_was_caught();
}

#[tokio::test(flavor = "multi_thread")]
async fn f17_aliases_are_followed_to_what_they_stand_for() {
    let world = World::new(
        |name, kind, _| match (name, kind) {
            ("good.example.com", _) => Says::Alias("a.cdn.example.net".into()),
            ("a.cdn.example.net", _) => Says::Alias("b.cdn.example.net".into()),
            ("b.cdn.example.net", _) => Says::Addresses(vec![PUBLIC, PUBLIC_TOO]),
            ("loopback.example.com", _) => Says::Alias("local.example.net".into()),
            ("local.example.net", _) => addresses(&["127.0.0.1", "::1"]),
            ("localhost.example.com", _) => Says::Alias("localhost".into()),
            ("metadata.example.com", _) => Says::Alias("metadata.google.internal".into()),
            ("metadata.google.internal", RecordType::A) => addresses(&["169.254.169.254"]),
            ("circle.example.com", _) => Says::Alias("circle2.example.com".into()),
            ("circle2.example.com", _) => Says::Alias("circle.example.com".into()),
            ("empty.example.com", _) => Says::Addresses(vec![]),
            _ => Says::Nothing,
        },
        |_| answer(204, ""),
    )
    .await;
    let webhooks = world.webhooks("*.example.com");
    let answer = post(&webhooks, "https://good.example.com/").await.unwrap();
    assert_eq!(answer.status, 204);
    for (name, reasons) in [
        ("loopback", &["address"][..]),
        ("localhost", &["address"]),
        ("metadata", &["address"]),
        ("circle", &["look_up", "no_address"]),
        ("empty", &["no_address"]),
        ("missing", &["no_address"]),
    ] {
        let failure = post(&webhooks, &format!("https://{name}.example.com/"))
            .await
            .expect_err(name);
        assert!(reasons.contains(&failure.reason()), "{name}: {failure:?}");
    }
    assert_eq!(world.connected().len(), 1);
    world.assert_nobody_was_caught();
}

/// TLS and `Host` name the host, whatever it stands for; the next address of it is tried when one is away.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_is_named_and_all_of_its_addresses_may_serve() {
    let away: IpAddr = "93.184.215.99".parse().unwrap();
    let world = World::new(
        move |name, kind, _| match (name, kind) {
            ("hooks.example.com", RecordType::A) => Says::Addresses(vec![away, PUBLIC]),
            ("gone.example.com", RecordType::A) => Says::Addresses(vec![away]),
            _ => Says::Addresses(vec![]),
        },
        |_| answer(200, "retry-after: 7\r\n"),
    )
    .await;
    let webhooks = world.webhooks("*.example.com,*.example.com:8443");
    for (url, host, path) in [
        (
            "https://hooks.example.com/a?b=c",
            "hooks.example.com",
            "/a?b=c",
        ),
        (
            "https://HOOKS.example.com:8443",
            "hooks.example.com:8443",
            "/",
        ),
    ] {
        let answer = post(&webhooks, url).await.unwrap();
        assert_eq!(answer.retry_after, Some(Duration::from_secs(7)));
        let request = world.requests().pop().unwrap();
        assert!(
            request.starts_with(&format!("POST {path} HTTP/1.1\r\n")),
            "{request}"
        );
        assert!(request.contains(&format!("host: {host}\r\n")), "{request}");
        assert!(
            request.contains("content-type: application/json\r\n"),
            "{request}"
        );
    }
    let failure = post(&webhooks, "https://gone.example.com/")
        .await
        .unwrap_err();
    assert!(matches!(failure, Failure::Connect(_)), "{failure:?}");
}

#[tokio::test(start_paused = true)]
async fn dns_that_is_silent_ends_a_try() {
    let world = World::new(|_, _, _| Says::Silence, |_| answer(200, "")).await;
    let failure = post(&world.webhooks("*"), "https://hooks.example.com/")
        .await
        .unwrap_err();
    assert!(
        ["timeout", "look_up"].contains(&failure.reason()),
        "{failure:?}"
    );
    assert!(world.connected().is_empty());
}
