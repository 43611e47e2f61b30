//! Logs: what they look like and which are shown.
//!
//! Rules for what may be logged are in `CONTRIBUTING.md`: never a token, an address or a payload.

use std::io::IsTerminal;

use tracing::{Level, Metadata, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::LookupSpan;
use tracing_subscriber::util::SubscriberInitExt;

/// How a log line looks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    #[default]
    Text,
    /// One JSON object a line, for a log store.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter is not of the form `level` or `target=level,…`.
    #[error("the log filter is not of the form `info` or `recado_dispatcher=debug,info`: {0}")]
    Filter(#[from] ParseError),
    /// Something set it up before.
    #[error("logging is set up already: {0}")]
    Twice(#[from] tracing_subscriber::util::TryInitError),
}

/// Sets up logging to standard error for this process.
///
/// # Errors
/// When the filter cannot be read, or when it was set up before.
pub fn init(format: LogFormat, filter: &str) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    let registry = filtered(filter)?;
    match format {
        LogFormat::Text => registry.with(lines.with_ansi(std::io::stderr().is_terminal())).try_init()?,
        LogFormat::Json => registry.with(lines.json().flatten_event(true)).try_init()?,
    }
    Ok(())
}

fn filtered(filter: &str) -> Result<impl Subscriber + for<'a> LookupSpan<'a> + Send + Sync, ParseError> {
    Ok(tracing_subscriber::registry().with(EnvFilter::try_new(filter)?).with(filter_fn(may_show)))
}

/// Whatever the filter asks for: what a library writes below `info` may be all it sends and receives. The AWS SDKs show whole requests at
/// `trace`, with the addresses and payloads in them.
fn may_show(line: &Metadata<'_>) -> bool {
    *line.level() <= Level::INFO || line.target().starts_with("recado")
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl Write for Written {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn written(filter: &str) -> String {
        let written = Written::default();
        let writer = written.clone();
        let lines = tracing_subscriber::fmt::layer().with_ansi(false).with_writer(move || writer.clone());
        tracing::subscriber::with_default(filtered(filter).unwrap().with(lines), || {
            tracing::trace!(target: "recado_dispatcher", "our-trace");
            tracing::debug!(target: "recado", "our-debug");
            tracing::info!(target: "aws_config", "their-info");
            tracing::debug!(target: "aws_smithy_runtime::client", "their-debug");
            tracing::trace!(target: "hyper::proto", "their-trace");
        });
        String::from_utf8(written.0.lock().unwrap().clone()).unwrap()
    }

    #[test]
    fn logging_is_set_up_once_by_a_filter_that_can_be_read() {
        assert!(matches!(init(LogFormat::Json, "recado=loud"), Err(TelemetryError::Filter(_))));
        init(LogFormat::Text, "error").unwrap();
        assert!(matches!(init(LogFormat::Text, "error"), Err(TelemetryError::Twice(_))));
    }

    #[test]
    fn a_library_shows_nothing_below_info_whatever_is_asked_for() {
        for filter in ["trace", "debug,aws_smithy_runtime=trace,recado_dispatcher=trace", "hyper=trace,aws_smithy_runtime=trace,trace"] {
            let written = written(filter);
            for shown in ["our-trace", "our-debug", "their-info"] {
                assert!(written.contains(shown), "{filter}: {shown} is missing in {written}");
            }
            assert!(!written.contains("their-debug") && !written.contains("their-trace"), "{filter}: {written}");
        }
        assert_eq!(written("error"), "");
    }
}
