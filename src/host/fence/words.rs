//! Command lines as systemd reads them in a unit file: what the fence has it run, and what it runs already.

use std::path::{Path, PathBuf};

use crate::host::systemd::ExecCommand;

/// What systemd runs before each start of a fenced unit; the start fails with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreStart(String);

impl PreStart {
    /// A program with its arguments; all paths are the machine's own.
    #[must_use]
    pub fn new(program: &Path, arguments: &[&str]) -> Self {
        // systemd.service(5): `$` begins a variable.
        let word = |text: &str| quoted(text).replace('$', "$$");
        // As systemd shows it again: without doubled slashes.
        let program = program.components().collect::<PathBuf>().display().to_string();
        let all: Vec<String> =
            std::iter::once(program.as_str()).chain(arguments.iter().copied()).map(word).collect();
        Self(all.join(" "))
    }

    /// As it stands in a unit file.
    pub(super) fn line(&self) -> &str {
        &self.0
    }
}

/// A word of a command line: systemd.syntax(7); `%` begins a specifier.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\"").replace('%', "%%"))
}

/// A line that says what systemd says that it runs; variables in it are resolved as they were.
pub(super) fn line_of(command: &ExecCommand) -> String {
    let ExecCommand { program, arguments, prefixes } = command;
    let (name, arguments) =
        arguments.split_first().map_or((program.as_str(), &[][..]), |(name, all)| (name.as_str(), all));
    let called = if name == program { "" } else { "@" };
    let name = Some(name).filter(|_| !called.is_empty());
    let words: Vec<String> =
        name.into_iter().chain(arguments.iter().map(String::as_str)).map(quoted).collect();
    format!("{prefixes}{called}{} {}", quoted(program), words.join(" ")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = "/opt/rke2/bin/rke2";

    #[test]
    fn what_is_pinned_is_what_systemd_says() {
        let starts = |arguments: &[&str], prefixes: &str| ExecCommand {
            program: LIVE.to_owned(),
            arguments: arguments.iter().map(|&one| one.to_owned()).collect(),
            prefixes: prefixes.to_owned(),
        };
        for (starts, line) in [
            (starts(&[LIVE, "server"], ""), r#""/opt/rke2/bin/rke2" "server""#),
            (starts(&[LIVE], "-"), r#"-"/opt/rke2/bin/rke2""#),
            (starts(&["k8s", "$ARGS"], "-:+"), r#"-:+@"/opt/rke2/bin/rke2" "k8s" "$ARGS""#),
            (
                starts(&["k8s", "server", "$ARGS", "50%", "a \"b\""], ""),
                r#"@"/opt/rke2/bin/rke2" "k8s" "server" "$ARGS" "50%%" "a \"b\"""#,
            ),
        ] {
            assert_eq!(line_of(&starts), line);
        }
    }

    #[test]
    fn a_path_is_one_word_for_systemd() {
        assert_eq!(
            PreStart::new(Path::new("/x//upgrade-agent"), &["guard", "--state-dir", "/a b/50%"]).line(),
            "\"/x/upgrade-agent\" \"guard\" \"--state-dir\" \"/a b/50%%\""
        );
    }
}
