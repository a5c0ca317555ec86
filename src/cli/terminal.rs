//! The one door to standard output and standard error.

use std::borrow::Cow;
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
        ignore_closed(writeln!(out, "{}", printable(text)).and_then(|()| out.flush()));
    }

    /// One line with the time of day in front.
    pub fn dated(&self, at: Timestamp, text: &str) {
        let time = at.to_zoned(TimeZone::system()).strftime("%H:%M:%S");
        self.line(&format!("{time}  {text}"));
    }

    /// One line on standard error that is no complaint: what a reader of the output need not have.
    pub fn remark(&self, text: &str) {
        let mut out = io::stderr().lock();
        ignore_closed(writeln!(out, "{}", printable(text)));
    }

    /// One line on standard error.
    pub fn complain(&self, text: &str) {
        let mut out = io::stderr().lock();
        // One sentence, one line: some parsers draw pictures.
        let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
        ignore_closed(writeln!(out, "upgrade-agent: {}", printable(&line)));
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

/// Texts of a cluster or a file come from others: nothing in them moves the cursor or turns the reading direction. What
/// does is written as JSON would, so that JSON stays what it is.
fn printable(text: &str) -> Cow<'_, str> {
    let is_harmful = |c: char| {
        c.is_control() && !matches!(c, '\n' | '\t')
            || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(is_harmful) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_harmful(c) {
            shown.extend(format!("\\u{:04x}", u32::from(c)).chars());
        } else {
            shown.push(c);
        }
    }
    Cow::Owned(shown)
}

#[cfg(test)]
mod tests {
    use super::printable;

    #[test]
    fn nothing_foreign_reaches_the_terminal_raw() {
        assert_eq!(printable("node1\tä\nnode2"), "node1\tä\nnode2");
        assert_eq!(printable("a\u{1b}[31mb\u{202e}c\u{9b}\r"), "a\\u001b[31mb\\u202ec\\u009b\\u000d");
        let json = serde_json::to_string("a\u{7f}\u{2066}").unwrap();
        assert_eq!(serde_json::from_str::<String>(&printable(&json)).unwrap(), "a\u{7f}\u{2066}");
    }
}
