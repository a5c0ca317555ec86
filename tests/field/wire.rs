//! An API server that errs, loses answers, and is away for 20 seconds in the middle.

use std::collections::HashMap;
use std::sync::Mutex;
use std::time::Duration;

use http::{Method, StatusCode, Uri};
use jiff::Timestamp;
use testbed::proxy::Fate;
use upgrade_agent::cluster::crd::node_upgrade::Control;
use upgrade_agent::sim::world::Shutdown;

use crate::asserts::agent;
use crate::support::Stage;
use crate::support::cast::Cast;
use crate::{Ran, assert_never_off, assert_stopped_once, reported};

/// Of the requests for one thing every fifth write is refused with 500, every fifth with 409, and every seventh is done and answered
/// with 500; every ninth read fails. Counted over all things, whoever asks in the same rhythm would be hit each time.
fn spoil() -> impl Fn(&Method, &Uri, usize) -> Fate {
    let numbers: Mutex<HashMap<(Method, String), usize>> = Mutex::default();
    move |method, uri, _| {
        let (thing, first) = ((method.clone(), uri.path().to_owned()), uri.path().len());
        let mut numbers = numbers.lock().unwrap();
        let number = numbers.entry(thing).or_insert(first);
        *number += 1;
        fate(method, *number)
    }
}

fn fate(method: &Method, number: usize) -> Fate {
    let internal = StatusCode::INTERNAL_SERVER_ERROR;
    if *method == Method::GET {
        return if number % 9 == 4 { Fate::Refused(internal) } else { Fate::Answered };
    }
    match (number % 5, number % 7) {
        (1, _) => Fate::Refused(internal),
        (3, _) => Fate::Refused(StatusCode::CONFLICT),
        (_, 6) => Fate::AnswerLost(internal),
        _ => Fate::Answered,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_conflicts_lost_answers_and_an_outage_cost_no_vm_and_stop_nobody_twice() {
    let mut cast = Cast::named("wire");
    for app in ["app-1", "app-2", "app-3", "app-4"] {
        cast = cast.movable(app, |_| {});
    }
    let cast = cast.bound("quick", |_| {}).bound("slow", |shape| shape.shutdown = Shutdown::Seconds(100));
    let mut stage = Stage::shared(cast).await.unwrap();
    let before = stage.instances().await.unwrap();
    let proxy = stage.behind_proxy(spoil()).await.unwrap();

    stage.order(Control::Run).await.unwrap();
    // Each error in one of the later steps costs a pause as well.
    let run = stage.run_agent_within(Duration::from_mins(30), agent(), &["node", "--once"]);
    let trouble = async {
        // Before that a step is tried again as a whole, after a pause that doubles: half a dozen errors are a minute.
        stage.wait("the cordon", async || stage.records("cordoned") > 0).await.unwrap();
        proxy.spoil(true);
        stage.wait("the first migration", async || stage.records("vmMigrated") > 0).await.unwrap();
        proxy.cut(true);
        tokio::time::sleep(Duration::from_secs(20)).await;
        proxy.cut(false);
        Timestamp::now()
    };
    let (ran, back) = tokio::join!(run, trouble);
    let ran: Ran = ran.unwrap().into();
    ran.assert_done(&stage);
    // How long the rest takes is up to the errors that it meets, each of which may cost another pause; that the agent was not asleep
    // for longer than its longest pause is not: that and the time for an answer are 60 s, and a machine may be busy.
    let idle = first_deed_since(back, &stage, &ran).duration_since(back);
    assert!(
        idle.as_secs() < 150,
        "{idle:#} from the end of the outage to the first that the agent did\n{}",
        ran.said
    );
    assert!(proxy.spoiled() > 5, "only {} requests were spoiled", proxy.spoiled());
    assert_never_off(&stage, &before, &["app-1", "app-2", "app-3", "app-4"]).await;
    assert_stopped_once(&stage, &before, &["quick", "slow"]).await;
    let status = reported(&stage).await;
    assert_eq!((status.phase.as_str(), status.vms.owed), ("Succeeded", 0), "the cluster was told in the end");
}

/// When the agent first recorded something, or failed at something, since then.
fn first_deed_since(then: Timestamp, stage: &Stage, ran: &Ran) -> Timestamp {
    let journal = stage.journal();
    let times = journal.lines().chain(ran.said.lines()).filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let recorded = line["at"].as_str();
        let failed = (line["message"] == "the step is tried again").then(|| line["timestamp"].as_str());
        recorded.or(failed.flatten())?.parse().ok()
    });
    times.filter(|at| *at > then).min().expect("the agent went on")
}
