//! What somebody else who is root does to a machine while an upgrade is under way: an installer, an operator, the kernel. The agent
//! is not asked.

use std::path::Path;

use nix::errno::Errno;

use super::SimMachine;
use super::disk::CutMode;
use super::release::binary;
use crate::host::effects::Opening;

/// A release that nobody has ordered.
pub const OTHER_RELEASE: &str = "v1.36.1+rke2r1";

/// One deed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deed {
    /// `kill -9` of RKE2.
    Kills,
    /// `systemctl restart` of RKE2.
    Restarts,
    /// A reboot in good order: all that was written is on the disk.
    Reboots,
    /// Another release unpacked over the live path, as `tar` does it.
    Unpacks,
    /// That, and then RKE2 and the agent are killed.
    UnpacksAndKills,
}

impl Deed {
    /// Does the agent's process end with it?
    #[must_use]
    pub fn ends_the_agent(self) -> bool {
        match self {
            Self::Reboots | Self::UnpacksAndKills => true,
            Self::Kills | Self::Restarts | Self::Unpacks => false,
        }
    }
}

impl SimMachine {
    /// Somebody does this now.
    pub fn suffers(&self, deed: Deed) {
        match deed {
            Deed::Kills => self.kill_rke2(),
            Deed::Restarts => match self.stranger_restarts() {
                Ok(()) => self.obeyed_others(),
                Err(why) => tracing::debug!(why, "systemd refuses somebody else's restart"),
            },
            Deed::Reboots => self.power_cut(CutMode::KeepAll),
            Deed::Unpacks => self.unpack_over_live(),
            Deed::UnpacksAndKills => {
                self.unpack_over_live();
                self.kill_rke2();
            }
        }
    }

    fn kill_rke2(&self) {
        self.crash_rke2(137);
    }

    /// What an immutable flag or a full disk refuses is not done.
    fn unpack_over_live(&self) {
        self.with(|state| {
            let live = state.spec.layout.live();
            let disk = &mut state.disk;
            let mut unpack = || -> Result<(), Errno> {
                let live = Path::new(&live);
                disk.unlink(live)?;
                let file = disk.create(live, Opening::New, 0o755)?;
                disk.append(file.ino, &binary(OTHER_RELEASE)).map(drop)
            };
            if let Err(error) = unpack() {
                tracing::debug!(%error, "the other release could not be unpacked");
            }
        });
    }
}
