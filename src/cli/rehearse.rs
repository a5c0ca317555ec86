//! `rehearse`: the whole upgrade of a cluster, real or made up, in virtual time; and every crash in it.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use anyhow::anyhow;

use crate::cli::terminal::Terminal;
use crate::cli::{Exit, Failure, Output, source};
use crate::flow::plan::{Evacuation, NodePlan, VersionChange};
use crate::flow::plan_error::PlanError;
use crate::flow::version::Rke2Version;
use crate::host::fs::Fs;
use crate::rehearsal::check::{self, Checked, Which};
use crate::rehearsal::faults::{self, Fault};
use crate::rehearsal::unblock::smallest_change;
use crate::rehearsal::{Order, Rehearsed, Scene, chart, rehearse};
use crate::sim::import::{Import, LARGEST_FILE, check_size};
use crate::sim::seed::Preset;

/// Without a cluster or a plan: what Harvester v1.7 runs, and what v1.8 brings.
const FROM: &str = "v1.34.2+rke2r1";
const TO: &str = "v1.35.6+rke2r1";
/// Failed schedules that are printed.
const MOST_FAILURES: usize = 10;

/// What is to be rehearsed.
#[derive(Debug, Clone, clap::Args)]
#[command(after_long_help = faults::help())]
pub struct RehearseArgs {
    /// Objects of a real cluster, exported with kubectl (docs/rehearse.md); may be given several times.
    #[arg(long, value_name = "FILE", conflicts_with = "world")]
    cluster: Vec<PathBuf>,
    /// A made-up cluster: default (3 nodes, 60 VMs, 6 with devices), small (1, 8), pair (2, 8) or `NODESxVMS`.
    #[arg(long, value_name = "NAME", default_value = "default")]
    world: String,
    /// Versions and evacuation policies of this plan; its node and artifact do not matter.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// The version to upgrade to; by default the next minor one.
    #[arg(long, value_name = "VERSION")]
    to: Option<Rke2Version>,
    /// Decides whatever varies: the same seed gives the same timeline.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// What goes wrong, separated by commas; `help` lists the words.
    #[arg(long, value_name = "FAULTS", value_delimiter = ',')]
    faults: Vec<String>,
    /// Harm it again and again: `every` single blow, `sample=N` of them, `random=N` sets of several; each of the `scripts`
    /// alone, or `scripted=N` sets of scripts and blows; `others`, or `others=N`: somebody else is root there, at every place.
    #[arg(long, value_name = "WHICH", value_parser = which)]
    crashes: Option<Which>,
    /// How to print.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

fn which(text: &str) -> Result<Which, String> {
    let count = |count: &str| count.parse::<u64>().ok().filter(|count| *count > 0);
    match text.split_once('=') {
        None if text == "every" => Ok(Which::Every),
        None if text == "scripts" => Ok(Which::Scripts),
        Some(("scripted", number)) => {
            count(number).map(Which::Scripted).ok_or_else(|| "scripted=N, N at least 1".to_owned())
        }
        None if text == "others" => Ok(Which::Others(u64::MAX)),
        Some(("others", number)) => {
            count(number).map(Which::Others).ok_or_else(|| "others=N, N at least 1".to_owned())
        }
        Some(("sample", number)) => {
            count(number).map(Which::Sample).ok_or_else(|| "sample=N, N at least 1".to_owned())
        }
        Some(("random", number)) => {
            count(number).map(Which::Random).ok_or_else(|| "random=N, N at least 1".to_owned())
        }
        _ => Err("every, sample=N, others, others=N, random=N, scripts or scripted=N".to_owned()),
    }
}

/// Rehearses, and prints what came of it.
///
/// # Errors
/// Exit code 2 for input that cannot be rehearsed.
pub fn print(args: &RehearseArgs, terminal: &Terminal) -> Result<Exit, Failure> {
    if args.faults == ["help"] {
        terminal.line(faults::help().trim_end());
        return Ok(Exit::Done);
    }
    let order = order(args, terminal)?;
    let begun = Instant::now();
    if let Some(which) = args.crashes {
        return crashes(args, &order, which, terminal);
    }
    let mut rehearsed = rehearse(&order).map_err(Failure::usage)?;
    terminal.remark(&format!("rehearsed in {:.3} s", begun.elapsed().as_secs_f64()));
    if let [blocked, ..] = rehearsed.timeline.blocked.as_mut_slice() {
        let change = smallest_change(&order, &rehearsed.nodes).map_err(Failure::usage)?;
        blocked.change = change.map(|change| change.to_string());
    }
    for note in &rehearsed.notes {
        terminal.remark(note);
    }
    match args.output {
        Output::Table => terminal.line(&chart::chart(&rehearsed.timeline)),
        Output::Json => {
            let json = serde_json::to_string_pretty(&rehearsed.timeline).map_err(Failure::failed)?;
            terminal.line(&json);
        }
    }
    for broken in &rehearsed.broken {
        terminal.complain(&format!("{broken}; that is a bug of this agent, please report it"));
    }
    Ok(verdict(&rehearsed))
}

fn verdict(rehearsed: &Rehearsed) -> Exit {
    if !rehearsed.broken.is_empty() {
        Exit::Failed
    } else if rehearsed.timeline.succeeded {
        Exit::Done
    } else {
        Exit::Operator
    }
}

fn crashes(args: &RehearseArgs, order: &Order, which: Which, terminal: &Terminal) -> Result<Exit, Failure> {
    let begun = Instant::now();
    let told = |run: u64, total: u64| {
        if run.is_multiple_of(1000) {
            terminal.remark(&format!("{run} of {total} schedules"));
        }
    };
    let checked = check::check(order, which, told).map_err(Failure::usage)?;
    let seconds = begun.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = checked.run as f64 / seconds.max(0.001);
    terminal.remark(&format!("{rate:.0} schedules/s on {} threads", check::threads()));
    let Checked { run, effects, awaits, asked, held, failures } = &checked;
    terminal.line(&format!(
        "{run} crash schedules over {effects} effects and {awaits} awaits: {} failed",
        failures.len()
    ));
    let (asked_by, held_by) = (by_word(asked), by_word(held));
    terminal.line(&format!("{} needed an operator's \"go on\"{asked_by}", asked.values().sum::<u64>()));
    if !held.is_empty() {
        let sum = held.values().sum::<u64>();
        terminal.line(&format!("{sum} ended with a hold that names everybody who is owed a start{held_by}"));
    }
    let world = scene_flags(args);
    for failure in failures.iter().take(MOST_FAILURES) {
        terminal.line(&format!("FAILED: upgrade-agent rehearse {world}{}", failure.flags()));
        for why in &failure.why {
            terminal.line(&format!("  {why}"));
        }
    }
    if let Some(first) = failures.first() {
        let rehearsed = rehearse(&first.order).map_err(Failure::usage)?;
        terminal.line(&format!("\nThe first of them:\n{}", chart::chart(&rehearsed.timeline)));
        return Ok(Exit::Failed);
    }
    Ok(Exit::Done)
}

/// ` (kill 3, power 1)`.
fn by_word(counts: &std::collections::BTreeMap<String, u64>) -> String {
    let words: Vec<String> = counts.iter().map(|(word, count)| format!("{word} {count}")).collect();
    if words.is_empty() { String::new() } else { format!(" ({})", words.join(", ")) }
}

/// What makes the command mean the same world again, each flag with a blank behind it.
fn scene_flags(args: &RehearseArgs) -> String {
    let files = args.cluster.iter().map(|file| format!("--cluster {} ", file.display()));
    let made_up = args.cluster.is_empty() && args.world != "default";
    let world = made_up.then(|| format!("--world {} ", args.world));
    let plan = args.plan.as_ref().map(|plan| format!("--plan {} ", plan.display()));
    let to = args.to.as_ref().map(|to| format!("--to {to} "));
    files.chain(world).chain(plan).chain(to).collect()
}

fn order(args: &RehearseArgs, terminal: &Terminal) -> Result<Order, Failure> {
    let plan = args.plan.as_deref().map(source::plan_file).transpose()?;
    let scene = scene(args, terminal)?;
    let faults = args.faults.iter().map(|text| text.parse::<Fault>()).collect::<Result<Vec<_>, _>>();
    let (from, only) = match (&scene, &plan) {
        (_, Some(NodePlan { rke2, .. })) => (rke2.from.clone(), Vec::new()),
        (Scene::Preset(_), None) => (FROM.parse().map_err(Failure::failed)?, Vec::new()),
        (Scene::Objects(objects), None) => version_of(objects, terminal)?,
    };
    let to = match (&args.to, &plan, &scene) {
        (Some(to), ..) => to.clone(),
        (None, Some(plan), _) => plan.rke2.to.clone(),
        (None, None, Scene::Preset(_)) => TO.parse().map_err(Failure::failed)?,
        (None, None, Scene::Objects(_)) => from.next_minor(),
    };
    if to <= from {
        return Err(Failure::usage(anyhow!("{to} is not newer than {from}; give --to a newer version")));
    }
    if (VersionChange { from: from.clone(), to: to.clone() }).skips_minor() {
        return Err(Failure::usage(PlanError::SkipsMinor { from, to }));
    }
    Ok(Order {
        scene,
        seed: args.seed,
        faults: faults.map_err(Failure::usage)?,
        immutable_binary: plan.as_ref().is_some_and(|plan| plan.immutable_binary),
        evacuation: plan.map_or_else(Evacuation::default, |plan| plan.evacuation),
        from,
        to,
        only,
        changes: Vec::new(),
    })
}

fn scene(args: &RehearseArgs, terminal: &Terminal) -> Result<Scene, Failure> {
    if args.cluster.is_empty() {
        return preset(&args.world).map(Scene::Preset);
    }
    let mut import = Import::default();
    for file in &args.cluster {
        let size = Fs::kernel().length(file).map_err(|error| Failure::usage(error.named()))?;
        check_size(file, size).map_err(Failure::usage)?;
        let bytes = Fs::read_named(file, LARGEST_FILE).map_err(Failure::usage)?;
        check_size(file, bytes.len() as u64).map_err(Failure::usage)?;
        import.add(file, &bytes).map_err(Failure::usage)?;
    }
    let imported = import.finish().map_err(Failure::usage)?;
    for line in imported.ignored.iter().chain(&imported.warnings) {
        terminal.remark(line);
    }
    Ok(Scene::Objects(Arc::new(imported.objects)))
}

fn preset(name: &str) -> Result<Preset, Failure> {
    let sized = |text: &str| {
        let (nodes, vms) = text.split_once('x')?;
        let (nodes, vms) = (nodes.parse::<usize>().ok()?, vms.parse::<usize>().ok()?);
        (nodes > 0 && nodes <= 5000 && vms <= 200_000).then(|| Preset::sized(nodes, vms, vms / 10))
    };
    match name {
        "default" => Ok(Preset::default()),
        "small" => Ok(Preset::small()),
        "pair" => Ok(Preset::pair()),
        other => sized(other).ok_or_else(|| {
            Failure::usage(anyhow!("--world {other}: default, small, pair, or NODESxVMS such as 5x100"))
        }),
    }
}

/// The version that most nodes run, and those that do.
fn version_of(
    objects: &[serde_json::Value],
    terminal: &Terminal,
) -> Result<(Rke2Version, Vec<String>), Failure> {
    let text = |object: &serde_json::Value, pointer: &str| {
        object.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default().to_owned()
    };
    let mut by_version = std::collections::BTreeMap::<Rke2Version, Vec<String>>::new();
    // Longhorn has Nodes as well.
    let is_node =
        |object: &&serde_json::Value| text(object, "/kind") == "Node" && text(object, "/apiVersion") == "v1";
    for node in objects.iter().filter(is_node) {
        let (name, version) = (text(node, "/metadata/name"), text(node, "/status/nodeInfo/kubeletVersion"));
        match version.parse() {
            Ok(version) => by_version.entry(version).or_default().push(name),
            Err(error) => return Err(Failure::usage(anyhow!("node {name} runs no RKE2: {error}"))),
        }
    }
    let Some((from, nodes)) = by_version.pop_first() else {
        return Err(Failure::usage(anyhow!("there is no node in the export; export nodes as well")));
    };
    for (version, nodes) in by_version {
        terminal.remark(&format!("{} run {version} already and are left as they are", nodes.join(", ")));
    }
    Ok((from, nodes))
}
