//! What can go wrong between us and systemd, by what the caller can do about it.

use crate::host::systemd::UnitState;

/// Why systemd did not do, or did not say, what was asked.
#[derive(Debug, thiserror::Error)]
pub enum SystemdError {
    /// Nobody to talk to.
    #[error(
        "no connection to systemd over {address}; mount the machine's /run/dbus or name its socket with --system-bus"
    )]
    NoBus {
        /// What was tried.
        address: String,
        /// Why.
        #[source]
        source: zbus::Error,
    },
    /// There is no such unit file.
    #[error("the machine has no unit {unit}; is RKE2 installed here, and in this role?")]
    NoSuchUnit {
        /// The unit.
        unit: String,
    },
    /// systemd will not: fenced, masked, or we are not root of that machine.
    #[error(
        "systemd refuses {method} for {unit} ({why}); see its drop-ins with `systemctl cat {unit}` and run as the machine's root"
    )]
    Refused {
        /// The unit.
        unit: String,
        /// What was asked for.
        method: &'static str,
        /// systemd's words.
        why: String,
    },
    /// Neither up nor failed at the deadline.
    #[error("waited in vain for {unit} {what}, it is {last_state}; see `journalctl -u {unit}`")]
    TimedOut {
        /// The unit.
        unit: String,
        /// What was waited for.
        what: &'static str,
        /// What it was at the end.
        last_state: String,
    },
    /// It will not come up by itself.
    #[error("{unit} did not come up, it is {}; see `journalctl -u {unit}`", state.summary())]
    Failed {
        /// The unit.
        unit: String,
        /// What it is.
        state: Box<UnitState>,
    },
    /// The call itself went wrong.
    #[error("systemd did not answer {method} for {unit}; see whether dbus and systemd are healthy")]
    Bus {
        /// What was asked for.
        method: &'static str,
        /// The unit.
        unit: String,
        /// Why.
        #[source]
        source: zbus::Error,
    },
}

/// Sorts a bus error by who has to act.
pub(super) fn explain(unit: &str, method: &'static str, error: zbus::Error) -> SystemdError {
    let unit = unit.to_owned();
    if let zbus::Error::MethodError(name, why, _) = &error {
        let why = || why.clone().unwrap_or_else(|| name.to_string());
        if name.as_str().ends_with(".systemd1.NoSuchUnit") {
            return SystemdError::NoSuchUnit { unit };
        }
        if name.as_str().starts_with("org.freedesktop.systemd1.")
            || name.as_str().ends_with(".InteractiveAuthorizationRequired")
        {
            return SystemdError::Refused { unit, method, why: why() };
        }
    }
    if let zbus::Error::FDO(standard) = &error
        && let zbus::fdo::Error::AccessDenied(why)
        | zbus::fdo::Error::AuthFailed(why)
        | zbus::fdo::Error::InteractiveAuthorizationRequired(why) = standard.as_ref()
    {
        return SystemdError::Refused { unit, method, why: why.clone() };
    }
    SystemdError::Bus { method, unit, source: error }
}
