//! Logs: plain on a terminal, one JSON object a line elsewhere, no timestamps where systemd's journal adds its own.
//!
//! Owns the one global subscriber. Always writes to standard error: standard output belongs to what a command prints.

use std::error::Error;
use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;
use tracing_subscriber::fmt::writer::BoxMakeWriter;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

const DEFAULT_FILTER: &str = "upgrade_agent=info,kube_runtime=error,kube_client=off,warn";

/// How a log line looks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// One compact line for a person at a terminal.
    Terminal,
    /// One compact line without time and colours: systemd's journal keeps the time.
    Journal,
    /// One JSON object a line, for a pod's log collector.
    Json,
}

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// `RUST_LOG` is not a filter.
    #[error("`RUST_LOG` is `{filter}`, which is no filter; correct it, for example to `{DEFAULT_FILTER}`")]
    Filter {
        /// What was found.
        filter: String,
        /// Why it is none.
        source: ParseError,
    },
    /// Another subscriber is already in place.
    #[error("logging is already set up; call `telemetry::init` once, from main")]
    Twice {
        /// What the tracing library says.
        source: TryInitError,
    },
}

impl Format {
    /// The format that fits where standard error goes: a terminal, systemd's journal, anything else.
    #[must_use]
    pub fn detect() -> Self {
        #[expect(clippy::disallowed_methods, reason = "systemd says through the environment where logs go")]
        let journal = std::env::var("JOURNAL_STREAM").ok();
        Self::choose(io::stderr().is_terminal(), journal.as_deref(), stderr_identity().as_deref())
    }

    /// `JOURNAL_STREAM` is inherited by everything a service starts, so it counts only when it names this very stream.
    fn choose(terminal: bool, journal: Option<&str>, stderr: Option<&str>) -> Self {
        if terminal {
            Self::Terminal
        } else if journal.is_some() && journal == stderr {
            Self::Journal
        } else {
            Self::Json
        }
    }
}

/// Standard error as `device:inode`, the form of `JOURNAL_STREAM`.
fn stderr_identity() -> Option<String> {
    let stat = nix::sys::stat::fstat(io::stderr()).ok()?;
    Some(format!("{}:{}", stat.st_dev, stat.st_ino))
}

/// Sets up logging for the whole process, filtered by `RUST_LOG` (default `upgrade_agent=info,kube_runtime=error,kube_client=off,warn`).
///
/// # Errors
/// When `RUST_LOG` is no filter, or when logging is already set up.
pub fn init(format: Format) -> Result<(), TelemetryError> {
    #[expect(clippy::disallowed_methods, reason = "the one setting of telemetry, named by convention")]
    let wanted = std::env::var("RUST_LOG").ok();
    let filter = parse_filter(wanted.as_deref())?;
    subscriber(format, filter, BoxMakeWriter::new(io::stderr))
        .try_init()
        .map_err(|source| TelemetryError::Twice { source })
}

fn parse_filter(wanted: Option<&str>) -> Result<EnvFilter, TelemetryError> {
    let filter = wanted.filter(|text| !text.trim().is_empty()).unwrap_or(DEFAULT_FILTER);
    EnvFilter::try_new(filter).map_err(|source| TelemetryError::Filter { filter: filter.to_owned(), source })
}

fn subscriber(
    format: Format,
    filter: EnvFilter,
    writer: BoxMakeWriter,
) -> Box<dyn tracing::Subscriber + Send + Sync> {
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    match format {
        Format::Terminal => Box::new(lines.compact().finish()),
        Format::Journal => Box::new(lines.compact().without_time().with_ansi(false).finish()),
        Format::Json => {
            Box::new(lines.json().flatten_event(true).with_current_span(false).with_span_list(true).finish())
        }
    }
}

/// An error and its causes in one line, each cause once.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Mutex};

    #[derive(Clone, Default)]
    struct Captured(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Captured {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn logged(format: Format, filter: Option<&str>) -> String {
        let captured = Captured::default();
        let sink = captured.clone();
        let writer = BoxMakeWriter::new(move || sink.clone());
        let subscriber = subscriber(format, parse_filter(filter).unwrap(), writer);
        tracing::subscriber::with_default(subscriber, || {
            tracing::info_span!("step", step = "Drain").in_scope(|| tracing::info!(vm = "a/b", "left"));
            tracing::debug!("detail");
            tracing::info!(target: "kube", "chatter");
        });
        let bytes = captured.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap()
    }

    #[test]
    fn a_pod_gets_one_json_object_a_line() {
        let text = logged(Format::Json, None);
        let lines: Vec<serde_json::Value> = text.lines().map(|l| serde_json::from_str(l).unwrap()).collect();
        assert_eq!(lines.len(), 1, "{text}");
        assert_eq!((&lines[0]["message"], &lines[0]["vm"]), (&"left".into(), &"a/b".into()));
        assert_eq!(lines[0]["spans"][0]["step"], "Drain");
        assert!(lines[0]["timestamp"].is_string());
    }

    #[test]
    fn the_journal_gets_neither_time_nor_colours() {
        let text = logged(Format::Journal, None);
        assert!(text.trim_start().starts_with("INFO step:"), "{text}");
        assert!(text.contains("left vm=\"a/b\"") && !text.contains('\u{1b}'), "{text}");
    }

    #[test]
    fn rust_log_widens_and_silences() {
        assert_eq!(logged(Format::Journal, Some("debug")).lines().count(), 3);
        assert_eq!(logged(Format::Journal, Some("off")), "");
        assert_eq!(logged(Format::Journal, Some("  ")).lines().count(), 1, "empty means default");
    }

    #[test]
    fn a_broken_filter_is_named_with_its_cure() {
        let error = parse_filter(Some("upgrade_agent=loud")).unwrap_err();
        assert!(error.to_string().starts_with("`RUST_LOG` is `upgrade_agent=loud`"), "{error}");
    }

    #[test]
    fn the_format_fits_where_standard_error_goes() {
        for (terminal, journal, stderr, expected) in [
            (true, None, Some("8:1"), Format::Terminal),
            (true, Some("8:1"), Some("8:1"), Format::Terminal),
            (false, Some("8:1"), Some("8:1"), Format::Journal),
            (false, Some("8:1"), Some("8:2"), Format::Json),
            (false, Some("8:1"), None, Format::Json),
            (false, None, None, Format::Json),
        ] {
            assert_eq!(
                Format::choose(terminal, journal, stderr),
                expected,
                "{terminal} {journal:?} {stderr:?}"
            );
        }
        assert!(stderr_identity().unwrap().contains(':'));
    }
}
