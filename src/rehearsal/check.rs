//! Runs a world again and again, each time with another crash schedule, on as many threads as there are, and collects those
//! in which a promise was broken or the upgrade did not come through. What fails can be run again alone: a schedule is
//! nothing but an order.

use std::collections::BTreeMap;
use std::num::NonZero;
use std::sync::{Mutex, PoisonError};

use crate::rehearsal::faults::Fault;
use crate::rehearsal::judge::Invariant;
use crate::rehearsal::schedule::{Cast, Places};
use crate::rehearsal::{Order, RehearsalError, Rehearsed, Stand, rehearse};

/// Which schedules.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Every blow at every place.
    Every,
    /// So many of those, spread evenly.
    Sample(u64),
    /// So many of the deeds of somebody else at every place, spread evenly.
    Others(u64),
    /// So many random sets of several blows.
    Random(u64),
    /// Each failure script alone, about two VMs or nodes.
    Scripts,
    /// So many random sets of scripts with blows.
    Scripted(u64),
}

/// What came of all of them.
#[derive(Debug, Clone, Default)]
pub struct Checked {
    /// Schedules that were run.
    pub run: u64,
    /// Places where the unharmed world can be hit.
    pub effects: usize,
    /// Times that the unharmed agent waits.
    pub awaits: u64,
    /// Schedules in which an operator had to say "go on", by the word of their first blow.
    pub asked: BTreeMap<String, u64>,
    /// Schedules that ended with a hold that their faults allow, by the word of their first one.
    pub held: BTreeMap<String, u64>,
    /// Those that failed, in their order.
    pub failures: Vec<Failure>,
}

/// One schedule that failed.
#[derive(Debug, Clone)]
pub struct Failure {
    /// Run it again with this.
    pub order: Order,
    /// What was seen.
    pub why: Vec<String>,
}

impl Failure {
    /// The seed and faults as the command line takes them.
    #[must_use]
    pub fn flags(&self) -> String {
        let faults: Vec<String> = self.order.faults.iter().map(ToString::to_string).collect();
        format!("--seed {} --faults {}", self.order.seed, faults.join(","))
    }
}

/// Threads that schedules are run on.
#[must_use]
pub fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// Where a world can be hit: found by running it once, unharmed.
///
/// # Errors
/// [`RehearsalError`], also when the unharmed world does not come through: nothing could be told from harming it.
pub fn places(order: &Order) -> Result<Places, RehearsalError> {
    unharmed(order).map(|unharmed| unharmed.places)
}

fn unharmed(order: &Order) -> Result<Rehearsed, RehearsalError> {
    let unharmed = rehearse(order)?;
    if let Some(broken) = unharmed.broken.first() {
        let (what, why) = ("the unharmed world".to_owned(), broken.to_string());
        return Err(RehearsalError::World { what, why });
    }
    match ends_short(&unharmed) {
        None => Ok(unharmed),
        Some(why) => Err(RehearsalError::Holds { why }),
    }
}

/// Runs the schedules; `told` hears after each how many are done.
///
/// # Errors
/// [`RehearsalError`] of the unharmed world.
pub fn check(order: &Order, which: Which, told: impl Fn(u64, u64) + Sync) -> Result<Checked, RehearsalError> {
    let unharmed = unharmed(order)?;
    let places = &unharmed.places;
    let schedules = schedules(&unharmed, order, which);
    let total = schedules.len() as u64;
    let checked = Checked { effects: places.effects.len(), awaits: places.awaits, ..Checked::default() };
    let queue = Mutex::new((schedules.into_iter().enumerate(), checked, BTreeMap::new()));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                // All schedules are of one cluster: each thread builds it once.
                let stand = Stand::build(order);
                loop {
                    let next = queue.lock().unwrap_or_else(PoisonError::into_inner).0.next();
                    let Some((index, faults)) = next else { return };
                    let order = Order { faults: [order.faults.clone(), faults].concat(), ..order.clone() };
                    let outcome = match &stand {
                        Ok(stand) => stand.rehearse(&order),
                        // It says again why there is none.
                        Err(_) => rehearse(&order),
                    };
                    let mut queue = queue.lock().unwrap_or_else(PoisonError::into_inner);
                    let (_, checked, failures) = &mut *queue;
                    checked.run += 1;
                    let why = match outcome {
                        Ok(rehearsed) => {
                            if rehearsed.asked > 0 {
                                *checked.asked.entry(word(&order.faults)).or_insert(0) += 1;
                            }
                            let why = complaints(&rehearsed);
                            if why.is_empty() && !rehearsed.timeline.succeeded {
                                *checked.held.entry(word(&order.faults)).or_insert(0) += 1;
                            }
                            why
                        }
                        Err(error) => vec![error.to_string()],
                    };
                    if !why.is_empty() {
                        failures.insert(index, Failure { order, why });
                    }
                    told(checked.run, total);
                }
            });
        }
    });
    let (_, mut checked, failures) = queue.into_inner().unwrap_or_else(PoisonError::into_inner);
    checked.failures = failures.into_values().collect();
    Ok(checked)
}

/// `kill` of `kill@57`, `cordoned` of `cordoned=node2`.
fn word(faults: &[Fault]) -> String {
    let first = faults.first().map(ToString::to_string).unwrap_or_default();
    first.split(['@', '=']).next().unwrap_or_default().to_owned()
}

/// What nobody may see of a rehearsal: broken promises, and an upgrade that does not come through once its faults are over.
/// Where its faults are such that an operator may be asked for, the judge has seen to it that everybody owed is named.
#[must_use]
pub fn complaints(rehearsed: &Rehearsed) -> Vec<String> {
    let broken = rehearsed.broken.iter().map(ToString::to_string);
    let short = ends_short(rehearsed)
        .map(|why| format!("{:?} broken: it does not come through: {why}", Invariant::I4));
    broken.chain(short).collect()
}

/// Why it does not come through, where its faults are none that an operator may be asked for.
fn ends_short(rehearsed: &Rehearsed) -> Option<String> {
    let timeline = &rehearsed.timeline;
    let still_off = || timeline.vms.iter().filter(|vm| vm.still_off);
    // What lost its power and is kept off by one of the faults, or is off by its user's will, the upgrade has not stopped.
    let holds = !timeline.blocked.is_empty() || still_off().all(|vm| vm.off_by.is_some());
    if timeline.succeeded || (rehearsed.may_hold && holds) {
        return None;
    }
    let blocked = timeline.blocked.first().map(|blocked| blocked.why.clone());
    let off: Vec<String> = still_off().map(|vm| vm.vm.to_string()).collect();
    Some(blocked.unwrap_or_else(|| format!("VMs are off: {}", off.join(", "))))
}

/// So many of them, evenly.
fn spread(all: Vec<Vec<Fault>>, wanted: u64) -> Vec<Vec<Fault>> {
    let step = (all.len() as u64).checked_div(wanted).unwrap_or(1).max(1);
    all.into_iter().step_by(usize::try_from(step).unwrap_or(usize::MAX)).collect()
}

/// The same where each place has so many after each other: no step that would meet the same one at every place.
fn spread_over(all: Vec<Vec<Fault>>, wanted: u64, at_each: usize) -> Vec<Vec<Fault>> {
    let step = (all.len() as u64).checked_div(wanted).unwrap_or(1).max(1);
    let step = usize::try_from(step).unwrap_or(usize::MAX);
    // One more than a multiple of them meets each in turn.
    let step = if step > 1 { (step / at_each * at_each).max(at_each) + 1 } else { 1 };
    all.into_iter().step_by(step).collect()
}

/// What goes wrong in each; the cluster is the same in all, random or not.
fn schedules(unharmed: &Rehearsed, order: &Order, which: Which) -> Vec<Vec<Fault>> {
    let places = &unharmed.places;
    match which {
        Which::Scripts => Cast::of(&unharmed.timeline).singles(),
        Which::Scripted(count) => {
            let cast = Cast::of(&unharmed.timeline);
            let seeds = order.seed..order.seed.saturating_add(count);
            seeds.map(|seed| cast.random(seed, places)).collect()
        }
        Which::Every => places.singles().collect(),
        Which::Sample(wanted) => spread(places.singles().collect(), wanted),
        Which::Others(wanted) => spread_over(places.strangers().collect(), wanted, Places::STRANGERS.len()),
        Which::Random(count) => {
            (order.seed..order.seed.saturating_add(count)).map(|seed| places.random(seed)).collect()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::rehearsal::schedule::EffectKind;

    #[test]
    fn a_part_of_what_others_do_is_some_of_each_deed() {
        let places = Places { effects: vec![EffectKind::File; 454], awaits: 0, lines: Vec::new() };
        for wanted in [100, 200, 220, 227, 454, 500] {
            let part = spread_over(places.strangers().collect(), wanted, Places::STRANGERS.len());
            let words: BTreeSet<String> = part.iter().map(|faults| word(faults)).collect();
            assert_eq!(words.len(), 5, "{wanted}: {words:?}");
            let (run, wanted) = (part.len() as u64, wanted);
            assert!(run >= wanted / 2 && run <= wanted * 2, "{run} of {wanted}");
        }
        assert_eq!(spread_over(places.strangers().collect(), u64::MAX, 5).len(), 5 * 454);
    }
}
