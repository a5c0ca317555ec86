//! Command lines as systemd reads them in a unit file: what the fence has it run, and what it runs already.

use std::path::Path;

use crate::host::systemd::ExecStart;

/// What systemd runs before each start of a fenced unit; the start fails with it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PreStart(String);

impl PreStart {
    /// A program with its arguments; all paths are the machine's own.
    #[must_use]
    pub fn new(program: &Path, arguments: &[&str]) -> Self {
        // systemd.service(5): `$` begins a variable.
        let word = |text: &str| quoted(text).replace('$', "$$");
        let program = program.display().to_string();
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

/// An `ExecStart=` that says what systemd says; variables in it are resolved as they were.
pub(super) fn pinned(starts: &ExecStart) -> String {
    let (name, arguments) =
        starts.arguments.split_first().map_or((starts.program.as_str(), &[][..]), |(name, all)| (name, all));
    let called = if name == starts.program { "" } else { "@" };
    let may_fail = if starts.may_fail { "-" } else { "" };
    let name = Some(name).filter(|_| !called.is_empty());
    let words: Vec<String> =
        name.into_iter().chain(arguments.iter().map(String::as_str)).map(quoted).collect();
    format!("{may_fail}{called}{} {}", quoted(&starts.program), words.join(" ")).trim_end().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIVE: &str = "/opt/rke2/bin/rke2";

    #[test]
    fn what_is_pinned_is_what_systemd_says() {
        let starts = |arguments: &[&str], may_fail| ExecStart {
            program: LIVE.to_owned(),
            arguments: arguments.iter().map(|&one| one.to_owned()).collect(),
            may_fail,
        };
        for (starts, line) in [
            (starts(&[LIVE, "server"], false), r#""/opt/rke2/bin/rke2" "server""#),
            (starts(&[LIVE], true), r#"-"/opt/rke2/bin/rke2""#),
            (
                starts(&["k8s", "server", "$ARGS", "50%", "a \"b\""], false),
                r#"@"/opt/rke2/bin/rke2" "k8s" "server" "$ARGS" "50%%" "a \"b\"""#,
            ),
        ] {
            assert_eq!(pinned(&starts), line);
        }
    }

    #[test]
    fn a_path_is_one_word_for_systemd() {
        assert_eq!(
            PreStart::new(Path::new("/x/upgrade-agent"), &["guard", "--state-dir", "/a b/50%"]).line(),
            "\"/x/upgrade-agent\" \"guard\" \"--state-dir\" \"/a b/50%%\""
        );
    }
}
