//! Settings: the environment, and a `.env` file at the project's root for what it does not set.
//!
//! An empty value counts as not set. A malformed `.env` is refused with its line; no value is ever
//! printed, since some are secrets.

use std::{collections::BTreeMap, env, path::Path, process::Command};

use anyhow::{Result, anyhow, bail};

/// Port of the API when `API_PORT` is not set.
const API_PORT: u16 = 3000;

/// What the user set.
#[derive(Debug, Default)]
pub struct Settings {
    /// From the file, less what the environment sets.
    file: BTreeMap<String, String>,
}

impl Settings {
    /// Reads `.env` in `folder` if there is one.
    pub fn read(folder: &Path) -> Result<Self> {
        let path = folder.join(".env");
        let mut file = BTreeMap::new();
        if path.is_file() {
            let entries = dotenvy::from_path_iter(&path)
                .map_err(|error| anyhow!("can't read .env: {}", without_values(&error)))?;
            for entry in entries {
                let (name, value) =
                    entry.map_err(|error| anyhow!(".env: {}", without_values(&error)))?;
                if !value.is_empty() && env::var_os(&name).is_none_or(|value| value.is_empty()) {
                    file.insert(name, value);
                }
            }
        }
        Ok(Self { file })
    }

    /// One setting; `None` when it is not set or empty.
    pub fn get(&self, name: &str) -> Option<String> {
        env::var(name)
            .ok()
            .filter(|value| !value.is_empty())
            .or_else(|| self.file.get(name).cloned())
    }

    /// Gives a child what the file sets; the environment it inherits anyway. Variables that are
    /// set but empty are taken away.
    pub fn apply(&self, command: &mut Command) {
        for (name, value) in env::vars_os() {
            if value.is_empty() {
                command.env_remove(name);
            }
        }
        command.envs(&self.file);
    }

    /// `API_PORT`.
    pub fn api_port(&self) -> Result<u16> {
        let Some(text) = self.get("API_PORT") else {
            return Ok(API_PORT);
        };
        match text.parse() {
            Ok(port) if port > 0 => Ok(port),
            _ => bail!("API_PORT must be a number from 1 to 65535, it is {text:?}"),
        }
    }
}

/// The line of a parse error may hold a secret.
fn without_values(error: &dotenvy::Error) -> String {
    match error {
        dotenvy::Error::LineParse(_, position) => {
            format!("a line is not NAME=value (at character {position} of it)")
        }
        dotenvy::Error::Io(error) => error.to_string(),
        _ => "not readable".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn read(text: &str) -> Result<Settings> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join(".env"), text).unwrap();
        Settings::read(folder.path())
    }

    #[test]
    fn the_file_fills_what_the_environment_leaves_open() {
        let settings =
            read("# comment\nTTLC_A=1\nTTLC_B='x y'\nTTLC_EMPTY=\nPATH=/nowhere\n").unwrap();
        assert_eq!(settings.get("TTLC_A").as_deref(), Some("1"));
        assert_eq!(settings.get("TTLC_B").as_deref(), Some("x y"));
        assert_eq!(settings.get("TTLC_EMPTY"), None);
        assert_ne!(settings.get("PATH").as_deref(), Some("/nowhere"));
        let mut command = Command::new("true");
        settings.apply(&mut command);
        assert!(
            command
                .get_envs()
                .any(|(name, value)| name == "TTLC_A" && value.is_some())
        );
        assert!(
            !command
                .get_envs()
                .any(|(name, value)| name == "PATH" && value.is_some())
        );
    }

    #[test]
    fn a_bad_file_is_refused_without_showing_a_secret() {
        let error = read("EULER_API_KEY=\"secret").unwrap_err().to_string();
        assert!(error.starts_with(".env: "), "{error}");
        assert!(!error.contains("secret"), "{error}");
    }

    #[test]
    fn a_bad_port_names_the_variable() {
        for text in ["0", "70000", "http"] {
            let error = read(&format!("API_PORT={text}"))
                .unwrap()
                .api_port()
                .unwrap_err();
            assert!(error.to_string().contains("API_PORT"), "{error}");
        }
        assert_eq!(read("API_PORT=3001").unwrap().api_port().unwrap(), 3001);
        assert_eq!(read("").unwrap().api_port().unwrap(), 3000);
    }
}
