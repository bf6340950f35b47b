//! Errors as the API shows them: RFC 9457 problem documents with a stable `type`.
//!
//! Comes in: what a route or a Durable Object found wrong. Goes out: `application/problem+json`.
//! The text says what the caller can do about it and never holds an address, a query or a secret
//! of ours.

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use http::header::{CONTENT_TYPE, RETRY_AFTER};
use http::{HeaderValue, StatusCode};
use shared::api;

/// The media type of a problem document.
const MEDIA_TYPE: &str = "application/problem+json";

/// How long a client should wait before it asks again, in seconds.
const RETRY_AFTER_SECONDS: u32 = 2;

/// An answer that is an error.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem(api::Problem);

impl Problem {
    fn new(status: StatusCode, name: &str, title: &str, detail: impl Into<String>) -> Self {
        Self(api::Problem {
            kind: format!("urn:ttlc:problem:{name}"),
            title: title.to_owned(),
            status: status.as_u16(),
            detail: detail.into(),
            field: None,
        })
    }

    /// 404: nothing has this id or path.
    pub(crate) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not-found", "not found", detail)
    }

    /// 400: the parameter or header `field` is wrong.
    pub(crate) fn bad_parameter(field: &str, detail: impl Into<String>) -> Self {
        let mut problem = Self::new(
            StatusCode::BAD_REQUEST,
            "bad-parameter",
            "bad parameter",
            detail,
        );
        problem.0.field = Some(field.to_owned());
        problem
    }

    /// 403: the request names a host that we are not known by.
    pub(crate) fn foreign_host() -> Self {
        Self::new(
            StatusCode::FORBIDDEN,
            "foreign-host",
            "foreign host",
            "this server answers on localhost only; set PUBLIC_HOSTS to serve it under other names",
        )
    }

    /// 405: the path does not know the method.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method-not-allowed",
            "method not allowed",
            "the header `allow` lists the methods of this path",
        )
    }

    /// 414: the address is too long.
    pub(crate) fn address_too_long(limit: usize) -> Self {
        Self::new(
            StatusCode::URI_TOO_LONG,
            "address-too-long",
            "address too long",
            format!("path and query have at most {limit} bytes"),
        )
    }

    /// 500: our own mistake; the log says which.
    pub(crate) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            "internal",
            "internal error",
            "the server made a mistake; its log says more",
        )
    }

    /// 503: something that we need does not answer; it is worth asking again.
    pub(crate) fn unavailable(what: &str) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "unavailable",
            format!("the {what} does not answer; try again"),
        )
    }

    /// The HTTP status.
    pub(crate) fn status(&self) -> StatusCode {
        StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
    }

    fn body(&self) -> String {
        // A struct of strings and numbers always has a JSON form.
        serde_json::to_string(&self.0).unwrap_or_default()
    }

    /// The answer of a Durable Object, which the Worker passes on.
    pub(crate) fn to_worker(&self) -> worker::Result<worker::Response> {
        let headers = worker::Headers::new();
        headers.set("content-type", MEDIA_TYPE)?;
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.set("retry-after", &RETRY_AFTER_SECONDS.to_string())?;
        }
        Ok(worker::Response::ok(self.body())?
            .with_status(self.0.status)
            .with_headers(headers))
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::from(self.body()));
        *response.status_mut() = self.status();
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(MEDIA_TYPE));
        if self.status() == StatusCode::SERVICE_UNAVAILABLE {
            headers.insert(RETRY_AFTER, HeaderValue::from(RETRY_AFTER_SECONDS));
        }
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_parameter_is_named() {
        let response = Problem::bad_parameter("limit", "limit is 1 to 200").into_response();
        assert_eq!(response.status(), StatusCode::BAD_REQUEST);
        assert_eq!(response.headers()[CONTENT_TYPE], MEDIA_TYPE);
        assert!(!response.headers().contains_key(RETRY_AFTER));

        let body = Problem::bad_parameter("limit", "limit is 1 to 200").body();
        let json: serde_json::Value = serde_json::from_str(&body).unwrap();
        assert_eq!(
            json,
            serde_json::json!({
                "type": "urn:ttlc:problem:bad-parameter",
                "title": "bad parameter",
                "status": 400,
                "detail": "limit is 1 to 200",
                "field": "limit",
            })
        );
    }

    #[test]
    fn unavailable_says_when_to_come_back() {
        let response = Problem::unavailable("database").into_response();
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(response.headers()[RETRY_AFTER], "2");
    }
}
