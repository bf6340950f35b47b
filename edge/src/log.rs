//! Log lines as JSON on the Worker's console, which `wrangler` and Cloudflare collect.
//!
//! Callers pass ids and categories, never an address, a query string or an error text that may
//! hold one.

use worker::{console_error, console_log, console_warn};

/// Something that was to be expected.
pub(crate) fn info(message: &str, fields: &[(&str, &str)]) {
    console_log!("{}", line("info", message, fields));
}

/// Something that heals by itself or costs somebody something.
pub(crate) fn warn(message: &str, fields: &[(&str, &str)]) {
    console_warn!("{}", line("warn", message, fields));
}

/// Something that somebody must look at.
pub(crate) fn error(message: &str, fields: &[(&str, &str)]) {
    console_error!("{}", line("error", message, fields));
}

fn line(level: &str, message: &str, fields: &[(&str, &str)]) -> String {
    let mut object = serde_json::Map::new();
    for (key, value) in [("level", level), ("stage", "api"), ("message", message)]
        .iter()
        .chain(fields)
    {
        object.insert((*key).to_owned(), (*value).into());
    }
    serde_json::Value::Object(object).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_json_object() {
        let text = line("warn", "lost \"it\"\n", &[("shard", "0")]);
        assert!(!text.contains('\n'));
        let json: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(
            json,
            serde_json::json!({"level": "warn", "stage": "api", "message": "lost \"it\"\n", "shard": "0"})
        );
    }
}
