//! What somebody wants to know of a running `cargo xtask aws-local`: as a card for people, as a line of JSON, and as a
//! file for their shell.
//!
//! Must not know: how any of it came to be.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::{ACCOUNT, MAIL_DOMAIN, TOKEN_TTL, USER};

/// Everything that is shown.
#[derive(Debug)]
pub(super) struct Card {
    pub(super) ws: String,
    pub(super) topic: String,
    pub(super) token: String,
    /// Each process with where it shows how it is.
    pub(super) workers: Vec<(&'static str, String)>,
    pub(super) variables: Vec<(&'static str, String)>,
    /// The file that sets them.
    pub(super) environment: PathBuf,
    /// Where the logs are.
    pub(super) folder: PathBuf,
    pub(super) times: Vec<(&'static str, Duration)>,
    pub(super) took: Duration,
}

impl Card {
    /// Set in two columns, for a terminal of 80 where the paths are not long.
    pub(super) fn text(&self, colour: bool) -> String {
        let bold = |text: &str| if colour { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() };
        let dim = |text: &str| if colour { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() };
        let times: Vec<_> = self.times.iter().map(|(name, took)| format!("{name} {:.1} s", took.as_secs_f32())).collect();
        let mut lines = vec![
            String::new(),
            format!("  {}", bold(&format!("Recado on a local AWS is ready, after {:.1} s.", self.took.as_secs_f32()))),
            format!("  {}", dim(&times.join(" · "))),
            String::new(),
        ];
        let mut row = |name: &str, value: &str| lines.push(format!("  {}  {value}", dim(&format!("{name:<8}"))));
        row("Socket", &bold(&self.ws));
        row("HTTP", &bold(self.variable("RECADO_URL")));
        row("Topic", &self.topic);
        row("Mail", self.variable("RECADO_MAILS"));
        row("AWS", &format!("{}, account {ACCOUNT}", self.variable("AWS_ENDPOINT_URL")));
        for (name, status) in &self.workers {
            row("Metrics", &format!("http://{status}/metrics  ({name})"));
        }
        row("Logs", &format!("{}/*.log", self.folder.display()));
        row("Token", &dim(&format!("for {USER}, valid for {TOKEN_TTL}; `recado token NAME` prints others")));
        lines.push(format!("\n  {}\n", self.token));
        lines.push("  In any other terminal, to begin with:\n".to_owned());
        lines.push(format!("  {}\n", bold(&format!(". {}", quoted(&self.environment.display().to_string())))));
        lines.push(format!("  {}", dim("which sets")));
        lines.extend(self.variables.iter().map(|(name, value)| format!("  {}", dim(&format!("{name}={value}")))));
        lines.push("\n  and then, listening in one and publishing in another:\n".to_owned());
        lines.extend(examples().iter().map(|command| format!("  {}", bold(command))));
        lines.push(format!("\n  {}\n\n", dim("Ctrl-C stops all of it, and nothing of it is kept.")));
        lines.join("\n")
    }

    /// One line.
    pub(super) fn json(&self) -> String {
        let variables: serde_json::Map<_, _> = self.variables.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let ready = json!({
            "ready": true,
            "endpoint": self.variable("AWS_ENDPOINT_URL"),
            "ws": self.ws,
            "http": self.variable("RECADO_URL"),
            "topic": self.topic,
            "mails": self.variable("RECADO_MAILS"),
            "stack": self.variable("RECADO_STACK"),
            "env": self.environment,
            "token": self.token,
            "variables": variables,
        });
        format!("{ready}\n")
    }

    fn variable(&self, name: &str) -> &str {
        self.variables.iter().find(|(known, _)| *known == name).map_or("", |(_, value)| value)
    }
}

/// Commands that work where the file of the environment was read.
fn examples() -> [String; 5] {
    [
        format!("recado listen {USER}"),
        format!("recado publish --to {USER} --title \"Your report is ready\" --url /reports/7"),
        format!("recado publish --to {USER} --email {USER}@{MAIL_DOMAIN} --title \"By mail as well\""),
        "curl \"$RECADO_MAILS\"".to_owned(),
        format!("curl \"$RECADO_URL/inbox\" -H \"authorization: Bearer $(recado token {USER})\""),
    ]
}

/// Writes a file for `.` of any POSIX shell.
pub(super) fn write_environment(file: &Path, variables: &[(&'static str, String)], recado: &Path) -> Result<()> {
    // What would make AWS tools look elsewhere.
    let mut text = "unset AWS_PROFILE AWS_SESSION_TOKEN\n".to_owned();
    text.extend(variables.iter().map(|(name, value)| format!("export {name}={}\n", quoted(value))));
    text.push_str(&format!("recado() {{ {} \"$@\"; }}\n", quoted(&recado.display().to_string())));
    fs::write(file, text).with_context(|| format!("{} cannot be written", file.display()))
}

/// As a shell reads it back: as it is where it is plain, and quoted otherwise.
fn quoted(text: &str) -> String {
    let plain = |character: char| character.is_ascii_alphanumeric() || "/._-+:@%,=".contains(character);
    if !text.is_empty() && text.chars().all(plain) { text.to_owned() } else { format!("'{}'", text.replace('\'', r"'\''")) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn card() -> Card {
        Card {
            ws: "ws://127.0.0.1:45123/_aws/execute-api/0123456789/live".to_owned(),
            topic: "arn:aws:sns:us-east-1:000000000001:recado-Topic-0123456789AB".to_owned(),
            token: "eyJ.x.y".to_owned(),
            workers: vec![("dispatcher", "127.0.0.1:45124".to_owned())],
            variables: vec![
                ("AWS_ENDPOINT_URL", "http://127.0.0.1:45123".to_owned()),
                ("RECADO_URL", "http://127.0.0.1:45123/_aws/execute-api/0123456789/$default".to_owned()),
                ("RECADO_MAILS", "http://127.0.0.1:45123/_recado/mailbox?account=000000000001".to_owned()),
                ("RECADO_TOKEN_SECRET", "0123456789abcdef".repeat(2)),
            ],
            environment: PathBuf::from("/work/recado/target/local-aws/45123/env"),
            folder: PathBuf::from("/work/recado/target/local-aws/45123"),
            times: vec![("AWS", Duration::from_millis(2_340))],
            took: Duration::from_secs(3),
        }
    }

    #[test]
    fn the_card_shows_everything_and_fits_a_terminal_of_eighty() {
        let (card, text) = (card(), card().text(false));
        for part in
            [&card.ws, &card.topic, &card.token, "AWS 2.3 s", ". /work/recado/target/local-aws/45123/env\n", "127.0.0.1:45124/metrics"]
        {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        for (name, value) in &card.variables {
            assert!(text.contains(name) && text.contains(value.as_str()), "{name}:\n{text}");
        }
        let wide: Vec<_> = text.lines().filter(|line| line.chars().count() > 80).collect();
        assert!(wide.is_empty(), "{wide:?}");
        assert!(examples().iter().all(|command| command.len() <= 78 && text.contains(command.as_str())), "{text}");
        assert!(!text.contains('\u{1b}') && card.text(true).contains("\u{1b}[1m"));
    }

    #[test]
    fn a_program_reads_one_line() {
        let line = card().json();
        assert_eq!(line.matches('\n').count(), 1);
        let read: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        assert_eq!((&read["endpoint"], &read["token"]), (&json!("http://127.0.0.1:45123"), &json!("eyJ.x.y")));
        assert_eq!(read["variables"]["AWS_ENDPOINT_URL"], "http://127.0.0.1:45123");
    }

    #[test]
    fn a_shell_reads_back_what_was_written() {
        let folder = crate::steps::root().join("target/tmp").join(format!("xtask-env-{}", std::process::id()));
        fs::create_dir_all(&folder).expect("a folder");
        let (file, odd) = (folder.join("env"), r#"it's "$HOME" \ `date`"#);
        write_environment(&file, &[("RECADO_URL", odd.to_owned())], Path::new("/bin/echo")).expect("a file");
        let script = format!(". {}; printf '%s|' \"$RECADO_URL\"; recado token 'a b'", quoted(&file.display().to_string()));
        let read = crate::steps::command("sh", &["-c", &script]).output().expect("a shell");
        assert_eq!(String::from_utf8_lossy(&read.stdout), format!("{odd}|token a b\n"));
        fs::remove_dir_all(folder).expect("a folder of ours");
    }
}
