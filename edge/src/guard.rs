//! What every request must pass, and what every answer carries.
//!
//! There are no logins yet, so the Worker answers on this machine only: it listens on 127.0.0.1,
//! and it refuses a `Host` that is not a loopback name. The second keeps web pages out that a
//! browser on this machine shows: a page can make its own name point to 127.0.0.1 (DNS
//! rebinding), but it can't change the name that the browser sends. `PUBLIC_HOSTS` opens further
//! names, for whoever puts something in front that checks who is calling.

use axum::body::Body;
use http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, HOST, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use http::{HeaderName, HeaderValue, Request, Response};

use crate::problem::Problem;

/// Bytes of path and query at most.
const MAX_ADDRESS: usize = 2_048;

/// Whether a request may go on. `public` is the setting `PUBLIC_HOSTS`.
pub(crate) fn check<B>(request: &Request<B>, public: Option<&str>) -> Result<(), Problem> {
    let uri = request.uri();
    let address = uri.path_and_query().map_or(0, |text| text.as_str().len());
    if address > MAX_ADDRESS {
        return Err(Problem::address_too_long(MAX_ADDRESS));
    }
    // Names in a path are UTF-8; anything else names nothing.
    if percent_encoding::percent_decode_str(uri.path())
        .decode_utf8()
        .is_err()
    {
        return Err(Problem::not_found("nothing is at this path"));
    }
    let host = request
        .headers()
        .get(HOST)
        .and_then(|host| host.to_str().ok())
        .or_else(|| uri.authority().map(http::uri::Authority::as_str))
        .unwrap_or_default();
    if is_allowed(host, public) {
        Ok(())
    } else {
        Err(Problem::foreign_host())
    }
}

fn is_allowed(host: &str, public: Option<&str>) -> bool {
    let name = without_port(host).to_ascii_lowercase();
    if matches!(name.as_str(), "localhost" | "127.0.0.1" | "[::1]") {
        return true;
    }
    !name.is_empty()
        && public.is_some_and(|names| {
            names
                .split(',')
                .any(|allowed| allowed.trim().eq_ignore_ascii_case(&name))
        })
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    }
}

/// Adds what every answer of the API carries. It is data, never a page: nothing in it may run,
/// be framed, be kept, or be read by another site.
pub(crate) fn secure(mut response: Response<Body>) -> Response<Body> {
    let headers = response.headers_mut();
    for (name, value) in [
        (CACHE_CONTROL, "no-store, no-transform"),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (REFERRER_POLICY, "no-referrer"),
        (
            CONTENT_SECURITY_POLICY,
            "default-src 'none'; frame-ancestors 'none'",
        ),
        (
            HeaderName::from_static("cross-origin-resource-policy"),
            "same-origin",
        ),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &str, host: Option<&str>) -> Request<()> {
        let mut builder = Request::builder().uri(uri);
        if let Some(host) = host {
            builder = builder.header(HOST, host);
        }
        builder.body(()).unwrap()
    }

    #[test]
    fn only_this_machine_is_answered() {
        let uri = "http://localhost:3000/health";
        for host in [
            "localhost",
            "localhost:3000",
            "LOCALHOST",
            "127.0.0.1:3000",
            "[::1]",
            "[::1]:3000",
        ] {
            assert_eq!(check(&request(uri, Some(host)), None), Ok(()), "{host}");
        }
        assert_eq!(check(&request(uri, None), None), Ok(()));
        for host in [
            "evil.example",
            "evil.example:3000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "127.0.0.2",
            "[::2]",
            "",
        ] {
            assert_eq!(
                check(&request(uri, Some(host)), None),
                Err(Problem::foreign_host()),
                "{host}"
            );
        }
    }

    #[test]
    fn other_names_are_opened_by_the_setting() {
        let uri = "http://localhost/health";
        let public = Some("live.example, API.example");
        for host in ["live.example", "api.example:443", "Live.Example"] {
            assert_eq!(check(&request(uri, Some(host)), public), Ok(()), "{host}");
        }
        for host in ["x.live.example", "", "live.example.x"] {
            assert!(check(&request(uri, Some(host)), public).is_err(), "{host}");
        }
    }

    #[test]
    fn long_addresses_are_refused() {
        let path = |length: usize| format!("http://localhost/{}", "x".repeat(length - 1));
        assert_eq!(check(&request(&path(MAX_ADDRESS), None), None), Ok(()));
        assert_eq!(
            check(&request(&path(MAX_ADDRESS + 1), None), None),
            Err(Problem::address_too_long(MAX_ADDRESS))
        );
    }

    #[test]
    fn a_path_that_is_no_text_is_not_found() {
        let request = request("http://localhost/streams/%ff", None);
        let problem = check(&request, None).unwrap_err();
        assert_eq!(problem.status(), http::StatusCode::NOT_FOUND);
    }

    #[test]
    fn every_answer_is_sealed() {
        let response = secure(Response::new(Body::empty()));
        assert_eq!(response.headers()[CACHE_CONTROL], "no-store, no-transform");
        assert_eq!(response.headers()[X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(response.headers().len(), 5);
    }
}
