//! A timeline for the terminal: bars per node, the VMs that noticed, what blocks, and one closing sentence. The same
//! timeline gives the same bytes.

use std::fmt::Write as _;

use crate::rehearsal::timeline::{NodeLine, OffBy, Stage, Timeline, VmLine};

/// Columns of the bars.
const WIDTH: u32 = 60;
/// More lines than this of one kind are summed up.
const MOST_LINES: usize = 40;

impl Stage {
    /// Its letter on the chart, and what it stands for.
    fn letter(self) -> (char, &'static str) {
        match self {
            Self::Prepare => ('p', "preflight, stage"),
            Self::Close => ('c', "fence, cordon"),
            Self::Evacuate => ('E', "evacuate VMs"),
            Self::Drain => ('d', "drain pods"),
            Self::Swap => ('s', "swap"),
            Self::Restart => ('R', "restart RKE2"),
            Self::Verify => ('V', "verify"),
            Self::Open => ('o', "uncordon"),
            Self::Restore => ('r', "restore VMs"),
            Self::Hold => ('H', "held for an operator"),
        }
    }
}

/// The whole text, without a newline at its end.
#[must_use]
pub fn chart(timeline: &Timeline) -> String {
    let mut text = bars(timeline);
    text.push('\n');
    text.push_str(&off(timeline));
    for blocked in &timeline.blocked {
        put(&mut text, format_args!("BLOCKED {}: {}\n", blocked.node, blocked.why));
        match &blocked.change {
            Some(change) => put(&mut text, format_args!("  smallest change found: {change}\n")),
            None => text.push_str("  no single change was found that makes it go on\n"),
        }
    }
    text.push_str(&closing(timeline));
    text
}

fn bars(timeline: &Timeline) -> String {
    let name = timeline.nodes.iter().map(|line| line.node.len()).max().unwrap_or(0).max(4);
    let mut text = String::new();
    let scale = timeline.seconds.max(0.001) / f64::from(WIDTH);
    put(
        &mut text,
        format_args!("{:<name$}  {:<60}  ENDED      MOVED  SHUT DOWN\n", "NODE", axis(timeline.seconds)),
    );
    for line in timeline.nodes.iter().take(MOST_LINES) {
        let bar: String = (0..WIDTH).map(|column| cell(line, f64::from(column) * scale, scale)).collect();
        let (ended, moved, shut) = (&line.ended, line.migrated, line.shut_down);
        put(&mut text, format_args!("{:<name$}  {bar}  {ended:<9}  {moved:>5}  {shut:>9}", line.node));
        if line.starts > 1 {
            put(&mut text, format_args!("  (the agent was started {} times)", line.starts));
        }
        text.push('\n');
    }
    if timeline.nodes.len() > MOST_LINES {
        put(&mut text, format_args!("and {} nodes more\n", timeline.nodes.len() - MOST_LINES));
    }
    let seen =
        |stage: &Stage| timeline.nodes.iter().any(|line| line.steps.iter().any(|span| span.step == *stage));
    let legend: Vec<String> = Stage::ALL
        .into_iter()
        .filter(seen)
        .map(|stage| {
            let (letter, meaning) = stage.letter();
            format!("{letter} {meaning}")
        })
        .collect();
    put(&mut text, format_args!("{:name$}  {}\n", "", legend.join(", ")));
    text
}

/// The stage that has most of this piece of time; a blank where the node did nothing.
fn cell(line: &NodeLine, from: f64, width: f64) -> char {
    let mut best = (0.0, ' ');
    for span in &line.steps {
        let shared = span.to.min(from + width) - span.from.max(from);
        if shared > best.0 {
            best = (shared, span.step.letter().0);
        }
    }
    best.1
}

fn axis(seconds: f64) -> String {
    let end = duration(seconds);
    format!("0{end:>59}")
}

fn off(timeline: &Timeline) -> String {
    let mut away: Vec<&VmLine> = timeline.vms.iter().filter(|vm| vm.off.is_some() || vm.still_off).collect();
    let mut text = String::new();
    if away.is_empty() {
        return text;
    }
    away.sort_by(|a, b| b.off.partial_cmp(&a.off).unwrap_or(std::cmp::Ordering::Equal).then(a.vm.cmp(&b.vm)));
    let name = away.iter().map(|vm| vm.vm.to_string().len()).max().unwrap_or(0).max(11);
    put(&mut text, format_args!("{:<name$}  OFF FOR\n", "VM SHUT DOWN"));
    for vm in away.iter().take(MOST_LINES) {
        let long = vm.off.map_or_else(|| "-".to_owned(), duration);
        let forced = if vm.forced { ", its power was cut" } else { "" };
        let still = match (vm.still_off, vm.off_by) {
            (true, Some(OffBy::Power)) => {
                ", STILL OFF: its machine lost its power, and KubeVirt does not start it"
            }
            (true, Some(OffBy::User)) => ", STILL OFF: its user's doing",
            (true, None) => ", STILL OFF",
            (false, _) => "",
        };
        put(&mut text, format_args!("{:<name$}  {long}{forced}{still}\n", vm.vm.to_string()));
    }
    if away.len() > MOST_LINES {
        put(
            &mut text,
            format_args!("and {} VMs more, each off for a shorter time\n", away.len() - MOST_LINES),
        );
    }
    text.push('\n');
    text
}

fn closing(timeline: &Timeline) -> String {
    let moved = timeline.vms.iter().filter(|vm| !vm.moved_to.is_empty() && vm.off.is_none()).count();
    let away = timeline.vms.iter().filter(|vm| vm.off.is_some()).count();
    let longest = timeline.vms.iter().filter_map(|vm| vm.off).fold(0.0, f64::max);
    let mut text = format!(
        "{} of {} nodes upgraded in {}; {moved} of {} VMs moved without being stopped, {away} were shut down",
        timeline.nodes.iter().filter(|line| line.ended == "Succeeded").count(),
        timeline.nodes.len(),
        duration(timeline.seconds),
        timeline.vm_count,
    );
    if away > 0 {
        put(&mut text, format_args!(" (for {} at most)", duration(longest)));
    }
    put(&mut text, format_args!("; {} API requests.\n", timeline.requests));
    text.push_str(match (timeline.succeeded, timeline.vms.iter().any(|vm| vm.still_off)) {
        (true, false) => "Nothing would block this upgrade, and every VM runs at its end.",
        (true, true) => {
            "Nothing would block this upgrade, and every VM runs at its end but those marked STILL OFF."
        }
        (false, _) => "This upgrade would NOT go through by itself.",
    });
    put(&mut text, format_args!(" Seed {}", timeline.seed));
    if !timeline.faults.is_empty() {
        put(&mut text, format_args!(", faults {}", timeline.faults.join(",")));
    }
    text.push('.');
    text
}

/// As people say it: `4 h 12 min`, `6 min 5 s`, `2.5 s`.
#[must_use]
pub fn duration(seconds: f64) -> String {
    if seconds < 60.0 {
        return format!("{seconds:.1} s");
    }
    // Rounded to whole seconds first, so that no "60 s" appears.
    let whole = std::time::Duration::from_secs_f64(seconds.min(1e12)).as_secs();
    let (hours, minutes, left) = (whole / 3600, whole / 60 % 60, whole % 60);
    if hours > 0 { format!("{hours} h {minutes} min") } else { format!("{minutes} min {left} s") }
}

/// Writing to a String cannot fail.
fn put(text: &mut String, what: std::fmt::Arguments<'_>) {
    text.write_fmt(what).ok();
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rehearsal::timeline::{Blocked, Span};

    fn timeline() -> Timeline {
        let span = |step, from, to| Span { step, from, to };
        let steps = vec![
            span(Stage::Prepare, 0.0, 30.0),
            span(Stage::Evacuate, 30.0, 90.0),
            span(Stage::Restart, 90.0, 120.0),
        ];
        let node = NodeLine {
            node: "node1".to_owned(),
            ended: "Succeeded".to_owned(),
            begun: 0.0,
            finished: 120.0,
            starts: 2,
            migrated: 3,
            shut_down: 1,
            steps,
        };
        let vm = VmLine {
            vm: crate::flow::vms::VmKey::new("default", "gpu"),
            moved_to: Vec::new(),
            off: Some(65.0),
            forced: true,
            still_off: false,
            off_by: None,
        };
        Timeline {
            seed: 7,
            faults: vec!["kill@3".to_owned()],
            nodes: vec![node],
            vms: vec![vm],
            vm_count: 4,
            blocked: vec![Blocked { node: "node1".to_owned(), why: "no room".to_owned(), change: None }],
            seconds: 120.0,
            requests: 42,
            succeeded: false,
        }
    }

    #[test]
    fn bars_have_the_share_of_their_time() {
        let text = chart(&timeline());
        let bar = text.lines().nth(1).unwrap();
        assert_eq!(bar.matches('p').count(), 15, "{text}");
        assert_eq!(bar.matches('E').count(), 30, "{text}");
        for said in [
            "started 2 times",
            "default/gpu",
            "1 min 5 s, its power was cut",
            "BLOCKED node1",
            "Seed 7",
            "kill@3",
            "NOT",
        ] {
            assert!(text.contains(said), "{said} is missing in:\n{text}");
        }
    }

    #[test]
    fn durations_read_well() {
        for (seconds, expected) in [(2.5, "2.5 s"), (65.0, "1 min 5 s"), (4.0 * 3600.0 + 720.0, "4 h 12 min")]
        {
            assert_eq!(duration(seconds), expected);
        }
    }
}
