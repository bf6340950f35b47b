//! Wrong settings as an operator meets them: the program ends at once and says which and why, and
//! repeats no address, since people put passwords into those.

use std::process::Command;

const CANARY: &str = "canary-password-4711";

/// Runs `ttlc ingest` with one setting beside a Redis that nobody needs: everything it writes.
fn refused(name: &str, value: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_ttlc"))
        .arg("ingest")
        .env_clear()
        .env("REDIS_URL", "redis://127.0.0.1:1")
        .env("SPOOL_DIR", "off")
        .env("LOG_LEVEL", "debug")
        .env("RUST_LOG", "trace")
        .env(name, value)
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8(text).unwrap();
    assert!(!output.status.success(), "{name}={value} was taken: {text}");
    text
}

#[test]
fn addresses_with_passwords_are_refused_and_not_repeated() {
    for name in [
        "TIKTOK_WEB_URL",
        "TIKTOK_WEBCAST_URL",
        "EULER_API_URL",
        "EULER_WS_URL",
        "UPSTREAM_PROXY",
    ] {
        for value in [
            format!("wss+https://me:{CANARY}@127.0.0.1:9"),
            format!("https://me:{CANARY}@127.0.0.1:no-port"),
            format!("https://127.0.0.1/?key={CANARY}"),
        ] {
            let said = refused(name, &value);
            assert!(said.contains(&format!("{name}: ")), "{name}: {said}");
            assert!(!said.contains(CANARY), "{name}: {said}");
        }
    }
}

#[test]
fn help_does_not_show_what_is_set() {
    let names = [
        "EULER_API_KEY",
        "TIKTOK_WEB_URL",
        "TIKTOK_WEBCAST_URL",
        "EULER_API_URL",
        "EULER_WS_URL",
        "UPSTREAM_PROXY",
        "REDIS_URL",
    ];
    let output = Command::new(env!("CARGO_BIN_EXE_ttlc"))
        .args(["ingest", "--help"])
        .env_clear()
        .envs(names.map(|name| (name, CANARY)))
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success());
    for name in names {
        assert!(text.contains(name), "{name}: {text}");
    }
    assert!(!text.contains(CANARY), "{text}");
}
