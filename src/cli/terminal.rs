//! The one door to standard output and standard error.

use std::io::{self, IsTerminal, Write};

use jiff::Timestamp;
use jiff::tz::TimeZone;

/// Prints for people. A reader that has gone away (`| head`) is no error.
#[derive(Debug, Clone, Default)]
pub struct Terminal {}

impl Terminal {
    /// One line on standard output.
    pub fn line(&self, text: &str) {
        let mut out = io::stdout().lock();
        ignore_closed(writeln!(out, "{text}").and_then(|()| out.flush()));
    }

    /// One line with the time of day in front.
    pub fn dated(&self, at: Timestamp, text: &str) {
        let time = at.to_zoned(TimeZone::system()).strftime("%H:%M:%S");
        self.line(&format!("{time}  {text}"));
    }

    /// One line on standard error that is no complaint: what a reader of the output need not have.
    pub fn remark(&self, text: &str) {
        let mut out = io::stderr().lock();
        ignore_closed(writeln!(out, "{text}"));
    }

    /// One line on standard error.
    pub fn complain(&self, text: &str) {
        let mut out = io::stderr().lock();
        // One sentence, one line: some parsers draw pictures.
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        ignore_closed(writeln!(out, "upgrade-agent: {line}"));
    }

    /// Asks a yes-or-no question; none when nobody can answer.
    ///
    /// # Errors
    /// The system's error when the answer cannot be read.
    pub fn confirm(&self, question: &str) -> io::Result<Option<bool>> {
        if !io::stdin().is_terminal() {
            return Ok(None);
        }
        let mut out = io::stderr().lock();
        write!(out, "{question} [y/N] ")?;
        out.flush()?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        Ok(Some(matches!(answer.trim(), "y" | "Y" | "yes")))
    }
}

/// Output that nobody reads must not stop an upgrade.
fn ignore_closed(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::debug!(%error, "nobody reads the output");
    }
}
