//! The address of a WebSocket handshake: is it one that was signed, and is it built right?
//!
//! In: the request. Out: the signed entry that it redeems, or the refusal TikTok would give. What
//! is wrong but tolerable becomes a violation; only an address that no signing answer led to, that
//! was used before or that is too old, is refused.

use axum::http::{HeaderMap, Uri};

use crate::{
    Stage,
    request::{Query, check_browser, cookie, text},
    sign::Signed,
};

/// Parameters with the one value they may have; an empty value means any that is not empty.
const PARAMS: [(&str, &str); 24] = [
    ("aid", "1988"),
    ("app_name", "tiktok_web"),
    ("app_language", ""),
    ("webcast_language", ""),
    ("browser_language", ""),
    ("browser_name", ""),
    ("browser_version", ""),
    ("browser_platform", ""),
    ("browser_online", "true"),
    ("cookie_enabled", "true"),
    ("tz_name", ""),
    ("device_platform", "web"),
    ("screen_height", ""),
    ("screen_width", ""),
    ("compress", "gzip"),
    ("identity", "audience"),
    ("live_id", "12"),
    ("ws_direct", "0"),
    ("sup_ws_ds_opt", "1"),
    ("update_version_code", "2.0.0"),
    ("did_rule", "3"),
    ("resp_content_type", "protobuf"),
    ("history_comment_count", "6"),
    ("client_enter", "1"),
];

/// A refusal of the handshake: `Handshake-Msg` and `Handshake-Status`.
pub(crate) struct Refused {
    pub(crate) message: String,
    pub(crate) status: u32,
}

/// Redeems the signed address that this handshake names.
pub(crate) fn redeem(stage: &Stage, uri: &Uri, headers: &HeaderMap) -> Result<Signed, Refused> {
    let query = Query::of(uri);
    let claimed = query.get("room_id").unwrap_or_default();
    let refuse = |message: &str, status| {
        stage.ledger.violation("address", claimed, message);
        Err(Refused {
            message: message.to_owned(),
            status,
        })
    };
    let internal_ext = query.get("internal_ext").unwrap_or_default();
    let Some(mut signed) = stage.signed(internal_ext) else {
        return refuse("internal_ext is none that was signed", 415);
    };
    if signed.used {
        return refuse("the signed address was used before", 415);
    }
    stage.keep_signed(
        internal_ext.to_owned(),
        Signed {
            used: true,
            ..signed.clone()
        },
    );
    if signed.at.elapsed() > stage.script.signed_life {
        return refuse("the signed address is too old", 415);
    }
    if let Some((message, status)) = signed.room.handshake_refusal_due() {
        return Err(Refused { message, status });
    }
    check(stage, &query, headers, &signed);
    signed.used = true;
    Ok(signed)
}

fn check(stage: &Stage, query: &Query, headers: &HeaderMap, signed: &Signed) {
    let room = signed.room_id.to_string();
    let wrong = |what: String| stage.ledger.violation("address", &room, what);
    for (name, wanted) in PARAMS {
        match query.get(name) {
            None => wrong(format!("parameter {name} is missing")),
            Some("") => wrong(format!("parameter {name} is empty")),
            Some(value) if wanted.is_empty() || value == wanted => {}
            Some(value) => wrong(format!("parameter {name} is {value:?}, not {wanted:?}")),
        }
    }
    let signed_values = [("room_id", &room), ("cursor", &signed.cursor)];
    let routes = signed
        .route_params
        .iter()
        .map(|(name, value)| (name.as_str(), value));
    for (name, wanted) in signed_values.into_iter().chain(routes) {
        match query.get(name) {
            None if wanted.is_empty() => {}
            Some(value) if value == wanted && !wanted.is_empty() => {}
            value => wrong(format!(
                "parameter {name} is {value:?}, signed was {wanted:?}"
            )),
        }
    }
    let versions: Vec<_> = query.all("version_code").collect();
    if versions != ["180800", "270000"] {
        wrong(format!(
            "version_code is {versions:?}, not 180800 and at the end 270000"
        ));
    }
    if !matches!(query.get("heartbeat_duration"), Some("0" | "10000")) {
        wrong("heartbeat_duration is neither 0 nor 10000".to_owned());
    }
    let rtt = query
        .get("last_rtt")
        .and_then(|value| value.parse::<f64>().ok());
    if !rtt.is_some_and(|rtt| (100.0..=200.0).contains(&rtt)) {
        wrong("last_rtt is not between 100 and 200".to_owned());
    }
    check_browser(query, headers, wrong);
    let agent = text(headers, "user-agent");
    if query.get("User-Agent") != Some(agent) {
        wrong("parameter User-Agent is not the header".to_owned());
    }
    if cookie(headers, "ttwid").as_deref() != Some(&signed.cookie) {
        wrong("cookie ttwid is not the one of the signing answer".to_owned());
    }
    for name in [
        "sessionid",
        "sessionid_ss",
        "sid_tt",
        "sid_guard",
        "tt-target-idc",
    ] {
        if cookie(headers, name).is_some() {
            wrong(format!(
                "cookie {name} does not belong on an anonymous socket"
            ));
        }
    }
}
