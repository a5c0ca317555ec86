//! Who may be where: taints, labels and the company of other pods, as kube-scheduler's filters `TaintToleration`,
//! `NodeAffinity` and `InterPodAffinity` see it (Kubernetes 1.35). Nothing here looks at resources.

use std::collections::BTreeSet;

use super::{Misfit, Mover, Place, Resident};

/// The topology of single nodes.
const HOSTNAME: &str = "kubernetes.io/hostname";

/// A taint that keeps pods away.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Taint {
    /// Its key.
    pub key: String,
    /// Its value, often empty.
    pub value: String,
    /// `NoSchedule` or `NoExecute`.
    pub effect: String,
}

/// What a pod does not mind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Toleration {
    /// The taint's key; any when empty and `exists`.
    pub key: String,
    /// `Exists` rather than `Equal`.
    pub exists: bool,
    /// The taint's value, for `Equal`.
    pub value: String,
    /// The taint's effect; any when empty.
    pub effect: String,
}

impl Toleration {
    pub(super) fn covers(&self, taint: &Taint) -> bool {
        let key = self.key == taint.key || (self.key.is_empty() && self.exists);
        let effect = self.effect.is_empty() || self.effect == taint.effect;
        key && effect && (self.exists || self.value == taint.value)
    }
}

/// How an expression compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operator {
    /// One of the values.
    In,
    /// None of the values; an absent label passes.
    NotIn,
    /// The label is there.
    Exists,
    /// It is not.
    DoesNotExist,
    /// A whole number above the value.
    Gt,
    /// A whole number below the value.
    Lt,
    /// A word that this version does not know: nothing meets it.
    Unknown,
}

/// One condition on a label.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expression {
    /// The label.
    pub key: String,
    /// How it is compared.
    pub operator: Operator,
    /// With what.
    pub values: Vec<String>,
}

impl Expression {
    fn holds(&self, found: Option<&String>) -> bool {
        let listed = found.is_some_and(|found| self.values.contains(found));
        let numbers = || {
            let bound = self.values.first()?.parse::<i64>().ok()?;
            Some((found?.parse::<i64>().ok()?, bound))
        };
        match self.operator {
            Operator::In => listed,
            Operator::NotIn => !listed,
            Operator::Exists => found.is_some(),
            Operator::DoesNotExist => found.is_none(),
            Operator::Gt => numbers().is_some_and(|(found, bound)| found > bound),
            Operator::Lt => numbers().is_some_and(|(found, bound)| found < bound),
            Operator::Unknown => false,
        }
    }
}

/// One term of a required node affinity: all of its expressions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Term {
    /// About labels.
    pub labels: Vec<Expression>,
    /// About fields; the only one that there is is `metadata.name`.
    pub fields: Vec<Expression>,
}

impl Term {
    /// Whether a node meets it.
    pub(crate) fn holds(&self, place: &Place) -> bool {
        let is_empty = self.labels.is_empty() && self.fields.is_empty();
        let labels = self.labels.iter().all(|one| one.holds(place.labels.get(&one.key)));
        let name = |one: &Expression| one.key == "metadata.name" && one.holds(Some(&place.name));
        !is_empty && labels && self.fields.iter().all(name)
    }
}

/// A selector of pods by their labels: all of its expressions. An empty one is every pod.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(pub Vec<Expression>);

/// Pods that matter to a pod, and how near is near.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PodTerm {
    /// Which pods; none when absent.
    pub selector: Option<Selector>,
    /// Of these namespaces; every namespace when empty.
    pub namespaces: Vec<String>,
    /// Nodes with the same value of this label are one place.
    pub topology: String,
}

impl PodTerm {
    fn matches(&self, pod: &Resident) -> bool {
        let named = self.namespaces.is_empty() || self.namespaces.contains(&pod.namespace);
        let all = |selector: &Selector| selector.0.iter().all(|one| one.holds(pod.labels.get(&one.key)));
        named && self.selector.as_ref().is_some_and(all)
    }
}

impl Mover {
    /// Whether it minds who is on other nodes than the one that it goes to: then the pods of all nodes matter.
    #[must_use]
    pub fn minds_neighbours(&self) -> bool {
        !self.together.is_empty() || self.pod.apart.iter().any(|term| term.topology != HOSTNAME)
    }
}

/// A place in some topology: the label and its value.
pub(super) type Domain = (String, String);

/// What the pods that stay mean for one mover.
#[derive(Debug, Default)]
pub(super) struct Company {
    /// Where somebody is that it must be apart from, or that must be apart from it.
    barred: BTreeSet<Domain>,
    /// For each of its terms of togetherness: where somebody is that meets it, and whether anybody is anywhere.
    meets: Vec<BTreeSet<Domain>>,
}

impl Company {
    pub(super) fn of(mover: &Mover, places: &[Place]) -> Self {
        let mut company =
            Self { barred: BTreeSet::new(), meets: vec![BTreeSet::new(); mover.together.len()] };
        for place in places {
            for pod in &place.pods {
                // Its own pod leaves with it, and yet the scheduler does not take it for the first of its group.
                if pod.name != mover.pod.name || pod.namespace != mover.pod.namespace {
                    company
                        .barred
                        .extend(foes(&mover.pod, pod).filter_map(|topology| domain(topology, place)));
                }
                for (term, met) in mover.together.iter().zip(&mut company.meets) {
                    met.extend(term.matches(pod).then(|| domain(&term.topology, place)).flatten());
                }
            }
        }
        company
    }

    /// What keeps the mover from a place because of pods that stay, or of movers that have arrived (`there`, with theirs).
    pub(super) fn misfit(
        &self,
        mover: &Mover,
        place: &Place,
        there: &[(&Resident, &Place)],
    ) -> Option<Misfit> {
        let is_barred = |(label, value): &Domain| domain(label, place).is_some_and(|(_, own)| own == *value);
        if self.barred.iter().any(is_barred) {
            return Some(Misfit::Company("has a VM or pod that it must be apart from".to_owned()));
        }
        let near = |topology: &str, other: &Place| {
            domain(topology, place).is_some() && domain(topology, place) == domain(topology, other)
        };
        if there.iter().any(|(pod, at)| foes(&mover.pod, pod).any(|topology| near(topology, at))) {
            return Some(Misfit::Company("would get a VM that it must be apart from".to_owned()));
        }
        let alone = mover.together.iter().zip(&self.meets).any(|(term, met)| {
            let own = domain(&term.topology, place);
            let stays = own.as_ref().is_some_and(|own| met.contains(own));
            let arrived = there.iter().any(|(pod, at)| term.matches(pod) && near(&term.topology, at));
            // The first of a group that wants to be together may be anywhere.
            let is_first = met.is_empty() && term.matches(&mover.pod) && own.is_some();
            !(stays || arrived || is_first && !there.iter().any(|(pod, _)| term.matches(pod)))
        });
        alone.then(|| Misfit::Company("has no VM or pod that it has to be with".to_owned()))
    }
}

/// The topologies in which two pods must be apart, because of either.
fn foes<'a>(one: &'a Resident, other: &'a Resident) -> impl Iterator<Item = &'a str> {
    let by = |who: &'a Resident, whom: &'a Resident| who.apart.iter().filter(|term| term.matches(whom));
    by(one, other).chain(by(other, one)).map(|term| term.topology.as_str())
}

/// Where a node is in a topology; nowhere without its label.
fn domain(topology: &str, place: &Place) -> Option<Domain> {
    // A node whose host name label is missing is still a place of its own.
    let own = (topology == HOSTNAME).then_some(&place.name);
    let value = place.labels.get(topology).or(own)?;
    Some((topology.to_owned(), value.clone()))
}

/// What keeps a mover from a place whoever else is there.
pub(super) fn misfit(mover: &Mover, place: &Place) -> Option<Misfit> {
    // A host name never changes; every other label may be back when the node is.
    let elsewhere =
        mover.node_selector.get(HOSTNAME).filter(|wanted| place.labels.get(HOSTNAME) != Some(*wanted));
    if let Some(wanted) = elsewhere {
        return Some(Misfit::Unlike(format!("has no label {}", label(HOSTNAME, wanted))));
    }
    if let Some(why) = place.closed {
        return Some(Misfit::Closed(why));
    }
    if let Some((key, value)) =
        mover.node_selector.iter().find(|(key, value)| place.labels.get(*key) != Some(*value))
    {
        return Some(Misfit::Unlike(format!("has no label {}", label(key, value))));
    }
    if !mover.node_terms.is_empty() && !mover.node_terms.iter().any(|term| term.holds(place)) {
        return Some(Misfit::Unlike(format!("does not meet its node affinity ({})", wanted(mover))));
    }
    let minded = |taint: &&Taint| !mover.tolerations.iter().any(|one| one.covers(taint));
    place.taints.iter().find(minded).map(|taint| Misfit::Tainted(label(&taint.key, &taint.value)))
}

fn label(key: &str, value: &str) -> String {
    if value.is_empty() { key.to_owned() } else { format!("{key}={value}") }
}

/// The labels that a node affinity asks for, for people.
fn wanted(mover: &Mover) -> String {
    let terms = mover.node_terms.iter().flat_map(|term| term.labels.iter().chain(&term.fields));
    let keys: BTreeSet<&str> = terms.map(|one| one.key.as_str()).collect();
    keys.into_iter().collect::<Vec<_>>().join(", ")
}
