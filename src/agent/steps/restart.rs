//! Restart: `RKE2` on the new binary, through systemd, without opening the fence.

use std::pin::Pin;
use std::time::Duration;

use jiff::Timestamp;
use tokio::time::Instant;

use crate::agent::alien::look_once;
use crate::agent::observe::{observe, sha256_of_process};
use crate::agent::run::Run;
use crate::agent::step_error::{Reaction, StepError, chain};
use crate::agent::steps::absence::{API_AWAY, Absence, RKE2_BEARS};
use crate::agent::steps::fence::raise_again;
use crate::agent::steps::rollback::{self, Evidence};
use crate::agent::{gate, quorum};
use crate::flow::plan::Role;
use crate::flow::progress::Work;
use crate::flow::record::Record;
use crate::flow::report::{Blocker, NOBODY};
use crate::flow::step::Step;
use crate::host::systemd::{Restarted, SystemdError, UnitState};

/// How long the other members of etcd may take to be well, and an API server to say so, before an operator is asked.
const UNSPARED: Duration = API_AWAY;
/// They are asked this often.
const ASK_AGAIN: Duration = Duration::from_secs(15);

/// Restarts `RKE2` and waits until another process serves.
///
/// # Errors
/// Needs an operator when it does not come up and the way back is closed; the old binary is kept beside the live one.
pub async fn restart_rke2(run: &mut Run) -> Result<(), StepError> {
    if rollback::goes_back_unasked(run).await? {
        return Ok(());
    }
    let unit = unit(run)?;
    let wait = Waiting::begin(run);
    let before = loop {
        let before = run.host.systemd.unit(&unit).await?;
        if is_started(run, &before).await {
            run.record(Record::RestartIntent { invocation: String::new() })?;
            return wait_until_up(run, &unit, None, How::Waits).await;
        }
        if may_go(run, &before, &wait).await? {
            break before;
        }
    };
    ask_gate(run, &unit, is_gone(&before)).await?;
    run.record(Record::RestartIntent { invocation: before.invocation_id })?;
    restart_and_record(run, &unit).await
}

/// Has somebody else started the binary that is in place: the machine's boot, or systemd after a crash? Then no restart of
/// ours is needed, and no leave for one: the guard has seen to it that nobody ran here.
async fn is_started(run: &Run, state: &UnitState) -> bool {
    if state.is_at_rest() {
        return false;
    }
    let mut lines = run.journal.entries().iter().rev();
    let placed = lines.find(|entry| matches!(entry.record, Record::Swapped | Record::RolledBack));
    if placed.is_some_and(|entry| entry.boot != run.journal.boot()) {
        return true;
    }
    // Of one that ends just now nobody knows what it was.
    let runs = sha256_of_process(&run.host, state.main_pid).await.ok();
    runs.is_some() && runs.as_deref() == run.journal.progress().placed_sha256()
}

async fn restart_and_record(run: &mut Run, unit: &str) -> Result<(), StepError> {
    let before = match run.journal.progress().restart() {
        Work::Intended(invocation) if !invocation.is_empty() => Some(invocation.clone()),
        Work::Intended(_) | Work::Not | Work::Done(_) => None,
    };
    wait_until_up(run, unit, before.as_deref(), How::Restart).await
}

/// How RKE2 comes up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    /// We restart it.
    Restart,
    /// It had ended, and we start it.
    Start,
    /// It is on its way.
    Waits,
}

/// Waits until RKE2 is up, and records what came of it. `before` is the life that this one follows, where that is known. RKE2 waits
/// for an API server before it says that it is ready, and ends when it has waited for a quarter of an hour: the time in which there
/// is none does not count against it, within reason.
async fn wait_until_up(
    run: &mut Run,
    unit: &str,
    before: Option<&str>,
    mut how: How,
) -> Result<(), StepError> {
    let (since, began, mut absence) = (run.now(), Instant::now(), Absence::none_yet(run));
    let (up, evidence) = loop {
        let end = began + patience(run) + absence.allowed();
        say_how_long(run, unit, since, &absence);
        let tried = Instant::now();
        let systemd = &run.host.systemd;
        let work: Pin<Box<dyn Future<Output = _> + Send + '_>> = match how {
            How::Restart => Box::pin(systemd.restart_fenced(unit, end)),
            How::Start => Box::pin(systemd.start_fenced(unit, end)),
            How::Waits => Box::pin(systemd.wait_active(unit, before, end)),
        };
        let up = absence.during(run, work).await;
        how = match &up {
            Err(SystemdError::TimedOut { .. }) => How::Waits,
            // It gave up by itself, and systemd leaves it at that.
            Err(SystemdError::Failed { state, .. })
                if state.is_at_rest() && tried.elapsed() >= RKE2_BEARS =>
            {
                How::Start
            }
            Ok(_) | Err(_) => break (up, Evidence::Local),
        };
        absence.look(run).await;
        if Instant::now() >= began + patience(run) + absence.allowed() {
            // One that no API server answered for too long has not had its time.
            break (up, if absence.is_too_long() { Evidence::Away } else { Evidence::Silence });
        }
    };
    record(run, up, evidence).await
}

/// What came of a start: another process, or a reason to go back.
async fn record(
    run: &mut Run,
    up: Result<Restarted, SystemdError>,
    evidence: Evidence,
) -> Result<(), StepError> {
    match up {
        Ok(up) => {
            if !runs_what_was_placed(run, up.main_pid).await? {
                return started_another(run, up.main_pid).await;
            }
            Ok(run.record(Record::Restarted { invocation: up.invocation_id, pid: up.main_pid })?)
        }
        Err(error @ (SystemdError::Failed { .. } | SystemdError::TimedOut { .. })) => {
            rollback::give_up(run, chain(&error), evidence).await
        }
        Err(error) => Err(error.into()),
    }
}

/// Does this process run the binary that the run has placed?
async fn runs_what_was_placed(run: &Run, pid: u32) -> Result<bool, StepError> {
    let runs = sha256_of_process(&run.host, pid).await.map_err(|error| {
        let why = error.sentence();
        StepError::operator(format!(
            "RKE2 came up (pid {pid}), and it cannot be told what it runs ({why}); resume to look again"
        ))
    })?;
    Ok(Some(runs.as_str()) == run.journal.progress().placed_sha256())
}

/// The boot guard has let another one start than this run has placed: somebody else was at the live path, or a VM came back.
async fn started_another(run: &mut Run, pid: u32) -> Result<(), StepError> {
    if rollback::goes_back_unasked(run).await? {
        return Ok(());
    }
    let version = rollback::wanted(run);
    Err(StepError::operator(format!(
        "RKE2 came up (pid {pid}) with another binary than {version}, which is in place (see journalctl of its unit for the boot \
         guard's reason); stop what installs RKE2 here, then resume: it is restarted"
    )))
}

/// A restart kills the guests of VMs that came back since the swap (reference `kubevirt.md` §5): look again.
async fn ask_gate(run: &Run, unit: &str, rke2_at_rest: bool) -> Result<(), StepError> {
    // What starts now has to pass the guard, whoever has taken the fence away meanwhile.
    raise_again(run).await?;
    let live = run.journal.progress().preflighted().map(|found| found.live.clone()).unwrap_or_default();
    let (node, uid) = (&run.plan.node_name, &run.plan.upgrade_uid);
    let observed = observe(&run.host, &run.cluster.client, node, unit, uid, &live).await;
    match gate::check_restart(&observed, rke2_at_rest) {
        Ok(()) => Ok(()),
        Err(gate::Refusal::CouldNotTell { what, why }) => {
            Err(StepError::retry(format!("before the restart it could not be told {what}: {why}")))
        }
        Err(refusal) => {
            let version = rollback::wanted(run);
            let what = format!("rke2 {version} is in place and waits for its restart, but {refusal}");
            Err(StepError::operator(what))
        }
    }
}

/// After a crash inside the restart: did another process start?
///
/// # Errors
/// As [`restart_rke2`].
pub async fn probe_restart(run: &mut Run) -> Result<(), StepError> {
    if rollback::goes_back_unasked(run).await? {
        return Ok(());
    }
    let unit = unit(run)?;
    let before = match run.journal.progress().restart() {
        Work::Intended(invocation) => invocation.clone(),
        Work::Not | Work::Done(_) => return Err(StepError::operator("no restart is open; nothing to probe")),
    };
    let wait = Waiting::begin(run);
    loop {
        let state = run.host.systemd.unit(&unit).await?;
        // Neither the same process as before nor none at all: the restart has happened, unless the guard let another one start.
        if state.invocation_id != before && !state.is_at_rest() && !runs_another(run, &state).await {
            return wait_until_up(run, &unit, Some(&before), How::Waits).await;
        }
        if may_go(run, &state, &wait).await? {
            ask_gate(run, &unit, is_gone(&state)).await?;
            return restart_and_record(run, &unit).await;
        }
    }
}

/// Is it up, with another binary than the run has placed?
async fn runs_another(run: &Run, state: &UnitState) -> bool {
    state.active_state == "active"
        && runs_what_was_placed(run, state.main_pid).await.is_ok_and(|placed| !placed)
}

/// Since when etcd is waited for, and until when.
struct Waiting {
    since: Timestamp,
    until: Instant,
}

impl Waiting {
    fn begin(run: &Run) -> Self {
        Self { since: run.now(), until: Instant::now() + UNSPARED }
    }
}

/// It does not run: it is at rest, or between two tries of systemd's, none of which may ever succeed.
fn is_gone(state: &UnitState) -> bool {
    state.is_at_rest() || state.main_pid == 0
}

/// May this RKE2 go away now, as far as etcd is concerned? Hours may lie between the swap, which has asked as well, and this. One
/// that does not run has gone already: to bring it up is the cure. False after a pause, in which that may have changed.
async fn may_go(run: &mut Run, state: &UnitState, wait: &Waiting) -> Result<bool, StepError> {
    if is_gone(state) {
        return Ok(true);
    }
    let error = match quorum::spared(run).await {
        Ok(()) => return Ok(true),
        Err(error) if error.reaction == Reaction::Retry => error.sentence(),
        Err(error) => return Err(error),
    };
    let version = rollback::wanted(run);
    let what = format!("rke2 {version} is in place and waits for its restart: {error}");
    if Instant::now() >= wait.until {
        return Err(StepError::operator(format!("{what}; mend that, then resume")));
    }
    run.publish_blockers(vec![Blocker {
        what,
        since: wait.since,
        owner: NOBODY.to_owned(),
        deadline: Some(wait.since + UNSPARED),
        then: "hold".to_owned(),
    }]);
    run.pause(ASK_AGAIN).await?;
    look_once(run, Step::Restart).await?;
    Ok(false)
}

/// The restart takes minutes, and people look.
fn say_how_long(run: &mut Run, unit: &str, since: Timestamp, absence: &Absence) {
    let mut what = format!("{unit} is restarting on {}", rollback::wanted(run));
    let allowed = absence.allowed();
    if !allowed.is_zero() {
        let minutes = allowed.as_secs().div_ceil(60);
        what = format!("{what}; no API server answered for {minutes} min of that, which does not count");
    }
    run.publish_blockers(vec![Blocker {
        what,
        since,
        owner: NOBODY.to_owned(),
        deadline: Some(since + patience(run) + allowed),
        then: "hold".to_owned(),
    }]);
}

/// A server that imports images at start looks like one that hangs: reference `rke2-and-rancher.md` §7.2.
fn patience(run: &Run) -> Duration {
    match run.journal.progress().preflighted().map(|found| found.role) {
        Some(Role::Agent) => Duration::from_mins(10),
        Some(Role::Server) | None => Duration::from_mins(20),
    }
}

fn unit(run: &Run) -> Result<String, StepError> {
    match run.journal.progress().preflighted() {
        Some(found) => Ok(found.unit.clone()),
        None => Err(StepError::operator("the journal names no RKE2 unit; ask for help")),
    }
}
