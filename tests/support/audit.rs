//! What the API server's audit log says about the agent's requests.

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
        let at = |record: &str| -> Option<Timestamp> {
            let lines = self.journal();
            let line = lines.lines().find(|line| line.contains(&format!("\"record\":\"{record}\"")))?;
            serde_json::from_str::<serde_json::Value>(line).ok()?["at"].as_str()?.parse().ok()
        };
        let (Some(from), Some(to)) = (at(from), at(to)) else { return usize::MAX };
        let inside = |event: &serde_json::Value| {
            let received = event["requestReceivedTimestamp"].as_str().and_then(|text| text.parse().ok());
            received.is_some_and(|received: Timestamp| from <= received && received <= to)
        };
        self.audited("", "").filter(inside).count()
    }

    fn audited(&self, verb: &str, path: &str) -> impl Iterator<Item = serde_json::Value> {
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
