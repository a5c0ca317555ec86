//! Tables of what etcd may say of its members, and whether one of them can be spared then.

use super::*;

fn member(id: u64) -> Member {
    let url = format!("https://10.0.0.{id}:2379");
    Member {
        id,
        name: format!("node{id}-1f2e3d"),
        peer_urls: vec![format!("https://10.0.0.{id}:2380")],
        client_urls: vec![url],
        is_learner: false,
        health: Health::Answers(Status { leader: 1, committed: 9000, applied: 9000, ..Status::default() }),
    }
}

fn seen(members: Vec<Member>) -> EtcdSeen {
    EtcdSeen { me: 1, members, alarms: Vec::new() }
}

fn at(committed: u64, applied: u64) -> Health {
    Health::Answers(Status { leader: 1, committed, applied, ..Status::default() })
}

fn says(status: Status) -> Health {
    Health::Answers(Status { leader: 1, committed: 9000, applied: 9000, ..status })
}

#[test]
fn who_joins_needs_the_only_voters_as_well() {
    let learner = Member { is_learner: true, ..member(3) };
    let added = Member { name: String::new(), client_urls: Vec::new(), ..member(3) };
    for (members, expected) in [
        (vec![member(1)], None),
        (vec![member(1), member(2)], None),
        (vec![member(1), learner.clone()], Some("member node3-1f2e3d is a learner")),
        (vec![member(1), member(2), learner], Some("member node3-1f2e3d is a learner")),
        (vec![member(1), member(2), added], Some("was added and has not started")),
    ] {
        let found = spare(&seen(members.clone()));
        match (&found, expected) {
            (Spare::ApiAway(_), None) => {}
            (Spare::No(objection), Some(words)) if objection.why.contains(words) => {}
            _ => panic!("{members:?}: {found:?}"),
        }
    }
}

#[test]
fn every_other_member_has_to_be_well() {
    let added = Member { name: String::new(), client_urls: Vec::new(), ..member(3) };
    let silent = Health::Silent("connection refused".to_owned());
    let table: [(Member, Option<&str>); 9] = [
        (member(3), None),
        (added, Some("member at https://10.0.0.3:2380 was added and has not started")),
        (Member { is_learner: true, ..member(3) }, Some("is a learner")),
        (Member { health: silent, ..member(3) }, Some("node3-1f2e3d does not answer: connection refused")),
        (
            Member { health: says(Status { is_learner: true, ..Status::default() }), ..member(3) },
            Some("says that it is a learner"),
        ),
        (
            Member {
                health: says(Status { errors: vec!["etcdserver: no leader".into()], ..Status::default() }),
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
        (Member { health: at(8000, 7999), ..member(3) }, Some("1001 entries behind")),
        (Member { health: at(9000, 8000), ..member(3) }, None),
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
    assert_eq!(spare_unwell(&seen(vec![member(1), member(2), learner])), Spare::ApiAway(2));
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
/// On the way back what is wrong with the own member is what is to be mended; the others count as before.
#[test]
fn a_member_that_is_broken_itself_may_go_where_the_others_are_well() {
    let three = || vec![member(1), member(2), member(3)];
    let raised = |id| EtcdSeen { alarms: vec![(id, Alarm::Corrupt)], ..seen(three()) };
    let removed = EtcdSeen { me: 7, ..seen(three()) };
    for own in [raised(1), removed] {
        assert!(matches!(spare(&own), Spare::No(_)), "{own:?}");
        assert!(matches!(spare_unwell(&own), Spare::Yes(_)), "{own:?}");
    }
    let down = Member { health: Health::Silent("gone".to_owned()), ..member(3) };
    for other in [raised(2), seen(vec![member(1), member(2), down])] {
        assert_eq!(spare_unwell(&other), spare(&other));
        assert!(matches!(spare_unwell(&other), Spare::No(_)), "{other:?}");
    }
}
