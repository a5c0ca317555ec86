//! Whether etcd can spare this server's member for the time of a restart, by what etcd itself says of every member (reference
//! `rke2-and-rancher.md` §6). Pure; who asks etcd is `host::etcd`.

use std::fmt;

use crate::flow::skew::Objection;

/// A healthy follower is some hundred entries behind at most, also while Kubernetes writes as fast as it can; all members are
/// asked at the same moment.
const LAG_ALLOWED: u64 = 1000;

/// What etcd says of its members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdSeen {
    /// The member of this machine.
    pub me: u64,
    /// All of them.
    pub members: Vec<Member>,
    /// What is raised, with the member that it is about.
    pub alarms: Vec<(u64, Alarm)>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its number.
    pub id: u64,
    /// Its name; empty as long as it was only added and has not started.
    pub name: String,
    /// Where others reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it; none as long as it has not started.
    pub client_urls: Vec<String>,
    /// It copies and does not vote.
    pub is_learner: bool,
    /// What it says itself.
    pub health: Health,
}

/// What a member says when it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Health {
    /// It answers.
    Answers(Status),
    /// It does not, or not so that it can be read; why.
    Silent(String),
}

/// A member's own status.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Status {
    /// The leader that it knows; zero for none.
    pub leader: u64,
    /// The last entry that it knows to be committed.
    pub committed: u64,
    /// The last entry that it has applied.
    pub applied: u64,
    /// It says that it is a learner.
    pub is_learner: bool,
    /// What it complains of.
    pub errors: Vec<String>,
}

/// What etcd raises an alarm for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Alarm {
    /// The database is as large as it may be: nothing is written any more.
    NoSpace,
    /// The members' data differ.
    Corrupt,
    /// One that is not known here, by its number.
    Other(i32),
}

impl fmt::Display for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoSpace => f.write_str("NOSPACE"),
            Self::Corrupt => f.write_str("CORRUPT"),
            Self::Other(number) => write!(f, "alarm {number}"),
        }
    }
}

impl Alarm {
    fn cure(&self) -> &'static str {
        match self {
            Self::NoSpace => "compact and defragment etcd, then `etcdctl alarm disarm`",
            Self::Corrupt => "remove that member and let its server join anew, then `etcdctl alarm disarm`",
            Self::Other(_) => "see `etcdctl alarm list` and etcd's own log",
        }
    }
}

/// What becomes of etcd while this server's member is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Spare {
    /// The others, so many, keep the quorum.
    Yes(usize),
    /// One or two members vote: the API is away while this one restarts.
    ApiAway(usize),
    /// It must not go.
    No(Objection),
}

impl fmt::Display for Spare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Yes(others) => write!(f, "{others} other members, all of them well"),
            Self::ApiAway(voters) => {
                write!(f, "{voters} voting members: the API is away while RKE2 restarts")
            }
            Self::No(objection) => f.write_str(&objection.why),
        }
    }
}

impl Member {
    /// As an operator knows it.
    fn label(&self) -> String {
        if self.name.is_empty() {
            let place = self.peer_urls.first().cloned().unwrap_or_else(|| format!("{:x}", self.id));
            format!("member at {place}")
        } else {
            format!("member {}", self.name)
        }
    }

    /// What shows that it was added and does not vote yet.
    fn joining(&self) -> Option<&'static str> {
        if self.name.is_empty() || self.client_urls.is_empty() {
            return Some("was added and has not started");
        }
        if self.is_learner {
            return Some("is a learner and does not vote");
        }
        let says = matches!(&self.health, Health::Answers(status) if status.is_learner);
        says.then_some("says that it is a learner")
    }

    /// Why it cannot be depended on; `newest` is the last entry that any member has.
    fn complaint(&self, newest: u64) -> Option<String> {
        if let Some(joining) = self.joining() {
            return Some(joining.to_owned());
        }
        let status = match &self.health {
            Health::Silent(why) => return Some(format!("does not answer: {why}")),
            Health::Answers(status) => status,
        };
        let behind = newest.saturating_sub(status.applied);
        if !status.errors.is_empty() {
            Some(format!("says: {}", status.errors.join(", ")))
        } else if status.leader == 0 {
            Some("knows no leader".to_owned())
        } else {
            (behind > LAG_ALLOWED).then(|| format!("is {behind} entries behind"))
        }
    }
}

/// May this server's member go away for a while? With three voting members or more only when every other one has started, votes,
/// answers, has no complaint and is up to date; with an alarm never.
#[must_use]
pub fn spare(seen: &EtcdSeen) -> Spare {
    if let Some(raised) = seen.alarms.first() {
        return seen.refuse_for(raised);
    }
    if !seen.members.iter().any(|member| member.id == seen.me) {
        let why = format!("this machine's member {:x} is not in etcd's own list of members", seen.me);
        return no(why, "it was removed from the cluster: let this server join anew first");
    }
    // Of one or two voters the quorum is lost anyway; who is about to become one still needs all of them.
    let mut others = seen.members.iter().filter(|member| member.id != seen.me && seen.voters() < 3);
    match others.find_map(|member| Some(format!("{} {}", member.label(), member.joining()?))) {
        Some(why) => no(why, "wait until it votes, or remove it with `etcdctl member remove`"),
        None => seen.without_own(),
    }
}

/// The same where this server's own member may be what is broken, as on the way back from an RKE2 that does not serve: what is
/// wrong with it is what the restart is to mend, so only the others count.
#[must_use]
pub fn spare_unwell(seen: &EtcdSeen) -> Spare {
    match seen.alarms.iter().find(|(id, _)| *id != seen.me) {
        Some(raised) => seen.refuse_for(raised),
        None => seen.without_own(),
    }
}

fn no(why: String, fix: &str) -> Spare {
    Spare::No(Objection { why, fix: fix.to_owned() })
}

impl EtcdSeen {
    fn refuse_for(&self, (id, alarm): &(u64, Alarm)) -> Spare {
        let who = self.members.iter().find(|member| member.id == *id);
        let label = who.map_or_else(|| format!("member {id:x}"), Member::label);
        no(format!("etcd has raised {alarm} for {label}"), alarm.cure())
    }

    fn voters(&self) -> usize {
        self.members.iter().filter(|member| !member.is_learner).count()
    }

    /// Whether the others are enough.
    fn without_own(&self) -> Spare {
        let voters = self.voters();
        if voters < 3 {
            return Spare::ApiAway(voters);
        }
        let statuses = self.members.iter().filter_map(|member| match &member.health {
            Health::Answers(status) => Some(status.committed.max(status.applied)),
            Health::Silent(_) => None,
        });
        let newest = statuses.max().unwrap_or(0);
        let others = || self.members.iter().filter(|member| member.id != self.me);
        let complaints =
            others().filter_map(|member| Some(format!("{} {}", member.label(), member.complaint(newest)?)));
        let complaints: Vec<String> = complaints.collect();
        if complaints.is_empty() {
            return Spare::Yes(others().count());
        }
        no(complaints.join("; "), "mend them first: etcd loses its quorum when this member is away as well")
    }
}

#[cfg(test)]
#[path = "quorum_tests.rs"]
mod tests;
