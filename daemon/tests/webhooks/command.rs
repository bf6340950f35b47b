//! `ttlc check-webhook`, as an operator runs it. Nothing is looked up here that needs a network.

use std::process::{Command, Output};

fn check(allow: Option<&str>, url: &str) -> (bool, String, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_ttlc"));
    command.args(["check-webhook", url]).env_clear();
    if let Some(allow) = allow {
        command.env("WEBHOOK_ALLOW", allow);
    }
    let Output {
        status,
        stdout,
        stderr,
    } = command.output().unwrap();
    (
        status.success(),
        String::from_utf8(stdout).unwrap(),
        String::from_utf8(stderr).unwrap(),
    )
}

#[test]
fn it_says_where_a_webhook_would_go_and_shows_no_path() {
    let (well, said, log) = check(Some("8.8.8.8"), "https://8.8.8.8/canary?canary");
    assert_eq!(said, "allowed: https://8.8.8.8 connects to 8.8.8.8:443\n");
    assert!(well && !log.contains("canary"), "{log}");
}

#[test]
fn it_says_why_one_may_not() {
    for (allow, url, why) in [
        (
            None,
            "https://hooks.example.com/canary",
            "WEBHOOK_ALLOW is not set",
        ),
        (
            Some(""),
            "https://hooks.example.com/canary",
            "WEBHOOK_ALLOW is not set",
        ),
        (
            Some("a.example.com"),
            "https://hooks.example.com/canary",
            "not in WEBHOOK_ALLOW",
        ),
        (
            Some("*"),
            "http://hooks.example.com/canary",
            "only https://",
        ),
        (
            Some("*"),
            "https://user:canary@hooks.example.com/",
            "a user or a password",
        ),
        (
            Some("*"),
            "https://hooks.example.com:6379/canary",
            "port 6379 is not allowed",
        ),
        (
            Some("*"),
            "https://2130706433/canary",
            "127.0.0.1, which is loopback",
        ),
        (
            Some("*"),
            "https://metadata.google.internal/canary",
            "private network",
        ),
        (Some("*"), "canary", "no address"),
    ] {
        let (well, said, log) = check(allow, url);
        assert!(!well, "{url}: {said}");
        assert!(
            said.starts_with("not possible: ") && said.contains(why),
            "{url}: {said}"
        );
        assert!(
            !said.contains("canary") && !log.contains("canary"),
            "{said}{log}"
        );
    }
}

#[test]
fn a_list_that_cannot_work_is_refused_by_name() {
    let (well, _, log) = check(
        Some("hooks.example.com,10.0.0.1"),
        "https://hooks.example.com/",
    );
    assert!(
        !well && log.contains("WEBHOOK_ALLOW") && log.contains("10.0.0.1: is private"),
        "{log}"
    );
}
