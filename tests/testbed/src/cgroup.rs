//! A cgroup for each machine. Without one, two machines would share the names below their supervisors' cgroup,
//! and one systemd would kill the processes of the other's unit of the same name.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

/// The cgroup of one machine: in the unified hierarchy, and in systemd's own where that is mounted as well.
#[derive(Debug)]
pub(crate) struct MachineCgroup {
    name: String,
    dirs: Vec<PathBuf>,
}

impl MachineCgroup {
    /// Finds out where it goes: below the cgroup of this process.
    pub(crate) fn new(name: &str) -> Result<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").context("cannot read /proc/self/cgroup")?;
        let mounts = fs::read_to_string("/proc/self/mounts").context("cannot read /proc/self/mounts")?;
        let dirs = hierarchies(&mounts, &own).into_iter().map(|dir| dir.join(name)).collect();
        Ok(Self { name: name.to_owned(), dirs })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn make(&self) -> Result<()> {
        for dir in &self.dirs {
            fs::create_dir_all(dir)
                .with_context(|| format!("cannot make cgroup {}; are you root?", dir.display()))?;
        }
        Ok(())
    }

    /// The command line that moves itself into the cgroup and then becomes `program`.
    pub(crate) fn enter_and_run(&self, program: &[String]) -> Vec<String> {
        let enter: Vec<String> =
            self.dirs.iter().map(|dir| format!("echo $$ > '{}/cgroup.procs'", dir.display())).collect();
        let script = format!("{} && exec \"$@\"", enter.join(" && "));
        let shell = ["sh", "-c", &script, "sh"].map(str::to_owned);
        shell.into_iter().chain(program.iter().cloned()).collect()
    }

    pub(crate) fn remove(&self) {
        for dir in &self.dirs {
            if dir.exists() && !remove_tree(dir) {
                eprintln!("testbed: cannot remove cgroup {}", dir.display());
            }
        }
    }
}

impl Drop for MachineCgroup {
    fn drop(&mut self) {
        self.remove();
    }
}

/// A cgroup is removed by removing its directory; its files go with it, its children must have gone before.
fn remove_tree(dir: &Path) -> bool {
    let children = fs::read_dir(dir).into_iter().flatten().flatten();
    for child in children.map(|entry| entry.path()).filter(|path| path.is_dir()) {
        remove_tree(&child);
    }
    fs::remove_dir(dir).is_ok()
}

/// This process's cgroup in the hierarchies that systemd keeps its units in.
fn hierarchies(mounts: &str, own: &str) -> Vec<PathBuf> {
    let own_in = |key: &str| own.lines().find_map(|line| line.split_once(':')?.1.strip_prefix(key));
    let mut dirs = Vec::new();
    for line in mounts.lines() {
        let fields: Vec<&str> = line.split(' ').collect();
        let [_, place, kind, options, ..] = fields.as_slice() else {
            continue;
        };
        let path = match *kind {
            "cgroup2" => own_in(":"),
            "cgroup" if options.split(',').any(|option| option == "name=systemd") => own_in("name=systemd:"),
            _ => None,
        };
        if let Some(path) = path {
            dirs.push(Path::new(place).join(path.trim_start_matches('/')));
        }
    }
    dirs
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hybrid_has_two_hierarchies_and_unified_has_one() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "9:name=systemd:/a\n4:memory:/m\n0::/b\n";
        let expected = ["/sys/fs/cgroup/systemd/a", "/sys/fs/cgroup/unified/b"].map(PathBuf::from);
        assert_eq!(hierarchies(hybrid, own), expected);

        let unified = "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n";
        assert_eq!(hierarchies(unified, "0::/user.slice\n"), [PathBuf::from("/sys/fs/cgroup/user.slice")]);
    }
}
