//! The wire: where the bus is, and the part of systemd's manager interface that we use.

#![expect(clippy::disallowed_methods, reason = "the only door to the machine")]

use std::fmt;
use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use zbus::{Connection, OwnedObjectPath, Variant};

use crate::host::fs::{hex, parent};
use crate::host::root::HostRoot;

/// systemd's name on the bus.
pub(super) const SYSTEMD: &str = "org.freedesktop.systemd1";
pub(super) const UNIT: &str = "org.freedesktop.systemd1.Unit";
pub(super) const SERVICE: &str = "org.freedesktop.systemd1.Service";

/// Room for a path in a socket address, its closing zero included.
const SUN_PATH: usize = 108;

/// Where the machine's system bus is.
#[derive(Debug, Clone)]
pub enum BusAddress {
    /// This process's own system bus, as `DBUS_SYSTEM_BUS_ADDRESS` or the usual place says.
    System,
    /// The socket of a bus, as seen from here.
    Socket(PathBuf),
    /// A connection that somebody made.
    Given(Connection),
}

impl BusAddress {
    /// The usual place below a host root.
    ///
    /// # Errors
    /// The way to the socket cannot be followed.
    pub fn under(root: &HostRoot) -> io::Result<Self> {
        root.resolve("/run/dbus/system_bus_socket").map(Self::Socket)
    }

    pub(super) async fn connect(&self) -> zbus::Result<Connection> {
        match self {
            Self::System => zbus::connection::Builder::system().build().await,
            Self::Socket(path) => {
                let stream = open_socket(path).await.map_err(zbus::Error::from)?;
                zbus::connection::Builder::unix_stream(stream).build().await
            }
            Self::Given(connection) => Ok(connection.clone()),
        }
    }
}

impl fmt::Display for BusAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::System => formatter.write_str("the system bus"),
            Self::Socket(path) => path.display().fmt(formatter),
            Self::Given(_) => formatter.write_str("a given connection"),
        }
    }
}

/// A path that is too long for a socket address is reached through its opened directory.
async fn open_socket(path: &Path) -> io::Result<std::os::unix::net::UnixStream> {
    if path.as_os_str().len() < SUN_PATH {
        return tokio::net::UnixStream::connect(path).await?.into_std();
    }
    let dir = OpenOptions::new().read(true).custom_flags(nix::libc::O_PATH).open(parent(path))?;
    let name = path.file_name().unwrap_or_default();
    let short = Path::new("/proc/self/fd").join(dir.as_raw_fd().to_string()).join(name);
    tokio::net::UnixStream::connect(short).await?.into_std()
}

/// What a call ends with that got no answer in time.
pub(super) fn silent() -> zbus::Error {
    io::Error::new(io::ErrorKind::TimedOut, "no answer in time").into()
}

/// A unit's object: all but letters and digits are escaped, and a digit at the beginning, as `systemctl` does it.
pub(super) fn unit_path(unit: &str) -> String {
    let mut path = "/org/freedesktop/systemd1/unit/".to_owned();
    for (at, byte) in unit.bytes().enumerate() {
        if byte.is_ascii_alphabetic() || (at > 0 && byte.is_ascii_digit()) {
            path.push(char::from(byte));
        } else {
            path.push('_');
            path.push_str(&hex(&[byte]));
        }
    }
    path
}

/// Properties of a transient unit, as `StartTransientUnit` takes them.
pub(super) type Settings<'a> = [(&'a str, Variant<'a>)];

/// The manager's methods. `JobRemoved` and its result are deliberately absent: properties are the truth.
#[zbus::proxy(
    interface = "org.freedesktop.systemd1.Manager",
    default_service = "org.freedesktop.systemd1",
    default_path = "/org/freedesktop/systemd1"
)]
pub(super) trait Manager {
    fn start_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn stop_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn restart_unit(&self, name: &str, mode: &str) -> zbus::Result<OwnedObjectPath>;
    fn reset_failed_unit(&self, name: &str) -> zbus::Result<()>;
    fn reload(&self) -> zbus::Result<()>;
    fn subscribe(&self) -> zbus::Result<()>;
    fn start_transient_unit(
        &self,
        name: &str,
        mode: &str,
        properties: &Settings<'_>,
        aux: &[(&str, &Settings<'_>)],
    ) -> zbus::Result<OwnedObjectPath>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_found_under_the_names_that_systemd_gives_them() {
        let folder = "/org/freedesktop/systemd1/unit/";
        for (unit, object) in [
            ("rke2-server.service", "rke2_2dserver_2eservice"),
            ("a@1.service", "a_401_2eservice"),
            ("1.mount", "_31_2emount"),
        ] {
            assert_eq!(unit_path(unit), format!("{folder}{object}"));
        }
    }

    #[tokio::test]
    async fn reaches_a_socket_whose_path_is_too_long_for_an_address() {
        let dir = tempfile::tempdir().unwrap();
        let deep = dir.path().join("d".repeat(120));
        std::fs::create_dir_all(&deep).unwrap();
        let near = dir.path().join("socket");
        let listener = tokio::net::UnixListener::bind(&near).unwrap();
        let far = deep.join("system_bus_socket");
        std::fs::rename(&near, &far).unwrap();
        assert!(far.as_os_str().len() > SUN_PATH);
        let (opened, accepted) = tokio::join!(open_socket(&far), listener.accept());
        opened.unwrap();
        accepted.unwrap();
    }
}
