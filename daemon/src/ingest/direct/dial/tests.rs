//! The address, parameter by parameter, and refusals.

use std::collections::BTreeMap;
use std::path::Path;

use prost::Message as _;

use super::*;

const ROOM: i64 = 7_301_234_567_890_123_456;

fn signed() -> FetchResult {
    let path =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fixtures/encoded/fetch-initial.bin");
    FetchResult::decode(&std::fs::read(path).unwrap()[..]).unwrap()
}

#[test]
fn the_address_has_every_parameter_once_but_for_the_version() {
    let address = address(&ROOM.to_string(), &signed(), true).unwrap();
    let start = "wss://webcast-ws.tiktok.example/webcast/im/ws_proxy/ws_reuse_supplement/?version_code=180800&aid=1988&";
    assert!(address.starts_with(start), "{address}");
    assert!(address.ends_with("&version_code=270000"), "{address}");

    let (_, query) = address.split_once('?').unwrap();
    let pairs: Vec<(&str, &str)> = query
        .split('&')
        .map(|pair| pair.split_once('=').unwrap())
        .collect();
    let params: BTreeMap<_, _> = pairs.iter().copied().collect();
    assert_eq!(
        params.len() + 1,
        pairs.len(),
        "only the version comes twice"
    );
    let expected = [
        ("app_name", "tiktok_web"),
        ("app_language", "en"),
        ("webcast_language", "en"),
        ("browser_language", "en-US"),
        ("browser_name", "Mozilla"),
        ("browser_platform", "Win32"),
        ("browser_online", "true"),
        ("cookie_enabled", "true"),
        ("tz_name", "Europe%2FBerlin"),
        ("device_platform", "web"),
        ("screen_height", "1080"),
        ("screen_width", "1920"),
        ("compress", "gzip"),
        ("room_id", "7301234567890123456"),
        ("cursor", "t-1763800000000_r-1_d-1_u-1_h-1"),
        ("identity", "audience"),
        ("live_id", "12"),
        ("ws_direct", "0"),
        ("sup_ws_ds_opt", "1"),
        ("update_version_code", "2.0.0"),
        ("did_rule", "3"),
        ("heartbeat_duration", "0"),
        ("resp_content_type", "protobuf"),
        ("history_comment_count", "6"),
        ("client_enter", "1"),
        ("imprp", "V2luZG93"),
        ("wrss", "fx-abc_DEF~123"),
    ];
    for (name, value) in expected {
        assert_eq!(params.get(name), Some(&value), "{name}");
    }
    assert!(
        !params.contains_key("empty"),
        "a route parameter without a value stays out"
    );
    assert!(params["internal_ext"].starts_with("internal_src%3Adim%7Cwss_push_room_id%3A7301"));
    assert_eq!(
        params["User-Agent"],
        utf8_percent_encode(USER_AGENT, ESCAPED).to_string()
    );
    assert!(
        params["browser_version"]
            .starts_with("5.0%20%28Windows%20NT%2010.0%3B%20Win64%3B%20x64%29%20")
    );
    let rtt: u32 = params["last_rtt"].parse().unwrap();
    assert!((100..=200).contains(&rtt));
}

#[test]
fn reserved_characters_are_escaped() {
    let mut result = signed();
    result
        .route_params
        .insert("imprp".to_owned(), "+/= &#ä".to_owned());
    let address = address("1", &result, true).unwrap();
    assert!(
        address.contains("&imprp=%2B%2F%3D%20%26%23%C3%A4&"),
        "{address}"
    );
}

#[test]
fn only_an_encrypted_server_is_trusted_unless_the_signer_is_a_stand_in() {
    let to = |server: &str, encrypted| {
        address(
            "1",
            &FetchResult {
                push_server: server.to_owned(),
                ..signed()
            },
            encrypted,
        )
    };
    assert!(to("wss://x.example/ws/", true).is_ok());
    assert!(to("ws://127.0.0.1:9/ws/", false).is_ok());
    for (server, encrypted) in [
        ("ws://x/ws/", true),
        ("https://x/ws/", true),
        ("ws:", false),
        ("wss://x/?a=b", true),
        ("", true),
        ("x", true),
    ] {
        assert!(
            matches!(to(server, encrypted), Err(Error::Address(_))),
            "{server}"
        );
    }
}

#[test]
fn a_refused_handshake_says_why() {
    let mut headers = HeaderMap::new();
    let error = refused(400, &headers);
    assert_eq!(
        error.to_string(),
        "handshake refused with status 400: no reason given"
    );
    headers.insert("handshake-msg", HeaderValue::from_static("DEVICE_BLOCKED"));
    headers.insert("handshake-status", HeaderValue::from_static("415"));
    let error = refused(200, &headers);
    assert_eq!(
        error.to_string(),
        "handshake refused with status 200: DEVICE_BLOCKED (415)"
    );
    assert_eq!(error.reason(), "handshake_refused");
}
