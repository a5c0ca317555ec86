//! What the API server's audit log says about the agent's requests.

use std::time::Duration;

use jiff::Timestamp;

use super::Stage;

impl Stage {
    /// Requests of the agent that the API server's audit log has with this verb and path part.
    pub fn requests(&self, verb: &str, path: &str) -> usize {
        self.audited(verb, path).count()
    }

    /// Those of [`Self::requests`] that were carried out: a killed agent's request may have died with it.
    pub fn accepted(&self, verb: &str, path: &str) -> usize {
        let is_yes = |event: &serde_json::Value| {
            event["responseStatus"]["code"].as_u64().is_some_and(|code| (200..300).contains(&code))
        };
        self.audited(verb, path).filter(is_yes).count()
    }

    /// Requests of the agent between two lines of its journal.
    pub fn requests_between(&self, from: &str, to: &str) -> usize {
        let (from, to) = (self.time_of(from), self.time_of(to));
        let inside = |event: &serde_json::Value| {
            let received = event["requestReceivedTimestamp"].as_str().and_then(|text| text.parse().ok());
            received.is_some_and(|received: Timestamp| from <= received && received <= to)
        };
        self.audited("", "").filter(inside).count()
    }

    /// How long after `start` the agent first asked about this node's work, that is for anything but paths with `except`.
    pub fn first_request_after(&self, start: Timestamp, except: &str) -> Option<Duration> {
        let other =
            |event: &serde_json::Value| !event["requestURI"].as_str().unwrap_or_default().contains(except);
        let times = self
            .audited("", "")
            .filter(other)
            .filter_map(|event| event["requestReceivedTimestamp"].as_str()?.parse::<Timestamp>().ok());
        let first = times.filter(|at| *at >= start).min()?;
        Duration::try_from(first.duration_since(start)).ok()
    }

    /// Time between the first lines of these two records, by the journal's own times.
    pub fn time_between(&self, from: &str, to: &str) -> Duration {
        Duration::try_from(self.time_of(to).duration_since(self.time_of(from))).expect("one after the other")
    }

    /// The same, to the last line of the second.
    pub fn time_between_last(&self, from: &str, to: &str) -> Duration {
        let last = self.times_of(to).last().copied().expect("it is recorded");
        Duration::try_from(last.duration_since(self.time_of(from))).expect("one after the other")
    }

    /// When the journal says that this was first recorded.
    pub fn time_of(&self, record: &str) -> Timestamp {
        self.times_of(record).first().copied().expect("it is recorded")
    }

    fn times_of(&self, record: &str) -> Vec<Timestamp> {
        let lines = self.journal();
        let of_it = lines.lines().filter(|line| line.contains(&format!("\"record\":\"{record}\"")));
        let at =
            |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?["at"].as_str()?.parse().ok();
        of_it.filter_map(at).collect()
    }

    /// When the last VM went from the node, as the API server logged it: the last write that let an instance go, or moved it.
    pub fn last_departure(&self) -> Timestamp {
        let recorded = self.time_of("preDrained");
        let log = std::fs::read_to_string(self.control_plane.audit_log()).unwrap_or_default();
        let written = log.lines().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
        let of_pods_and_instances = written.filter(|event| {
            let on = &event["objectRef"];
            let resource = on["resource"].as_str().unwrap_or_default();
            let verb = event["verb"].as_str().unwrap_or_default();
            on["namespace"].as_str() == Some(&self.namespace)
                && ["virtualmachineinstances", "pods"].contains(&resource)
                && ["patch", "delete"].contains(&verb)
        });
        let times = of_pods_and_instances.filter_map(|event| event["stageTimestamp"].as_str()?.parse().ok());
        times.filter(|at: &Timestamp| *at <= recorded).max().expect("somebody left")
    }

    pub fn audited(&self, verb: &str, path: &str) -> impl Iterator<Item = serde_json::Value> {
        let log = std::fs::read_to_string(self.control_plane.audit_log()).unwrap_or_default();
        let events: Vec<serde_json::Value> = log
            .lines()
            .filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok())
            .filter(|event| {
                let user = event["user"]["username"].as_str().unwrap_or_default();
                let uri = event["requestURI"].as_str().unwrap_or_default();
                let verb_fits = verb.is_empty() || event["verb"] == verb;
                user.ends_with(":upgrade-agent") && verb_fits && uri.contains(path)
            })
            .collect();
        events.into_iter()
    }
}
