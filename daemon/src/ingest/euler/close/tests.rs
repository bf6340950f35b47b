//! The fact sheet's table, row by row.

use super::*;

const KEY: &str = "euler_canary+key/4711=";

fn mask() -> Mask {
    Mask::new(&SecretString::from(KEY))
}

fn refused(status: u16, headers: &[(&str, &str)], body: &str) -> Error {
    let mut response = Response::builder().status(status);
    for (name, value) in headers {
        response = response.header(*name, *value);
    }
    let response = response.body(Some(body.as_bytes().to_vec())).unwrap();
    refusal(&response, &mask())
}

#[test]
fn every_close_code_has_its_meaning() {
    let back_off = Retry::AtLeast(UPSTREAM_WAIT);
    for (code, retry, reason) in [
        (1000, Retry::Policy, "closed"),
        (1005, Retry::Policy, "closed"),
        (1006, Retry::Policy, "closed"),
        (1011, Retry::Policy, "closed"),
        (4005, Retry::Poll, "stream_end"),
        (4006, Retry::Policy, "closed"),
        (4400, Retry::Never, "refused"),
        (4401, Retry::Never, "refused"),
        (4403, Retry::Never, "refused"),
        (4404, Retry::Poll, "stream_end"),
        (4429, Retry::Long, "limited"),
        (4500, Retry::Policy, "closed"),
        (4555, Retry::Policy, "renewed"),
        (4556, back_off, "closed"),
        (4557, back_off, "closed"),
        (4999, Retry::Policy, "closed"),
    ] {
        let end = end(code, None);
        assert_eq!((end.reason, end.close_code), (reason, Some(code)));
        assert_eq!(retry_after(code), retry, "{code} on an open socket");
        let error = Error::Closed {
            code,
            message: None,
        };
        assert_eq!(error.retry(), retry, "{code} before");
        assert_eq!(error.close_code(), Some(code));
        assert!(error.to_string().contains(&code.to_string()));
    }
}

#[test]
fn a_refused_upgrade_says_what_to_do() {
    let body = r#"{"code":429,"message":"slow down","limit_label":"day"}"#;
    for (headers, seconds) in [
        (&[("retry-after", "700")][..], 700),
        (&[("x-ratelimit-reset", "30")], 30),
        (&[], 60),
    ] {
        let error = refused(429, headers, body);
        let wait = Duration::from_secs(seconds);
        let label = "day".to_owned();
        assert_eq!(error, Error::Limited { wait, label });
        assert_eq!(error.retry(), Retry::AtLeast(wait));
        assert_eq!(error.reason(), "euler_limited");
    }
    for status in [400, 401, 402, 403] {
        let error = refused(status, &[], r#"{"error":"no"}"#);
        assert_eq!(
            (error.retry(), error.reason()),
            (Retry::Never, "euler_refused")
        );
    }
    assert_eq!(refused(503, &[], "<html>").retry(), Retry::Policy);
    assert_eq!(refused(404, &[], "").retry(), Retry::Policy);
    assert_eq!(
        refused(503, &[("retry-after", "9")], "").retry(),
        Retry::AtLeast(Duration::from_secs(9))
    );
}

#[test]
fn the_key_is_struck_out_of_whatever_is_said() {
    let encoded = utf8_percent_encode(KEY, ESCAPED).to_string();
    assert_ne!(encoded, KEY);
    for said in [
        KEY.to_owned(),
        encoded,
        format!("/?uniqueId=a&apiKey={KEY}&x=y"),
    ] {
        let body = serde_json::json!({"message": said, "limit_label": said}).to_string();
        for status in [401, 403, 429, 500] {
            let error = refused(status, &[], &body);
            let text = format!("{error} {error:?}");
            assert!(!text.contains("canary"), "{text}");
            assert!(text.contains('…'), "{text}");
        }
    }
    assert!(!format!("{:?}", mask()).contains("canary"));
    let short = Mask::new(&SecretString::from("a"));
    assert_eq!(short.hide("banana"), "banana", "no text is torn apart");
}

#[test]
fn our_own_limits_and_changes_have_a_class_too() {
    for (error, retry, reason) in [
        (Error::Sockets(25), Retry::Poll, "euler_sockets"),
        (Error::NoRoom("x".to_owned()), Retry::Policy, "euler_failed"),
        (
            Error::Unreachable("x".to_owned()),
            Retry::Policy,
            "unreachable",
        ),
        (
            Error::Moved {
                asked: "1".to_owned(),
                found: "2".to_owned(),
            },
            Retry::Policy,
            "room_changed",
        ),
    ] {
        assert_eq!((error.retry(), error.reason()), (retry, reason), "{error}");
        assert_eq!(error.close_code(), None);
    }
}
