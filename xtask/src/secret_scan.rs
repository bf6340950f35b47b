//! Looks for secrets in the files that git knows or would add.
//!
//! In: the checkout. Out: file, line and kind of each finding, never the secret itself. A line
//! that must look like a secret (in a test) says `secret-scan: allow` and why. What it finds are
//! well-known token formats, private keys, passwords in URLs, and long random values assigned to a
//! name that says secret; a password that is an ordinary word is beyond it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    sync::LazyLock,
};

use anyhow::{Context, Result, bail};
use regex_lite::Regex;

use crate::{processes, progress};

/// On a line: what looks like a secret is none.
const ALLOW: &str = "secret-scan: allow";
/// Nobody writes a secret into a file as large as this by hand.
const LARGEST: u64 = 8 * 1024 * 1024;

/// Formats that are secrets wherever they stand: kind, a literal part of it in lower case (looked
/// for first, because it is quick), the format.
const FORMATS: [(&str, &str, &str); 10] = [
    (
        "private key",
        "-----begin",
        r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----",
    ),
    ("AWS access key", "akia", r"\bAKIA[0-9A-Z]{16}\b"),
    (
        "GitHub token",
        "gh",
        r"\b(?:gh[pousr]_[A-Za-z0-9]{36,}|github_pat_[A-Za-z0-9_]{40,})",
    ),
    ("npm token", "npm_", r"\bnpm_[A-Za-z0-9]{36}\b"),
    ("crates.io token", "cio", r"\bcio[A-Za-z0-9]{32}\b"),
    ("Slack token", "xox", r"\bxox[abposr]-[A-Za-z0-9-]{20,}"),
    ("Google API key", "aiza", r"\bAIza[0-9A-Za-z_-]{35}\b"),
    (
        "JSON Web Token",
        ".eyj",
        r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{20,}",
    ),
    (
        "TikTok session",
        "session",
        r#"(?i)\bsession_?id(?:_ss)?["']?\s*[:=]\s*["']?[0-9a-f]{32}\b"#,
    ),
    ("Euler Stream key", "euler_", r"\beuler_[A-Za-z0-9]{20,}"),
];

static PATTERNS: LazyLock<Vec<(&str, &str, Regex)>> = LazyLock::new(|| {
    FORMATS
        .iter()
        .map(|(kind, literal, pattern)| {
            (
                *kind,
                *literal,
                Regex::new(pattern).expect("a valid pattern"),
            )
        })
        .collect()
});

/// `scheme://user:password@host`
static URL: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r#"\b[a-z][a-z0-9+]*://[^\s:/@"']*:([^\s:/@"']{8,})@"#).expect("a valid pattern")
});

/// `NAME_THAT_SAYS_SECRET = "value"`
static ASSIGNMENT: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(
        r#"(?i)(?:secret|token|passw(?:or)?d|api_?key|session_id|private_?key)["']?\s*[:=]\s*["']?([A-Za-z0-9+/_=-]{20,})"#,
    )
    .expect("a valid pattern")
});

/// Words that [`ASSIGNMENT`] needs, in lower case.
const NAMES: [&str; 5] = ["secret", "token", "passw", "key", "session_id"];

/// Names of files that hold secrets by their nature.
const FILES: [&str; 6] = [
    ".env",
    ".dev.vars",
    "id_rsa",
    "id_ed25519",
    ".npmrc.auth",
    ".pgpass",
];

/// Something that looks like a secret.
#[derive(Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, relative to the checkout.
    pub file: PathBuf,
    /// Counted from 1; 0 when it is the file as such.
    pub line: usize,
    /// What it looks like.
    pub kind: &'static str,
}

/// Scans the checkout; an error names every finding.
pub fn run(root: &Path) -> Result<()> {
    let files = files(root)?;
    let mut findings = Vec::new();
    for file in &files {
        findings.extend(scan_file(root, file)?);
    }
    if findings.is_empty() {
        progress::line(&format!("no secrets in {} files", files.len()));
        return Ok(());
    }
    for Finding { file, line, kind } in &findings {
        progress::line(&format!(
            "{}:{line}: looks like a secret ({kind})",
            file.display()
        ));
    }
    bail!(
        "{} finding(s): remove the secret and revoke it; if it is none, say `{ALLOW}` and why on that line",
        findings.len()
    )
}

/// What git tracks, and what it would add.
fn files(root: &Path) -> Result<Vec<PathBuf>> {
    let mut git = Command::new("git");
    git.args([
        "ls-files",
        "-z",
        "--cached",
        "--others",
        "--exclude-standard",
    ])
    .current_dir(root);
    let names = processes::answer(git).context("the secret scan asks git for the files")?;
    Ok(names
        .split('\0')
        .filter(|name| !name.is_empty())
        .map(PathBuf::from)
        .collect())
}

fn scan_file(root: &Path, file: &Path) -> Result<Vec<Finding>> {
    let path = root.join(file);
    // Deleted in the work tree, a link to somewhere else, or a submodule.
    let Ok(meta) = path.symlink_metadata() else {
        return Ok(Vec::new());
    };
    if !meta.is_file() {
        return Ok(Vec::new());
    }
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let mut findings = Vec::new();
    let by_name = FILES.contains(&&*name)
        || file.extension().is_some_and(|ending| {
            ["pem", "key", "p12", "pfx"]
                .iter()
                .any(|bad| ending == *bad)
        });
    if by_name {
        findings.push(Finding {
            file: file.to_path_buf(),
            line: 0,
            kind: "file of secrets",
        });
    }
    if meta.len() <= LARGEST {
        let bytes = fs::read(&path).with_context(|| format!("reading {}", path.display()))?;
        let text = String::from_utf8_lossy(&bytes);
        findings.extend(scan(&text).map(|(line, kind)| Finding {
            file: file.to_path_buf(),
            line,
            kind,
        }));
    }
    Ok(findings)
}

/// Line numbers and kinds of what looks like a secret.
fn scan(text: &str) -> impl Iterator<Item = (usize, &'static str)> {
    text.lines()
        .enumerate()
        .filter(|(_, line)| !line.contains(ALLOW))
        .filter_map(|(index, line)| Some((index + 1, kind_of(line)?)))
}

fn kind_of(line: &str) -> Option<&'static str> {
    let lower = line.to_ascii_lowercase();
    let found = PATTERNS
        .iter()
        .find(|(_, literal, pattern)| lower.contains(literal) && pattern.is_match(line));
    if let Some((kind, ..)) = found {
        return Some(kind);
    }
    let random = |pattern: &Regex| {
        pattern.captures_iter(line).any(|found| {
            found
                .get(1)
                .is_some_and(|value| looks_random(value.as_str()))
        })
    };
    if lower.contains("://") && lower.contains('@') && random(&URL) {
        return Some("password in a URL");
    }
    let named = NAMES.iter().any(|name| lower.contains(name));
    (named && random(&ASSIGNMENT)).then_some("secret value")
}

/// Letters and digits mixed without a pattern, unlike words, names and placeholders.
fn looks_random(value: &str) -> bool {
    let has = |test: fn(&u8) -> bool| value.as_bytes().iter().any(test);
    let digits = value.bytes().filter(u8::is_ascii_digit).count();
    has(u8::is_ascii_alphabetic) && digits >= 2 && entropy(value) > 3.0
}

/// Shannon entropy in bits per character.
#[allow(clippy::cast_precision_loss)] // lengths of lines
fn entropy(value: &str) -> f64 {
    let mut counts = [0_u32; 256];
    for byte in value.bytes() {
        counts[usize::from(byte)] += 1;
    }
    counts
        .iter()
        .filter(|count| **count > 0)
        .map(|count| {
            let share = f64::from(*count) / value.len() as f64;
            -share * share.log2()
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Put together at run time, so that this very file holds no secret.
    fn samples() -> Vec<(String, &'static str)> {
        let random = "q7Xz2Lm9Tb4Kw8Rv3Np6Yd5H";
        let hex = "0f3a9c71e5b24d68a1c7f09e3b5d2468";
        vec![
            (
                format!("-----BEGIN {}PRIVATE KEY-----", "OPENSSH "),
                "private key",
            ),
            (
                format!("id = \"{}{}\"", "AKIA", "ABCDEFGHIJKLMNOP"),
                "AWS access key",
            ),
            (format!("{}{}", "ghp_", random.repeat(2)), "GitHub token"),
            (
                format!(
                    "//registry/:_authToken={}{}",
                    "npm_",
                    &random.repeat(2)[..36]
                ),
                "npm token",
            ),
            (format!("{}{}", "xoxb-", random), "Slack token"),
            (
                format!("{}{}{}", "AIza", random, "12345678901"),
                "Google API key",
            ),
            (
                format!("eyJ{random}.eyJ{random}.{random}"),
                "JSON Web Token",
            ),
            (format!("cookie: sessionid={hex}"), "TikTok session"),
            (format!("EULER_API_KEY=euler_{random}"), "Euler Stream key"),
            (
                format!("postgres://ttlc:{random}@db.example/ttlc"),
                "password in a URL",
            ),
            (format!("ADMIN_TOKEN=\"{random}\""), "secret value"),
            (format!("  \"apiKey\": \"{random}\","), "secret value"),
        ]
    }

    #[test]
    fn every_kind_is_found_and_an_allowed_line_is_not() {
        for (line, kind) in samples() {
            let text = format!("first line\n{line}\n");
            assert_eq!(scan(&text).collect::<Vec<_>>(), [(2, kind)], "{kind}");
            let allowed = format!("{line} # {ALLOW}: a test");
            assert_eq!(scan(&allowed).count(), 0, "{kind}");
        }
    }

    #[test]
    fn ordinary_lines_are_no_secrets() {
        for line in [
            "DATABASE_URL=postgres://ttlc:${POSTGRES_PASSWORD:-ttlc}@postgres:5432/ttlc",
            "redis://user:password@host:6379",
            "postgres://NAME:PASSWORD@127.0.0.1:PORT/ttlc",
            "\"integrity\": \"sha512-0f3a9c71e5b24d68a1c7f09e3b5d2468\"",
            "let token = CancellationToken::new_with_a_long_name();",
            "password: settings.database_password_from_environment,",
            "api_key = \"your-api-key-goes-right-here\"",
            "sessionId: \"0198c0de-0000-7000-8000-000000000001\"",
        ] {
            assert_eq!(kind_of(line), None, "{line}");
        }
    }

    #[test]
    fn a_checkout_is_scanned_without_what_git_ignores() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path();
        let mut git = Command::new("git");
        git.args(["init", "--quiet"]).current_dir(root);
        processes::answer(git).unwrap();
        let (secret, _) = &samples()[0];
        fs::write(root.join(".gitignore"), "ignored\n").unwrap();
        fs::write(root.join("ignored"), secret).unwrap();
        fs::write(root.join("clean"), "nothing").unwrap();
        run(root).unwrap();

        fs::create_dir(root.join("sub")).unwrap();
        fs::write(root.join("sub/leak"), format!("\n\n{secret}\n")).unwrap();
        fs::write(root.join(".env"), "").unwrap();
        let error = run(root).unwrap_err().to_string();
        assert!(error.starts_with("2 finding(s)"), "{error}");
        assert!(!error.contains("BEGIN"), "{error}");
        assert_eq!(
            scan_file(root, Path::new("sub/leak")).unwrap(),
            [Finding {
                file: "sub/leak".into(),
                line: 3,
                kind: "private key"
            }]
        );
    }
}
