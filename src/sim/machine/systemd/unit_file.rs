//! Unit files and drop-ins, read from the machine's disk with systemd's own order of folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::sim::machine::disk::Disk;

/// Where units are looked for; the first one wins.
const FOLDERS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/local/lib/systemd/system",
    "/usr/lib/systemd/system",
];

/// What systemd has loaded of one unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(in crate::sim::machine) struct UnitFile {
    pub(super) fragment: String,
    pub(super) drop_ins: Vec<(String, Arc<Vec<u8>>)>,
    /// What it runs; nothing where no `ExecStart=` says so.
    pub(super) start: Command,
    /// What it runs before that.
    pub(super) pre: Vec<Command>,
    pub(super) refuse_start: bool,
    pub(super) refuse_stop: bool,
}

/// A command line of a unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) argv: Vec<String>,
    pub(super) may_fail: bool,
}

impl Command {
    /// The words of systemd.syntax(7), as far as installers and fences write them: no specifier but `%%`.
    fn read(line: &str) -> Self {
        let (mut argv, mut word, mut is_quoted) = (Vec::new(), None::<String>, false);
        let mut rest = line.trim_start_matches('-').chars();
        while let Some(next) = rest.next() {
            match next {
                '"' => {
                    is_quoted = !is_quoted;
                    word.get_or_insert_default();
                }
                ' ' if !is_quoted => argv.extend(word.take()),
                '\\' | '%' => word.get_or_insert_default().extend(rest.next()),
                other => word.get_or_insert_default().push(other),
            }
        }
        argv.extend(word);
        Self { argv, may_fail: line.starts_with('-') }
    }

    pub(super) fn program(&self) -> &str {
        self.argv.first().map(String::as_str).unwrap_or_default()
    }
}

impl UnitFile {
    /// Reads a unit as it is on disk now; none when there is no file for it.
    pub(in crate::sim::machine) fn load(disk: &Disk, name: &str) -> Option<Self> {
        let mut found = FOLDERS.iter().map(|folder| Path::new(folder).join(name));
        let (fragment, text) = found.find_map(|path| Some((path.clone(), disk.read(&path).ok()?)))?;
        let mut unit = Self { fragment: fragment.display().to_string(), ..Self::default() };
        unit.read(&text);
        let mut drop_ins: BTreeMap<String, PathBuf> = BTreeMap::new();
        for folder in FOLDERS.iter().rev() {
            let folder = Path::new(folder).join(format!("{name}.d"));
            for path in disk.read_dir(&folder).unwrap_or_default() {
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                if path.extension().is_some_and(|ending| ending == "conf") {
                    drop_ins.insert(file, path);
                }
            }
        }
        for path in drop_ins.into_values() {
            if let Ok(text) = disk.read(&path) {
                unit.read(&text);
                unit.drop_ins.push((path.display().to_string(), text));
            }
        }
        Some(unit)
    }

    /// The upgrade whose guard is asked before each start, and heard.
    pub(super) fn guard_of(&self) -> Option<&str> {
        let is_guard = |one: &&Command| !one.may_fail && one.argv.get(1).is_some_and(|word| word == "guard");
        let guard = self.pre.iter().find(is_guard)?;
        let after = guard.argv.iter().skip_while(|word| *word != "--upgrade").nth(1);
        Some(after.map(String::as_str).unwrap_or_default())
    }

    /// Does a drop-in on disk refuse orders to it?
    pub(in crate::sim::machine) fn is_fenced(&self) -> bool {
        self.refuse_start && self.refuse_stop
    }

    /// Is it started at boot?
    pub(in crate::sim::machine) fn is_enabled(disk: &Disk, name: &str) -> bool {
        let wants = Path::new("/etc/systemd/system/multi-user.target.wants").join(name);
        disk.stat(&wants, true).is_ok()
    }

    fn read(&mut self, text: &[u8]) {
        let text = String::from_utf8_lossy(text);
        let mut section = "";
        for line in text.lines().map(str::trim) {
            if line.starts_with('[') {
                section = line;
            }
            let Some((key, value)) = line.split_once('=') else { continue };
            match (section, key.trim_end()) {
                ("[Unit]", "RefuseManualStart") => self.refuse_start = is_yes(value),
                ("[Unit]", "RefuseManualStop") => self.refuse_stop = is_yes(value),
                // An empty one takes back what was said before.
                ("[Service]", "ExecStartPre") if value.is_empty() => self.pre.clear(),
                ("[Service]", "ExecStartPre") => self.pre.push(Command::read(value)),
                ("[Service]", "ExecStart") => self.start = Command::read(value),
                _ => {}
            }
        }
    }
}

fn is_yes(value: &str) -> bool {
    matches!(value.trim(), "yes" | "true" | "on" | "1" | "y" | "t")
}
