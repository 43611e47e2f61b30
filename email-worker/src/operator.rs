//! What an operator says about mail, judged alike by every process that sends it.
//!
//! Must not know: which process it is, but for how its settings are spelled.

use std::path::Path;
use std::time::Duration;

use recado_runtime::backoff::RetrySchedule;
use recado_runtime::settings::{Contradiction, Spelling};

use crate::config::{InvalidMailConfig, MailConfig, MailSettings};
use crate::template::Templates;

/// A mail server may be away for an evening: 1 s doubling to half an hour, 24 tries, at most about seven hours.
pub const RETRY: RetrySchedule = RetrySchedule { base: Duration::from_secs(1), cap: Duration::from_secs(1800), max_attempts: 24 };

/// Checks the settings, and the templates of a folder or the built-in ones.
///
/// # Errors
/// Everything that does not hold.
pub fn prepare(
    spelling: Spelling,
    settings: MailSettings,
    templates: Option<&Path>,
) -> Result<(MailConfig, Templates), Vec<Contradiction>> {
    let config = MailConfig::new(settings).map_err(|error| {
        let setting = match error {
            InvalidMailConfig::From => "mail-from",
            InvalidMailConfig::BaseUrl => "mail-base-url",
            // Not what an operator sets, but what follows from it.
            InvalidMailConfig::Zero(_) | InvalidMailConfig::Lease { .. } => "mail",
        };
        Contradiction::new(format!("{}: {error}", spelling.name(setting)), "correct it; docs/configuration.md has examples under \"Mail\"")
    });
    let templates = Templates::load(templates).map_err(|error| {
        Contradiction::new(format!("{}: {error}", spelling.name("templates")), "correct the template, or leave the folder out")
    });
    match (config, templates) {
        (Ok(config), Ok(templates)) => Ok((config, templates)),
        (config, templates) => Err(config.err().into_iter().chain(templates.err()).collect()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_that_is_wrong_is_named_as_it_was_given() {
        let settings = MailSettings::from("nobody");
        let problems = prepare(Spelling::Variables, settings, Some(Path::new("/nowhere"))).unwrap_err();
        assert_eq!(problems.len(), 2, "{problems:?}");
        assert!(problems[0].problem.starts_with("RECADO_MAIL_FROM: "), "{problems:?}");
        assert!(problems[1].problem.starts_with("RECADO_TEMPLATES: "), "{problems:?}");
    }

    #[test]
    fn a_base_url_is_named_as_it_was_given() {
        let settings = MailSettings { base_url: Some("ftp://a.example".to_owned()), ..MailSettings::from("a@example.com") };
        let problems = prepare(Spelling::Flags, settings, None).unwrap_err();
        assert!(problems[0].problem.starts_with("--mail-base-url: "), "{problems:?}");
    }
}
