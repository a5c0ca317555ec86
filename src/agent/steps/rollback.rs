//! The way back: where the new RKE2 does not serve and the rules leave the way open, the old binary is put back by the same
//! rename, started and verified like any other. Never goes back twice, and never to a binary that it does not know.

use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use crate::agent::alien::{lies_at, put_in_place};
use crate::agent::guard::mark_of;
use crate::agent::observe::sha256_of;
use crate::agent::quorum;
use crate::agent::run::Run;
use crate::agent::runtime_images::{self, STOP};
use crate::agent::step_error::{StepError, chain};
use crate::cluster::nodes;
use crate::flow::guard::{Kept, new_has_started};
use crate::flow::progress::{Preflighted, SwapFact, Work};
use crate::flow::quorum::Spare;
use crate::flow::record::Record;
use crate::flow::version::Rke2Version;
use crate::flow::way_back::WayBack;
use crate::host::fs::Fs;
use crate::host::swap_file::{self, By};

/// How long the API server may take to say whether it is there.
const ASK: Duration = Duration::from_secs(15);

/// What speaks against the new RKE2.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// It dies within seconds again and again, cannot be executed, or its own ports are silent: its own fault, whatever the cluster
    /// does.
    Local,
    /// It waits, etcd has no leader, or the Node says nothing good; that may be the cluster's fault where no API server answers.
    Silence,
    /// No API server answers, or for too long none did, so nobody can tell.
    Away,
}

/// The version that is, or is to be, in place.
#[must_use]
pub fn wanted(run: &Run) -> &Rke2Version {
    if run.journal.progress().goes_back() { &run.plan.rke2.from } else { &run.plan.rke2.to }
}

/// Gives the new RKE2 up: the run goes back where that is allowed, else it holds with the reason.
///
/// # Errors
/// Needs an operator when there is no way back, or nobody can tell whose fault it is.
pub async fn give_up(run: &mut Run, what: String, evidence: Evidence) -> Result<(), StepError> {
    let (from, to) = (run.plan.rke2.from.clone(), run.plan.rke2.to.clone());
    let doubt = doubt(run, evidence).await;
    if run.journal.progress().goes_back() {
        let doubt = doubt.map(|doubt| format!("; {doubt}")).unwrap_or_default();
        let what = format!(
            "the old {from} does not serve either after the way back: {what}{doubt}; mend it, then resume"
        );
        return Err(StepError::operator(what));
    }
    let kept = match run.journal.progress().swap() {
        Work::Done(fact) => format!("; the old binary is kept at {}", fact.previous),
        Work::Not | Work::Intended(_) => String::new(),
    };
    let held = |why: &str| {
        let what = format!("{to} does not serve after the restart: {what}{kept}");
        StepError::operator(format!("{what}. It is not put back by itself: {why}; mend it, then resume"))
    };
    let way = is_open(run).await;
    if let Some(doubt) = doubt {
        let way = way.err().unwrap_or_else(|| "`upgrade-agent rollback` puts the old one back".to_owned());
        return Err(held(&format!("{doubt}; {way}")));
    }
    match way {
        Ok(()) => Ok(run.record(Record::RollbackIntent { why: format!("{to} does not serve: {what}") })?),
        Err(closed) => Err(held(&closed)),
    }
}

/// Why it may be the cluster's fault; none where it is this machine's.
async fn doubt(run: &Run, evidence: Evidence) -> Option<String> {
    if evidence == Evidence::Local || run.journal.progress().is_only_server() {
        return None;
    }
    match (evidence, api_answers(run).await) {
        (Evidence::Local | Evidence::Silence, Ok(())) => None,
        (Evidence::Away, Ok(())) => {
            Some("the API server did not answer for too long, so it may be the cluster's fault".to_owned())
        }
        // On a server that is its own API server: the others' etcd members say that the cluster is well.
        (_, Err(_)) if matches!(quorum::ask(&run.host.root).await, Ok(Some(Spare::Yes(_)))) => None,
        (_, Err(why)) => {
            Some(format!("the API server does not answer, so it may be the cluster's fault ({why})"))
        }
    }
}

/// An operator asks for the old binary.
///
/// # Errors
/// Refuses where nothing was swapped, the way back is closed, or the new version has been handed over already.
pub async fn ask(run: &mut Run) -> Result<(), StepError> {
    let progress = run.journal.progress();
    if progress.goes_back() {
        return Ok(());
    }
    match progress.swap() {
        Work::Done(_) if !progress.post_drained() => {}
        Work::Done(_) => {
            let what = "the new version is verified and VMs may run under it; start an upgrade of its own to change it";
            return Err(StepError::refuse(what));
        }
        Work::Not => {
            let what = "the old binary is in place still; `spec.control: Cancel` of the NodeUpgrade ends this upgrade";
            return Err(StepError::refuse(what));
        }
        Work::Intended(_) => {
            let what = "the swap was cut off, and which binary is in place is found out first; go on with `upgrade-agent run`, \
                        and ask again when that holds";
            return Err(StepError::refuse(what));
        }
    }
    may_run_again(run).await.map_err(|closed| StepError::refuse(format!("no way back: {closed}")))?;
    Ok(run.record(Record::RollbackIntent { why: "an operator asked for it".to_owned() })?)
}

/// Is the old binary at the live path, though the swap is recorded? Then the boot guard, or somebody, has put it there.
///
/// # Errors
/// The disk's.
pub async fn old_is_live(run: &Run) -> Result<bool, StepError> {
    let (found, fact) = facts(run)?;
    Ok(sha256_of(&run.host, run.host.root.at(&found.live)).await? == fact.from_sha256)
}

/// The boot guard, or somebody, has put the old binary back though the swap is recorded: then this upgrade ends with it, unless
/// the new one has run and the old one must not any more.
///
/// # Errors
/// The disk's, or the journal's. Needs an operator when the old one lies there after the way back was closed.
pub(super) async fn goes_back_unasked(run: &mut Run) -> Result<bool, StepError> {
    if run.journal.progress().goes_back() || !old_is_live(run).await? {
        return Ok(false);
    }
    if let Err(closed) = may_run_again(run).await {
        return Err(push_on(run, &closed).await);
    }
    let why =
        "the old rke2 is in place again, put there by the boot guard or by hand (see journalctl of its unit)";
    run.record(Record::RollbackIntent { why: why.to_owned() })?;
    Ok(true)
}

/// May the old binary run again? As long as the new one never started here, nothing speaks against it.
async fn may_run_again(run: &Run) -> Result<(), String> {
    match new_has_run(run).await {
        Ok(true) => is_open(run).await,
        Ok(false) => Ok(()),
        Err(error) => Err(format!("it cannot be told whether the new one has run ({})", error.sentence())),
    }
}

/// Has the boot guard, or a restart of ours, let the new one start?
///
/// # Errors
/// The disk's.
pub(super) async fn new_has_run(run: &Run) -> Result<bool, StepError> {
    let mark = mark_of(run.journal.state_dir(), &run.plan.upgrade_uid);
    let look = move |fs: &Fs| fs.read_opt(&mark).map_err(StepError::from);
    let is_marked = run.host.root.fs().blocking(look).await?.is_some();
    Ok(new_has_started(run.journal.progress(), is_marked))
}

/// Somebody has put the old binary in place where only the new one may run by now: it goes away again, and people look.
async fn push_on(run: &Run, closed: &str) -> StepError {
    let back = match facts(run) {
        Ok((found, fact)) => {
            let kept = Kept::of(&found.live, &run.plan.rke2).new;
            put_in_place(run, &found.live, &kept, &fact.to_sha256).await
        }
        Err(error) => Err(error),
    };
    let state = match &back {
        Ok(()) => "the new one is in place again".to_owned(),
        Err(error) => format!("the new one could not be put in place again ({})", error.sentence()),
    };
    StepError::operator(format!(
        "the old rke2 was put in place after the new one had run ({closed}); {state}; look who did it, and that {} runs, then resume",
        run.plan.rke2.to
    ))
}

async fn is_open(run: &Run) -> Result<(), String> {
    let found = run.journal.progress().preflighted().ok_or("the journal has no preflight")?;
    let way = WayBack::of(found.role, &run.plan.rke2);
    if way != WayBack::WhileOthersAreOld {
        return way.is_open(None);
    }
    if run.journal.progress().is_only_server() {
        return way.is_open(Some(&[]));
    }
    let asked = nodes::other_servers(&run.cluster.client, &run.plan.node_name);
    let others = tokio::time::timeout(ASK, asked).await.ok().and_then(Result::ok);
    way.is_open(others.as_deref())
}

/// Does the API server answer?
///
/// # Errors
/// Why not.
pub(super) async fn api_answers(run: &Run) -> Result<(), String> {
    match tokio::time::timeout(ASK, nodes::get(&run.cluster.client, &run.plan.node_name)).await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err(format!("no answer in {} s", ASK.as_secs())),
    }
}

/// Stops RKE2 and puts the old binary back; after a crash half-way it looks first.
///
/// # Errors
/// Retries while etcd's other members cannot spare this one. Needs an operator when the kept binary is not the old one; both are left
/// as they are then.
pub async fn put_old_back(run: &mut Run) -> Result<(), StepError> {
    let (found, fact) = facts(run)?;
    let folder = |path: &Path| path.parent().map(Path::to_path_buf).unwrap_or_default();
    let (live, kept) = (run.host.root.at(&found.live), run.host.root.at(&fact.previous));
    let (old, new) = (fact.from_sha256.clone(), fact.to_sha256.clone());
    let fs = run.host.root.fs().clone();
    let now = lies_at(&run.host, live.clone()).await?;
    if now == old {
        // The rename happened; that its directory is on disk is not known after a crash.
        let folder = folder(&live);
        fs.blocking(move |fs| fs.sync_dir(&folder).map_err(StepError::from)).await?;
        runtime_images::put_back(&run.host, &run.plan, &found.unit).await?;
        return Ok(run.record(Record::RolledBack)?);
    }
    let there = sha256_of(&run.host, kept.clone()).await?;
    if there != old {
        return Err(StepError::operator(format!(
            "{} is not the rke2 that was kept (sha256 {there}, was {old}); put that one there, then resume",
            fact.previous
        )));
    }
    // etcd runs on without RKE2 until the old one replaces it: this is the moment to ask whether it can be spared.
    if !run.host.systemd.unit(&found.unit).await?.is_at_rest() {
        quorum::spared(run).await?;
    }
    run.host.systemd.stop_fenced(&found.unit, Instant::now() + STOP).await?;
    runtime_images::put_back(&run.host, &run.plan, &found.unit).await?;
    let is_alien = now != new;
    let given_up = if is_alien { "rke2.barred".to_owned() } else { format!("rke2.bad-{}", run.plan.rke2.to) };
    let given_up = live.with_file_name(given_up);
    let rename = move |fs: &Fs| {
        let swapped = swap_file::put_back(fs, By::Agent, &live, (&kept, &old), &given_up);
        swapped.map_err(|error| StepError::operator(chain(&error)))
    };
    fs.blocking(rename).await?;
    if is_alien {
        run.record(Record::AlienFound { sha256: now, put_back: true })?;
    }
    run.host.systemd.reset_failed(&found.unit).await?;
    Ok(run.record(Record::RolledBack)?)
}

fn facts(run: &Run) -> Result<(Preflighted, SwapFact), StepError> {
    match (run.journal.progress().preflighted(), run.journal.progress().swap()) {
        (Some(found), Work::Done(fact)) => Ok((found.clone(), fact.clone())),
        _ => Err(StepError::operator("the journal has no swap to take back; ask for help")),
    }
}
