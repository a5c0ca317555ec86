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

    /// Why it cannot be depended on; `newest` is the last entry that any member has.
    fn complaint(&self, newest: u64) -> Option<String> {
        if self.name.is_empty() || self.client_urls.is_empty() {
            return Some("was added and has not started".to_owned());
        }
        if self.is_learner {
            return Some("is a learner and does not vote".to_owned());
        }
        let status = match &self.health {
            Health::Silent(why) => return Some(format!("does not answer: {why}")),
            Health::Answers(status) => status,
        };
        let behind = newest.saturating_sub(status.applied);
        if status.is_learner {
            Some("says that it is a learner".to_owned())
        } else if !status.errors.is_empty() {
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
    let no = |why: String, fix: &str| Spare::No(Objection { why, fix: fix.to_owned() });
    if let Some((id, alarm)) = seen.alarms.first() {
        let who = seen.members.iter().find(|member| member.id == *id);
        let label = who.map_or_else(|| format!("member {id:x}"), Member::label);
        return no(format!("etcd has raised {alarm} for {label}"), alarm.cure());
    }
    let Some(own) = seen.members.iter().find(|member| member.id == seen.me) else {
        let why = format!("this machine's member {:x} is not in etcd's own list of members", seen.me);
        return no(why, "it was removed from the cluster: let this server join anew first");
    };
    let voters = seen.members.iter().filter(|member| !member.is_learner).count();
    if voters < 3 {
        return Spare::ApiAway(voters);
    }
    let statuses = seen.members.iter().filter_map(|member| match &member.health {
        Health::Answers(status) => Some(status.committed.max(status.applied)),
        Health::Silent(_) => None,
    });
    let newest = statuses.max().unwrap_or(0);
    let others = || seen.members.iter().filter(|member| member.id != own.id);
    let complaints =
        others().filter_map(|member| Some(format!("{} {}", member.label(), member.complaint(newest)?)));
    let complaints: Vec<String> = complaints.collect();
    if complaints.is_empty() {
        return Spare::Yes(others().count());
    }
    no(complaints.join("; "), "mend them first: etcd loses its quorum when this member is away as well")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(id: u64) -> Member {
        let url = format!("https://10.0.0.{id}:2379");
        Member {
            id,
            name: format!("node{id}-1f2e3d"),
            peer_urls: vec![format!("https://10.0.0.{id}:2380")],
            client_urls: vec![url],
            is_learner: false,
            health: Health::Answers(Status {
                leader: 1,
                committed: 9000,
                applied: 9000,
                ..Status::default()
            }),
        }
    }

    fn seen(members: Vec<Member>) -> EtcdSeen {
        EtcdSeen { me: 1, members, alarms: Vec::new() }
    }

    fn says(status: Status) -> Health {
        Health::Answers(Status { leader: 1, committed: 9000, applied: 9000, ..status })
    }

    #[test]
    fn every_other_member_has_to_be_well() {
        let added = Member { name: String::new(), client_urls: Vec::new(), ..member(3) };
        let silent = Health::Silent("connection refused".to_owned());
        let table: [(Member, Option<&str>); 9] = [
            (member(3), None),
            (added, Some("member at https://10.0.0.3:2380 was added and has not started")),
            (Member { is_learner: true, ..member(3) }, Some("is a learner")),
            (
                Member { health: silent, ..member(3) },
                Some("node3-1f2e3d does not answer: connection refused"),
            ),
            (
                Member { health: says(Status { is_learner: true, ..Status::default() }), ..member(3) },
                Some("says that it is a learner"),
            ),
            (
                Member {
                    health: says(Status {
                        errors: vec!["etcdserver: no leader".into()],
                        ..Status::default()
                    }),
                    ..member(3)
                },
                Some("says: etcdserver: no leader"),
            ),
            (
                Member {
                    health: Health::Answers(Status { committed: 9000, applied: 9000, ..Status::default() }),
                    ..member(3)
                },
                Some("knows no leader"),
            ),
            (
                Member {
                    health: Health::Answers(Status {
                        leader: 1,
                        committed: 8000,
                        applied: 7999,
                        ..Status::default()
                    }),
                    ..member(3)
                },
                Some("1001 entries behind"),
            ),
            (
                Member {
                    health: Health::Answers(Status {
                        leader: 1,
                        committed: 9000,
                        applied: 8000,
                        ..Status::default()
                    }),
                    ..member(3)
                },
                None,
            ),
        ];
        for (third, expected) in table {
            // A fourth keeps the voters at three where the third does not vote.
            let spared = spare(&seen(vec![member(1), member(2), third.clone(), member(4)]));
            match (&spared, expected) {
                (Spare::Yes(3), None) => {}
                (Spare::No(objection), Some(words)) => {
                    assert!(objection.why.contains(words) && !objection.fix.is_empty(), "{objection:?}");
                }
                other => panic!("{third:?}: {other:?}"),
            }
        }
        let (down, late) = (Health::Silent("gone".to_owned()), Member { is_learner: true, ..member(4) });
        let Spare::No(objection) =
            spare(&seen(vec![member(1), member(2), Member { health: down, ..member(3) }, late]))
        else {
            panic!("two are unfit");
        };
        assert_eq!(objection.why.matches("member node").count(), 2, "both are named: {}", objection.why);
    }

    #[test]
    fn one_or_two_voters_have_no_quorum_to_keep() {
        assert_eq!(spare(&seen(vec![member(1)])), Spare::ApiAway(1));
        let down = Member { health: Health::Silent("gone".to_owned()), ..member(2) };
        assert_eq!(spare(&seen(vec![member(1), down])), Spare::ApiAway(2));
        let learner = Member { is_learner: true, ..member(3) };
        assert_eq!(spare(&seen(vec![member(1), member(2), learner])), Spare::ApiAway(2));
        assert!(spare(&seen(vec![member(1)])).to_string().contains("API is away"));
    }

    #[test]
    fn an_alarm_and_a_stranger_are_refused_whatever_the_size() {
        for (alarm, words) in
            [(Alarm::NoSpace, "NOSPACE"), (Alarm::Corrupt, "CORRUPT"), (Alarm::Other(9), "alarm 9")]
        {
            for members in [vec![member(1)], vec![member(1), member(2), member(3)]] {
                let alarms = vec![(1, alarm.clone())];
                let Spare::No(objection) = spare(&EtcdSeen { alarms, ..seen(members) }) else {
                    panic!("{alarm} is no reason to go on");
                };
                assert!(objection.why.contains(words) && objection.why.contains("node1"), "{objection:?}");
            }
        }
        let stranger = EtcdSeen { me: 7, ..seen(vec![member(1), member(2), member(3)]) };
        assert!(matches!(spare(&stranger), Spare::No(_)));
    }
}
