//! What processes that are told what to do have in common, however they are told: by flags (`recado up`) or by
//! variables alone (the processes on AWS).
//!
//! Must not know: any one process's settings.

use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use jiff::SignedDuration;

/// The exit code of a process whose settings do not hold.
pub const EXIT_CODE: u8 = 3;

/// A text that is shown to nobody.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub String);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl FromStr for Secret {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(Self(text.to_owned()))
    }
}

/// Why settings do not hold, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}\n  fix: {fix}")]
pub struct Contradiction {
    /// What does not go together, or does not hold.
    pub problem: String,
    /// What to do.
    pub fix: String,
}

impl Contradiction {
    /// Puts the two together.
    pub fn new(problem: impl Into<String>, fix: impl Into<String>) -> Self {
        Self { problem: problem.into(), fix: fix.into() }
    }
}

/// How a process is told its settings, and so how a message names one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spelling {
    /// `--token-secret`
    Flags,
    /// `RECADO_TOKEN_SECRET`
    Variables,
}

impl Spelling {
    /// The name of a setting, given in lower case with dashes.
    pub fn name(self, setting: &str) -> String {
        match self {
            Self::Flags => format!("--{setting}"),
            Self::Variables => format!("RECADO_{}", setting.replace('-', "_").to_ascii_uppercase()),
        }
    }
}

/// A duration as settings have it.
///
/// # Errors
/// What to write instead.
pub fn duration(text: &str) -> Result<Duration, String> {
    let duration: SignedDuration = text.parse().map_err(|_| "give a number with its unit, such as 10s, 500ms or 1h".to_owned())?;
    Duration::try_from(duration).map_err(|_| "a duration cannot be negative".to_owned())
}

/// Reads a file that a setting names.
///
/// # Errors
/// When it cannot be read, or has more than `limit` bytes.
pub fn read_file(setting: &str, file: &Path, limit: usize) -> Result<String, Contradiction> {
    let problem =
        |what: String| Contradiction::new(format!("{setting} {}: {what}", file.display()), "name a file that this process may read");
    let size = fs::metadata(file).map_err(|error| problem(error.to_string()))?.len();
    if size > limit as u64 {
        return Err(problem(format!("the file has {size} bytes, the limit is {limit}")));
    }
    fs::read_to_string(file).map_err(|error| problem(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_setting_is_named_as_it_is_given() {
        assert_eq!(Spelling::Flags.name("token-secret"), "--token-secret");
        assert_eq!(Spelling::Variables.name("token-secret"), "RECADO_TOKEN_SECRET");
    }

    #[test]
    fn durations_have_units() {
        assert_eq!(duration("500ms"), Ok(Duration::from_millis(500)));
        for bad in ["10", "-5s", "soon", ""] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_file_is_read_up_to_its_limit_and_a_larger_one_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("keys.json");
        fs::write(&file, "12345").unwrap();
        for limit in [5, 6] {
            assert_eq!(read_file("--token-keys", &file, limit), Ok("12345".to_owned()));
        }
        let refused = read_file("--token-keys", &file, 4).unwrap_err().to_string();
        assert!(refused.contains("keys.json: the file has 5 bytes, the limit is 4"), "{refused}");
        let missing = read_file("--token-keys", &folder.path().join("none"), 5).unwrap_err().to_string();
        assert!(missing.starts_with("--token-keys") && missing.contains("none: No such file"), "{missing}");
    }

    #[test]
    fn a_secret_is_shown_to_nobody() {
        assert_eq!(format!("{:?}", Secret("hush".to_owned())), "…");
    }
}
