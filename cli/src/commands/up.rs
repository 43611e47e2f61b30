//! `recado up`: starts the server, says where it is, and stops it at a signal.

use std::io::{IsTerminal, Write};

use recado_runtime::telemetry;

use super::complain;
use crate::exit::Exit;
use crate::up::{self, Ready, Running, Settings, StartError};

/// Runs until a signal.
#[must_use]
pub fn run(settings: Settings, json: bool) -> Exit {
    let format = match settings.log_format {
        up::LogFormat::Text => telemetry::LogFormat::Text,
        up::LogFormat::Json => telemetry::LogFormat::Json,
    };
    if let Err(error) = telemetry::init(format, &settings.log) {
        complain(&error.to_string());
        return Exit::Settings;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            complain(&format!("no threads could be started: {error}"));
            return Exit::Failed;
        }
    };
    runtime.block_on(serve(settings, json))
}

async fn serve(settings: Settings, json: bool) -> Exit {
    // Before anything starts, so that a signal meanwhile is not lost.
    let mut signals = match Signals::new() {
        Ok(signals) => signals,
        Err(error) => {
            complain(&format!("signals cannot be received: {error}"));
            return Exit::Failed;
        }
    };
    let running = match up::start(settings).await {
        Ok(running) => running,
        Err(error) => {
            complain(&error.to_string());
            return match error {
                StartError::Settings(_) => Exit::Settings,
                StartError::Failed(_) => Exit::Failed,
            };
        }
    };
    announce(running.ready(), json);
    let failure = tokio::select! {
        () = signals.next() => None,
        failure = running.failed() => Some(failure),
    };
    if let Some(failure) = &failure {
        complain(failure);
    } else {
        tracing::info!("stopping; a second signal stops at once");
    }
    tokio::select! {
        () = stop(running) => {}
        () = signals.next() => quit_at_once(),
    }
    if failure.is_some() { Exit::Failed } else { Exit::Done }
}

async fn stop(running: Running) {
    let stopped = running.shutdown().await;
    if !stopped.is_clean() {
        tracing::warn!(?stopped, "not everything ended in time; it is done again at the next start");
    }
}

/// Leaves without waiting for anybody: what was accepted is on disk.
fn quit_at_once() {
    let code: u8 = Exit::AtOnce.code();
    std::process::exit(code.into());
}

fn announce(ready: &Ready, json: bool) {
    let text = if json {
        format!("{}\n", serde_json::to_string(ready).expect("text and numbers"))
    } else {
        card(ready, std::io::stdout().is_terminal())
    };
    let mut out = std::io::stdout();
    if let Err(error) = out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        tracing::warn!(%error, "where the server is could not be printed");
    }
}

/// What a person wants to know first, set in two columns.
fn card(ready: &Ready, colour: bool) -> String {
    let bold = |text: &str| if colour { format!("\u{1b}[1m{text}\u{1b}[0m") } else { text.to_owned() };
    let dim = |text: &str| if colour { format!("\u{1b}[2m{text}\u{1b}[0m") } else { text.to_owned() };
    let mut lines = vec![String::new(), format!("  {}", bold("Recado is ready.")), String::new()];
    let mut row = |name: &str, value: String| lines.push(format!("  {}  {value}", dim(&format!("{name:<8}"))));
    if let Some(page) = &ready.page {
        row("Page", bold(page));
    }
    row("Socket", ready.ws.clone());
    row("Publish", format!("POST {}", ready.events));
    if let Some(mail) = &ready.mail {
        row("Mail", mail.clone());
    }
    row("Data", ready.data_dir.clone());
    if let Some(token) = &ready.token {
        row("Token", dim("for alice, valid for 24 hours; `recado token NAME` prints others"));
        lines.push(format!("\n  {token}"));
    }
    lines.push(format!("\n  {}\n\n", dim("Ctrl-C stops it.")));
    lines.join("\n")
}

/// The two signals that mean: stop.
struct Signals {
    #[cfg(unix)]
    terminate: tokio::signal::unix::Signal,
    #[cfg(unix)]
    interrupt: tokio::signal::unix::Signal,
}

impl Signals {
    #[cfg(unix)]
    fn new() -> std::io::Result<Self> {
        use tokio::signal::unix::{SignalKind, signal};
        Ok(Self { terminate: signal(SignalKind::terminate())?, interrupt: signal(SignalKind::interrupt())? })
    }

    #[cfg(unix)]
    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    #[cfg(not(unix))]
    fn new() -> std::io::Result<Self> {
        Ok(Self {})
    }

    #[cfg(not(unix))]
    async fn next(&mut self) {
        if tokio::signal::ctrl_c().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_card_shows_everything_a_newcomer_needs() {
        let ready = Ready {
            ready: true,
            listen: "127.0.0.1:8420".to_owned(),
            page: Some("http://127.0.0.1:8420/".to_owned()),
            ws: "ws://127.0.0.1:8420/ws".to_owned(),
            events: "http://127.0.0.1:8420/events".to_owned(),
            mail: Some("http://127.0.0.1:8420/mail".to_owned()),
            token: Some("eyJ.x.y".to_owned()),
            data_dir: "./.recado".to_owned(),
        };
        let text = card(&ready, false);
        for part in [&ready.ws, &ready.events, &ready.data_dir, "8420/\n", "/mail\n", "\n  eyJ.x.y\n", "recado token"] {
            assert!(text.contains(part), "{part} is missing:\n{text}");
        }
        assert!(!text.contains('\u{1b}'));
        assert!(card(&ready, true).contains("\u{1b}[1m"));
    }
}
