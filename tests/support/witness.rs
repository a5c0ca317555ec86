//! A witness on a machine: before each start of RKE2, after the guard has had its say, the machine itself writes down what is
//! about to run and what the journal holds by then. And a gate, at which a start waits before the guard looks.

#![expect(unreachable_pub, reason = "one module for several programs")]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::LIVE;

const STARTS: &str = "/var/lib/rke2-starts";
const DROP_INS: &str = "etc/systemd/system/rke2-server.service.d";
/// As long as the first file is there, starts wait, and say so with the second.
const SHUT: &str = "/var/lib/rke2-gate-shut";
const WAITS: &str = "/var/lib/rke2-gate-waits";

/// What was about to run, and how often the journal held these two by then.
pub struct Start {
    pub sha256: String,
    pub drained: usize,
    pub intended: usize,
}

/// Lays out both on a machine's disk; systemd has to read its unit files again.
pub fn install(disk: &Path) {
    let witness = format!(
        "#!/bin/sh\n\
         held() {{ cat /var/lib/rancher/upgrade-agent/*/journal.jsonl 2>/dev/null | grep -c '\"record\":\"'$1'\"'; }}\n\
         echo \"$(sha256sum {LIVE} | cut -c1-64) $(held preDrained) $(held swapIntent)\" >>{STARTS}\n"
    );
    let gate = format!(
        "#!/bin/sh\n\
         [ -e {SHUT} ] || exit 0\n\
         touch {WAITS}\n\
         while [ -e {SHUT} ]; do sleep 0.05; done\n\
         rm -f {WAITS}\n"
    );
    // The agent's own drop-in, with its guard, sorts between them.
    for (order, name, program) in [("10", "rke2-gate", gate), ("zzzz", "rke2-witness", witness)] {
        let path = format!("usr/local/bin/{name}");
        std::fs::write(disk.join(&path), program).unwrap();
        std::fs::set_permissions(disk.join(&path), std::fs::Permissions::from_mode(0o755)).unwrap();
        let drop_in = disk.join(DROP_INS).join(format!("{order}-{name}.conf"));
        std::fs::write(drop_in, format!("[Service]\nExecStartPre=/{path}\n")).unwrap();
    }
}

/// What it has written down so far.
pub fn starts(disk: &Path) -> Vec<Start> {
    let file = disk.join(STARTS.trim_start_matches('/'));
    let text = std::fs::read_to_string(file).unwrap_or_default();
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split(' ').collect();
            assert_eq!(words.len(), 3, "what the witness wrote: {line:?}");
            let count = |word: &str| word.parse().unwrap();
            Start { sha256: words[0].to_owned(), drained: count(words[1]), intended: count(words[2]) }
        })
        .collect()
}

/// Shut for as long as it lives.
pub struct Gate {
    shut: PathBuf,
    waits: PathBuf,
}

impl Gate {
    pub fn shut(disk: &Path) -> Self {
        let file = |path: &str| disk.join(path.trim_start_matches('/'));
        let gate = Self { shut: file(SHUT), waits: file(WAITS) };
        // Of one that was killed while it waited.
        std::fs::remove_file(&gate.waits).ok();
        std::fs::write(&gate.shut, "").unwrap();
        gate
    }

    pub fn has_somebody_waiting(&self) -> bool {
        self.waits.exists()
    }
}

impl Drop for Gate {
    fn drop(&mut self) {
        std::fs::remove_file(&self.shut).unwrap();
    }
}
