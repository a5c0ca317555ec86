//! Schedules of the failure scripts: each alone about several VMs or nodes, and random sets of them with blows, by seed.

use super::Places;
use crate::flow::vms::VmKey;
use crate::rehearsal::faults::{ALL, Described, Fault, Of};
use crate::rehearsal::timeline::Timeline;
use crate::sim::machine::random::Dice;

/// Whom scripts can be about in a world, found by running it once unharmed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Cast {
    nodes: Vec<String>,
    movers: Vec<VmKey>,
    stayers: Vec<VmKey>,
}

impl Cast {
    /// Those of an unharmed rehearsal: who moved, who was shut down.
    #[must_use]
    pub fn of(unharmed: &Timeline) -> Self {
        let (stayers, movers): (Vec<_>, Vec<_>) = unharmed.vms.iter().partition(|vm| vm.off.is_some());
        let keys = |lines: Vec<&crate::rehearsal::timeline::VmLine>| {
            lines.into_iter().map(|line| line.vm.clone()).collect()
        };
        Self {
            nodes: unharmed.nodes.iter().map(|line| line.node.clone()).collect(),
            movers: keys(movers),
            stayers: keys(stayers),
        }
    }

    /// Every script with up to two different VMs or nodes that it can be about.
    #[must_use]
    pub fn singles(&self) -> Vec<Vec<Fault>> {
        let mut all = Vec::new();
        for script in scripts() {
            let whom = self.whom(script);
            let two = whom.first().into_iter().chain(whom.last().filter(|_| whom.len() > 1));
            all.extend(two.map(|fault| vec![fault.clone()]));
        }
        all
    }

    /// One to three scripts with none, one or two blows.
    #[must_use]
    pub fn random(&self, seed: u64, places: &Places) -> Vec<Fault> {
        let mut dice = Dice::new(seed ^ 0x5eed_5c71_0000_0075);
        let scripts: Vec<&Described> = scripts().collect();
        let count = 1 + dice.below(3);
        let mut faults: Vec<Fault> = Vec::new();
        for _ in 0..count {
            let Some(script) = scripts.get(dice.below(scripts.len())) else { continue };
            let whom = self.whom(script);
            let Some(fault) = whom.get(dice.below(whom.len().max(1))) else { continue };
            if !faults.contains(fault) {
                faults.push(fault.clone());
            }
        }
        let blows = dice.below(3);
        faults.extend(places.random(seed).into_iter().take(blows));
        faults
    }

    /// The faults that a script can be in this world.
    fn whom(&self, script: &Described) -> Vec<Fault> {
        let vms = |keys: &[VmKey]| keys.iter().map(|vm| Fault::Vm(vm.clone(), script.flaw)).collect();
        match script.of {
            Of::Node => self.nodes.iter().map(|node| Fault::Node(node.clone(), script.flaw)).collect(),
            Of::Mover => vms(&self.movers),
            Of::Stayer | Of::Device => vms(&self.stayers),
            Of::Vm => vms(&[&self.movers[..], &self.stayers[..]].concat()),
        }
    }
}

fn scripts() -> impl Iterator<Item = &'static Described> {
    ALL.iter().filter(|one| one.script > 0)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::super::EffectKind;
    use super::*;

    fn cast() -> Cast {
        let vms = |names: [&str; 3]| names.map(|name| VmKey::new("default", name)).to_vec();
        Cast {
            nodes: vec!["node1".to_owned(), "node2".to_owned()],
            movers: vms(["a", "b", "c"]),
            stayers: vms(["x", "y", "z"]),
        }
    }

    #[test]
    fn each_script_is_about_two_of_those_that_it_can_be_about() {
        let all = cast().singles();
        assert_eq!(all.len(), 2 * scripts().count());
        let different: BTreeSet<String> = all.iter().map(|faults| faults[0].to_string()).collect();
        assert_eq!(different.len(), all.len());
    }

    #[test]
    fn random_sets_follow_from_their_seed() {
        let places = Places { effects: vec![EffectKind::File; 50], awaits: 20, lines: Vec::new() };
        assert_eq!(cast().random(3, &places), cast().random(3, &places));
        let different: BTreeSet<String> =
            (0..100).map(|seed| format!("{:?}", cast().random(seed, &places))).collect();
        assert!(different.len() > 95, "{}", different.len());
        let flaws = |faults: &[Fault]| faults.iter().filter(|fault| fault.is_flaw()).count();
        assert!((0..100).all(|seed| (1..=3).contains(&flaws(&cast().random(seed, &places)))));
    }
}
