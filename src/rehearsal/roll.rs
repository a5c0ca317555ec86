//! The roll: nodes one after the other, each in as many lives of the agent as its faults make necessary, with an operator
//! who comes when one is asked for. Plain and in order until there is a controller.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use crate::agent::carry_out::Carried;
use crate::agent::driver::Ended;
use crate::flow::record::Outcome;
use crate::rehearsal::director::Director;
use crate::rehearsal::faults::Fault;
use crate::rehearsal::judge::{Binaries, Invariant};
use crate::rehearsal::life::{Account, Lived, Stage, live, plan_of};
use crate::rehearsal::schedule::{EffectKind, Places};
use crate::rehearsal::storage::Storage;
use crate::rehearsal::timeline::{Blocked, Timeline, Told, VmLine, node_line, seconds_between};
use crate::rehearsal::unblock::NodeState;
use crate::rehearsal::world::{Ground, Seat, World};
use crate::rehearsal::{Order, RehearsalError, Rehearsed};
use crate::sim::machine::release::{binary, sha256};
use jiff::Timestamp;

/// systemd starts the agent again after this.
const RESTART: Duration = Duration::from_secs(2);
/// The daemon tries again after this when it could not begin, or its journal could not be written.
const TRY_AGAIN: Duration = Duration::from_secs(15);
/// An operator comes after this, where faults come from outside and pass.
const OPERATOR: Duration = Duration::from_mins(10);
/// More lives than this, and it does not come to an end.
const MOST_LIVES: u32 = 60;
/// More time than this, and it does not come to an end either.
const LONGEST: Duration = Duration::from_hours(72);

/// How long the cluster may take afterwards until all is quiet.
const SETTLE: Duration = Duration::from_mins(20);

/// How long before a node is closed somebody has ordered a VM onto it: its target pod has just found its place.
const ON_ITS_WAY: Duration = Duration::from_secs(1);

/// How a node's turn ended.
enum Turn {
    Done,
    Asks(String),
    WentBack(String),
    NoEnd(String),
}

/// What all lives of a rehearsal add up to.
#[derive(Default)]
struct Sum {
    effects: Vec<EffectKind>,
    awaits: u64,
    requests: u64,
    asked: u32,
}

pub(super) async fn roll(order: &Order, ground: Ground) -> Result<Rehearsed, RehearsalError> {
    let desk: Arc<std::sync::OnceLock<Director>> = Arc::default();
    let ear = Arc::downgrade(&desk);
    let world = World::build(ground, order, move |namespace, name| {
        if let Some(director) = ear.upgrade().as_ref().and_then(|desk| desk.get()) {
            director.stop_heard(namespace, name);
        }
    })?;
    let nodes: Vec<String> = world
        .nodes
        .iter()
        .filter(|node| order.only.is_empty() || order.only.contains(*node))
        .cloned()
        .collect();
    if nodes.is_empty() {
        return Err(RehearsalError::NoNodes);
    }
    let both = Binaries {
        old: sha256(&binary(&order.from.to_string())),
        new: sha256(&binary(&order.to.to_string())),
    };
    let binaries: BTreeMap<String, Binaries> =
        nodes.iter().map(|node| (node.clone(), both.clone())).collect();
    let states = states(&world)?;
    let director = Director::new(&world.server, world.clock, (order, world.troubles.clone()), binaries);
    desk.get_or_init(|| director.clone());
    let storage = Storage::follow(&world.server);
    let following = tokio::spawn(director.clone().follow());
    let stage = Stage {
        server: world.server.clone(),
        clock: world.clock,
        listener: Arc::new(director.clone()),
        troubles: world.troubles.clone(),
    };
    let (mut sum, mut lines, mut blocked) = (Sum::default(), Vec::new(), Vec::new());
    let mut told = Told::default();
    for node in &nodes {
        storage.heals().await;
        let seat = world.seat(node)?;
        director.begin(node, &seat);
        if director.turn_begins(node).await {
            tokio::time::sleep(ON_ITS_WAY).await;
        }
        let mut starts = 0;
        let through = take_through(order, &stage, &seat, &mut sum, &mut starts);
        let turn = match tokio::time::timeout(LONGEST, through).await {
            Ok(turn) => turn,
            Err(_) => Turn::NoEnd(format!("{node} was not done after {} h", LONGEST.as_secs() / 3600)),
        };
        let ended = conclude(&director, &world, node, &turn);
        let entries = director.take_lines(node);
        lines.push(node_line(node, &entries, world.start, ended.to_owned(), starts));
        told.read(&entries);
        if let Turn::Asks(why) | Turn::WentBack(why) | Turn::NoEnd(why) = turn {
            blocked.push(Blocked { node: node.clone(), why, change: None });
            break;
        }
    }
    for node in nodes.iter().skip(lines.len()) {
        lines.push(node_line(node, &[], world.start, "not begun".to_owned(), 0));
    }
    let now = world.clock.now();
    settle(&director).await;
    world.is_sound()?;
    following.abort();
    let vms = vm_lines(&director, told, now);
    let still_off = !director.with_judge(|judge| judge.off_now()).is_empty();
    let timeline = Timeline {
        seed: order.seed,
        faults: order.faults.iter().map(ToString::to_string).collect(),
        succeeded: blocked.is_empty() && !still_off,
        nodes: lines,
        vms,
        vm_count: director.with_judge(|judge| judge.vm_count()),
        blocked,
        seconds: seconds_between(world.start, now),
        requests: sum.requests,
    };
    let asked = sum.asked;
    let places = Places { effects: sum.effects, awaits: sum.awaits, lines: director.written() };
    let (broken, oddities) = (director.broken(), world.notes.clone());
    let may_hold = Fault::may_hold(&order.faults);
    Ok(Rehearsed { timeline, broken, nodes: states, places, asked, may_hold, notes: oddities })
}

/// Everybody who noticed the upgrade.
fn vm_lines(director: &Director, told: Told, now: Timestamp) -> Vec<VmLine> {
    let Told { mut moved, forced } = told;
    let mut vms: Vec<VmLine> = director.with_judge(|judge| {
        let away = judge.away(now);
        away.map(|(vm, away)| VmLine {
            vm: vm.clone(),
            moved_to: moved.remove(vm).unwrap_or_default(),
            off: Some(away.off),
            forced: away.forced || forced.contains(vm),
            still_off: away.still_off,
            off_by: away.not_ours,
        })
        .collect()
    });
    let stayed =
        |(vm, moved_to)| VmLine { vm, moved_to, off: None, forced: false, still_off: false, off_by: None };
    vms.extend(moved.into_iter().map(stayed));
    vms.sort_by(|a, b| a.vm.cmp(&b.vm));
    vms
}

/// Guests that lost their power are `KubeVirt`'s to start; it gets the time that it needs.
async fn settle(director: &Director) {
    let end = tokio::time::Instant::now() + SETTLE;
    while tokio::time::Instant::now() < end && !director.with_judge(|judge| judge.off_now().is_empty()) {
        tokio::time::sleep(Duration::from_secs(5)).await;
        director.look();
    }
}

fn states(world: &World) -> Result<Vec<NodeState>, RehearsalError> {
    let state = |name: &String| {
        let cordoned =
            world.node(name)?.pointer("/spec/unschedulable") == Some(&serde_json::Value::Bool(true));
        Ok(NodeState { name: name.clone(), cordoned })
    };
    world.nodes.iter().map(state).collect()
}

fn conclude(director: &Director, world: &World, node: &str, turn: &Turn) -> &'static str {
    match turn {
        Turn::Done => {
            director.end(node, None);
            "Succeeded"
        }
        Turn::Asks(why) => {
            director.end(node, Some(why));
            "Held"
        }
        Turn::WentBack(why) => {
            director.end(node, Some(why));
            "Rolled back"
        }
        Turn::NoEnd(why) => {
            let now = world.clock.now();
            director.with_judge(|judge| judge.accuse(now, Invariant::I4, why.clone()));
            director.end(node, Some(why));
            "NO END"
        }
    }
}

/// One node, life after life.
async fn take_through(order: &Order, stage: &Stage, seat: &Seat, sum: &mut Sum, starts: &mut u32) -> Turn {
    // Blows pass, and an operator who says "go on" is asked for no more than once by each; flaws stay as they are.
    let mut patience =
        order.faults.iter().filter(|fault| matches!(fault, Fault::At(..) | Fault::KillAtAwait(_))).count();
    // Where flaws are at work as well, who hears the same again knows that "go on" does not help.
    let flaws = order.faults.iter().any(|fault| matches!(fault, Fault::Node(..) | Fault::Vm(..)));
    let mut heard = None;
    loop {
        seat.machine.wait_up().await;
        *starts += 1;
        if *starts > MOST_LIVES {
            return Turn::NoEnd(format!("the agent was started {MOST_LIVES} times and is not done"));
        }
        let before = sum.effects.len() as u64;
        let killed_at = order.faults.iter().find_map(|fault| match fault {
            Fault::KillAtAwait(number) => number.checked_sub(sum.awaits).filter(|number| *number > 0),
            Fault::At(..) | Fault::Node(..) | Fault::Vm(..) => None,
        });
        let blows = plan_of(&order.faults, order.seed, before);
        let account = live(stage, &seat.machine, seat.plan.clone(), blows, killed_at).await;
        let lived = add(sum, account);
        match lived {
            Lived::Died => tokio::time::sleep(RESTART).await,
            Lived::CouldNotBegin => tokio::time::sleep(TRY_AGAIN).await,
            Lived::Ended(carried) => {
                let Carried { ended, .. } = *carried;
                match ended {
                    Ended::Done(Outcome::Succeeded) => return Turn::Done,
                    Ended::Done(Outcome::RolledBack { why }) => return Turn::WentBack(why),
                    Ended::Done(Outcome::Cancelled) => return Turn::Asks("it was cancelled".to_owned()),
                    Ended::Fatal(_) | Ended::Interrupted => tokio::time::sleep(TRY_AGAIN).await,
                    Ended::Held(why) | Ended::Refused(why) if patience == 0 => return Turn::Asks(why),
                    Ended::Held(why) | Ended::Refused(why) => {
                        if flaws && heard.as_ref() == Some(&why) {
                            return Turn::Asks(why);
                        }
                        heard = Some(why);
                        patience -= 1;
                        sum.asked += 1;
                        tokio::time::sleep(OPERATOR).await;
                    }
                }
            }
        }
    }
}

fn add(sum: &mut Sum, account: Account) -> Lived {
    sum.effects.extend(account.effects.iter().map(|effect| kind_of(effect.kind)));
    sum.awaits += account.awaits;
    sum.requests += account.requests;
    account.lived
}

fn kind_of(kind: &str) -> EffectKind {
    if kind == "request" {
        EffectKind::Request
    } else if kind == "run" || kind.starts_with(|first: char| first.is_ascii_uppercase()) {
        EffectKind::Call
    } else {
        EffectKind::File
    }
}
