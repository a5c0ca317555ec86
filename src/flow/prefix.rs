//! Where RKE2 is installed, by what systemd says of its unit: never assumed (reference `rke2-and-rancher.md` §1.6). Pure.

use crate::flow::skew::Objection;

/// Where the package manager installs it.
pub const PACKAGED: &str = "/usr";

/// The install prefix: `/opt/rke2` when the unit starts `/opt/rke2/bin/rke2`.
///
/// # Errors
/// The unit starts something else, or its file belongs to another installation than the program.
pub fn prefix(exec_start: &str, fragment: &str) -> Result<String, Objection> {
    let objection = |why: String, fix: &str| Objection { why, fix: fix.to_owned() };
    let Some(prefix) = exec_start.strip_suffix("/bin/rke2").filter(|prefix| prefix.starts_with('/')) else {
        let why = format!("the unit starts {exec_start}, which is no <prefix>/bin/rke2");
        return Err(objection(why, "let ExecStart= name RKE2's own binary, as its installer writes it"));
    };
    let owner = fragment.rsplit_once('/').and_then(|(folder, _)| folder.strip_suffix("/lib/systemd/system"));
    // On a system with merged folders /lib is /usr/lib.
    let owner = owner.map(|owner| if owner.is_empty() { PACKAGED } else { owner });
    match owner {
        Some(owner) if owner != prefix => {
            let why = format!("{fragment} belongs to an RKE2 in {owner}, but the unit starts {exec_start}");
            Err(objection(
                why,
                "remove the installation that is not used, or the drop-in that changes ExecStart=, then daemon-reload",
            ))
        }
        // A file of the administrator's, or the installer's for a prefix of its own, says nothing about the place.
        Some(_) | None => Ok(prefix.to_owned()),
    }
}

/// Why a prefix on a read-only file system cannot be upgraded in place.
#[must_use]
pub fn read_only(prefix: &str) -> Objection {
    let why = format!("{prefix} is on a file system that is mounted read-only");
    let fix = if prefix == PACKAGED {
        "RKE2 was installed there by the package manager: upgrade it with the system's own updates, or install it as a tarball below /opt/rke2 (INSTALL_RKE2_TAR_PREFIX)"
    } else {
        "mount it writable; `dmesg` says whether the disk has failed"
    };
    Objection { why, fix: fix.to_owned() }
}

/// Why nothing can be renamed to a live path that is a link, or no file at all.
#[must_use]
pub fn no_file(live: &str) -> Objection {
    let why = format!("{live} is a link or no plain file, and the new version would replace only that");
    Objection { why, fix: "put the binary itself there".to_owned() }
}

/// Why what is staged in a prefix cannot be renamed to a live path on another file system.
#[must_use]
pub fn apart(live: &str, prefix: &str) -> Objection {
    let why = format!("{live} is on another file system than {prefix}, in which the new version is staged");
    Objection { why, fix: format!("let the folder of {live} be one of {prefix} again, no link and no mount") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_found_in_what_systemd_runs() {
        let unit = "rke2-server.service";
        for (exec, folder, expected) in [
            ("/opt/rke2/bin/rke2", "/etc/systemd/system", Ok("/opt/rke2")),
            ("/usr/local/bin/rke2", "/usr/local/lib/systemd/system", Ok("/usr/local")),
            ("/usr/local/bin/rke2", "/etc/systemd/system", Ok("/usr/local")),
            ("/usr/bin/rke2", "/usr/lib/systemd/system", Ok("/usr")),
            ("/usr/bin/rke2", "/lib/systemd/system", Ok("/usr")),
            ("/data/k8s/rke2/bin/rke2", "/run/systemd/transient", Ok("/data/k8s/rke2")),
            ("/opt/rke2/bin/rke2", "/usr/lib/systemd/system", Err("belongs to an RKE2 in /usr")),
            ("/usr/bin/rke2", "/usr/local/lib/systemd/system", Err("belongs to an RKE2 in /usr/local")),
            ("/bin/sh", "/etc/systemd/system", Err("starts /bin/sh")),
            ("rke2", "/etc/systemd/system", Err("no <prefix>/bin/rke2")),
            ("bin/rke2", "/etc/systemd/system", Err("no <prefix>/bin/rke2")),
        ] {
            let found = prefix(exec, &format!("{folder}/{unit}"));
            match (&found, expected) {
                (Ok(found), Ok(expected)) => assert_eq!(found, expected),
                (Err(objection), Err(words)) => {
                    assert!(objection.why.contains(words) && !objection.fix.is_empty(), "{objection:?}");
                }
                other => panic!("{exec} in {folder}: {other:?}"),
            }
        }
    }

    #[test]
    fn a_package_on_a_read_only_system_has_another_cure() {
        assert!(read_only("/usr").fix.contains("INSTALL_RKE2_TAR_PREFIX"));
        assert!(read_only("/opt/rke2").fix.contains("mount it writable"));
    }
}
