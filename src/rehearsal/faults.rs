//! The faults that a rehearsal can be given, as values and as text: what `--faults` reads, and what a failing schedule
//! prints so that the same command shows the same failure again. Knows nothing about how a fault is carried out.

mod flaws;

use std::fmt::{self, Write as _};
use std::str::FromStr;

use thiserror::Error;

use crate::flow::vms::VmKey;
use crate::sim::machine::strangers::Deed;
pub use flaws::{ALL, Described, Ends, Flaw, Of};

/// What happens at one numbered effect: a file operation, a request, or a call to systemd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blow {
    /// The agent dies, the effect does not happen.
    Kill,
    /// The effect happens, then the agent dies.
    KillAfter,
    /// The machine loses its power, the effect does not happen; everything unsynced is lost.
    Power,
    /// The effect happens, then the machine loses its power; everything unsynced is lost.
    PowerAfter,
    /// As [`Blow::PowerAfter`], but what was not synced is on disk or not, whole or in part, as the seed has it.
    PowerTorn,
    /// The disk is full; for a request or a call: it is refused.
    Full,
    /// The disk answers with an I/O error; for a request or a call: the connection breaks before it.
    Broken,
    /// It happens, but the answer is lost.
    Lost,
    /// Somebody else who is root does something to the machine before it.
    Stranger(Deed),
    /// The API server is away for so many seconds from here on.
    Away(u32),
}

impl Blow {
    const WORDS: [(&'static str, Self); 13] = [
        ("kill", Self::Kill),
        ("kill-after", Self::KillAfter),
        ("power", Self::Power),
        ("power-after", Self::PowerAfter),
        ("power-torn", Self::PowerTorn),
        ("full", Self::Full),
        ("broken", Self::Broken),
        ("lost", Self::Lost),
        ("others-kill", Self::Stranger(Deed::Kills)),
        ("others-restart", Self::Stranger(Deed::Restarts)),
        ("others-reboot", Self::Stranger(Deed::Reboots)),
        ("others-unpack", Self::Stranger(Deed::Unpacks)),
        ("others-unpack-kill", Self::Stranger(Deed::UnpacksAndKills)),
    ];

    /// Does the agent's process end with it?
    #[must_use]
    pub fn ends_the_agent(self) -> bool {
        match self {
            Self::Kill | Self::KillAfter | Self::Power | Self::PowerAfter | Self::PowerTorn => true,
            Self::Stranger(deed) => deed.ends_the_agent(),
            Self::Full | Self::Broken | Self::Lost | Self::Away(_) => false,
        }
    }
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// At the effect of this number; they count from 1 over the whole rehearsal.
    At(u64, Blow),
    /// The agent dies at the await of this number.
    KillAtAwait(u64),
    /// A node that is so.
    Node(String, Flaw),
    /// A VM that is so.
    Vm(VmKey, Flaw),
}

impl Fault {
    /// Is it about a VM or a node, and not a blow?
    #[must_use]
    pub fn is_flaw(&self) -> bool {
        match self {
            Self::Node(..) | Self::Vm(..) => true,
            Self::At(..) | Self::KillAtAwait(_) => false,
        }
    }

    /// Does somebody put another binary at the live path?
    #[must_use]
    pub fn unpacks(&self) -> bool {
        matches!(self, Self::At(_, Blow::Stranger(Deed::Unpacks | Deed::UnpacksAndKills)))
    }

    /// May an upgrade with these faults end with an operator being asked for? Where several things go wrong at a time it may.
    #[must_use]
    pub fn may_hold(faults: &[Self]) -> bool {
        if faults.iter().any(Self::unpacks) {
            return true;
        }
        let mut flaws = faults.iter().filter_map(|fault| match fault {
            Self::Node(_, flaw) | Self::Vm(_, flaw) => Some(*flaw),
            Self::At(..) | Self::KillAtAwait(_) => None,
        });
        match (flaws.next(), faults.len()) {
            (None, _) => false,
            (Some(only), 1) => only.described().is_none_or(|known| known.ends == Ends::MayHold),
            (Some(_), _) => true,
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::At(number, Blow::Away(seconds)) => write!(formatter, "away@{number}+{seconds}"),
            Self::At(number, blow) => {
                let word = Blow::WORDS.iter().find(|(_, one)| one == blow).map_or("", |(word, _)| word);
                write!(formatter, "{word}@{number}")
            }
            Self::KillAtAwait(number) => write!(formatter, "await@{number}"),
            Self::Node(node, flaw) => write!(formatter, "{}={node}", flaw.word()),
            Self::Vm(vm, flaw) => write!(formatter, "{}={vm}", flaw.word()),
        }
    }
}

/// Text that is no fault.
#[derive(Debug, Error, PartialEq, Eq)]
#[error("`{0}` is no fault; `rehearse --faults help` lists them")]
pub struct NoFault(String);

impl FromStr for Fault {
    type Err = NoFault;

    fn from_str(text: &str) -> Result<Self, NoFault> {
        let no_fault = || NoFault(text.to_owned());
        if let Some((word, of)) = text.split_once('=') {
            let Described { flaw, of: kind, .. } =
                *ALL.iter().find(|known| known.word == word).ok_or_else(no_fault)?;
            if kind.is_vm() {
                return of.parse().map(|vm| Self::Vm(vm, flaw)).map_err(|_| no_fault());
            }
            return if of.is_empty() || of.contains('/') {
                Err(no_fault())
            } else {
                Ok(Self::Node(of.to_owned(), flaw))
            };
        }
        let (word, place) = text.split_once('@').ok_or_else(no_fault)?;
        let number = |text: &str| text.parse::<u64>().ok().filter(|number| *number > 0).ok_or_else(no_fault);
        if word == "away" {
            let (place, seconds) = place.split_once('+').ok_or_else(no_fault)?;
            let seconds = seconds.parse().map_err(|_| no_fault())?;
            return Ok(Self::At(number(place)?, Blow::Away(seconds)));
        }
        if word == "await" {
            return Ok(Self::KillAtAwait(number(place)?));
        }
        let (_, blow) = Blow::WORDS.iter().find(|(known, _)| *known == word).ok_or_else(no_fault)?;
        Ok(Self::At(number(place)?, *blow))
    }
}

/// All faults with what they do, one a line.
#[must_use]
pub fn help() -> String {
    let mut text = String::from(
        "About one VM (=NAMESPACE/NAME) or one node (=NODE), from the beginning or at its moment:\n",
    );
    for Described { word, of, does, .. } in ALL {
        let of = if of.is_vm() { "NAMESPACE/NAME" } else { "NODE" };
        let form = format!("{word}={of}");
        writeln!(text, "  {form:<42} {does}").ok();
    }
    text.push_str("At effect N (every file operation, request and systemd call counts, from 1):\n");
    for (form, does) in [
        ("kill@N, kill-after@N", "the agent is killed before or after it"),
        (
            "power@N, power-after@N",
            "the machine's power is cut before or after it; what was not synced is lost",
        ),
        ("power-torn@N", "the same after it; what was not synced is lost or not, as the seed has it"),
        ("full@N", "the disk is full; a request or call is refused"),
        ("broken@N", "the disk answers with an error; a request or call is not sent"),
        ("lost@N", "it happens, and its answer is lost"),
        ("others-kill@N", "somebody else kills RKE2 before it"),
        ("others-restart@N", "somebody else has systemd restart RKE2 before it, which a fence refuses"),
        ("others-reboot@N", "somebody else reboots the machine in good order before it"),
        ("others-unpack@N", "somebody else unpacks another release over the live binary before it"),
        ("others-unpack-kill@N", "the same, and RKE2 and the agent are killed"),
        (
            "away@N+SECONDS",
            "neither API server nor other etcd members can be reached for so long; RKE2 bears 15 minutes of it",
        ),
        ("await@N", "the agent is killed where it waits for the Nth time"),
    ] {
        // Writing to a String cannot fail.
        writeln!(text, "  {form:<42} {does}").ok();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first cells of the handbook's tables.
    fn handbook() -> Vec<&'static str> {
        let rows = include_str!("../../docs/rehearse.md").lines().filter(|line| line.starts_with("| `"));
        rows.filter_map(|line| line.split(" | ").next()).collect()
    }

    #[test]
    fn every_fault_is_read_as_it_is_written_and_is_in_help_and_handbook() {
        let rows = handbook();
        for text in [
            "kill@1",
            "kill-after@57",
            "power@2",
            "power-after@3",
            "power-torn@4",
            "full@5",
            "broken@6",
            "lost@7",
            "others-kill@8",
            "others-restart@9",
            "others-reboot@10",
            "others-unpack@11",
            "others-unpack-kill@12",
            "away@8+20",
            "await@9",
        ]
        .map(str::to_owned)
        .into_iter()
        .chain(
            ALL.iter()
                .map(|one| format!("{}={}", one.word, if one.of.is_vm() { "default/db" } else { "node2" })),
        ) {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
            let word = text.split(['@', '=']).next().unwrap();
            assert!(help().contains(word), "{word} is not in the help");
            let forms = [format!("`{word}`"), format!("`{word}@N")];
            let is_it = |cell: &&str| forms.iter().any(|form| cell.contains(form));
            assert!(rows.iter().any(is_it), "docs/rehearse.md has no row for {word}");
        }
    }

    #[test]
    fn what_is_no_fault_is_refused_with_a_way_to_find_one() {
        for text in [
            "",
            "kill",
            "kill@",
            "kill@0",
            "kill@-1",
            "away@5",
            "away@5+x",
            "cordoned=",
            "cordoned=a/b",
            "db=x/y",
            "no-room",
        ] {
            let error = text.parse::<Fault>().unwrap_err().to_string();
            assert!(error.contains("--faults help") && error.contains(text), "{error}");
        }
    }
}
