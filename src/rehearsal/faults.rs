//! The faults that a rehearsal can be given, as values and as text: what `--faults` reads, and what a failing schedule
//! prints so that the same command shows the same failure again. Knows nothing about how a fault is carried out.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use thiserror::Error;

use crate::flow::vms::VmKey;

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
    /// The API server is away for so many seconds from here on.
    Away(u32),
}

impl Blow {
    const WORDS: [(&'static str, Self); 8] = [
        ("kill", Self::Kill),
        ("kill-after", Self::KillAfter),
        ("power", Self::Power),
        ("power-after", Self::PowerAfter),
        ("power-torn", Self::PowerTorn),
        ("full", Self::Full),
        ("broken", Self::Broken),
        ("lost", Self::Lost),
    ];

    /// Does the agent's process end with it?
    #[must_use]
    pub fn ends_the_agent(self) -> bool {
        match self {
            Self::Kill | Self::KillAfter | Self::Power | Self::PowerAfter | Self::PowerTorn => true,
            Self::Full | Self::Broken | Self::Lost | Self::Away(_) => false,
        }
    }
}

/// Something about the cluster or a machine that is so from the beginning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Flaw {
    /// A guest that never reacts to its power button.
    GuestIgnoresShutdown,
    /// A guest whose memory changes faster than it can be copied.
    MigrationNeverConverges,
    /// A VM that its user starts, as soon as it is off.
    UserStarts,
    /// A node that nothing new is scheduled to, by its operator's wish.
    Cordoned,
    /// A node without room for another VM.
    NoRoom,
    /// A node whose devices are gone after the restart of RKE2.
    DeviceLost,
    /// A machine with a VM process that the API does not know, once pre-drain is done.
    StrayGuest,
    /// The new RKE2 ends at once, each time it is started.
    Rke2Crashes,
    /// The new RKE2 never becomes ready.
    Rke2Hangs,
    /// The new RKE2 comes up and reports the old version.
    Rke2WrongVersion,
    /// The new RKE2 comes up and dies a minute later, each time.
    Rke2Dies,
}

/// What a flaw is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Vm,
    Node,
}

impl Flaw {
    const WORDS: [(&'static str, Self, Of, &'static str); 11] = [
        (
            "guest-ignores-shutdown",
            Self::GuestIgnoresShutdown,
            Of::Vm,
            "its guest never reacts to the power button",
        ),
        (
            "migration-never-converges",
            Self::MigrationNeverConverges,
            Of::Vm,
            "its memory changes faster than it is copied",
        ),
        ("user-starts", Self::UserStarts, Of::Vm, "its user starts it as soon as it is off"),
        ("cordoned", Self::Cordoned, Of::Node, "its operator has cordoned it"),
        ("no-room", Self::NoRoom, Of::Node, "it has no memory left for another VM"),
        ("device-lost", Self::DeviceLost, Of::Node, "its devices are gone after the restart"),
        (
            "stray-guest",
            Self::StrayGuest,
            Of::Node,
            "a VM process stays that the API does not know, once pre-drain is done",
        ),
        ("rke2-crashes", Self::Rke2Crashes, Of::Node, "the new RKE2 ends at once, each time"),
        ("rke2-hangs", Self::Rke2Hangs, Of::Node, "the new RKE2 never becomes ready"),
        (
            "rke2-wrong-version",
            Self::Rke2WrongVersion,
            Of::Node,
            "the new RKE2 comes up and reports the old version",
        ),
        ("rke2-dies", Self::Rke2Dies, Of::Node, "the new RKE2 dies a minute after each start"),
    ];

    fn word(self) -> &'static str {
        Self::WORDS.iter().find(|(_, flaw, ..)| *flaw == self).map_or("", |(word, ..)| word)
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
            let known = Flaw::WORDS.iter().find(|(known, ..)| *known == word);
            let (_, flaw, kind, _) = known.ok_or_else(no_fault)?;
            return match kind {
                Of::Vm => of.parse().map(|vm| Self::Vm(vm, *flaw)).map_err(|_| no_fault()),
                Of::Node if of.is_empty() || of.contains('/') => Err(no_fault()),
                Of::Node => Ok(Self::Node(of.to_owned(), *flaw)),
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
    let mut text = String::from("About one VM (=NAMESPACE/NAME) or one node (=NODE), from the beginning:\n");
    for (word, _, of, does) in Flaw::WORDS {
        let of = match of {
            Of::Vm => "NAMESPACE/NAME",
            Of::Node => "NODE",
        };
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
        ("away@N+SECONDS", "the API server is away for so long from there on"),
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

    #[test]
    fn every_fault_is_read_as_it_is_written() {
        for text in [
            "kill@1",
            "kill-after@57",
            "power@2",
            "power-after@3",
            "power-torn@4",
            "full@5",
            "broken@6",
            "lost@7",
            "away@8+20",
            "await@9",
            "guest-ignores-shutdown=default/db",
            "migration-never-converges=default/db",
            "user-starts=default/db",
            "cordoned=node2",
            "no-room=node2",
            "device-lost=node1",
            "stray-guest=node1",
            "rke2-crashes=node1",
            "rke2-hangs=node1",
            "rke2-wrong-version=node1",
            "rke2-dies=node1",
        ] {
            assert_eq!(text.parse::<Fault>().unwrap().to_string(), text);
            let word = text.split(['@', '=']).next().unwrap();
            assert!(help().contains(word), "{word} is not in the help");
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
